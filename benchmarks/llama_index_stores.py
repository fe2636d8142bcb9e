"""LlamaIndex's vector stores by themselves: queries, files, and vectors on their way into faiss."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.digests import of_simple_vectors
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.results import CaseResult

_DIMENSION, _TOP = 384, 10
#: Queries of the warm-up: at the second ours makes what it keeps.
_BEFORE = 2
_QUERIES = 10
_NATIVE, _BY_HAND, _OURS, _OURS_MANY, _NUMPY = (
    "native",
    "by hand",
    "ours",
    "ours, query_many",
    "a numpy matrix by hand (scores are others in their last bits)",
)

Prepare = Callable[[Mapping[str, Any]], Work]
Ask = Callable[[Any, Sequence[Any]], list[Any]]


def _matrix(rows: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, _DIMENSION), dtype=np.float32)


def _fields(rows: int) -> dict[str, Any]:
    """What a SimpleVectorStore keeps of nodes that were added, ten of a document."""
    names = [f"node {row}" for row in range(rows)]
    return {
        "embedding_dict": dict(zip(names, _matrix(rows).tolist(), strict=True)),
        "text_id_to_ref_doc_id": {name: f"document {row // 10}" for row, name in enumerate(names)},
        "metadata_dict": {name: {"document": row // 10, "source": "a text"} for row, name in enumerate(names)},
    }


def _simple(rows: int, accelerated: bool) -> Any:
    from llama_index.core.vector_stores.simple import SimpleVectorStore, SimpleVectorStoreData

    return _accelerated(SimpleVectorStore(SimpleVectorStoreData(**_fields(rows))), accelerated)


def _accelerated(store: Any, accelerated: bool) -> Any:
    if accelerated:
        from llama_index_aaflow import accelerate

        return accelerate(store)
    return store


# -- queries ---------------------------------------------------------------------------------------------


def _queries(count: int) -> list[Any]:
    from llama_index.core.vector_stores.types import VectorStoreQuery

    return [
        VectorStoreQuery(query_embedding=vector, similarity_top_k=_TOP) for vector in _matrix(count, seed=1).tolist()
    ]


def _each(store: Any, queries: Sequence[Any]) -> list[Any]:
    return [store.query(query) for query in queries]


def _each_after_a_change(store: Any, queries: Sequence[Any]) -> list[Any]:
    found = []
    for number, query in enumerate(queries):
        store.data.embedding_dict[f"node {number}"] = list(query.query_embedding)
        found.append(store.query(query))
    return found


def _many(store: Any, queries: Sequence[Any]) -> list[Any]:
    found: list[Any] = store.query_many(queries)
    return found


def _asking(ask: Ask, *, accelerated: bool) -> Prepare:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        store, queries = _simple(parameters["rows"], accelerated), _queries(parameters["queries"] + _BEFORE)
        asked = _each_after_a_change if parameters["job"] == "change" else ask
        warmed_up = _simple(64, accelerated) if parameters["job"] == "change" else store
        return Work(
            run=lambda _: asked(store, queries[_BEFORE:]),
            digest=_digest_of_answers,
            warm_up=lambda: _each(warmed_up, queries[:_BEFORE]),
        )

    return prepare


def _numpy(parameters: Mapping[str, Any]) -> Work:
    fields = _fields(parameters["rows"])["embedding_dict"]
    ids, matrix = np.array(list(fields)), np.array(list(fields.values()))
    lengths, queries = np.linalg.norm(matrix, axis=1), _matrix(parameters["queries"], seed=1).astype(np.float64)

    def run(_: Any) -> list[Any]:
        found = []
        for query in queries:
            scores = matrix @ query / (lengths * np.linalg.norm(query))
            best = np.argsort(-scores)[:_TOP]
            found.append((ids[best].tolist(), scores[best].tolist()))
        return found

    return Work(run=run, warm_up=lambda: matrix @ queries[0])


def _digest_of_answers(results: list[Any]) -> str:
    """Ids, and scores bit for bit."""
    seen = [(result.ids, [score.hex() for score in result.similarities]) for result in results]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


# -- files -----------------------------------------------------------------------------------------------


def _file_of(parameters: Mapping[str, Any], name: str) -> str:
    return str(Path(parameters["folder"]) / name)


def _persist(store: Any, path: str) -> None:
    store.persist(path)


def _persist_by_hand(store: Any, path: str) -> None:
    Path(path).write_text(json.dumps(vars(store.data)), encoding="utf-8")


def _persisting(persist: Callable[[Any, str], None], *, accelerated: bool) -> Prepare:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        store, path = _simple(parameters["rows"], accelerated), _file_of(parameters, "persisted.json")
        return Work(
            run=lambda _: persist(store, path),
            digest=lambda _: hashlib.sha256(Path(path).read_bytes()).hexdigest(),
            warm_up=lambda: persist(_simple(10, accelerated), path),
        )

    return prepare


def _load(path: str, accelerated: bool) -> Any:
    from llama_index.core.vector_stores import SimpleVectorStore

    return _accelerated(SimpleVectorStore, accelerated).from_persist_path(path)


def _load_by_hand(path: str, _: bool) -> Any:
    from llama_index.core.vector_stores.simple import SimpleVectorStore, SimpleVectorStoreData

    with open(path, encoding="utf-8") as file:
        return SimpleVectorStore(SimpleVectorStoreData(**json.load(file)))


def _loading(load: Callable[[str, bool], Any], *, accelerated: bool) -> Prepare:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        return Work(
            run=lambda _: load(_file_of(parameters, "there.json"), accelerated),
            digest=lambda store: of_simple_vectors(store.data),
            warm_up=lambda: load(_file_of(parameters, "small.json"), accelerated),
        )

    return prepare


# -- faiss -----------------------------------------------------------------------------------------------


def _faiss(accelerated: bool) -> Any:
    import faiss
    from llama_index.vector_stores.faiss import FaissVectorStore

    return _accelerated(FaissVectorStore(faiss.IndexFlatL2(_DIMENSION)), accelerated)


def _add(store: Any, nodes: Any) -> list[str]:
    ids: list[str] = store.add(nodes)
    return ids


def _add_nodes_by_hand(store: Any, nodes: Any) -> list[str]:
    return _add_matrix_by_hand(store, np.array([node.embedding for node in nodes], dtype=np.float32))


def _add_matrix_by_hand(store: Any, matrix: Any) -> list[str]:
    first = store.client.ntotal
    store.client.add(matrix)
    return [str(row) for row in range(first, store.client.ntotal)]


def _add_matrix(store: Any, matrix: Any) -> list[str]:
    ids: list[str] = store.add_vectors(matrix)
    return ids


def _adding(add: Callable[[Any, Any], list[str]], *, accelerated: bool, nodes: bool) -> Prepare:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        from llama_index.core.schema import TextNode

        given: Any = _matrix(parameters["rows"])
        if nodes:
            given = [TextNode(id_=str(row), text="a text", embedding=row_) for row, row_ in enumerate(given.tolist())]

        def fill(store: Any) -> Any:
            return add(store, given), store.client

        return Work(
            run=fill,
            before=lambda: _faiss(accelerated),
            digest=_digest_of_faiss,
            warm_up=lambda: add(_faiss(accelerated), given[:10]),
        )

    return prepare


def _digest_of_faiss(filled: tuple[list[str], Any]) -> str:
    ids, index = filled
    digest = hashlib.sha256(repr([ids, type(index), index.ntotal]).encode())
    digest.update(index.reconstruct_n(0, index.ntotal).tobytes())
    return digest.hexdigest()


# -- who does what ---------------------------------------------------------------------------------------

#: By kind of work: its name in the table, and who does it how.
_JOBS: Mapping[str, tuple[str, Mapping[str, Prepare]]] = {
    "query": (
        f"{_QUERIES} queries more",
        {
            _NATIVE: _asking(_each, accelerated=False),
            _OURS: _asking(_each, accelerated=True),
            _OURS_MANY: _asking(_many, accelerated=True),
            _NUMPY: _numpy,
        },
    ),
    "change": (
        f"the first {_QUERIES} queries, each after a change",
        {_NATIVE: _asking(_each, accelerated=False), _OURS: _asking(_each, accelerated=True)},
    ),
    "persist": (
        "persist",
        {
            _NATIVE: _persisting(_persist, accelerated=False),
            _BY_HAND: _persisting(_persist_by_hand, accelerated=False),
            _OURS: _persisting(_persist, accelerated=True),
        },
    ),
    "load": (
        "load",
        {
            _NATIVE: _loading(_load, accelerated=False),
            _BY_HAND: _loading(_load_by_hand, accelerated=False),
            _OURS: _loading(_load, accelerated=True),
        },
    ),
    "add": (
        "FAISS, add nodes",
        {
            _NATIVE: _adding(_add, accelerated=False, nodes=True),
            _BY_HAND: _adding(_add_nodes_by_hand, accelerated=False, nodes=True),
            _OURS: _adding(_add, accelerated=True, nodes=True),
        },
    ),
    "add_vectors": (
        "FAISS, add one matrix",
        {
            _BY_HAND: _adding(_add_matrix_by_hand, accelerated=False, nodes=False),
            _OURS: _adding(_add_matrix, accelerated=True, nodes=False),
        },
    ),
}


def _by_job(contender: str) -> Prepare:
    return lambda parameters: _JOBS[parameters["job"]][1][contender](parameters)


def _cases(scale: Scale) -> list[Case]:
    sizes = (
        [("query", 500), ("load", 200)]
        if scale.quick
        else [
            ("query", 20_000),
            ("query", 100_000),
            ("change", 20_000),
            ("persist", 5_000),
            ("load", 5_000),
            ("add", 50_000),
            ("add_vectors", 50_000),
        ]
    )
    return [
        Case(
            f"{_JOBS[job][0]}, {rows:,} x {_DIMENSION}",
            {"job": job, "rows": rows, "queries": _QUERIES},
            tuple(_JOBS[job][1]),
        )
        for job, rows in sizes
    ]


@contextmanager
def _files(case: Case) -> Iterator[Mapping[str, Any]]:
    """A folder, and in it the files that are loaded."""
    with tempfile.TemporaryDirectory(prefix="vector-stores-") as folder:
        if case.parameters["job"] == "load":
            for name, rows in {"there.json": case.parameters["rows"], "small.json": 10}.items():
                Path(folder, name).write_text(json.dumps(_fields(rows)), encoding="utf-8")
        yield {"folder": folder}


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    if case.parameters["job"] not in ("query", "change"):
        return []
    each = "; ".join(
        f"{found.name} {found.spread('cpu').median / case.parameters['queries'] * 1e3:,.2f} ms"
        for found in case.contenders
    )
    return [f"CPU for each query: {each}."]


BENCHMARK = Benchmark(
    name="llama-vector-stores",
    home="benchmarks.llama_index_stores:BENCHMARK",
    title="LlamaIndex's vector stores alone",
    protocol=(
        f"Random vectors of {_DIMENSION} floats. SimpleVectorStore, timed: queries for the {_TOP} nearest, one after "
        f"the other or in one call, after {_BEFORE} others, in the second of which ours makes what it keeps; the first "
        "of all, with that, each after another vector has been put into the store's public dict; `persist` to a file "
        "and `from_persist_path`, by hand `json` alone. FaissVectorStore over a flat index, timed: `add` of nodes "
        "whose embeddings are lists, by hand one array of them given to the index; and vectors that are an array "
        "already, by hand given to the index, since the native store has no way to take them. Before that: vectors, "
        "stores, nodes, files, and a warm-up. Compared are ids and scores bit for bit, the bytes of the file, "
        "everything in the store that was loaded, ids and vectors in the index."
    ),
    metric="cpu",
    contenders=(
        Contender(_NATIVE, "native", _by_job(_NATIVE)),
        Contender(_BY_HAND, "native", _by_job(_BY_HAND)),
        Contender(_OURS, "ours", _by_job(_OURS)),
        Contender(_OURS_MANY, "ours", _by_job(_OURS_MANY)),
        Contender(_NUMPY, "part", _by_job(_NUMPY)),
    ),
    cases=_cases,
    service=_files,
    notes=_notes,
)
