"""Inputs so small that a fast path could only lose: nobody may be slower for them.

Calls take microseconds, so native and ours share a process and take turns, many times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from benchmarks.corpus import read_documents
from benchmarks.digests import of_documents, of_faiss_store, of_rows
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.openai_server import serving

_NATIVE, _OURS = "native", "ours"
_SIZES = (1, 10)
_DIMENSION = 256

Prepare = Callable[[list[Document], Mapping[str, Any], bool], Work]


def _accelerated(obj: Any, accelerated: bool) -> Any:
    if not accelerated:
        return obj
    from langchain_aaflow import accelerate

    return accelerate(obj)


# -- what is done ----------------------------------------------------------------------------------------


def _splits(build: Callable[[], Any]) -> Prepare:
    def prepare(documents: list[Document], _: Mapping[str, Any], accelerated: bool) -> Work:
        from benchmarks.splitting import split

        splitter = _accelerated(build(), accelerated)
        return Work(run=lambda _: split(splitter, documents), digest=of_documents)

    return prepare


def _by_characters() -> Any:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)


def _by_separator() -> Any:
    from langchain_text_splitters import CharacterTextSplitter

    return CharacterTextSplitter(chunk_size=1000, chunk_overlap=200)


def _by_tokens() -> Any:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter.from_tiktoken_encoder("cl100k_base", chunk_size=256, chunk_overlap=32)


def _by_headers() -> Any:
    from langchain_text_splitters import MarkdownHeaderTextSplitter

    return MarkdownHeaderTextSplitter([("#", "Header 1"), ("##", "Header 2")])


def _embeds(documents: list[Document], parameters: Mapping[str, Any], accelerated: bool) -> Work:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    native = OpenAIEmbeddings(
        base_url=f"{parameters['url']}/v1", api_key=SecretStr("none"), model="text-embedding-3-small"
    )
    embeddings = _accelerated(native, accelerated)
    texts = [document.page_content for document in documents]
    return Work(run=lambda _: embeddings.embed_documents(texts), digest=of_rows)


class _Known(Embeddings):
    """Vectors known beforehand, so that a store's own work is what is seen."""

    def __init__(self, documents: list[Document]) -> None:
        self._rows = {document.page_content: _vector(position) for position, document in enumerate(documents)}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._rows[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self._rows[text]


def _vector(position: int) -> list[float]:
    return [(position * 31 + column * 17) % 101 / 128 for column in range(_DIMENSION)]


def _upserts_faiss(documents: list[Document], _: Mapping[str, Any], accelerated: bool) -> Work:
    return Work(
        run=lambda store: _filled(store, documents),
        before=lambda: _accelerated(_faiss(documents), accelerated),
        digest=of_faiss_store,
    )


def _upserts_memory(documents: list[Document], _: Mapping[str, Any], accelerated: bool) -> Work:
    from langchain_core.vectorstores import InMemoryVectorStore

    return Work(
        run=lambda store: _filled(store, documents),
        before=lambda: _accelerated(InMemoryVectorStore(_Known(documents)), accelerated),
        digest=_of_memory_store,
    )


def _searches_faiss(documents: list[Document], _: Mapping[str, Any], accelerated: bool) -> Work:
    store = _accelerated(_filled(_faiss(documents), documents), accelerated)
    query = _vector(3)
    return Work(run=lambda _: store.similarity_search_by_vector(query, k=4), digest=_of_found)


def _searches_memory(documents: list[Document], _: Mapping[str, Any], accelerated: bool) -> Work:
    from langchain_core.vectorstores import InMemoryVectorStore

    store = _accelerated(_filled(InMemoryVectorStore(_Known(documents)), documents), accelerated)
    query = _vector(3)
    return Work(run=lambda _: store.similarity_search_by_vector(query, k=4), digest=_of_found)


def _ingests(documents: list[Document], _: Mapping[str, Any], accelerated: bool) -> Work:
    from langchain_community.vectorstores import FAISS

    from langchain_aaflow.wordllama import WordLlamaEmbeddings

    splitter, embeddings = _by_characters(), WordLlamaEmbeddings()
    if not accelerated:
        return Work(
            run=lambda _: FAISS.from_documents(splitter.split_documents(documents), embeddings), digest=of_faiss_store
        )
    from langchain_aaflow import ingest

    return Work(
        run=lambda _: ingest(documents, splitter=splitter, embedding=embeddings, vectorstore=FAISS),
        digest=of_faiss_store,
    )


def _faiss(documents: list[Document]) -> Any:
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    return FAISS(_Known(documents), faiss.IndexFlatL2(_DIMENSION), InMemoryDocstore(), {})


def _filled(store: Any, documents: list[Document]) -> Any:
    store.add_documents(documents)
    return store


def _of_memory_store(store: Any) -> str:
    entries = list(store.store.values())
    contents = [Document(page_content=entry["text"], metadata=entry["metadata"]) for entry in entries]
    return of_documents(contents) + of_rows([entry["vector"] for entry in entries])


def _of_found(documents: list[Document]) -> str:
    """Ids of the store's making are random: they are left out."""
    return of_documents(document.model_copy(update={"id": None}) for document in documents)


_OPERATIONS: dict[str, Prepare] = {
    "RecursiveCharacterTextSplitter": _splits(_by_characters),
    "CharacterTextSplitter": _splits(_by_separator),
    "RecursiveCharacterTextSplitter by tokens": _splits(_by_tokens),
    "MarkdownHeaderTextSplitter": _splits(_by_headers),
    "OpenAIEmbeddings.embed_documents": _embeds,
    "FAISS.add_documents": _upserts_faiss,
    "InMemoryVectorStore.add_documents": _upserts_memory,
    "FAISS.similarity_search_by_vector": _searches_faiss,
    "InMemoryVectorStore.similarity_search_by_vector": _searches_memory,
    "ingest into FAISS with WordLlama": _ingests,
}


# -- the benchmark ---------------------------------------------------------------------------------------


def _prepared(accelerated: bool) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        documents = _small(read_documents(parameters["corpus"]))[: parameters["documents"]]
        return _OPERATIONS[parameters["operation"]](documents, parameters, accelerated)

    return prepare


def _small(documents: list[Document]) -> list[Document]:
    return [document for document in documents if 500 <= len(document.page_content) <= 4000]


def _cases(scale: Scale) -> list[Case]:
    sample = scale.corpora.sample("all", 1_000_000)
    return [
        Case(
            f"{operation}, {count} document{'s' if count > 1 else ''}",
            {
                "operation": operation,
                "documents": count,
                # Calls of milliseconds need fewer to have a steady median.
                "iterations": 20 if scale.quick else 100 if prepare in (_embeds, _ingests) else 500,
                **sample.parameters,
            },
            (_NATIVE, _OURS),
        )
        for operation, prepare in _OPERATIONS.items()
        for count in _SIZES
    ]


@contextmanager
def _serve(case: Case) -> Iterator[Mapping[str, Any]]:
    if _OPERATIONS[case.parameters["operation"]] is not _embeds:
        yield {}
        return
    with serving(base_ms=0, item_ms=0) as connection:
        yield {"url": connection.url}


BENCHMARK = Benchmark(
    name="tiny",
    home="benchmarks.tiny:BENCHMARK",
    title="One document, and ten",
    protocol=(
        "Timed: single calls on one and on ten real files of 500 to 4,000 characters. Native and ours take turns in "
        "one process, 500 calls each (100 of those that take milliseconds) after one to warm up; a repeat counts with "
        "its median. Stores begin empty and are made before the clock starts; the embeddings server has no latency. "
        "Memory is not measured."
    ),
    metric="cpu",
    contenders=(Contender(_NATIVE, "native", _prepared(False)), Contender(_OURS, "ours", _prepared(True))),
    cases=_cases,
    service=_serve,
    together=True,
)
