"""`ingest` leaves in a store what the native calls leave there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_community.document_loaders import DirectoryLoader, TextLoader
from langchain_community.vectorstores import FAISS
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from langchain_text_splitters import (
    CharacterTextSplitter,
    MarkdownHeaderTextSplitter,
    RecursiveCharacterTextSplitter,
    TokenTextSplitter,
)

from aaflow_plugins import Executor
from benchmarks.openai_server import Connection, Fault
from langchain_aaflow import aingest, ingest
from langchain_aaflow.comparing import difference
from tests.generated import examples
from tests.langchain.ingested import EMBEDDING, ByText, CountingStore


@pytest.fixture(scope="module")
def native(documents: list[Document], splitter: Any) -> dict[type, Any]:
    return {
        cls: cls.from_documents(splitter.split_documents(documents), EMBEDDING) for cls in (FAISS, InMemoryVectorStore)
    }


def source_forms(documents: list[Document]) -> dict[str, Any]:
    return {"list": documents, "tuple": tuple(documents), "iterator": iter(documents)}


@pytest.mark.parametrize("form", ["list", "tuple", "iterator"])
@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore])
@pytest.mark.parametrize("processes", [0, 2])
def test_a_new_store_is_the_native_one(
    documents: list[Document], splitter: Any, native: dict[type, Any], store: Any, form: str, processes: int
) -> None:
    source = source_forms(documents)[form]
    made = ingest(
        source, splitter=splitter, embedding=EMBEDDING, vectorstore=store, executor=Executor(processes=processes)
    )
    assert type(made) is store
    assert made.embeddings is EMBEDDING
    assert difference(native[store], made) is None


async def test_aingest_makes_the_same_store_from_an_asynchronous_source(
    documents: list[Document], splitter: Any, native: dict[type, Any]
) -> None:
    async def source() -> AsyncIterator[Document]:
        for document in documents:
            yield document

    for store in (FAISS, InMemoryVectorStore):
        for form in (source(), documents):
            made = await aingest(form, splitter=splitter, embedding=EMBEDDING, vectorstore=store)
            assert difference(native[store], made) is None


async def test_ingest_works_where_a_loop_is_running(documents: list[Document], splitter: Any, native: Any) -> None:
    made = ingest(documents, splitter=splitter, embedding=EMBEDDING, vectorstore=FAISS)
    assert difference(native[FAISS], made) is None


@pytest.mark.parametrize(
    "splitter",
    [
        None,
        CharacterTextSplitter(separator="\n", chunk_size=300, chunk_overlap=20),
        TokenTextSplitter(encoding_name="cl100k_base", chunk_size=64, chunk_overlap=8),
        RecursiveCharacterTextSplitter.from_tiktoken_encoder("cl100k_base", chunk_size=100, chunk_overlap=10),
        RecursiveCharacterTextSplitter(length_function=lambda text: len(text.split()), chunk_size=50, chunk_overlap=5),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_any_splitter(documents: list[Document], splitter: Any) -> None:
    chunks = splitter.split_documents(documents[:40]) if splitter else documents[:40]
    native = FAISS.from_documents(chunks, EMBEDDING)
    for executor in (Executor(), Executor(processes=1)):
        made = ingest(documents[:40], splitter=splitter, embedding=EMBEDDING, vectorstore=FAISS, executor=executor)
        assert difference(native, made) is None


class Summing(RecursiveCharacterTextSplitter):
    """Looks at all documents of a call: numbers their chunks through."""

    def split_documents(self, documents: Any) -> list[Document]:
        chunks = super().split_documents(documents)
        for number, chunk in enumerate(chunks):
            chunk.metadata["chunk"] = f"{number} of {len(chunks)}"
        return chunks


def test_a_splitter_of_ones_own_gets_all_documents_in_one_call(documents: list[Document]) -> None:
    splitter = Summing(chunk_size=500, chunk_overlap=0)
    native = InMemoryVectorStore.from_documents(splitter.split_documents(documents), EMBEDDING)
    for source in (documents, iter(documents)):
        made = ingest(source, splitter=splitter, embedding=EMBEDDING, vectorstore=InMemoryVectorStore)
        assert difference(native, made) is None


class Backwards(BaseDocumentTransformer):
    """No splitter, but what may stand in its place: it looks at all documents, too."""

    def transform_documents(self, documents: Sequence[Document], **_: Any) -> Sequence[Document]:
        return documents[::-1]


def test_a_transformer_gets_all_documents_in_one_call(documents: list[Document]) -> None:
    native = FAISS.from_documents(list(Backwards().transform_documents(documents)), EMBEDDING)
    made = ingest(documents, splitter=Backwards(), embedding=EMBEDDING, vectorstore=FAISS, executor=Executor())
    assert difference(native, made) is None


def test_markdown_chunks_carry_their_documents_metadata_and_the_headers() -> None:
    text = "# One\n\nalpha\n\n## Two\n\nbeta\n" * 900
    splitter = MarkdownHeaderTextSplitter([("#", "h1"), ("##", "h2")])
    source = [Document(page_content=text, metadata={"source": name}) for name in "ab"]
    made = ingest(source, splitter=splitter, embedding=EMBEDDING, vectorstore=InMemoryVectorStore)
    expected = [
        (c.page_content, {"source": d.metadata["source"], **c.metadata})
        for d in source
        for c in splitter.split_text(text)
    ]
    assert [(row["text"], row["metadata"]) for row in made.store.values()] == expected


def test_a_filled_store_grows_as_natively_and_stays_the_same_object(documents: list[Document], splitter: Any) -> None:
    for cls in (FAISS, InMemoryVectorStore):
        first, rest = documents[:10], documents[10:60]
        native = cls.from_documents(first, EMBEDDING)
        native.add_documents(splitter.split_documents(rest))
        ours = cls.from_documents(first, EMBEDDING)
        assert ingest(rest, splitter=splitter, vectorstore=ours) is ours
        assert difference(native, ours) is None


def test_any_other_store_is_filled_through_its_own_calls(documents: list[Document], splitter: Any) -> None:
    chunks = splitter.split_documents(documents)
    native = CountingStore(EMBEDDING)
    native.add_documents(chunks)
    ours = ingest(documents, splitter=splitter, vectorstore=CountingStore(EMBEDDING))
    assert ours.added == 1
    assert difference(native, ours) is None
    made = ingest(documents, splitter=splitter, embedding=EMBEDDING, vectorstore=CountingStore)
    assert difference(CountingStore.from_documents(chunks, EMBEDDING), made) is None


async def test_any_other_store_takes_its_own_asynchronous_calls(documents: list[Document], splitter: Any) -> None:
    ours = await aingest(documents, splitter=splitter, vectorstore=CountingStore(EMBEDDING))
    native = CountingStore(EMBEDDING)
    await native.aadd_documents(splitter.split_documents(documents))
    assert difference(native, ours) is None


@settings(max_examples=examples(10), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=300).map(lambda text: text * 20), max_size=12),
    size=st.integers(5, 80),
    overlap=st.integers(0, 4),
)
def test_generated_documents(texts: list[str], size: int, overlap: int) -> None:
    padding = "a b c d " * 3000  # beyond the size that takes the native calls
    source = [Document(page_content=text, metadata={"n": n}) for n, text in enumerate([*texts, padding])]
    splitter = RecursiveCharacterTextSplitter(chunk_size=size, chunk_overlap=overlap)
    native = InMemoryVectorStore.from_documents(splitter.split_documents(source), EMBEDDING)
    assert (
        difference(native, ingest(source, splitter=splitter, embedding=EMBEDDING, vectorstore=InMemoryVectorStore))
        is None
    )


def test_loaders_are_read_lazily_and_as_they_load(tmp_path: Path, documents: list[Document], splitter: Any) -> None:
    for number, document in enumerate(documents[:30]):
        (tmp_path / f"{number:02}.txt").write_text(document.page_content, encoding="utf-8")
    loader = DirectoryLoader(str(tmp_path), glob="*.txt", loader_cls=TextLoader, loader_kwargs={"encoding": "utf-8"})
    native = FAISS.from_documents(splitter.split_documents(loader.load()), EMBEDDING)
    assert difference(native, ingest(loader, splitter=splitter, embedding=EMBEDDING, vectorstore=FAISS)) is None


# -- embeddings -------------------------------------------------------------------------------------------------


def test_unknown_embeddings_get_the_native_composition_of_calls(documents: list[Document], splitter: Any) -> None:
    chunks = len(splitter.split_documents(documents))
    listed, streamed, told = ByText(), ByText(), ByText()
    ingest(documents, splitter=splitter, embedding=listed, vectorstore=FAISS)
    ingest(iter(documents), splitter=splitter, embedding=streamed, vectorstore=FAISS)
    ingest(documents, splitter=splitter, embedding=told, vectorstore=FAISS, executor=Executor(batch_size=64))
    assert listed.calls == [chunks]
    assert streamed.calls == [1000] * (chunks // 1000) + [chunks % 1000]
    assert told.calls == [64] * (chunks // 64) + [chunks % 64]


def openai(server: Connection, **options: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model="text-embedding-3-small",
        api_key="none",
        base_url=server.base_url,
        chunk_size=100,
        max_retries=0,
        **options,
    )


def inputs(bodies: list[bytes]) -> list[str]:
    """What the requests ask for, in an order of their own: they arrive side by side."""
    return sorted(str(sorted(json.loads(body).items())) for body in bodies)


async def test_openai_makes_the_native_requests_and_the_native_store(
    openai_server: Connection, documents: list[Document], splitter: Any
) -> None:
    embedding = openai(openai_server)
    openai_server.configure(record=True)
    native = FAISS.from_documents(splitter.split_documents(documents), embedding)
    expected = openai_server.bodies()
    for way in ("sync", "async", "iterator"):
        openai_server.configure(record=True)
        if way == "async":
            made = await aingest(documents, splitter=splitter, embedding=embedding, vectorstore=FAISS)
        else:
            source = documents if way == "sync" else iter(documents)
            made = ingest(source, splitter=splitter, embedding=embedding, vectorstore=FAISS)
        assert difference(native, made) is None
        assert inputs(openai_server.bodies()) == inputs(expected)


def test_an_embedder_failing_at_request_k_leaves_what_came_before_once(
    openai_server: Connection, documents: list[Document], splitter: Any
) -> None:
    import openai as client

    store = FAISS.from_texts(["first"], openai(openai_server))
    openai_server.configure(faults=[Fault([3], "status", 400)])
    with pytest.raises(client.BadRequestError):
        ingest(documents, splitter=splitter, vectorstore=store, executor=Executor(max_concurrency=1))
    texts = [document.page_content for document in store.docstore._dict.values()]
    chunks = [chunk.page_content for chunk in splitter.split_documents(documents)]
    assert texts == ["first", *chunks[: len(texts) - 1]]
    assert len(texts) == 201
    assert store.index.ntotal == 201


def test_a_failing_embedder_of_ones_own_raises_its_own_error(documents: list[Document], splitter: Any) -> None:
    store = InMemoryVectorStore(ByText(fail_at=2))
    with pytest.raises(ConnectionError, match="the model is gone"):
        ingest(documents, splitter=splitter, vectorstore=store, executor=Executor(batch_size=50))
    assert len(store.store) == 100


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: EMBEDDING.embed_documents(texts)[:-1], "returned .* vectors for .* texts"),
        (lambda texts: [[0.0] * (4 + n % 2) for n in range(len(texts))], "ByText"),
        (lambda texts: [[float("nan")] * 4 for _ in texts], "ByText.*NaN"),
        (lambda texts: [["x"] * 4 for _ in texts], "ByText"),
    ],
    ids=["too few", "ragged", "nan", "not numbers"],
)
@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore])
def test_wrong_vectors_are_refused_before_anything_of_their_batch_is_stored(
    documents: list[Document], splitter: Any, answer: Any, message: str, store: Any
) -> None:
    filled = store.from_texts(["first"], DeterministicFakeEmbedding(size=4))
    with pytest.raises(ValueError, match=message):
        ingest(documents, splitter=splitter, embedding=ByText(answer=answer), vectorstore=store)
    ours = InMemoryVectorStore(ByText(answer=answer)) if store is InMemoryVectorStore else filled
    if store is FAISS:
        filled.embedding_function = ByText(answer=answer)
    with pytest.raises(ValueError, match=message):
        ingest(documents, splitter=splitter, vectorstore=ours)
    assert len(ours.store if store is InMemoryVectorStore else ours.docstore._dict) == (store is FAISS)


def test_vectors_of_another_dimension_than_the_stores_are_refused(documents: list[Document], splitter: Any) -> None:
    store = FAISS.from_texts(["first"], ByText(answer=lambda texts: [[0.5] * 7 for _ in texts]))
    store.embedding_function = ByText()
    with pytest.raises(ValueError, match="vectors of 12 floats, but FAISS holds vectors of 7"):
        ingest(documents, splitter=splitter, vectorstore=store)
    assert store.index.ntotal == 1


# -- interruption, progress, memory -----------------------------------------------------------------------------


async def test_cancelling_leaves_whole_batches(documents: list[Document], splitter: Any) -> None:
    class Slow(ByText):
        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            await asyncio.sleep(0.05)
            return EMBEDDING.embed_documents(texts)

    store = InMemoryVectorStore(Slow())
    task = asyncio.create_task(
        aingest(documents, splitter=splitter, vectorstore=store, executor=Executor(batch_size=20))
    )
    while not store.store:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    chunks = [chunk.page_content for chunk in splitter.split_documents(documents)]
    assert 0 < len(store.store) < len(chunks)
    assert [row["text"] for row in store.store.values()] == chunks[: len(store.store)]


def test_progress_and_report(documents: list[Document], splitter: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []
    executor = Executor()
    options: dict[str, Any] = {"splitter": splitter, "embedding": EMBEDDING, "vectorstore": FAISS}
    store = ingest(iter(documents), **options, progress=seen.append, executor=executor)
    assert [step.rows for step in seen if step.operator == "upsert"][-1] == store.index.ntotal
    assert executor.report
    assert [row.rows for row in executor.report.operators] == [len(documents)] + [store.index.ntotal] * 3
    ingest(documents, **options, progress=True)
    assert capsys.readouterr().out == ""


def test_vectors_reach_faiss_without_a_copy(
    openai_server: Connection, documents: list[Document], splitter: Any
) -> None:
    executor = Executor()
    ingest(documents, splitter=splitter, embedding=openai(openai_server), vectorstore=FAISS, executor=executor)
    assert executor.report
    assert executor.report.bytes_copied == 0


@pytest.mark.slow
def test_memory_stays_within_the_bound_for_a_source_larger_than_it(tmp_path: Path) -> None:
    """120 MB of documents from an iterator, 24 MiB in flight at most: what grows is the store and little else."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import resource, sys
        import numpy as np
        from langchain_core.documents import BaseDocumentTransformer, Document
        from langchain_core.embeddings import Embeddings
        from langchain_core.vectorstores import VectorStore
        from langchain_text_splitters import RecursiveCharacterTextSplitter
        from aaflow_plugins import Executor
        from langchain_aaflow import ingest

        class Short(Embeddings):
            def embed_documents(self, texts): return [[float(len(t))] * 8 for t in texts]
            def embed_query(self, text): return [0.0] * 8

        class Nowhere(VectorStore):
            rows = 0
            @property
            def embeddings(self): return Short()
            def add_texts(self, texts, metadatas=None, **kwargs):
                Nowhere.rows += len(list(texts)); return []
            def add_documents(self, documents, **kwargs):
                Nowhere.rows += len(documents); return []
            def similarity_search(self, query, k=4, **kwargs): return []
            @classmethod
            def from_texts(cls, *args, **kwargs): return cls()

        def source(count):
            for n in range(count):
                yield Document(page_content=(f"line {n} of a text that goes on\\n" * 4000)[:100_000])

        splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=100)
        def peak(count):
            ingest(source(count), splitter=splitter, vectorstore=Nowhere(), executor=Executor(memory_limit=24 * 2**20))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        small = peak(300)
        large = peak(1200)
        print(large - small, Nowhere.rows)
        """)
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    growth, rows = run.stdout.split()
    assert int(rows) > 150_000
    assert float(growth) < 24


def test_source_iterators_are_read_in_the_callers_thread(documents: list[Document]) -> None:
    import threading

    threads = set()

    def source() -> Iterator[Document]:
        for document in documents:
            threads.add(threading.current_thread())
            yield document

    ingest(source(), splitter=None, embedding=EMBEDDING, vectorstore=FAISS)
    assert threads == {threading.current_thread()}


class InItsThread(CountingStore):
    """Bound to the thread that made it, as a database connection is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.thread = threading.get_ident()

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        assert threading.get_ident() == self.thread
        return super().add_documents(documents, **kwargs)


