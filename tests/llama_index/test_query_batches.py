"""Batches of query engines and retrievers give what single native calls give, and tell handlers the same."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import StorageContext
from llama_index.core.postprocessor import LongContextReorder, SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores import ExactMatchFilter, MetadataFilters

from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from llama_index_aaflow.query import searching
from tests.generated import examples
from tests.llama_index.query_engines import (
    EchoLLM,
    HashedEmbedding,
    KnownEmbedding,
    Watched,
    index,
    known_embedding,
    outcomes,
    questions,
    shown,
    vector,
)

MODES = ["compact", "refine", "tree_summarize", "accumulate", "compact_accumulate", "simple_summarize"]


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with known_embedding():
        yield


def _storage(kind: str) -> Any:
    if kind == "simple":
        return None
    faiss = pytest.importorskip("faiss")
    stores = pytest.importorskip("llama_index.vector_stores.faiss")
    return StorageContext.from_defaults(vector_store=stores.FaissVectorStore(faiss.IndexFlatL2(len(vector("")))))


POSTPROCESSORS = {
    "none": [],
    "similar": [SimilarityPostprocessor(similarity_cutoff=0.2)],
    "several": [SimilarityPostprocessor(similarity_cutoff=0.01), LongContextReorder()],
}


async def _natively(engine: Any, queries: list[Any]) -> list[Any]:
    found = []
    for query in queries:
        try:
            found.append(shown(await engine.aquery(query)))
        except Exception as error:
            found.append(shown(error))
    return found


@pytest.mark.parametrize("store", ["simple", "faiss"])
@pytest.mark.parametrize("mode", MODES)
async def test_batches_give_what_single_queries_give(mode: str, store: str) -> None:
    """Answers, source nodes, scores and metadata, in order; small windows make several calls a query."""
    over = index(embed_model=KnownEmbedding(), storage_context=_storage(store))
    engine = over.as_query_engine(llm=EchoLLM(window=760), response_mode=mode, similarity_top_k=8)
    ours = accelerate(engine)
    assert isinstance(ours, RetrieverQueryEngine)
    queries = questions(30)
    native = outcomes([lambda query=query: engine.query(query) for query in queries])
    assert shown(await ours.abatch(queries, max_concurrency=7)) == native
    assert shown(ours.batch(queries, max_concurrency=7)) == native
    assert await _natively(engine, queries) == native


@pytest.mark.parametrize("name", POSTPROCESSORS)
@pytest.mark.parametrize("embedding", [HashedEmbedding, KnownEmbedding])
async def test_postprocessors_and_filters_are_native(name: str, embedding: Any) -> None:
    """Whatever stands between retrieval and synthesis works as natively, an empty result too."""
    only = MetadataFilters(filters=[ExactMatchFilter(key="part", value=3)])
    engine = index(embed_model=embedding()).as_query_engine(
        llm=EchoLLM(), node_postprocessors=POSTPROCESSORS[name], filters=only, similarity_top_k=4
    )
    ours = accelerate(engine)
    queries = questions(20)
    native = outcomes([lambda query=query: engine.query(query) for query in queries])
    assert shown(ours.batch(queries)) == native
    assert shown(await ours.abatch(queries)) == native


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_generated_batches(data: st.DataObject) -> None:
    """Any mix of queries, failing ones among them, in any mode, bound and size of blocks."""
    texts = st.text(max_size=20) | st.sampled_from(["", "fails in the model", "unembeddable", "Ωmega\n\tthe end"])
    bundles = st.builds(QueryBundle, texts, custom_embedding_strs=st.none() | st.lists(texts, max_size=3))
    vectors = st.builds(lambda text: QueryBundle(text, embedding=vector(text)), texts)
    queries = data.draw(st.lists(texts | bundles | vectors, max_size=24))
    engine = index(40, data.draw(st.sampled_from([HashedEmbedding, KnownEmbedding]))()).as_query_engine(
        llm=EchoLLM(window=760),
        response_mode=data.draw(st.sampled_from(MODES)),
        use_async=data.draw(st.booleans()),
        similarity_top_k=data.draw(st.integers(1, 9)),
    )
    ours = accelerate(engine, executor=Executor(batch_size=data.draw(st.integers(1, 9))))
    bound = data.draw(st.integers(1, 9))
    native = outcomes([lambda query=query: engine.query(copy.deepcopy(query)) for query in queries])
    given_sync, given_async = copy.deepcopy(queries), copy.deepcopy(queries)
    assert shown(ours.batch(given_sync, max_concurrency=bound, return_exceptions=True)) == native

    async def both() -> tuple[list[Any], list[Any]]:
        batch = await ours.abatch(given_async, max_concurrency=bound, return_exceptions=True)
        return shown(batch), await _natively(engine, copy.deepcopy(queries))

    batch, one_by_one = asyncio.run(both())
    assert batch == one_by_one
    assert shown(given_async) == shown(queries)


@pytest.mark.parametrize("embedding", [HashedEmbedding, KnownEmbedding])
@pytest.mark.parametrize("mode", MODES)
async def test_handlers_are_told_the_same(mode: str, embedding: Any) -> None:
    """Spans, events and callbacks of each query are those of its native run, failures included."""
    watched = Watched()
    engine = index(40, embedding(callback_manager=watched.manager)).as_query_engine(
        llm=EchoLLM(window=760, callback_manager=watched.manager), response_mode=mode, similarity_top_k=6
    )
    engine.callback_manager = engine._response_synthesizer.callback_manager = watched.manager
    engine._retriever.callback_manager = watched.manager
    ours = accelerate(engine)
    queries = [*questions(6), "it fails in the model", "unembeddable"]
    with watched:
        native = outcomes([lambda query=query: engine.query(query) for query in queries])
        expected = watched.trees()
    assert all(expected)
    assert repr(expected).count("_get_query_embedding") == len(queries)
    with watched:
        assert shown(ours.batch(queries, max_concurrency=5, return_exceptions=True)) == native
        assert watched.trees() == expected
    with watched:
        assert await _natively(engine, queries) == native
        expected = watched.trees()
    with watched:
        assert shown(await ours.abatch(queries, max_concurrency=5, return_exceptions=True)) == native
        assert watched.trees() == expected
    with watched:
        assert await _natively(ours, queries) == native
        assert watched.trees() == expected


async def test_retrievers_have_batches() -> None:
    """The same nodes and scores, embedded in few calls."""
    retriever = index().as_retriever(similarity_top_k=5)
    ours = accelerate(retriever)
    queries = questions(40)
    native = outcomes([lambda query=query: retriever.retrieve(query) for query in queries])
    calls = retriever._embed_model.calls
    calls.clear()
    assert shown(ours.batch(queries)) == native
    assert sum(map(len, calls)) == len(queries)
    assert len(calls) < 10
    calls.clear()
    assert shown(await ours.abatch(queries)) == native
    assert sum(map(len, calls)) == len(queries)
    assert len(calls) < 10


async def test_unknown_models_are_asked_one_query_a_call() -> None:
    """A model that nobody knows is called as natively."""
    model = HashedEmbedding()
    ours = accelerate(index(embed_model=model).as_retriever())
    model.calls.clear()
    await ours.abatch(questions(20))
    assert model.calls == [[question] for question in questions(20)]


async def test_streams_are_native() -> None:
    """A streaming engine gives streams, to be read when the batch is over."""
    engine = index().as_query_engine(llm=EchoLLM(), streaming=True)
    ours = accelerate(engine)
    queries = questions(5)
    native = ["".join(engine.query(query).response_gen) for query in queries]
    assert ["".join(response.response_gen) for response in ours.batch(queries)] == native


async def test_accelerated_objects_are_native_to_everybody() -> None:
    """Class, attributes, prompts, copies and pickles are native; what is set on one shows in the other."""
    engine = index().as_query_engine(llm=EchoLLM())
    ours = accelerate(engine)
    assert type(ours).__name__ == "RetrieverQueryEngine"
    assert type(ours).__qualname__ == type(engine).__qualname__
    assert vars(ours) is vars(engine)
    assert accelerate(ours) is ours
    assert ours.get_prompts().keys() == engine.get_prompts().keys()
    ours.retriever.similarity_top_k = 1
    assert engine.retriever.similarity_top_k == 1
    query = questions(1)[0]
    for twin in (copy.copy(ours), ours.with_retriever(ours.retriever)):
        assert shown(twin.query(query)) == shown(engine.query(query))
    retriever = accelerate(index(embed_model=HashedEmbedding()).as_retriever())
    restored = pickle.loads(pickle.dumps(retriever))
    assert pickle.loads(pickle.dumps(accelerate(retriever, executor=Executor())))._aaflow.settings.executor
    assert type(restored) is type(retriever)
    assert shown(restored.batch([query])) == shown(retriever.batch([query]))


@pytest.mark.parametrize("store", ["simple", "faiss"])
async def test_retrievers_search_together(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No query of a batch is searched for by itself, in either store."""
    ours = accelerate(index(storage_context=_storage(store)).as_retriever(similarity_top_k=5))
    known = searching.take_result
    taken: list[bool] = []

    def take(*given: Any) -> Any:
        found = known(*given)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(searching, "take_result", take)
    ours.batch(questions(20))
    await ours.abatch(questions(20))
    assert taken.count(True) == 40


