"""A batch of queries of a retriever against its own single calls: documents, warnings, log lines, errors."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore, VectorStoreRetriever
from langchain_openai import OpenAIEmbeddings

from aaflow_plugins.plugins import plugin_manager
from benchmarks.openai_server import Connection
from faiss_aaflow import search as faiss_search
from langchain_aaflow.query_batching import queries_batch_exactly
from langchain_aaflow.retrieval import BatchedRetrieval, batched_retrieval
from langchain_aaflow.vectorstores import accelerate_store
from langchain_aaflow.wordllama import WordLlamaEmbeddings

pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy

from tests.generated import examples
from tests.langchain.warned import caught_warnings

DIM = 16
pytestmark = pytest.mark.filterwarnings("ignore:Relevance scores must be")
FAKE = DeterministicFakeEmbedding(size=DIM)


class UnlikeEmbeddings(Embeddings):
    """A query gets another vector than a document of the same text."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return FAKE.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return FAKE.embed_query("query: " + text)


def class_name(each: Any) -> str:
    return type(each).__name__


@pytest.fixture(autouse=True)
def _small_indexes_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 64)


STORES: dict[str, Callable[[list[str], list[dict[str, Any]], Embeddings], VectorStore]] = {
    "FAISS": lambda texts, rows, embeddings: FAISS.from_texts(texts, embeddings, rows),
    "FAISS, normalized": lambda texts, rows, embeddings: FAISS.from_texts(texts, embeddings, rows, normalize_L2=True),
    "FAISS, inner product": lambda texts, rows, embeddings: FAISS.from_texts(
        texts, embeddings, rows, distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT
    ),
    "FAISS, cosine": lambda texts, rows, embeddings: FAISS.from_texts(
        texts, embeddings, rows, distance_strategy=DistanceStrategy.COSINE
    ),
    "FAISS, own score": lambda texts, rows, embeddings: FAISS.from_texts(
        texts, embeddings, rows, relevance_score_fn=lambda distance: 1 / (1 + float(distance))
    ),
    "InMemoryVectorStore": lambda texts, rows, embeddings: InMemoryVectorStore.from_texts(texts, embeddings, rows),
}


def filled(kind: str, texts: list[str], embeddings: Embeddings = FAKE, accelerated: bool = False) -> VectorStore:
    store = STORES[kind](texts, [{"row": row, "even": row % 2 == 0} for row in range(len(texts))], embeddings)
    return accelerate_store(store) if accelerated else store


