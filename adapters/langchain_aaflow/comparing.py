"""Native LangChain against the accelerated objects, on the user's own: what to run, and how results are compared."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_text_splitters import MarkdownHeaderTextSplitter, RecursiveCharacterTextSplitter

from aaflow_plugins.comparison import Comparison, Run
from aaflow_plugins.executor import Executor
from aaflow_plugins.plan import Plan
from aaflow_plugins.plugins import accelerate
from aaflow_plugins.report import covered_seconds
from langchain_aaflow import plans
from langchain_aaflow.ingestion import ingest
from langchain_aaflow.targets import Target


@dataclass(frozen=True)
class Pipeline:
    """The objects of an ingestion; what is None has no part in it."""

    splitter: Any = None
    embedding: Embeddings | None = None
    vectorstore: VectorStore | type[VectorStore] | None = None

    def plan(self) -> Plan:
        """What `ingest` would run."""
        operators: list[Any] = [plans.load(), plans.split(self.splitter)]
        target: Target[Any] | None = None
        if self.vectorstore is not None:
            target = Target(self.vectorstore, self.embedding, asynchronous=False)
        embedding = self.embedding if target is None else target.embedding
        if embedding is not None and (target is None or target.takes_vectors):
            operators.append(plans.embed(embedding))
        if target is not None:
            operators.append(target.upsert(given_ids=False))
        return Plan(operators)


def pipeline_of(obj: Any) -> Pipeline | None:
    """Sort objects by what they are: one object, several in a sequence, or a mapping by argument of `ingest`.

    Raises:
        ValueError: If two objects have the same part, or a mapping has a key that is no part.
    """
    if isinstance(obj, Mapping):
        unknown = sorted(set(obj) - {"splitter", "embedding", "vectorstore"})
        if unknown:
            raise ValueError(f"unknown part {unknown[0]!r}: the parts are splitter, embedding and vectorstore")
        return Pipeline(**obj)
    parts: dict[str, Any] = {}
    for each in obj if isinstance(obj, list | tuple) else [obj]:
        name = _part(each)
        if name is None:
            return None
        if name in parts:
            raise ValueError(f"two objects for the part {name!r}")
        parts[name] = each
    return Pipeline(**parts)


def comparison(make: Callable[[], Any], documents: Sequence[tuple[str, str]]) -> Comparison | None:
    """Compare what the user's objects do natively with what they do accelerated.

    Args:
        make: Gives the user's object(s), for each run anew where it is a function of theirs.
        documents: `(source, text)` of each document.

    Returns:
        The comparison, or None if the objects are not LangChain's.
    """
    first = pipeline_of(make())
    if first is None:
        return None
    source = [Document(page_content=text, metadata={"source": name}) for name, text in documents]
    if isinstance(first.vectorstore, VectorStore) and make() is not None:
        again = pipeline_of(make())
        if again and again.vectorstore is first.vectorstore:
            raise ValueError(
                "the vectorstore would be filled twice: name a function that returns a new one each time, or its class"
            )

    def fresh() -> Pipeline:
        made = pipeline_of(make())
        assert made
        return made

    notes = tuple(
        f"{operator.kind} {operator.name}: native, {operator.native}"
        for operator in first.plan().operators
        if operator.native and operator.kind != "load"
    )
    if first.vectorstore is not None:
        return Comparison(
            f"ingest {len(source):,} documents: " + _names(first),
            lambda: _ingest_natively(fresh(), source),
            lambda: _ingest(fresh(), source),
            difference,
            notes,
            _basis(first.vectorstore),
        )
    if first.embedding is not None:
        splitter = first.splitter or RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)
        texts = [chunk.page_content for chunk in plans.split_documents(splitter, source)]
        return Comparison(
            f"embed {len(texts):,} texts: {_names(first)}",
            lambda: _embed(fresh(), texts, fast=False),
            lambda: _embed(fresh(), texts, fast=True),
            difference,
            notes,
        )
    return Comparison(
        f"split {len(source):,} documents: {_names(first)}",
        lambda: _run(lambda: plans.split_documents(fresh().splitter, source)),
        lambda: _run(lambda: plans.split_documents(accelerate(fresh().splitter), source)),
        difference,
        notes,
    )


def difference(native: Any, accelerated: Any) -> str | None:
    """The first difference between two results in words, or None."""
    if type(native) is not type(accelerated):
        names = type(native).__name__, type(accelerated).__name__
        return f"a {names[0]} ({native!s:.80}) against a {names[1]} ({accelerated!s:.80})"
    if isinstance(native, BaseException):
        return None if str(native) == str(accelerated) else f"{native!s:.200} against {accelerated!s:.200}"
    if isinstance(native, VectorStore):
        return _store_difference(native, accelerated)
    if len(native) != len(accelerated):
        return f"{len(native):,} results against {len(accelerated):,}"
    for position, (one, other) in enumerate(zip(native, accelerated, strict=True)):
        if not _same(one, other):
            return f"result {position:,}: {one!s:.100} against {other!s:.100}"
    return None


def _same(one: Any, other: Any) -> bool:
    """Equal to the bit: -0.0 is not 0.0, an array is no list, and NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(_same, one.values(), other.values()))
    return repr(one) == repr(other)


