"""What is explained of LlamaIndex's objects: the steps, and which are native, and why."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import MockEmbedding, SummaryIndex, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter, SimpleFileNodeParser
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore

from llama_index_aaflow import accelerate
from llama_index_aaflow.plans import plan_of


class Mine(SimpleVectorStore):
    pass


def index() -> VectorStoreIndex:
    return VectorStoreIndex([TextNode(text="a")], embed_model=MockEmbedding(embed_dim=2))


def steps(obj: Any) -> dict[str, str | None]:
    plan = plan_of(obj)
    assert plan
    assert plan.explain()
    return {operator.name: operator.native for operator in plan.operators[1:]}


@pytest.mark.parametrize("give", [lambda obj: obj, accelerate], ids=["native", "accelerated"])
def test_steps_and_reasons(give: Any) -> None:
    embed = {"embed MockEmbedding": "MockEmbedding is not known"}
    assert steps(give(SentenceSplitter())) == {"parse SentenceSplitter": None}
    assert steps(give(MockEmbedding(embed_dim=2))) == embed
    pipeline = IngestionPipeline(transformations=[SentenceSplitter(), MockEmbedding(embed_dim=2)])
    assert steps(give(pipeline)) == {"parse SentenceSplitter": None, **embed}
    assert list(steps(give(index())).values())[-1] is None
    assert set(steps(give(SimpleVectorStore())).values()) == {None}


def test_what_is_native_is_said_to_be() -> None:
    assert all(steps(SimpleFileNodeParser()).values())
    assert all(steps(Mine()).values())
    assert list(steps(SummaryIndex([])).values())[-1]
    assert all(steps(SummaryIndex([]).as_retriever()).values())
    assert plan_of("text") is None


def test_queries() -> None:
    engine = accelerate(index()).as_query_engine(llm=MockLLM())
    assert list(steps(engine)) == ["retrieve VectorIndexRetriever", "answer RetrieverQueryEngine"]
    plan = plan_of(engine)
    assert plan
    assert "searched for together" in plan.explain()
    assert steps(VectorStoreIndex) == {"index VectorStoreIndex": None}