def observed(call: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> Any:
    """What a call returns, warns and logs."""
    caplog.clear()
    with caught_warnings() as caught, caplog.at_level(logging.WARNING):
        found = call()
    warned = [(w.category, str(w.message), w.filename) for w in caught]
    return found, warned, [record.getMessage() for record in caplog.records if "langchain" in record.name]


def batch(retriever: BaseRetriever, **options: Any) -> BatchedRetrieval:
    found = batched_retrieval(retriever, **options)
    assert isinstance(found, BatchedRetrieval), found
    return found


def answers(retrieval: BatchedRetrieval, queries: list[str]) -> list[list[Document]]:
    vectors = retrieval.embed(queries) if retrieval.embeds_together else list(map(retrieval.embed_one, queries))
    return retrieval.search(vectors, queries)


async def async_answers(retrieval: BatchedRetrieval, queries: list[str]) -> list[list[Document]]:
    if retrieval.embeds_together:
        return retrieval.search(await retrieval.aembed(queries), queries)
    return retrieval.search([await retrieval.aembed_one(query) for query in queries], queries)


SEARCHES: list[tuple[str, dict[str, Any]]] = [
    ("similarity", {}),
    ("similarity", {"k": 7}),
    ("similarity", {"k": 2, "score_threshold": 0.9, "fetch_k": 5}),
    ("similarity_score_threshold", {"score_threshold": 0.1}),
    ("similarity_score_threshold", {"score_threshold": 0.999, "k": 3}),
]
DICT_FILTERED: list[tuple[str, dict[str, Any]]] = [
    ("similarity", {"filter": {"even": True}, "k": 3}),
    ("similarity_score_threshold", {"filter": {"row": {"$gt": 100}}, "fetch_k": 50, "score_threshold": -9.0}),
]


@pytest.mark.parametrize("accelerated", [False, True], ids=["native", "accelerated"])
@pytest.mark.parametrize(
    "embeddings", [FAKE, UnlikeEmbeddings(), WordLlamaEmbeddings()], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("kind", STORES)
def test_a_batch_answers_as_single_calls_do(
    kind: str, embeddings: Embeddings, accelerated: bool, real_texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(embeddings, WordLlamaEmbeddings):
        pytest.importorskip("wordllama")
    store = filled(kind, real_texts[:300], embeddings, accelerated)
    queries = [text[:80] for text in real_texts[290:330]] + ["?", real_texts[0], real_texts[0]]
    cases = SEARCHES + DICT_FILTERED if "FAISS" in kind else [case for case in SEARCHES if case[0] == "similarity"]
    for search_type, search_kwargs in cases:
        retriever = store.as_retriever(search_type=search_type, search_kwargs=search_kwargs)
        native = observed(lambda retriever=retriever: [retriever.invoke(query) for query in queries], caplog)
        retrieval = batch(retriever)
        assert retrieval.embeds_together is not isinstance(embeddings, UnlikeEmbeddings)
        assert observed(lambda retrieval=retrieval: answers(retrieval, queries), caplog) == native
        asynchronous = asyncio.run(_ainvoke_each(retriever, queries))
        assert asyncio.run(async_answers(retrieval, queries)) == asynchronous == native[0]
        assert retriever.search_kwargs == search_kwargs


async def _ainvoke_each(retriever: BaseRetriever, queries: list[str]) -> list[list[Document]]:
    return [await retriever.ainvoke(query) for query in queries]


@pytest.mark.parametrize("kind", STORES)
def test_the_very_documents_of_the_store(kind: str, real_texts: list[str]) -> None:
    """FAISS hands out its own Document objects, InMemoryVectorStore new ones; so does a batch."""
    retriever = filled(kind, real_texts[:100]).as_retriever()
    [single], retrieval = [retriever.invoke("a")], batch(retriever)
    [first, second] = answers(retrieval, ["a", "a"])
    assert single == first == second
    assert (single[0] is first[0]) == (first[0] is second[0]) == ("FAISS" in kind)
    assert first is not second


@settings(max_examples=examples(60), deadline=None)
@given(
    kind=st.sampled_from(sorted(STORES)),
    texts=st.lists(st.text(max_size=12), min_size=1, max_size=90),
    queries=st.lists(st.text(max_size=12), max_size=14),
    k=st.integers(1, 120),
    threshold=st.none() | st.floats(-3, 3),
    even=st.booleans(),
)
def test_generated_stores_and_queries(
    kind: str, texts: list[str], queries: list[str], k: int, threshold: float | None, even: bool
) -> None:
    store = filled(kind, texts)
    search_kwargs: dict[str, Any] = {"k": k}
    if even and "FAISS" in kind:
        search_kwargs["filter"] = {"even": True}
    search_type = "similarity"
    if threshold is not None and "FAISS" in kind:
        search_type, search_kwargs["score_threshold"] = "similarity_score_threshold", threshold
    retriever = store.as_retriever(search_type=search_type, search_kwargs=search_kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert answers(batch(retriever), queries) == [retriever.invoke(query) for query in queries]


def test_keyword_arguments_of_invoke_go_to_the_search(real_texts: list[str]) -> None:
    retriever = filled("FAISS", real_texts[:200]).as_retriever(search_kwargs={"k": 2})
    queries = real_texts[:12]
    expected = [retriever.invoke(query, k=5, filter={"even": True}) for query in queries]
    assert answers(batch(retriever, kwargs={"k": 5, "filter": {"even": True}}), queries) == expected


def test_a_threshold_given_to_invoke_replaces_the_retrievers(real_texts: list[str]) -> None:
    store = filled("FAISS, own score", real_texts[:200])
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.999})
    queries = real_texts[195:210]
    expected = [retriever.invoke(query, score_threshold=0.01) for query in queries]
    assert any(map(len, expected))
    assert answers(batch(retriever, kwargs={"score_threshold": 0.01}), queries) == expected


@pytest.mark.parametrize("search_kwargs", [{"k": "many"}, {"filter": {"$wrong": 1}}, {"k": 0}])
def test_what_a_single_call_refuses_the_batch_refuses(search_kwargs: dict[str, Any], real_texts: list[str]) -> None:
    retriever = filled("FAISS", real_texts[:100]).as_retriever(search_kwargs=search_kwargs)
    with pytest.raises(Exception) as native:  # noqa: PT011
        retriever.invoke("a")
    with pytest.raises(type(native.value)) as ours:
        answers(batch(retriever), ["a", "b"])
    assert str(ours.value) == str(native.value)


def test_searches_from_several_threads(real_texts: list[str]) -> None:
    retriever = filled("InMemoryVectorStore", real_texts[:300]).as_retriever()
    retrieval, queries = batch(retriever), real_texts[:120]
    parts = [queries[start : start + 10] for start in range(0, 120, 10)]
    with ThreadPoolExecutor(4) as pool:
        found = [docs for part in pool.map(lambda part: answers(retrieval, part), parts) for docs in part]
    assert found == [retriever.invoke(query) for query in queries]


def test_neither_retriever_nor_store_is_changed(real_texts: list[str]) -> None:
    store = filled("FAISS", real_texts[:100])
    retriever = store.as_retriever()
    before = dict(vars(store)), dict(vars(retriever))
    answers(batch(retriever), real_texts[:10])
    assert (dict(vars(store)), dict(vars(retriever))) == before
    assert type(store) is FAISS
    assert retriever.vectorstore is store


# --- what has no batch ----------------------------------------------------------------------------------------


class OwnRetriever(VectorStoreRetriever):
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)[:1]


class TaggedRetriever(VectorStoreRetriever):
    """Replaces nothing."""

    colour: str = "red"


class OwnStore(InMemoryVectorStore):
    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return []


def test_reasons() -> None:
    store = InMemoryVectorStore.from_texts(["a", "b"], FAKE)
    faiss_store = FAISS.from_texts(["a", "b"], FAKE)
    cases: list[tuple[BaseRetriever, str]] = [
        (OwnRetriever(vectorstore=store), "_get_relevant_documents of this OwnRetriever is replaced"),
        (OwnStore.from_texts(["a"], FAKE).as_retriever(), "OwnStore is a subclass of InMemoryVectorStore"),
        (store.as_retriever(search_type="mmr"), "searches of type 'mmr' have no batch"),
        (store.as_retriever(search_kwargs={"filter": lambda document: True}), "its filter is a function"),
        (faiss_store.as_retriever(search_kwargs={"filter": lambda metadata: True}), "its filter is a function"),
        (store.as_retriever(search_kwargs={"lambda_mult": 1}), "lambda_mult among the search's settings"),
        (
            store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5}),
            "InMemoryVectorStore has no relevance scores",
        ),
    ]
    for retriever, reason in cases:
        found = batched_retrieval(retriever)
        assert isinstance(found, str)
        assert found.startswith(reason)
    assert isinstance(batched_retrieval(TaggedRetriever(vectorstore=store)), BatchedRetrieval)


