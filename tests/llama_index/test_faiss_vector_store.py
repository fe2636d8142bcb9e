"""Accelerated FaissVectorStores hold the native index's bytes and answer with the native ids, scores and errors."""

from __future__ import annotations

import asyncio
import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import IndexNode, TextNode
from llama_index.core.vector_stores import MetadataFilters
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

faiss = pytest.importorskip("faiss")
pytest.importorskip("llama_index.vector_stores.faiss")

from llama_index.vector_stores.faiss import FaissMapVectorStore, FaissVectorStore  # noqa: E402

from aaflow_plugins import accelerate  # noqa: E402
from aaflow_plugins.dataplane.vectors import to_arrow  # noqa: E402
from faiss_aaflow import search as faiss_search  # noqa: E402
from llama_index_aaflow.faiss_vector_store import AcceleratedFaissVectorStore  # noqa: E402
from llama_index_aaflow.vector_stores import native_reason  # noqa: E402
from tests.faiss_certainty import certainty  # noqa: E402
from tests.generated import examples  # noqa: E402
from tests.llama_index.stored_vectors import bits, outcome, query  # noqa: E402

DIM = 8

INDEXES: dict[str, Callable[[int], Any]] = {
    "l2": lambda dim: faiss.IndexFlatL2(dim),
    "ip": lambda dim: faiss.IndexFlatIP(dim),
    "flat l1": lambda dim: faiss.IndexFlat(dim, faiss.METRIC_L1),
    "hnsw": lambda dim: faiss.IndexHNSWFlat(dim, 8),
    "sq": lambda dim: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16),
    "untrained": lambda dim: faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, 4),
    "map": lambda dim: faiss.IndexIDMap(faiss.IndexFlatL2(dim)),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """faiss's threads wait for each other by spinning, on cores that may be busy."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def nodes_of(rows: Any) -> list[TextNode]:
    """Nodes of these embeddings; arrays stay arrays."""
    nodes = []
    for number, row in enumerate(rows):
        node = TextNode(id_=f"n{number}", text="text")
        node.__dict__["embedding"] = row
        nodes.append(node)
    return nodes


def added(store: Any, nodes: Any) -> Any:
    """What `add` returns or raises and warns of, and the index's bytes afterwards."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = store.add(nodes)
        except Exception as error:
            result = type(error), str(error)
    return result, [str(each.message) for each in told], faiss.serialize_index(store.client).tobytes()


def pair(kind: str = "l2", dim: int = DIM) -> tuple[FaissVectorStore, Any]:
    return FaissVectorStore(INDEXES[kind](dim)), accelerate(FaissVectorStore(INDEXES[kind](dim)))


def normal(rows: int, dim: int = DIM, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, dim))


@pytest.mark.parametrize("kind", INDEXES)
def test_lists_go_into_every_index(kind: str) -> None:
    native, ours = pair(kind)
    for rows in (1, 0, 2, 60):
        assert added(ours, nodes_of(normal(rows).tolist())) == added(native, nodes_of(normal(rows).tolist()))


class OwnEmbedding(TextNode):
    def get_embedding(self) -> list[float]:
        return [1.0] * DIM


ROWS: dict[str, Callable[[], Any]] = {
    "float32 rows": lambda: list(normal(9).astype(np.float32)),
    "float64 rows": lambda: list(normal(9)),
    "float16 rows": lambda: list(normal(9).astype(np.float16)),
    "columns of a matrix": lambda: list(np.asfortranarray(normal(9).astype(np.float32))),
    "other byte order": lambda: list(normal(9).astype(">f4")),
    "whole numbers": lambda: [[1] * DIM] * 3,
    "whole numbers in arrays": lambda: list(np.ones((3, DIM), int)),
    "tuples": lambda: [(1.0,) * DIM] * 3,
    "mixed": lambda: [[1.0] * DIM, np.ones(DIM), (2.0,) * DIM],
    "strings": lambda: [["1.5"] * DIM] * 2,
    "no numbers": lambda: [[1.0] * DIM, ["a"] * DIM],
    "missing": lambda: [[1.0] * DIM, [2.0] * DIM, None, [3.0] * DIM],
    "too long": lambda: [[1.0] * DIM, [2.0] * (DIM + 1), [3.0] * DIM],
    "all too long": lambda: [[1.0] * (DIM + 1)] * 3,
    "lengths that sum up": lambda: [np.ones(DIM - 1), np.ones(DIM + 1)],
    "too deep": lambda: [[[1.0] * DIM]] * 3,
    "empty": lambda: [[], []],
    "too large": lambda: [[1.0] * DIM, [1e300] * DIM, [2.0] * DIM],
    "too large in arrays": lambda: [np.full(DIM, 1.0), np.full(DIM, 1e300)],
    "huge integer": lambda: [[1.0] * DIM, [10**400] * DIM],
    "no finite numbers": lambda: [[float("nan")] * DIM, [float("inf")] * DIM],
    "small": lambda: [[1e-300] * DIM, [1e-45] * DIM],
}


