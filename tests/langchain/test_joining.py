"""Concurrent single calls of accelerated objects: the results of calls alone, by far fewer calls underneath."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_openai import OpenAIEmbeddings

from aaflow_plugins import batching
from aaflow_plugins.joins import Joins
from benchmarks.openai_server import Connection
from faiss_aaflow import search as faiss_search
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.in_memory_store import AcceleratedInMemoryVectorStore
from langchain_aaflow.joining import joining_embeddings, joining_model, joining_retriever
from langchain_aaflow.query_batching import queries_batch_exactly
from langchain_aaflow.retrieval import BatchedRetrieval, batched_retrieval
from langchain_aaflow.vectorstores import accelerate_store

pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.vectorstores import FAISS

FAKE = DeterministicFakeEmbedding(size=16)
ALWAYS = Joins(always=True, batch_queries=True)
#: More than fit into the default executor's threads.
CALLERS = 120


class Counting(Embeddings):
    """Vectors from the text alone. Counts its calls, and refuses texts with 'refused' in them."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.lock = threading.Lock()

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        with self.lock:
            self.calls.append(texts)
        if any("refused" in text for text in texts):
            raise ValueError("refused")
        return FAKE.embed_documents(texts)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(list(texts))

    def embed_query(self, text: str) -> list[float]:
        return self._vectors([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0.001)
        return self._vectors(list(texts))

    async def aembed_query(self, text: str) -> list[float]:
        await asyncio.sleep(0.001)
        return self._vectors([text])[0]


@pytest.fixture(autouse=True)
def _small_indexes_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 64)


def filled(store_class: type[VectorStore], texts: list[str], embeddings: Embeddings) -> VectorStore:
    rows = [{"row": row, "even": row % 2 == 0} for row in range(len(texts))]
    return store_class.from_texts(texts, embeddings, rows)


async def at_once(call: Callable[[str], Any], queries: list[str]) -> list[Any]:
    return await asyncio.gather(*map(call, queries), return_exceptions=True)


def in_threads(call: Callable[[str], Any], queries: list[str]) -> list[Any]:
    """All calls from threads that begin together."""
    barrier = threading.Barrier(len(queries))

    def run(query: str) -> Any:
        barrier.wait()
        return call(query)

    with ThreadPoolExecutor(len(queries)) as pool:
        return list(pool.map(run, queries))


SEARCHES: list[tuple[str, dict[str, Any]]] = [
    ("similarity", {}),
    ("similarity", {"k": 7}),
]
FAISS_SEARCHES: list[tuple[str, dict[str, Any]]] = [
    *SEARCHES,
    ("mmr", {"k": 3, "fetch_k": 9}),
    ("similarity", {"filter": {"even": True}}),
    ("similarity", {"filter": lambda metadata: metadata["even"]}),
    ("similarity_score_threshold", {"score_threshold": -9.0}),
]
CASES = [
    *((FAISS, *search) for search in FAISS_SEARCHES),
    *((InMemoryVectorStore, *search) for search in SEARCHES),
    (InMemoryVectorStore, "similarity", {"filter": lambda document: document.metadata["even"]}),
]


@pytest.mark.filterwarnings("ignore:Relevance scores must be")
@pytest.mark.parametrize(("store_class", "search_type", "search_kwargs"), CASES)
def test_retrievers_called_at_once(
    store_class: type[VectorStore], search_type: str, search_kwargs: dict[str, Any], real_texts: list[str]
) -> None:
    embeddings = Counting()
    store = filled(store_class, real_texts[:300], embeddings)
    native = store.as_retriever(search_type=search_type, search_kwargs=search_kwargs)
    joined = joining_retriever(native, ALWAYS)
    assert type(joined) is type(native)
    assert native.vectorstore is store
    queries = [text[:60] for text in real_texts[250 : 250 + CALLERS]]
    expected = [native.invoke(query) for query in queries]
    embeddings.calls.clear()
    assert asyncio.run(at_once(joined.ainvoke, queries)) == expected
    assert 1 < len(embeddings.calls) <= 4
    embeddings.calls.clear()
    assert in_threads(joined.invoke, queries[:40]) == expected[:40]
    assert sum(map(len, embeddings.calls)) == len(set(queries[:40]))