@pytest.mark.parametrize("name", ["similarity_search", "asimilarity_search_with_score", "_embed_query"])
def test_a_patched_search_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FAISS.from_texts(["a", "b"], FAKE)
    native = getattr(FAISS, name)
    monkeypatch.setattr(FAISS, name, lambda *args, **kwargs: native(*args, **kwargs))
    assert batched_retrieval(store.as_retriever()) == f"{name} of this store is replaced"


# --- embedding together ---------------------------------------------------------------------------------------


def test_only_known_classes_embed_queries_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Subclass(DeterministicFakeEmbedding):
        pass

    assert queries_batch_exactly(FAKE)
    assert not queries_batch_exactly(Subclass(size=4))
    assert not queries_batch_exactly(UnlikeEmbeddings())
    monkeypatch.setattr(DeterministicFakeEmbedding, "embed_query", lambda self, text: [0.0])
    assert not queries_batch_exactly(FAKE)


def test_a_plug_in_may_know_more() -> None:
    from aaflow_plugins import hookimpl

    class Knows:
        @hookimpl
        def aaflow_query_batching(self, embeddings: Any) -> bool | None:
            return True if type(embeddings) is UnlikeEmbeddings else None

    plugin = Knows()
    plugin_manager().register(plugin)
    try:
        assert queries_batch_exactly(UnlikeEmbeddings())
    finally:
        plugin_manager().unregister(plugin)
    assert not queries_batch_exactly(UnlikeEmbeddings())


@settings(max_examples=examples(60), deadline=None)
@given(queries=st.lists(st.text(max_size=200), min_size=1, max_size=70))
@pytest.mark.parametrize("embeddings", [FAKE, WordLlamaEmbeddings()], ids=class_name)
def test_known_classes_give_the_very_vectors_and_types(embeddings: Embeddings, queries: list[str]) -> None:
    if isinstance(embeddings, WordLlamaEmbeddings):
        pytest.importorskip("wordllama")
    together, alone = embeddings.embed_documents(queries), list(map(embeddings.embed_query, queries))
    assert np.array(together).tobytes() == np.array(alone).tobytes()
    assert [list(map(type, vector)) for vector in together] == [list(map(type, vector)) for vector in alone]


def test_hosted_embeddings_go_together_only_if_the_user_says_so(
    openai_server: Connection, real_texts: list[str]
) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=openai_server.base_url, api_key="none", check_embedding_ctx_length=False, max_retries=0
    )
    store = FAISS.from_texts(real_texts[:80], embeddings)
    retriever, queries = store.as_retriever(), real_texts[70:100]
    expected = [retriever.invoke(query) for query in queries]
    assert not batch(retriever).embeds_together
    retrieval = batch(retriever, batch_queries=True)
    requests = openai_server.stats()["requests"]
    assert answers(retrieval, queries) == expected
    assert openai_server.stats()["requests"] == requests + 1
    assert asyncio.run(async_answers(retrieval, queries)) == expected
    assert openai_server.stats()["requests"] == requests + 2


def test_too_few_vectors_are_an_error() -> None:
    class Short(UnlikeEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[1:]

    retrieval = batch(InMemoryVectorStore(Short()).as_retriever(), batch_queries=True)
    with pytest.raises(ValueError, match="returned 1 vectors for 2 queries"):
        retrieval.embed(["a", "b"])