@pytest.mark.parametrize("kind", ["l2", "ip"])
@pytest.mark.parametrize("rows", ROWS)
def test_rows_of_every_kind(rows: str, kind: str) -> None:
    native, ours = pair(kind)
    for _ in range(2):
        assert added(ours, nodes_of(ROWS[rows]())) == added(native, nodes_of(ROWS[rows]()))


def test_nodes_of_every_kind() -> None:
    rows = normal(4).tolist()
    for nodes in (
        tuple(nodes_of(rows)),
        [OwnEmbedding(text="a", embedding=row) for row in rows],
        [IndexNode(text="a", index_id="i", embedding=row) for row in rows],
        [*nodes_of(rows), "no node"],
        {node.node_id: node for node in nodes_of(rows)}.values(),
        None,
    ):
        native, ours = pair()
        assert added(ours, nodes) == added(native, nodes)
    native, ours = pair()
    assert added(ours, iter(nodes_of(rows))) == added(native, iter(nodes_of(rows)))


@settings(max_examples=examples(80), deadline=None)
@given(
    st.lists(st.lists(st.lists(st.floats(), min_size=3, max_size=3), max_size=5), max_size=4),
    st.sampled_from(["l2", "ip", "hnsw"]),
    st.booleans(),
)
def test_generated_rows(batches: list[list[list[float]]], kind: str, arrays: bool) -> None:
    native, ours = pair(kind, 3)
    for rows in batches:
        made: Any = list(map(np.array, rows)) if arrays else rows
        assert added(ours, nodes_of(made)) == added(native, nodes_of(made))


@pytest.mark.parametrize("kind", INDEXES)
def test_columns_are_what_nodes_of_their_rows_are(kind: str) -> None:
    matrix = normal(60).astype(np.float32)
    arrow = to_arrow(matrix)
    native, ours = pair(kind)
    for column, rows in (
        (matrix, matrix),
        (arrow, matrix),
        (arrow.slice(7, 20), matrix[7:27]),
        (matrix.astype(np.float64), matrix),
        (np.asfortranarray(matrix), matrix),
        (matrix[:0], matrix[:0]),
    ):
        expected = added(native, nodes_of(rows.tolist()))
        try:
            result: Any = ours.add_vectors(column)
        except Exception as error:
            result = type(error), str(error)
        assert (result, [], faiss.serialize_index(ours.client).tobytes()) == expected


def test_columns_that_are_refused() -> None:
    _, ours = pair()
    with pytest.raises(AssertionError):
        ours.add_vectors(np.ones((3, DIM + 1), np.float32))
    with pytest.raises(ValueError, match="null"):
        ours.add_vectors(pa.array([[1.0] * DIM, None], pa.list_(pa.float32(), DIM)))
    assert ours.client.ntotal == 0


# --- searching --------------------------------------------------------------------------------------------------------