def test_a_stores_own_calls_are_made_in_the_callers_thread(documents: list[Document], splitter: Any) -> None:
    assert sum(len(document.page_content) for document in documents) > 20_000
    store = InItsThread(EMBEDDING)
    ingest(documents, splitter=splitter, vectorstore=store)
    ingest(iter(documents), splitter=splitter, vectorstore=store)
    made = ingest(documents, splitter=splitter, embedding=EMBEDDING, vectorstore=InItsThread)
    assert made.thread == threading.get_ident()
    assert len(made.store) * 2 == len(store.store)


async def test_a_cancelled_source_is_not_read_to_its_end() -> None:
    read = 0

    def pages() -> Iterator[Document]:
        nonlocal read
        for number in range(400):
            time.sleep(0.005)
            read += 1
            yield Document(page_content=f"Page {number}.")

    splitter = RecursiveCharacterTextSplitter(chunk_size=100, chunk_overlap=0)
    filling = aingest(pages(), splitter=splitter, embedding=EMBEDDING, vectorstore=InMemoryVectorStore)
    task = asyncio.create_task(filling)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < read < 200


def test_infinite_floats_pass_as_natively(documents: list[Document]) -> None:
    """Natively nothing looks at infinities; a store with them is the user's to have."""
    embedding = ByText(answer=lambda texts: [[float("inf"), 1.0]] * len(texts))
    native = FAISS.from_documents(documents, embedding)
    made = ingest(documents, splitter=None, embedding=embedding, vectorstore=FAISS)
    assert np.array_equal(native.index.reconstruct_n(0, 5), made.index.reconstruct_n(0, 5))