@pytest.mark.parametrize("store_class", [FAISS, InMemoryVectorStore])
def test_searches_are_made_together(
    store_class: type[VectorStore], real_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(store_class, real_texts[:300], FAKE)
    fast = accelerate_store(store, ALWAYS)
    batches: list[int] = []
    search = type(fast).similarity_search_with_score_by_vectors

    def counted(self: Any, vectors: Any, *args: Any, **kwargs: Any) -> Any:
        batches.append(len(vectors))
        return search(self, vectors, *args, **kwargs)

    monkeypatch.setattr(type(fast), "similarity_search_with_score_by_vectors", counted)
    queries = real_texts[:CALLERS]
    found = asyncio.run(at_once(fast.asimilarity_search_with_score, queries))
    assert found == [store.similarity_search_with_score(query) for query in queries]
    assert sum(batches) > CALLERS / 2
    assert len(batches) < CALLERS / 10


@pytest.mark.parametrize("store_class", [FAISS, InMemoryVectorStore])
def test_objects_join_in_blocks_or_always(store_class: type[VectorStore], real_texts: list[str]) -> None:
    embeddings = Counting()
    store = filled(store_class, real_texts[:100], embeddings)
    queries = real_texts[:50]

    def calls(fast: VectorStore) -> int:
        embeddings.calls.clear()
        asyncio.run(at_once(fast.asimilarity_search, queries))
        return len(embeddings.calls)

    plain, told = accelerate_store(store), accelerate_store(store, Joins(batch_queries=True))
    assert calls(plain) == calls(told) == 50
    assert calls(accelerate_store(store, ALWAYS)) <= 3
    with batching():
        # These embeddings are not known: only identical queries are joined, unless the user says so.
        assert calls(plain) == 50
        assert calls(told) <= 3
        assert calls(accelerate_store(told)) <= 3
        assert calls(store) == 50
        queries = [real_texts[0]] * 50
        assert calls(plain) == 1
        assert calls(store) == 50
    assert calls(told) == 50


def test_each_caller_gets_its_own_error(real_texts: list[str]) -> None:
    embeddings = Counting()
    joined = accelerate_store(filled(FAISS, real_texts[:100], embeddings), ALWAYS)
    queries = [f"{'refused' if number % 7 == 0 else 'fine'} {number}" for number in range(40)]
    found = asyncio.run(at_once(joined.asimilarity_search, queries))
    assert [isinstance(each, ValueError) for each in found] == [number % 7 == 0 for number in range(40)]
    assert [each for each in found if isinstance(each, list)] == [
        joined.similarity_search(query) for query in queries if "fine" in query
    ]


def test_a_call_alone_is_the_native_call() -> None:
    embeddings = Counting()
    joined = accelerate_store(filled(InMemoryVectorStore, ["a", "b"], embeddings), ALWAYS)
    embeddings.calls.clear()
    asyncio.run(joined.asimilarity_search("one"))
    joined.similarity_search("two")
    assert embeddings.calls == [["one"], ["two"]]


class Events(BaseCallbackHandler):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_retriever_start(self, serialized: Any, query: str, **kwargs: Any) -> None:
        kept = {key: kwargs[key] for key in ("tags", "metadata", "name", "parent_run_id")}
        self.seen.append(("start", query, kept))

    def on_retriever_end(self, documents: list[Document], **kwargs: Any) -> None:
        self.seen.append(("end", documents))

    def on_retriever_error(self, error: BaseException, **kwargs: Any) -> None:
        self.seen.append(("error", repr(error)))


@pytest.mark.parametrize("store_class", [FAISS, InMemoryVectorStore])
def test_callbacks_of_every_run_are_those_of_a_run_alone(store_class: type[VectorStore], real_texts: list[str]) -> None:
    native = filled(store_class, real_texts[:100], Counting()).as_retriever(tags=["mine"], metadata={"a": 1})
    joined = joining_retriever(native, ALWAYS)
    queries = [*real_texts[:30], "refused"]

    async def events(retriever: Any) -> list[Any]:
        handlers = [Events() for _ in queries]
        runs = [
            retriever.ainvoke(query, {"callbacks": [handler], "tags": ["run"], "run_name": f"run {number}"})
            for number, (query, handler) in enumerate(zip(queries, handlers, strict=True))
        ]
        await asyncio.gather(*runs, return_exceptions=True)
        return [handler.seen for handler in handlers]

    expected = asyncio.run(events(native))
    assert expected[-1][-1] == ("error", "ValueError('refused')")
    assert asyncio.run(events(joined)) == expected


def test_cancelling_one_search_leaves_the_others(real_texts: list[str]) -> None:
    joined = accelerate_store(filled(FAISS, real_texts[:100], Counting()), ALWAYS)

    async def run() -> list[Any]:
        tasks = [asyncio.create_task(joined.asimilarity_search(query)) for query in real_texts[:20]]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    for number, found in enumerate(asyncio.run(run())):
        if number % 3:
            assert found == joined.similarity_search(real_texts[number])
        else:
            assert isinstance(found, asyncio.CancelledError)


@pytest.mark.parametrize("store_class", [FAISS, InMemoryVectorStore])
def test_a_joining_store_is_a_view_that_pickles(store_class: type[VectorStore], real_texts: list[str]) -> None:
    store = filled(store_class, real_texts[:40], FAKE)
    joined = accelerate_store(store, ALWAYS)
    assert isinstance(joined, store_class)
    assert type(joined).__name__ == store_class.__name__
    assert vars(joined) is vars(store)
    assert accelerate_store(joined)._aaflow_joins == ALWAYS
    for twin in (pickle.loads(pickle.dumps(joined)), copy.copy(joined)):
        assert twin._aaflow_joins == ALWAYS
        assert twin.similarity_search("a") == store.similarity_search("a")
    assert isinstance(batched_retrieval(joined.as_retriever()), BatchedRetrieval)


def test_a_retriever_whose_store_stays_native_is_returned_as_it_is() -> None:
    class Own(InMemoryVectorStore):
        pass

    retriever = Own(FAKE).as_retriever()
    assert joining_retriever(retriever, ALWAYS) is retriever


# --- embeddings -----------------------------------------------------------------------------------------------


def test_embeddings_of_any_class_join_their_queries() -> None:
    native = Counting()
    joined = joining_embeddings(native, ALWAYS)
    assert isinstance(joined, Counting)
    assert type(joined).__name__ == "Counting"
    queries = [f"query {number % 60}" for number in range(CALLERS)]
    expected = FAKE.embed_documents(queries)
    assert asyncio.run(at_once(joined.aembed_query, queries)) == expected
    assert sum(map(len, native.calls)) == 60
    assert len(native.calls) <= 3
    native.calls.clear()
    assert in_threads(joined.embed_query, queries[:50]) == expected[:50]
    assert sum(map(len, native.calls)) == 50
    assert joined.embed_documents(["a", "b"]) == FAKE.embed_documents(["a", "b"])
    assert type(native) is Counting


def test_no_two_callers_share_a_list() -> None:
    joined = joining_embeddings(Counting(), ALWAYS)
    vectors = asyncio.run(at_once(joined.aembed_query, ["the same"] * 10))
    assert len({id(vector) for vector in vectors}) == 10
    assert vectors == [FAKE.embed_query("the same")] * 10


def test_joining_embeddings_of_a_known_class_stay_known() -> None:
    joined = joining_embeddings(FAKE, Joins(always=True))
    assert queries_batch_exactly(joined)
    assert joined == joining_embeddings(FAKE, Joins(always=True))
    assert joined.model_dump() == FAKE.model_dump()
    assert repr(joined) == repr(FAKE)
    for twin in (pickle.loads(pickle.dumps(joined)), copy.copy(joined), copy.deepcopy(joined)):
        assert type(twin) is type(joined)
        assert twin.embed_query("a") == FAKE.embed_query("a")


def test_embeddings_that_cannot_be_copied_are_returned_as_they_are() -> None:
    class Uncopyable(Counting):
        def __copy__(self) -> None:
            raise TypeError("one of a kind")

    embeddings = Uncopyable()
    assert joining_embeddings(embeddings, ALWAYS) is embeddings


def test_an_embeddings_class_whose_documents_are_queries_does_not_wait_for_itself() -> None:
    class OneByOne(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return FAKE.embed_query(text)

    joined = joining_embeddings(OneByOne(), ALWAYS)
    with batching(window=60):
        queries = [f"query {number}" for number in range(30)]
        found = asyncio.run(asyncio.wait_for(at_once(joined.aembed_query, queries), 30))
    assert found == FAKE.embed_documents(queries)


@pytest.mark.parametrize("accelerated", [False, True])
def test_openai_embeddings(openai_server: Connection, accelerated: bool) -> None:
    native = OpenAIEmbeddings(
        base_url=openai_server.base_url, api_key="none", check_embedding_ctx_length=False, max_retries=0
    )
    joined = joining_embeddings(accelerate_embeddings(native) if accelerated else native, ALWAYS)
    assert isinstance(joined, OpenAIEmbeddings)
    queries = [f"query {number}" for number in range(CALLERS)]
    expected = [native.embed_query(query) for query in queries]
    before = openai_server.stats()["requests"]
    assert asyncio.run(at_once(joined.aembed_query, queries)) == expected
    assert openai_server.stats()["requests"] <= before + 4
    assert copy.copy(joined).embed_query("query 1") == expected[1]


async def test_accelerated_openai_embeddings_share_identical_queries_in_a_block(openai_server: Connection) -> None:
    fast = accelerate_embeddings(
        OpenAIEmbeddings(
            base_url=openai_server.base_url, api_key="none", check_embedding_ctx_length=False, max_retries=0
        )
    )
    with batching():
        before = openai_server.stats()["requests"]
        vectors = await at_once(fast.aembed_query, ["the same"] * 20)
        assert openai_server.stats()["requests"] == before + 1
    assert vectors == [vectors[0]] * 20


def test_the_kept_matrix_is_compared_once_a_batch(real_texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_aaflow import in_memory_store

    class Floats(Counting):
        def _vectors(self, texts: list[str]) -> list[list[float]]:
            return [list(map(float, vector)) for vector in super()._vectors(texts)]

    store = filled(InMemoryVectorStore, real_texts[:300], Floats())
    joined = accelerate_store(store, ALWAYS)
    assert isinstance(joined, AcceleratedInMemoryVectorStore)
    compared: list[int] = []
    of = in_memory_store._KeptMatrix.of
    monkeypatch.setattr(in_memory_store._KeptMatrix, "of", lambda self, rows: (compared.append(1), of(self, rows))[1])
    asyncio.run(at_once(joined.asimilarity_search, real_texts[:CALLERS]))
    assert len(compared) < CALLERS / 8


# --- chat models ----------------------------------------------------------------------------------------------


class Counted(BaseChatModel):
    """Answers with the number of the call."""

    calls: list[str]

    @property
    def _llm_type(self) -> str:
        return "counted"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, **kwargs: Any) -> ChatResult:
        self.calls.append(str(messages[-1].content))
        time.sleep(0.05)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(f"{messages[-1].content} {stop}"))])


