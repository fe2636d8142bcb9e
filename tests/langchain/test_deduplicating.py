"""`ingest(deduplicate=True)` leaves what natively is left by adding the first of all chunks with the same text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from aaflow_plugins import Executor
from langchain_aaflow import aingest, ingest
from langchain_aaflow.comparing import difference
from tests.generated import examples
from tests.langchain.ingested import EMBEDDING, CountingStore

pytestmark = pytest.mark.slow


def repeated(documents: list[Document]) -> list[Document]:
    """Documents, with footers that many have, and some of them again under another name."""
    made = [
        Document(page_content=f"{each.page_content}\n\n{'The same footer. ' * 40}", metadata=each.metadata)
        for each in documents
    ]
    again = [Document(page_content=each.page_content, metadata={"source": "again"}) for each in made[::3]]
    return [*made, *again]


def first_of_each(chunks: list[Document]) -> list[int]:
    seen: dict[str, int] = {}
    for row, chunk in enumerate(chunks):
        seen.setdefault(chunk.page_content, row)
    return list(seen.values())


def natively(store: Any, source: list[Document], splitter: Any, ids: Any = None) -> Any:
    chunks = splitter.split_documents(source) if splitter else source
    rows = first_of_each(chunks)
    kept = [chunks[row] for row in rows]
    given = ids if ids is None else [ids(chunks[row]) if callable(ids) else ids[row] for row in rows]
    more = {} if given is None else {"ids": given}
    if isinstance(store, type):
        return store.from_documents(kept, EMBEDDING, **more)  # type: ignore[attr-defined]
    store.add_documents(kept, **more)
    return store


SPLITTERS: dict[str, Callable[[], Any]] = {
    "chunks": lambda: RecursiveCharacterTextSplitter(chunk_size=300, chunk_overlap=30),
    "whole documents": lambda: None,
}


@pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS)
@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore, CountingStore])
@pytest.mark.parametrize("form", ["list", "iterator", "few"])
async def test_the_first_of_each_is_stored(documents: list[Document], splitter: Any, store: Any, form: str) -> None:
    source = repeated(documents)[-8:] if form == "few" else repeated(documents)
    expected = natively(store, source, splitter())

    def given() -> Any:
        return iter(source) if form == "iterator" else source

    async def read() -> AsyncIterator[Document]:
        for document in source:
            yield document

    arguments = {"splitter": splitter(), "embedding": EMBEDDING, "vectorstore": store, "deduplicate": True}
    assert difference(expected, ingest(given(), **arguments)) is None
    assert difference(expected, await aingest(given(), **arguments)) is None
    assert difference(expected, await aingest(read(), **arguments)) is None


@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore])
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("kind", ["a function", "a list", "the same for the same text"])
def test_ids_are_those_of_the_first(documents: list[Document], store: Any, few: bool, kind: str) -> None:
    source = repeated(documents)[-8:] if few else repeated(documents)
    splitter = SPLITTERS["chunks"]()
    chunks = splitter.split_documents(source)
    numbers = {id(chunk): row for row, chunk in enumerate(chunks)}
    ids: Any = [f"id-{row}" for row in numbers.values()]
    if kind == "a function":
        ids = lambda chunk: f"{chunk.metadata.get('source')}: {chunk.page_content!r}"  # noqa: E731
    elif kind == "the same for the same text":
        ids = [repr(chunk.page_content) for chunk in chunks]
    made = ingest(source, splitter=splitter, embedding=EMBEDDING, vectorstore=store, ids=ids, deduplicate=True)
    expected = natively(store, source, splitter, ids)
    assert difference(expected, made) is None
    assert _ids(made) == _ids(expected)


def _ids(store: Any) -> list[str]:
    return list(store.store if isinstance(store, InMemoryVectorStore) else store.index_to_docstore_id.values())


def test_what_is_stored_already_stays_and_is_not_compared() -> None:
    stores = [InMemoryVectorStore(EMBEDDING) for _ in range(2)]
    source = [Document(page_content=text) for text in ("b", "a", "b")]
    for store in stores:
        store.add_texts(["a"])
    natively(stores[0], source, None)
    assert ingest(source, splitter=None, vectorstore=stores[1], deduplicate=True) is stores[1]
    assert difference(*stores) is None
    assert len(stores[1].store) == 3


@given(st.lists(st.text("ab", max_size=2), min_size=1), st.sampled_from([None, 1, 2]))
@settings(max_examples=examples(50), deadline=None)
def test_any_texts(texts: list[str], batch_size: int | None) -> None:
    source = [Document(page_content=text, metadata={"row": row}) for row, text in enumerate(texts)]
    executor = Executor(batch_size=batch_size) if batch_size else None
    made = ingest(source, splitter=None, embedding=EMBEDDING, vectorstore=FAISS, deduplicate=True, executor=executor)
    assert difference(natively(FAISS, source, None), made) is None


def test_what_is_reported() -> None:
    executor = Executor()
    source = [Document(page_content=text) for text in "abaab"]
    ingest(source, splitter=None, embedding=EMBEDDING, vectorstore=FAISS, deduplicate=True, executor=executor)
    assert executor.report is not None
    assert [(each.kind, each.rows) for each in executor.report.operators] == [
        ("load", 5),
        ("split", 5),
        ("dedupe", 2),
        ("embed", 2),
        ("upsert", 2),
    ]