def _store_difference(native: Any, accelerated: Any) -> str | None:
    if isinstance(native, InMemoryVectorStore):
        return difference(
            [(row["text"], row["metadata"], row["vector"]) for row in native.store.values()],
            [(row["text"], row["metadata"], row["vector"]) for row in accelerated.store.values()],
        )
    if _is_faiss(native):
        rows = [_faiss_rows(store) for store in (native, accelerated)]
        if rows[0][0].shape != rows[1][0].shape:
            return f"vectors {rows[0][0].shape} against {rows[1][0].shape}"
        unequal = np.nonzero((rows[0][0].view(np.int32) != rows[1][0].view(np.int32)).any(axis=1))[0]
        if len(unequal):
            return f"the vector of row {unequal[0]:,}"
        return difference(rows[0][1], rows[1][1])
    # What other stores hold is theirs to know; what they find is for everybody to see.
    return difference(*([store.similarity_search(query, k=4) for query in _QUERIES] for store in (native, accelerated)))


_QUERIES = ("the", "a file", "import", "error", "how to begin", "list of names", "version", "1", "?", "last line")


def _is_faiss(store: Any) -> bool:
    owner = store if isinstance(store, type) else type(store)
    return any(base.__name__ == "FAISS" for base in owner.__mro__)


def _basis(store: Any) -> str:
    """What a comparison of such stores rests on, for the verdict."""
    in_memory = issubclass(store if isinstance(store, type) else type(store), InMemoryVectorStore)
    return "results" if in_memory or _is_faiss(store) else f"results of {len(_QUERIES)} searches"


def _faiss_rows(store: Any) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    stored = [store.docstore.search(id_) for _, id_ in sorted(store.index_to_docstore_id.items())]
    vectors = store.index.reconstruct_n(0, store.index.ntotal)
    return vectors, [(document.page_content, document.metadata) for document in stored]


class _Timed(Embeddings):
    """The user's embeddings with the time of each call noted; everything else is theirs."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self.calls: list[tuple[float, float]] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        start = time.perf_counter()
        try:
            return self._embeddings.embed_documents(texts)
        finally:
            self.calls.append((start, time.perf_counter()))

    def embed_query(self, text: str) -> list[float]:
        return self._embeddings.embed_query(text)


def _run(call: Callable[[], Any]) -> Run:
    try:
        return Run(call())
    except Exception as error:
        return Run(error)


def _embed(pipeline: Pipeline, texts: list[str], *, fast: bool) -> Run:
    assert pipeline.embedding
    embeddings = accelerate(pipeline.embedding) if fast else pipeline.embedding
    start = time.perf_counter()
    run = _run(lambda: embeddings.embed_documents(texts))
    return Run(run.result, time.perf_counter() - start)


def _ingest_natively(pipeline: Pipeline, source: Sequence[Document]) -> Run:
    target = pipeline.vectorstore
    timed: _Timed | None = None

    def fill() -> Any:
        nonlocal timed
        chunks = plans.split_documents(pipeline.splitter, source)
        if isinstance(target, type):
            assert pipeline.embedding
            timed = _Timed(pipeline.embedding)
            return target.from_documents(chunks, timed)
        assert target is not None
        target.add_documents(chunks)
        return target

    run = _run(fill)
    return Run(run.result, covered_seconds(timed.calls) if timed else 0.0)


def _ingest(pipeline: Pipeline, source: Sequence[Document]) -> Run:
    executor = Executor()
    assert pipeline.vectorstore is not None
    vectorstore = pipeline.vectorstore
    run = _run(
        lambda: ingest(
            copy.copy(source),
            splitter=pipeline.splitter,
            embedding=pipeline.embedding,
            vectorstore=vectorstore,
            executor=executor,
        )
    )
    return Run(run.result, executor.report.model_seconds if executor.report else 0.0, executor.report)


def _part(obj: Any) -> str | None:
    if isinstance(obj, VectorStore) or (isinstance(obj, type) and issubclass(obj, VectorStore)):
        return "vectorstore"
    if isinstance(obj, Embeddings):
        return "embedding"
    if isinstance(obj, BaseDocumentTransformer | MarkdownHeaderTextSplitter):
        return "splitter"
    return None


def _names(pipeline: Pipeline) -> str:
    parts = [pipeline.splitter, pipeline.embedding, pipeline.vectorstore]
    return ", ".join((part if isinstance(part, type) else type(part)).__name__ for part in parts if part is not None)