@pytest.mark.parametrize("blocking", [False, True])
def test_identical_calls_of_a_model_are_made_once_only_where_asked(blocking: bool) -> None:
    native = Counted(calls=[])
    model = joining_model(native)
    assert type(model).__name__ == "Counted"
    assert isinstance(model, Counted)

    def run() -> list[AIMessage]:
        native.calls.clear()
        if blocking:
            return in_threads(model.invoke, ["a", "a", "b", "a"])
        return asyncio.run(at_once(model.ainvoke, ["a", "a", "b", "a"]))

    run()
    assert sorted(native.calls) == ["a", "a", "a", "b"]
    with batching():
        run()
        assert sorted(native.calls) == ["a", "a", "a", "b"]
    with batching(deduplicate=True):
        messages = run()
        assert sorted(native.calls) == ["a", "b"]
    assert [message.content for message in messages] == ["a None", "a None", "b None", "a None"]
    # A message and a run of each caller's own.
    assert len({id(message) for message in messages}) == len({message.id for message in messages}) == 4


def test_calls_of_a_model_that_differ_in_anything_are_all_made() -> None:
    native = Counted(calls=[])
    model = joining_model(native)

    async def run() -> list[str]:
        calls = [model.ainvoke("a"), model.ainvoke("a", stop=["x"]), model.ainvoke("a", lambda_=print)]
        calls += [model.ainvoke("a", unpicklable=lambda: 1) for _ in range(2)]
        return [str(message.content) for message in await asyncio.gather(*calls)]

    with batching(deduplicate=True):
        assert asyncio.run(run()) == ["a None", "a ['x']", "a None", "a None", "a None"]
    assert len(native.calls) == 5
    assert pickle.loads(pickle.dumps(model)).invoke("b").content == "b None"
