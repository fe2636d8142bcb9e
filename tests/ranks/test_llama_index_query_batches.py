"""Batches of query engines and retrievers: all ranks answer queries, and get what one process gives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex, get_response_synthesizer
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.indices.query.query_transform.base import IdentityQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.schema import Document, NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import blocks
from llama_index_aaflow import accelerate
from tests.llama_index.query_engines import EchoLLM, HashedEmbedding, ModelError
from tests.ranks.test_llama_index_ingestion import documents, sentences

pytestmark = pytest.mark.own_block

QUERIES: list[Any] = [f"What of {number % 7}, and of {number}?" for number in range(11)]
QUERIES[4] = QueryBundle("What of alpha?", custom_embedding_strs=["alpha", "beta"])


def index(native: Any = VectorStoreIndex, given: list[Document] | None = None) -> Any:
    return native.from_documents(
        documents(14, 25) if given is None else given, transformations=[sentences()], embed_model=HashedEmbedding()
    )


def in_shards(**settings: Any) -> Any:
    return accelerate(VectorStoreIndex, executor=Executor(engine="mpi", gather="shards", **settings))


def told(answers: list[Any]) -> list[Any]:
    """All of responses or of nodes."""
    return [
        [type(each), [repr((node.to_dict(), type(node.node), type(node.score))) for node in _nodes(each)], _rest(each)]
        for each in answers
    ]


def _nodes(answer: Any) -> list[NodeWithScore]:
    nodes: list[NodeWithScore] = answer if isinstance(answer, list) else getattr(answer, "source_nodes", [])
    return nodes


def _rest(answer: Any) -> Any:
    if isinstance(answer, Exception):
        return str(answer)
    return None if isinstance(answer, list) else (answer.response, answer.metadata)


def of_rank(ranks: Communicator, gather: str, answers: list[Any]) -> list[Any]:
    """What of all answers this rank is to have."""
    if gather == "root":
        return [] if ranks.rank else answers
    own = blocks([1] * len(answers), ranks.size)[ranks.rank]
    return answers if gather == "all" else [answers[number] for number in own]


def on(gather: str, **settings: Any) -> Executor:
    return Executor(engine="mpi", gather=gather, **settings)


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate", "simple_summarize"])
def test_an_engine_over_shards(ranks: Communicator, mode: str, gather: str) -> None:
    settings = {"llm": EchoLLM(), "response_mode": mode, "similarity_top_k": 3}
    expected = [index().as_query_engine(**settings).query(query) for query in QUERIES]
    model = EchoLLM()
    engine = index(in_shards()).as_query_engine(**{**settings, "llm": model})
    ours = accelerate(engine, executor=on(gather))
    assert told(ours.batch(QUERIES)) == told(of_rank(ranks, gather, expected))
    assert told(asyncio.run(ours.abatch(QUERIES))) == told(of_rank(ranks, gather, expected))
    if mode == "compact":
        # Nobody answers what another rank does.
        assert len(model.prompts) == 2 * len(blocks([1] * len(QUERIES), ranks.size)[ranks.rank])


def test_an_engine_over_shards_alone_says_it_all(ranks: Communicator) -> None:
    """Rank 0 gets what one process gives, if nobody says otherwise."""
    expected = [index().as_query_engine(llm=EchoLLM()).query(query) for query in QUERIES]
    ours = accelerate(index(in_shards()).as_query_engine(llm=EchoLLM()))
    for count in (0, 1, 11):
        assert told(ours.batch(QUERIES[:count])) == told(of_rank(ranks, "root", expected[:count]))


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
def test_an_engine_and_a_retriever_of_each_rank(ranks: Communicator, gather: str) -> None:
    engine = index().as_query_engine(llm=EchoLLM())
    ours = accelerate(engine, executor=on(gather))
    expected = [engine.query(query) for query in QUERIES]
    assert told(ours.batch(QUERIES)) == told(of_rank(ranks, gather, expected))
    assert told(asyncio.run(ours.abatch(QUERIES))) == told(of_rank(ranks, gather, expected))
    retriever = index().as_retriever(similarity_top_k=4)
    found = [retriever.retrieve(query) for query in QUERIES]
    both = accelerate(retriever, executor=on(gather))
    assert told(both.batch(QUERIES)) == told(of_rank(ranks, gather, found))
    assert told(asyncio.run(both.abatch(QUERIES))) == told(of_rank(ranks, gather, found))


def test_query_bundles_given_again(ranks: Communicator) -> None:
    """Natively a retriever sets the vector of a bundle that it is given: here those have it that have answered it."""
    expected = [index().as_query_engine(llm=EchoLLM()).query(query) for query in map(str, QUERIES)]
    bundles = [QueryBundle(str(query)) for query in QUERIES]
    plain = accelerate(index().as_query_engine(llm=EchoLLM()), executor=on("root"))
    sharded = accelerate(index(in_shards()).as_query_engine(llm=EchoLLM()))
    for engine in (plain, plain, sharded, plain, sharded):
        assert told(engine.batch(bundles)) == told(of_rank(ranks, "root", expected))


def test_without_an_engines_name_a_batch_stays_in_its_process(ranks: Communicator) -> None:
    engine = index().as_query_engine(llm=EchoLLM())
    if ranks.rank == 0:
        answers = accelerate(engine, executor=Executor()).batch(QUERIES)
        assert told(answers) == told([engine.query(query) for query in QUERIES])


def test_the_bound_is_the_jobs(ranks: Communicator) -> None:
    model = EchoLLM(seconds=0.01)
    ours = accelerate(index(in_shards()).as_query_engine(llm=model), executor=on("root", max_concurrency=4))
    ours.batch(QUERIES * 4)
    assert model.most <= max(1, -(-4 // ranks.size))


class Marks(BaseNodePostprocessor):
    """Changes what was found."""

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: Any = None) -> list[NodeWithScore]:
        for each in nodes:
            each.node.metadata["seen"] = each.node.metadata.get("seen", 0) + 1
            each.score = 0.5
        return nodes


class OwnNode(TextNode):
    """A class that JSON does not give back."""


class Replaces(BaseNodePostprocessor):
    """Gives nodes that do not travel."""

    def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: Any = None) -> list[NodeWithScore]:
        return [NodeWithScore(node=OwnNode(text=each.node.get_content(), id_="own"), score=1.0) for each in nodes]


@pytest.mark.parametrize("given", [Marks(), Replaces(), SimilarityPostprocessor(similarity_cutoff=0.9)], ids=str)
def test_what_postprocessors_make_of_nodes(ranks: Communicator, given: Any) -> None:
    settings: dict[str, Any] = {"node_postprocessors": [given], "llm": EchoLLM()}
    expected = [index().as_query_engine(**settings).query(query) for query in QUERIES]
    ours = accelerate(index(in_shards()).as_query_engine(**settings), executor=on("all"))
    assert told(ours.batch(QUERIES)) == told(expected)


def test_a_query_that_fails(ranks: Communicator) -> None:
    queries = [*QUERIES, "this fails in the model", "that fails in the model, too"]
    ours = accelerate(index(in_shards()).as_query_engine(llm=EchoLLM()), executor=on("all"))
    engine = index().as_query_engine(llm=EchoLLM())
    with pytest.raises(ModelError) as native:
        list(map(engine.query, queries))
    # Who leads, and whose query it was, raise the error itself.
    with pytest.raises((ModelError, RankError)) as found:
        ours.batch(queries)
    assert str(native.value)[-40:] in str(found.value)
    if ranks.rank == 0:
        assert str(found.value) == str(native.value)
    answers = ours.batch(queries, return_exceptions=True)
    assert told(answers[:11]) == told(list(map(engine.query, QUERIES)))
    assert [type(each) for each in answers[11:]] == [ModelError, ModelError]


def test_what_ranks_have_to_agree_on(ranks: Communicator) -> None:
    ours = accelerate(index(in_shards()).as_query_engine(llm=EchoLLM()))
    plain = accelerate(index().as_query_engine(llm=EchoLLM()), executor=on("root"))
    for engine in (ours, plain):
        with pytest.raises(RankError, match="rank 1"):
            engine.batch(QUERIES[: 5 + ranks.rank])
    with pytest.raises(RankError, match="rank 1"):
        accelerate(index().as_query_engine(llm=EchoLLM(), similarity_top_k=2 + ranks.rank), executor=on("root")).batch(
            QUERIES
        )
    with pytest.raises(TypeError, match="queries must be several"):
        ours.batch("one")


def test_a_retriever_over_shards_is_not_asked_within_a_block(ranks: Communicator) -> None:
    """It would find what this rank has, and nothing else."""
    inner = index(in_shards()).as_query_engine(llm=EchoLLM())
    outer = accelerate(TransformQueryEngine(inner, IdentityQueryTransform()), executor=on("root"))
    with pytest.raises((ValueError, RankError), match="asked by all ranks together"):
        outer.batch(QUERIES)


@pytest.mark.parametrize("gather", ["root", "all", "shards"])
def test_another_engine_with_a_retriever_over_shards(ranks: Communicator, gather: str) -> None:
    settings: Any = {"llm": EchoLLM(), "similarity_top_k": 2, "citation_chunk_size": 40, "citation_chunk_overlap": 5}
    native = CitationQueryEngine.from_args(index(), **settings)
    expected = cited(of_rank(ranks, gather, list(map(native.query, QUERIES))))
    ours = accelerate(CitationQueryEngine.from_args(index(in_shards()), **settings), executor=on(gather))
    assert cited(ours.batch(QUERIES)) == expected
    assert cited(asyncio.run(ours.abatch(QUERIES))) == expected


def cited(answers: list[Any]) -> list[Any]:
    """All but ids and keys by them, which are random."""
    return [
        (each.response, [(node.get_content(), node.score, node.metadata) for node in each.source_nodes])
        for each in answers
    ]


class Asks(RetrieverQueryEngine):
    """Somebody's own, which asks for something else than its query."""

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return super().retrieve(QueryBundle(f"{query_bundle.query_str} In other words."))


