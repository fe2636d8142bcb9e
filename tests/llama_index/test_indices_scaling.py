"""What an accelerated index does takes the time of the nodes concerned, not of the document's or the index's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding

from llama_index_aaflow import accelerate
from tests.llama_index.index_pairs import node

VECTOR = [0.25, 0.5, 0.75]


class Free(BaseEmbedding):
    """An embedding model that costs nothing."""

    def get_text_embedding_batch(self, texts: Any, show_progress: bool = False, **kwargs: Any) -> list[list[float]]:
        return [VECTOR] * len(texts)

    def _get_text_embedding(self, text: str) -> list[float]:
        return VECTOR

    def _get_query_embedding(self, query: str) -> list[float]:
        return VECTOR

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return VECTOR


def index_of(count: int, per_document: int) -> Any:
    nodes = [node(str(number), "text", f"d{number // per_document}", metadata={"a": 1}) for number in range(count)]
    return accelerate(VectorStoreIndex)(nodes, embed_model=Free())


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.slow
def test_a_document_of_20000_nodes() -> None:
    """Natively six minutes; here the time includes making the nodes."""
    made: list[Any] = []
    assert seconds(lambda: made.append(index_of(20_000, 20_000))) < 10
    assert len(made[0].docstore.get_ref_doc_info("d0").node_ids) == 20_000
    assert seconds(lambda: made[0].delete_ref_doc("d0", delete_from_docstore=True)) < 3
    assert made[0].docstore.docs == {}


@pytest.mark.slow
def test_an_insert_does_not_depend_on_the_size_of_the_index() -> None:
    def best(index: Any) -> float:
        index.insert_nodes([node("first", "text")])
        return min(seconds(lambda n=n: index.insert_nodes([node(f"n{n}", "text")])) for n in range(20))

    assert best(index_of(20_000, 10)) < 4 * best(index_of(200, 10))