async def test_what_a_retriever_shows_can_be_pickled() -> None:
    """Its model and its store, which join calls, come back as what they were made from."""
    retriever = accelerate(index(embed_model=KnownEmbedding()).as_retriever())
    store = pickle.loads(pickle.dumps(retriever._vector_store))
    assert store.data == retriever._vector_store.data
    model = pickle.loads(pickle.dumps(retriever._embed_model))
    assert type(model) is KnownEmbedding
    assert copy.copy(retriever._embed_model).embed_batch_size == model.embed_batch_size


async def test_vectors_of_the_users_own_may_be_arrays() -> None:
    """As natively: the store takes them."""
    retriever = index().as_retriever(similarity_top_k=4)
    bundles = [QueryBundle(text, embedding=np.array(vector(text))) for text in questions(9)]  # type: ignore[arg-type]
    native = [shown(retriever.retrieve(bundle)) for bundle in bundles]
    assert shown(accelerate(retriever).batch(bundles)) == native
    assert shown(await accelerate(retriever).abatch(bundles)) == native


async def test_later_changes_are_seen() -> None:
    """What is inserted into the index after it was accelerated is found."""
    over = index(20)
    engine = over.as_query_engine(llm=EchoLLM(), similarity_top_k=3)
    ours = accelerate(engine)
    assert shown(ours.batch(questions(5))) == outcomes([lambda q=q: engine.query(q) for q in questions(5)])
    over.insert_nodes(index(30).docstore.get_nodes([f"node {number}" for number in range(20, 30)]))
    over.delete_nodes(["node 3"])
    assert shown(await ours.abatch(questions(5))) == outcomes([lambda q=q: engine.query(q) for q in questions(5)])