def test_an_engine_that_asks_for_something_else_than_its_query(ranks: Communicator) -> None:
    synthesizer = get_response_synthesizer(llm=EchoLLM())  # type: ignore[arg-type]
    ours = accelerate(Asks(index(in_shards()).as_retriever(), synthesizer))
    with pytest.raises((ValueError, RankError), match="asked by all ranks together, for one query after the other"):
        ours.batch(QUERIES)
    native = Asks(index().as_retriever(), synthesizer)
    assert told([ours.query(QUERIES[0])]) == told([native.query(QUERIES[0])])


def nested(kind: str, native: Any) -> Any:
    """An engine that asks others, each of which has a retriever."""
    engines = [index(native).as_query_engine(llm=EchoLLM(), similarity_top_k=top) for top in (1, 3)]
    if kind == "transform":
        return TransformQueryEngine(engines[0], IdentityQueryTransform())
    tools = [QueryEngineTool.from_defaults(engine, description=f"the {top}") for top, engine in enumerate(engines)]
    return RouterQueryEngine(Chooses(), tools, llm=EchoLLM())  # type: ignore[arg-type]


class Chooses(BaseSelector):
    """By the length of the query."""

    def _select(self, choices: Any, query: QueryBundle) -> SelectorResult:
        return SelectorResult(selections=[SingleSelection(index=len(query.query_str) % 2, reason="")])

    async def _aselect(self, choices: Any, query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: Any) -> None:
        """There are none."""


