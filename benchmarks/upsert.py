"""Filling a FAISS store with vectors that are there already: CPU time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.corpus import read_pieces
from benchmarks.digests import of_faiss_store
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.results import CaseResult

_TEXT = 200
_LISTS, _ROWS, _OURS, _OURS_LISTS, _OURS_ROWS, _TOLIST = (
    "native, lists of floats",
    "native, rows of an array",
    "ours, one buffer (as in ingest)",
    "ours, accelerated store, lists",
    "ours, accelerated store, rows",
    "the model's tolist() before the native call",
)


@dataclass(frozen=True)
class _Rows:
    """What is stored: texts, their metadata, and a matrix of float32."""

    texts: list[str]
    metadatas: list[dict[str, Any]]
    matrix: Any
    batches: int

    def slices(self) -> Iterator[slice]:
        size = -(-len(self.texts) // self.batches)
        return (slice(start, start + size) for start in range(0, len(self.texts), size))


def _rows(parameters: Mapping[str, Any]) -> _Rows:
    import numpy as np

    count = parameters["rows"]
    chosen = read_pieces(parameters["corpus"], _TEXT, count)
    matrix = np.random.default_rng(0).standard_normal((count, parameters["dimension"]), dtype=np.float32)
    return _Rows([text for text, _ in chosen], [own for _, own in chosen], matrix, parameters["batches"])


def _empty_store(dimension: int) -> Any:
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import DeterministicFakeEmbedding

    model = DeterministicFakeEmbedding(size=dimension)  # never called: the vectors are there
    return FAISS(model, faiss.IndexFlatL2(dimension), InMemoryDocstore(), {})


def _work(
    parameters: Mapping[str, Any],
    vectors: Callable[[Any], Sequence[Any]],
    add: Callable[[Any, list[str], Sequence[Any], list[dict[str, Any]]], object],
    accelerated: bool = False,
) -> Work:
    data = _rows(parameters)
    given = vectors(data.matrix)
    dimension = parameters["dimension"]

    def store() -> Any:
        empty = _empty_store(dimension)
        if accelerated:
            from langchain_aaflow import accelerate

            return accelerate(empty)
        return empty

    def fill(empty: Any) -> Any:
        for part in data.slices():
            add(empty, data.texts[part], given[part], data.metadatas[part])
        return empty

    return Work(
        run=fill,
        before=store,
        digest=of_faiss_store,
        warm_up=lambda: add(store(), data.texts[:10], given[:10], data.metadatas[:10]),
    )


def _add_embeddings(store: Any, texts: list[str], vectors: Sequence[Any], metadatas: list[dict[str, Any]]) -> object:
    return store.add_embeddings(zip(texts, vectors, strict=True), metadatas)


def _add_buffer(store: Any, texts: list[str], vectors: Any, metadatas: list[dict[str, Any]]) -> object:
    from aaflow_plugins.embedding import Vectors
    from aaflow_plugins.plugins import load_for

    sink = load_for(store).aaflow_sink(store=store)
    return sink.upsert(texts, metadatas, [None] * len(texts), Vectors(vectors))


def _as_lists(matrix: Any) -> Sequence[Any]:
    rows: list[list[float]] = matrix.tolist()
    return rows


def _as_it_is(matrix: Any) -> Any:
    return matrix


def _native_lists(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, _as_lists, _add_embeddings)


def _native_rows(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, _as_it_is, _add_embeddings)


def _ours(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, _as_it_is, _add_buffer)


def _ours_lists(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, _as_lists, _add_embeddings, accelerated=True)


def _ours_rows(parameters: Mapping[str, Any]) -> Work:
    return _work(parameters, _as_it_is, _add_embeddings, accelerated=True)


def _tolist(parameters: Mapping[str, Any]) -> Work:
    matrix = _rows(parameters).matrix
    return Work(run=lambda _: matrix.tolist())


def _cases(scale: Scale) -> list[Case]:
    if scale.quick:
        sizes = [(2_000, 64, 1), (2_000, 64, 20)]
    else:
        sizes = [(100_000, dimension, 1) for dimension in (384, 768, 1536)]
        sizes += [(50_000, 384, 500), (100_000, 384, 1_000)]
    sample = scale.corpora.sample("all", max(rows for rows, _, _ in sizes) * _TEXT * 5 // 4)
    return [
        Case(
            f"{rows:,} x {dimension}" + (f" in {batches:,} batches" if batches > 1 else ""),
            {"rows": rows, "dimension": dimension, "batches": batches, **sample.parameters},
            tuple(contender.name for contender in BENCHMARK.contenders),
        )
        for rows, dimension, batches in sizes
    ]


def _notes(case: CaseResult, cases: Sequence[CaseResult]) -> list[str]:
    """How the time grows with the rows, batches being as large."""
    rows, batches = case.parameters["rows"], case.parameters["batches"]
    half = next(
        (
            other
            for other in cases
            if batches > 1
            and other.parameters["dimension"] == case.parameters["dimension"]
            and (other.parameters["rows"] * 2, other.parameters["batches"] * 2) == (rows, batches)
        ),
        None,
    )
    if half is None:
        return []
    growth = []
    for contender in case.contenders:
        before = half.named(contender.name)
        if before is not None and contender.role != "part":
            ratio = contender.spread("cpu").median / before.spread("cpu").median
            growth.append(f"{contender.name}: {ratio:.1f}x")
    return [f"Twice the rows in twice the batches take, in CPU (2.0x is linear): {'; '.join(growth)}."]


BENCHMARK = Benchmark(
    name="upsert",
    home="benchmarks.upsert:BENCHMARK",
    title="Vectors into LangChain's FAISS store",
    protocol=(
        "Timed: adding pieces of real text of 200 characters, two metadata values each, with random float32 vectors, "
        "to an empty flat index. Before that: texts, vectors (as lists of floats or as an array), the store, and a "
        "warm-up of ten rows into another one. An accelerated store is compared with the native one given the same; "
        "the buffer, which native stores have no way to take, with the best of them."
    ),
    metric="cpu",
    contenders=(
        Contender(_LISTS, "native", _native_lists),
        Contender(_ROWS, "native", _native_rows),
        Contender(_OURS, "ours", _ours),
        Contender(_OURS_LISTS, "ours", _ours_lists, against=_LISTS),
        Contender(_OURS_ROWS, "ours", _ours_rows, against=_ROWS),
        Contender(_TOLIST, "part", _tolist),
    ),
    cases=_cases,
    notes=_notes,
)