# -- what a reviewer broke ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["list", "tiny"])
async def test_a_stop_iteration_of_the_users_is_an_error_and_no_end(documents: list[Document], size: str) -> None:
    """An iterator takes StopIteration for its end; nothing may be lost that way."""
    chosen = documents if size == "list" else documents[:1]

    class Stopping(ByText):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return next(iter([]))  # type: ignore[no-any-return]

    class StoppingSplitter(RecursiveCharacterTextSplitter):
        def split_text(self, text: str) -> list[str]:
            return next(iter([]))  # type: ignore[no-any-return]

    empty: Iterator[str] = iter([])
    options: dict[str, Any] = {"splitter": None, "embedding": EMBEDDING, "vectorstore": InMemoryVectorStore}
    for changed in (
        {"ids": lambda chunk: next(empty)},
        {"splitter": StoppingSplitter()},
        {"embedding": Stopping()},
    ):
        with pytest.raises(StopIteration):
            ingest(chosen, **{**options, **changed})
        with pytest.raises(RuntimeError):
            await aingest(chosen, **{**options, **changed})


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize(
    "answer",
    [
        lambda texts: [[float("nan"), 0.0] for _ in texts],
        lambda texts: [[0.0, 1.0]] * (len(texts) + 1),
        lambda texts: None,
        lambda texts: [[] for _ in texts],
    ],
    ids=["nan", "too many", "none", "empty"],
)
def test_the_same_vectors_are_refused_whatever_the_size_of_the_source(
    documents: list[Document], count: int, answer: Any
) -> None:
    for store in (FAISS, InMemoryVectorStore):
        with pytest.raises(ValueError, match="ByText"):
            ingest(documents[:count], splitter=None, embedding=ByText(answer=answer), vectorstore=store)