@pytest.mark.parametrize("kind", ["transform", "router"])
def test_engines_within_an_engine(ranks: Communicator, kind: str) -> None:
    """All ranks ask them one query after the other; a batch that can't says how."""
    engine, native = nested(kind, in_shards()), nested(kind, VectorStoreIndex)
    expected = [native.query(query) for query in QUERIES]
    assert told([engine.query(query) for query in QUERIES]) == told(expected)
    assert told(accelerate(engine).batch(QUERIES, max_concurrency=1)) == told(expected)
    for executor in (None, on("root")):
        ours = accelerate(engine, executor=executor)
        with pytest.raises(ValueError, match="max_concurrency=1"):
            ours.batch(QUERIES)
        with pytest.raises(ValueError, match="max_concurrency=1"):
            asyncio.run(ours.abatch(QUERIES))


def test_a_chat_over_shards(ranks: Communicator) -> None:
    chats = [index(native).as_chat_engine("context", llm=MockLLM()) for native in (VectorStoreIndex, in_shards())]
    for query in ("What of alpha?", "And of beta?"):
        expected, found = (chat.chat(query) for chat in chats)
        assert told([found.source_nodes]) == told([expected.source_nodes])
        assert found.response == expected.response


def test_a_synthesizer_of_ones_own(ranks: Communicator) -> None:
    retriever = index(in_shards()).as_retriever(similarity_top_k=2)
    synthesizer = get_response_synthesizer(llm=EchoLLM(), response_mode="simple_summarize")  # type: ignore[arg-type]
    ours = accelerate(RetrieverQueryEngine(retriever, synthesizer))
    native = RetrieverQueryEngine(index().as_retriever(similarity_top_k=2), synthesizer)
    assert told(ours.batch(QUERIES)) == told(of_rank(ranks, "root", list(map(native.query, QUERIES))))
