"""What `ingest` is given beside documents: ids, bad arguments, and sources that are empty or cannot be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langchain_community.document_loaders import DirectoryLoader, TextLoader
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import (
    RecursiveCharacterTextSplitter,
)

from langchain_aaflow import ingest
from langchain_aaflow.comparing import difference
from tests.langchain.ingested import EMBEDDING, ByText, CountingStore

# -- ids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore, CountingStore])
def test_ids_as_a_sequence_or_a_function(documents: list[Document], splitter: Any, store: Any) -> None:
    chunks = splitter.split_documents(documents)
    ids = [f"id-{n}" for n in range(len(chunks))]
    native = store.from_documents(chunks, EMBEDDING, ids=ids)
    numbers = iter(ids)
    for given_ids in (ids, lambda chunk: next(numbers)):
        made = ingest(documents, splitter=splitter, embedding=EMBEDDING, vectorstore=store, ids=given_ids)
        assert difference(native, made) is None
        assert list(made.docstore._dict if store is FAISS else made.store) == ids


def test_too_few_ids_are_found_before_anything_is_embedded(documents: list[Document], splitter: Any) -> None:
    embedding = ByText()
    with pytest.raises(ValueError, match=r"ids: 2 ids for \d+ chunks"):
        ingest(documents, splitter=splitter, embedding=embedding, vectorstore=FAISS, ids=["a", "b"])
    assert embedding.calls == []


@pytest.mark.parametrize("source", ["list", "few", "one"])
def test_ids_used_twice_are_refused_and_nothing_is_lost(documents: list[Document], splitter: Any, source: str) -> None:
    few = [Document(page_content="two"), Document(page_content="texts")]
    chosen = {"list": documents, "few": few, "one": few[:1]}[source]
    store = FAISS.from_texts(["first"], EMBEDDING, ids=["taken"])
    for ids in [lambda chunk: "same"] * (source != "one") + [lambda chunk: "taken"]:
        with pytest.raises(ValueError, match="ids"):
            ingest(chosen, splitter=splitter, vectorstore=store, ids=ids)
        assert list(store.docstore._dict) == ["taken"]
        assert store.index.ntotal == 1


def test_documents_ids_count_without_a_splitter(documents: list[Document]) -> None:
    for id_of in (lambda n: f"id-{n}", lambda n: f"id-{n}" if n % 2 else None):
        own = [Document(page_content=d.page_content, id=id_of(n)) for n, d in enumerate(documents)]
        native = InMemoryVectorStore.from_documents(own, EMBEDDING)
        made = ingest(own, splitter=None, embedding=EMBEDDING, vectorstore=InMemoryVectorStore)
        assert difference(native, made) is None
        assert [key for key in made.store if key.startswith("id-")] == [
            key for key in native.store if key.startswith("id-")
        ]


# -- bad arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"source": "text"}, TypeError, "source must be documents"),
        ({"source": Document(page_content="x")}, TypeError, "put it in a list"),
        ({"source": [Document(page_content="x"), "text"]}, TypeError, r"source\[1\] is a str, not a Document"),
        ({"source": iter([Document(page_content="x"), {"page_content": "y"}])}, TypeError, r"source\[1\] is a dict"),
        ({"source": DirectoryLoader}, TypeError, "source"),
        ({"splitter": RecursiveCharacterTextSplitter}, TypeError, "splitter is the class"),
        ({"splitter": "\n"}, TypeError, "splitter must be"),
        ({"embedding": None}, TypeError, "embedding is needed to make a new InMemoryVectorStore"),
        ({"embedding": len}, TypeError, "embedding must be a LangChain Embeddings"),
        ({"vectorstore": dict}, TypeError, "vectorstore must be"),
        ({"vectorstore": InMemoryVectorStore(ByText())}, ValueError, "a ByText of its own: leave"),
        ({"ids": "abc"}, TypeError, "ids must be a sequence"),
        ({"ids": [1, 2]}, TypeError, r"ids\[0\] is a int"),
        ({"executor": 4}, TypeError, "executor must be"),
    ],
)
async def test_bad_arguments_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "source": [Document(page_content="x")],
        "splitter": None,
        "embedding": EMBEDDING,
        "vectorstore": InMemoryVectorStore,
        **options,
    }
    with pytest.raises(error, match=message):
        ingest(arguments.pop("source"), **arguments)


def test_an_asynchronous_source_is_for_aingest() -> None:
    async def source() -> AsyncIterator[Document]:
        yield Document(page_content="x")

    with pytest.raises(TypeError, match="await aingest"):
        ingest(source(), splitter=None, embedding=EMBEDDING, vectorstore=FAISS)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", [[], iter([]), [Document(page_content="")]])
@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore, CountingStore])
def test_an_empty_source_or_text(source: Any, store: Any, splitter: Any) -> None:
    filled = store.from_texts(["first"], EMBEDDING)
    assert ingest(source, splitter=splitter, vectorstore=filled) is filled
    assert len(filled.similarity_search("x", k=9)) == 1
    if store is InMemoryVectorStore:
        assert ingest(source, splitter=splitter, embedding=EMBEDDING, vectorstore=store).store == {}
    else:
        with pytest.raises(ValueError, match="source: no documents"):
            ingest(source, splitter=splitter, embedding=EMBEDDING, vectorstore=store)


def test_a_file_that_is_not_utf8_raises_the_loaders_own_error(tmp_path: Path, splitter: Any) -> None:
    (tmp_path / "a.txt").write_text("fine " * 10)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe broken \x81")
    store = InMemoryVectorStore(EMBEDDING)
    loader = DirectoryLoader(str(tmp_path), glob="*.txt", loader_cls=TextLoader, loader_kwargs={"encoding": "utf-8"})
    with pytest.raises(RuntimeError, match="Error loading"):
        loader.load()
    with pytest.raises(RuntimeError, match="Error loading"):
        ingest(loader, splitter=splitter, vectorstore=store)


def test_a_splitter_that_langchain_refuses_is_refused_by_langchain() -> None:
    with pytest.raises(ValueError, match="chunk overlap"):
        RecursiveCharacterTextSplitter(chunk_size=10, chunk_overlap=20)
    broken = RecursiveCharacterTextSplitter(chunk_size=100, chunk_overlap=0, separators=["("], is_separator_regex=True)
    source = [Document(page_content="some (text) " * 5000)]
    errors = []
    for call in (
        lambda: broken.split_documents(source),
        lambda: ingest(source, splitter=broken, embedding=EMBEDDING, vectorstore=FAISS),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever the native splitter raises
            call()
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