def test_the_embedding_of_another_model_is_refused(documents: list[Document]) -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    for other in (DeterministicFakeEmbedding(size=4), ByText()):
        with pytest.raises(ValueError, match="embedding is not what the InMemoryVectorStore embeds queries with"):
            ingest(documents, splitter=None, embedding=other, vectorstore=store)
    assert store.store == {}
    ingest(documents[:2], splitter=None, embedding=DeterministicFakeEmbedding(size=8), vectorstore=store)
    assert len(store.store) == 2


def test_markdown_chunks_share_no_metadata_with_each_other_or_their_document() -> None:
    source = [Document(page_content="# A\n\nx\n\n# B\n\ny\n", metadata={"tags": ["a"]})]
    store = ingest(
        source, splitter=MarkdownHeaderTextSplitter([("#", "h")]), embedding=EMBEDDING, vectorstore=InMemoryVectorStore
    )
    first, second = store.store.values()
    first["metadata"]["tags"].append("changed")
    assert second["metadata"]["tags"] == source[0].metadata["tags"] == ["a"]


class CountingSplitter(RecursiveCharacterTextSplitter):
    """Splits differently from call to call."""

    calls = 0

    def split_text(self, text: str) -> list[str]:
        self.calls += 1
        return [f"{self.calls}: {chunk}" for chunk in super().split_text(text)]


def test_a_splitter_of_the_users_is_not_copied_into_workers(documents: list[Document]) -> None:
    native = InMemoryVectorStore.from_documents(CountingSplitter().split_documents(documents), EMBEDDING)
    executor = Executor(processes=2)
    options: dict[str, Any] = {"embedding": EMBEDDING, "vectorstore": InMemoryVectorStore, "executor": executor}
    assert difference(native, ingest(documents, splitter=CountingSplitter(), **options)) is None
    assert executor.report
    assert "runs in this process" in executor.report.notes[0]


def test_an_executor_given_always_reports(documents: list[Document]) -> None:
    executor = Executor()
    ingest(documents[:1], splitter=None, embedding=EMBEDDING, vectorstore=FAISS, executor=executor)
    assert executor.report
    assert executor.report.operators[-1].rows == 1