def spread(rows: int, dim: int, seed: int = 0) -> tuple[Any, Any]:
    """Unit vectors in clusters, as text embeddings are, and queries near some of them."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((100, dim))
    points = centres[generator.integers(0, 100, rows)] + 0.7 * generator.standard_normal((rows, dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    queries = points[generator.integers(0, rows, 24)] + 0.3 * generator.standard_normal((24, dim)) / dim**0.5
    return points.astype(np.float32), queries


def filled(kind: str, points: Any) -> Any:
    ours = accelerate(FaissVectorStore(INDEXES[kind](points.shape[1])))
    ours.add_vectors(points)
    return ours


def assert_answers_equal(store: Any, queries: list[Any]) -> None:
    native = FaissVectorStore(store.client)
    expected = [outcome(lambda each=each: native.query(each)) for each in queries]
    assert [outcome(lambda each=each: store.query(each)) for each in queries] == expected
    failed = next((one for one in expected if issubclass(one[0], Exception)), None)
    joint = outcome(lambda: store.query_many(queries))
    assert joint == (failed or expected)


@pytest.mark.parametrize("kind", ["l2", "ip"])
@pytest.mark.parametrize("dim", [8, 384])
@pytest.mark.parametrize("rows", [3000, 10_307])
def test_many_queries_are_answered_as_single_ones(
    kind: str, dim: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    certain = certainty(monkeypatch)
    points, queries = spread(rows, dim)
    store = filled(kind, points)
    assert_answers_equal(store, [query(each.tolist(), 4) for each in queries])
    assert len(certain) == 24
    assert np.mean(certain) > 0.8  # answered from the batch
    numbers = [query(each.tolist(), 1 + row % 3) for row, each in enumerate(queries)]
    assert_answers_equal(store, [*numbers, query(queries[0], 4), query(tuple(queries[1].tolist()), 2), numbers[0]])


@pytest.mark.parametrize("kind", ["l2", "ip", "flat l1", "hnsw", "sq"])
@pytest.mark.parametrize("rows", [0, 1, 3, 60, 1500])
def test_every_index(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    points, queries = spread(max(rows, 1), DIM)
    store = filled(kind, points[:rows])
    for top in (1, 5, 2000):
        assert_answers_equal(store, [query(each.tolist(), top) for each in queries])


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 400), top=st.integers(1, 20), decimals=st.integers(0, 3))
def test_generated_stores_with_ties(seed: int, rows: int, top: int, decimals: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_search, "MIN_VECTORS", 1)
        generator = np.random.default_rng(seed)
        store = filled("ip" if seed % 2 else "l2", np.round(generator.standard_normal((rows, 4)), decimals))
        queries = np.round(generator.standard_normal((12, 4)), decimals).tolist()
        assert_answers_equal(store, [query(each, top) for each in queries])


ODD: list[VectorStoreQuery] = [
    query([1.0] * (DIM + 1)),
    query(None),  # type: ignore[arg-type]
    query([]),
    query(["a"] * DIM),  # type: ignore[list-item]
    query([1e300] * DIM),
    query([float("nan")] * DIM),
    query([1.0] * DIM, 0),
    query([1.0] * DIM, -1),
    query([1.0] * DIM, None),
    query([1.0] * DIM, 2.0),
    query([1.0] * DIM, True),
    query([1.0] * DIM, filters=MetadataFilters(filters=[])),
    query([1.0] * DIM, mode=VectorStoreQueryMode.MMR),
    query([1.0] * DIM, node_ids=["1"]),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.filterwarnings("ignore:overflow")
def test_odd_queries(odd: VectorStoreQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    points, queries = spread(1500, DIM)
    store = filled("l2", points)
    good = [query(each.tolist()) for each in queries]
    assert_answers_equal(store, [odd])
    assert_answers_equal(store, [*good, odd, *good])


async def test_async_forms() -> None:
    points, queries = spread(200, DIM)
    store = filled("l2", points)
    wanted = [query(each.tolist()) for each in queries]
    expected = [bits(FaissVectorStore(store.client).query(each)) for each in wanted]
    assert [bits(each) for each in await store.aquery_many(wanted)] == expected
    assert [bits(each) for each in await asyncio.gather(*map(store.aquery, wanted))] == expected
    assert await store.async_add(nodes_of(points[:3].tolist())) == ["200", "201", "202"]
    assert store.query_many([]) == []


# --- one object beside the other --------------------------------------------------------------------------------------


def test_view_shares_the_index(tmp_path: Path) -> None:
    native = FaissVectorStore(faiss.IndexFlatL2(DIM))
    view = accelerate(native)
    assert type(view) is AcceleratedFaissVectorStore
    assert type(native) is FaissVectorStore
    assert view.client is native.client
    view.add(nodes_of(normal(40).tolist()))
    assert native.client.ntotal == 40
    assert accelerate(view) is view
    assert repr(view) == repr(native)
    assert view.to_dict() == native.to_dict()
    assert view.class_name() == native.class_name()
    again = pickle.loads(pickle.dumps(view))
    assert type(again) is AcceleratedFaissVectorStore
    assert type(copy.copy(view)) is AcceleratedFaissVectorStore
    for each in (native, view):
        each.persist(str(tmp_path / type(each).__qualname__ / "default__vector_store.json"))
        with pytest.raises(NotImplementedError, match="Delete not yet"):
            each.delete("doc")
    files = [path.read_bytes() for path in sorted(tmp_path.glob("*/*.json"))]
    assert files[0] == files[1]
    loaded = accelerate(FaissVectorStore).from_persist_dir(str(tmp_path / "FaissVectorStore"))
    assert type(loaded) is AcceleratedFaissVectorStore
    assert_answers_equal(loaded, [query([1.0] * DIM)] * 3)


class Subclass(FaissVectorStore):
    pass


def test_what_is_left_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for store in (Subclass(faiss.IndexFlatL2(2)), FaissMapVectorStore(faiss.IndexIDMap2(faiss.IndexFlatL2(2)))):
        assert accelerate(store) is store
        assert "subclass" in str(native_reason(store))
    assert native_reason(FaissVectorStore) is None
    ours = accelerate(FaissVectorStore(faiss.IndexFlatL2(DIM)))
    for name in ("add", "query"):
        monkeypatch.setattr(FaissVectorStore, name, lambda self, *args, name=name, **kwargs: name)
    assert ours.add(nodes_of(normal(4).tolist())) == "add"
    assert ours.query_many([query([1.0] * DIM)] * 20) == ["query"] * 20
    plain = FaissVectorStore(faiss.IndexFlatL2(2))
    assert accelerate(plain) is plain


def test_faiss_is_imported_only_for_a_faiss_store() -> None:
    program = (
        "import sys; from llama_index.core.vector_stores import SimpleVectorStore;"
        "from aaflow_plugins import accelerate; accelerate(SimpleVectorStore()); assert 'faiss' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
