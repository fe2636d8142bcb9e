"""Queries embedded by the real `OpenAIEmbedding`: which go into one request, and that nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding

from aaflow_plugins import batching
from benchmarks.openai_server import Connection, Fault
from llama_index_aaflow import accelerate
from tests.llama_index.query_engines import EchoLLM, Watched, outcomes, questions, shown

Make = Callable[..., Any]


@pytest.fixture
def make(openai_server: Connection) -> Make:
    """An index whose nodes and queries the server embeds."""

    def make(*, sooner: bool = False, **changes: Any) -> VectorStoreIndex:
        given: dict[str, Any] = {"model": "text-embedding-3-small", "api_key": "none", "max_retries": 0, **changes}
        model: Any = OpenAIEmbedding(api_base=openai_server.base_url, **given)
        nodes = [TextNode(text=f"passage {number}", id_=f"node {number}") for number in range(40)]
        index = VectorStoreIndex(nodes, embed_model=accelerate(model) if sooner else model)
        openai_server.configure(record=True)
        return index

    return make


@pytest.mark.parametrize("sooner", [False, True])
async def test_queries_go_into_one_request_if_the_user_says_so(
    make: Make, openai_server: Connection, sooner: bool
) -> None:
    """Answers, nodes and scores are those of single queries; line breaks are spaces, as natively."""
    engine = make(sooner=sooner).as_query_engine(llm=EchoLLM(), similarity_top_k=3)
    queries = [*questions(30), "two\nlines", "", "twice", "twice"]
    native = outcomes([lambda query=query: engine.query(query) for query in queries])
    asked = len(queries) - 1  # not for the empty one
    assert openai_server.stats()["requests"] == asked
    for run in (
        lambda ours: ours.batch(queries, return_exceptions=True),
        lambda ours: asyncio.run(ours.abatch(queries, return_exceptions=True)),
    ):
        openai_server.configure()
        found = await asyncio.to_thread(run, accelerate(engine, batch_queries=True))
        assert shown(found) == native
        assert openai_server.stats()["requests"] == 1
    openai_server.configure()
    assert shown(accelerate(engine).batch(queries, return_exceptions=True)) == native
    assert openai_server.stats()["requests"] == asked


async def test_concurrent_queries_are_joined_in_blocks(make: Make, openai_server: Connection) -> None:
    """Agents that ask at the same time share requests."""
    retriever = make().as_retriever(similarity_top_k=3)
    native = outcomes([lambda query=query: retriever.retrieve(query) for query in questions(24)])
    ours = accelerate(retriever, batch_queries=True)
    openai_server.configure(base_ms=5)
    with batching():
        assert shown(await asyncio.gather(*map(ours.aretrieve, questions(24)))) == native
    assert openai_server.stats()["requests"] < 8


@pytest.mark.parametrize("changes", [{"mode": "text_search", "model": "ada"}, {"embeddings_cache": True}])
async def test_what_would_differ_is_asked_one_by_one(make: Make, openai_server: Connection, changes: Any) -> None:
    """A model with an engine for queries and another for texts, and one whose vectors are kept."""
    from llama_index.core.storage.kvstore import SimpleKVStore

    if "embeddings_cache" in changes:
        changes = {"embeddings_cache": SimpleKVStore()}
    ours = accelerate(make(**changes).as_retriever(), batch_queries=True)
    openai_server.configure()
    ours.batch(questions(9))
    assert openai_server.stats()["requests"] == 9


async def test_a_refused_joint_request_changes_nothing(make: Make, openai_server: Connection) -> None:
    """Each query asks for itself then, and has its own error, or its answer."""
    engine = make().as_query_engine(llm=EchoLLM(), similarity_top_k=3)
    native = outcomes([lambda query=query: engine.query(query) for query in questions(12)])
    ours = accelerate(engine, batch_queries=True)
    for kind in ("status", "count", "text"):
        openai_server.configure(faults=[Fault(requests=[1], kind=kind, status=400)])
        assert shown(ours.batch(questions(12))) == native
        assert 1 < openai_server.stats()["requests"] <= 13
    openai_server.configure(faults=[Fault(requests=[1, 2], status=400)])
    found = ours.batch(questions(12), max_concurrency=1, return_exceptions=True)
    assert isinstance(found[0], Exception)
    assert shown(found[1:]) == native[1:]


async def test_handlers_are_told_the_same_of_joint_requests(make: Make) -> None:
    """Each query's embedding has its span, its events and its callbacks, with its vector."""
    watched = Watched()
    engine = make(callback_manager=watched.manager).as_query_engine(llm=EchoLLM(callback_manager=watched.manager))
    engine.callback_manager = engine.retriever.callback_manager = watched.manager
    queries = questions(7)
    with watched:
        native = [shown(await engine.aquery(query)) for query in queries]
        expected = watched.trees()
    with watched:
        assert shown(await accelerate(engine, batch_queries=True).abatch(queries)) == native
        assert watched.trees() == expected
