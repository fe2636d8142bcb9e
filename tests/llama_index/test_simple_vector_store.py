"""Accelerated SimpleVectorStores answer with the native ids, scores and errors, whatever was done to their data."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import wrapt
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.indices.query import embedding_utils
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, SimpleVectorStore, simple
from llama_index.core.vector_stores.simple import SimpleVectorStoreData
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, VectorStoreQuery, VectorStoreQueryMode

from aaflow_plugins import accelerate
from llama_index_aaflow import simple_vector_ranking, simple_vector_store
from llama_index_aaflow.simple_vector_store import AcceleratedSimpleVectorStore
from llama_index_aaflow.vector_stores import accelerate_store, native_reason
from tests.generated import examples
from tests.llama_index import vector_changes
from tests.llama_index.stored_vectors import (
    DIM,
    accelerated,
    assert_answers_equal,
    bits,
    filled,
    native_over,
    query,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def where(*parts: tuple[str, Any, FilterOperator], condition: FilterCondition | None = None) -> MetadataFilters:
    filters = [MetadataFilter(key=key, value=value, operator=operator) for key, value, operator in parts]
    return MetadataFilters(filters=filters, **({"condition": condition} if condition else {}))


THIRD = where(("third", 1, FilterOperator.EQ))
FEW = where(("row", 4, FilterOperator.LT))
NONE = where(("row", -1, FilterOperator.EQ))
MISSING = where(("no such key", 1, FilterOperator.NE))
EITHER = where(("row", 9, FilterOperator.GT), ("third", 0, FilterOperator.EQ), condition=FilterCondition.OR)
FAILING = where(("text", 5, FilterOperator.GT))


def queries(rng: np.random.Generator, dim: int = DIM) -> list[VectorStoreQuery]:
    """Every kind of query that a store answers or refuses."""
    vector = rng.standard_normal(dim).tolist()
    ids = [f"n{row}" for row in range(0, 400, 2)]
    return [
        query(vector),
        query(vector, 1),
        query(vector, 40),
        query(vector, 1000),
        query(vector, filters=THIRD),
        query(vector, filters=FEW),
        query(vector, filters=NONE),
        query(vector, filters=EITHER),
        query(vector, filters=MetadataFilters(filters=[])),
        query(vector, node_ids=ids),
        query(vector, node_ids=ids[:2]),
        query(vector, node_ids=[]),
        query(vector, node_ids=["no such id"]),
        query(vector, 2, node_ids=ids, filters=THIRD),
        query(vector, doc_ids=["doc 1"]),
        query(np.array(vector)),
        query(np.array(vector, np.float32)),
        query(tuple(vector)),
        query(vector, mode=VectorStoreQueryMode.MMR),
        query([100 * value for value in vector], 3),
    ]


#: What is refused, or taken in another way than a list of floats of the right length and a positive number.
ODD: list[VectorStoreQuery] = [
    query([1.0] * (DIM + 1)),
    query([]),
    query(None),  # type: ignore[arg-type]
    query([0.0] * DIM),
    query([float("nan")] * DIM),
    query([float("inf")] * DIM),
    query([1e200] * DIM),
    query([1e-200] * DIM),
    query(["a"] * DIM),  # type: ignore[list-item]
    query([1] * DIM),
    query([[1.0] * DIM]),  # type: ignore[list-item]
    query([1.0] * DIM, None),
    query([1.0] * DIM, 0),
    query([1.0] * DIM, -3),
    query([1.0] * DIM, True),
    query([1.0] * DIM, 2.5),
    query([1.0] * DIM, filters=FAILING),
    query([1.0] * DIM, mode=VectorStoreQueryMode.HYBRID),
    query([1.0] * DIM, mode="no such mode"),
]


@pytest.mark.parametrize("rows", [0, 1, 31, 32, 60, 400])
def test_every_query(rows: int) -> None:
    store = accelerated(filled(rows))
    for seed in range(3):
        assert_answers_equal(store, *queries(np.random.default_rng(seed)))
    assert kept(store) == (rows if rows >= simple_vector_store.MIN_VECTORS else 0)


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_queries(odd: VectorStoreQuery) -> None:
    store = accelerated(filled(60))
    good = query([1.0] * DIM)
    for _ in range(3):
        assert_answers_equal(store, odd)
        assert_answers_equal(store, good, odd, good)


@pytest.mark.parametrize("dim", [1, 2, 3, 64, 384, 1536])
@pytest.mark.parametrize("rows", [33, 257, 1500])
def test_scores_have_the_native_bits(rows: int, dim: int) -> None:
    store = accelerated(filled(rows, dim, seed=dim))
    generator = np.random.default_rng(rows)
    for top in (1, 10, rows):
        assert_answers_equal(store, *(query(generator.standard_normal(dim).tolist(), top) for _ in range(3)))
    assert kept(store) == rows


@settings(max_examples=examples(80), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    dim=st.integers(1, 40),
    top=st.integers(1, 30),
    decimals=st.integers(0, 4),
)
def test_generated_stores_with_ties_zeros_and_growth(
    seed: int, sizes: list[int], dim: int, top: int, decimals: int
) -> None:
    """Rounded vectors give equal scores and zero vectors; the store grows between queries."""
    generator = np.random.default_rng(seed)
    store = accelerated(SimpleVectorStore())
    for size in sizes:
        vectors = np.round(generator.standard_normal((size, dim)), decimals).tolist()
        store.add([TextNode(text="text", embedding=vector, metadata={"third": size % 3}) for vector in vectors])
        wanted = np.round(generator.standard_normal(dim), decimals).tolist()
        assert_answers_equal(store, query(wanted, top), query(wanted, top, filters=THIRD))


@settings(max_examples=examples(50), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(300, 1200),
    copies=st.integers(2, 40),
    top=st.integers(1, 25),
)
def test_equal_similarities_come_out_in_the_native_order(seed: int, rows: int, copies: int, top: int) -> None:
    """Of texts that are there several times; the order is that of the native heap, which its history has left."""
    generator = np.random.default_rng(seed)
    store = filled(rows, 16, seed=seed)
    ids = list(store.data.embedding_dict)
    vectors = generator.standard_normal((3, 16)).tolist()
    for place in generator.permutation(rows)[:copies]:
        store.data.embedding_dict[ids[place]] = list(vectors[generator.integers(3)])
    view = accelerated(store)
    native: list[VectorStoreQuery] = []
    with pytest.MonkeyPatch.context() as patch:
        view.query(query(vectors[0]))
        patch.setattr(simple_vector_ranking.Rows, "answer", counted(simple_vector_ranking.Rows.answer, native))
        for vector in vectors:
            near = (np.array(vector) + 0.1 * generator.standard_normal(16)).tolist()
            assert_answers_equal(view, query(vector, top), query(near, top), query(near, top, filters=THIRD))
    assert rows < 800 or top > 8 or native == []


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.integers(0, 9), min_size=40, max_size=300), st.integers(1, 9), st.integers(0, 2**32))
def test_rows_that_decide_the_layout_of_the_native_heap(values: list[int], top: int, seed: int) -> None:
    """The native function, given those rows alone, ranks as if it were given all, whatever is equal."""
    # Cosines in the right order, and no two the same unless the values are.
    vectors = [[np.cos(1.5 - value / 10), np.sin(1.5 - value / 10)] for value in values]
    ids = [f"n{number}" for number in np.random.default_rng(seed).permutation(len(values))]
    scores = np.array(vectors, np.float32)[:, 0]
    rows = simple_vector_ranking.once_near(scores, top, simple_vector_ranking.margin_of(2)).tolist()
    assert rows == sorted(set(rows))
    every = embedding_utils.get_top_k_embeddings([1.0, 0.0], vectors, similarity_top_k=top, embedding_ids=ids)
    some = embedding_utils.get_top_k_embeddings(
        [1.0, 0.0], [vectors[row] for row in rows], similarity_top_k=top, embedding_ids=[ids[row] for row in rows]
    )
    assert some == every


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    spread=st.sampled_from([1e-3, 1e-6, 3e-8, 1e-9, 1e-12, 1e-16]),
    scale=st.sampled_from([1e-140, 1e-30, 1.0, 1e30, 1e140]),
    top=st.integers(1, 12),
)
def test_vectors_closer_together_than_single_precision_tells(seed: int, spread: float, scale: float, top: int) -> None:
    generator = np.random.default_rng(seed)
    centre = generator.standard_normal(32)
    store = SimpleVectorStore()
    for row in range(300):
        near = centre + (spread if row < 60 else 1.0) * generator.standard_normal(32)
        store.data.embedding_dict[str(row)] = (scale * near).tolist()
    view = accelerated(store)
    for _ in range(3):
        assert_answers_equal(view, query((centre + spread * generator.standard_normal(32)).tolist(), top))


def test_most_answers_take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    store = accelerated(filled(2000, 64))
    generator = np.random.default_rng(1)
    wanted = [query(generator.standard_normal(64).tolist(), 4) for _ in range(50)]
    store.query(wanted[0])
    native: list[VectorStoreQuery] = []
    monkeypatch.setattr(simple_vector_ranking.Rows, "answer", counted(simple_vector_ranking.Rows.answer, native))
    for each in wanted:
        store.query(each)
    store.query_many(wanted)
    assert native == []


def trigrams(text: str, dim: int = 256) -> list[float]:
    """Counts of a text's trigrams: vectors that lie as texts do, and the same for the same text."""
    vector = np.zeros(dim)
    for start in range(len(text) - 2):
        vector[crc32(text[start : start + 3].encode()) % dim] += 1.0
    return [float(value) for value in vector]


def test_real_texts(real_texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of real files, many of which are there several times, asked for by others of them."""
    pieces = [text[start : start + 120] for text in real_texts for start in range(0, min(len(text) - 120, 4000), 60)]
    store = accelerate(SimpleVectorStore())
    store.add([TextNode(text=piece, embedding=trigrams(piece)) for piece in pieces[:3000]])
    repeated = pieces[:2]
    store.add([TextNode(text=piece, embedding=trigrams(piece)) for piece in repeated * 3])
    wanted = [query(trigrams(piece), 2 + row % 9) for row, piece in enumerate([*pieces[:6000:200], *repeated])]
    assert len(wanted) > 20
    store.query(wanted[0])
    native: list[VectorStoreQuery] = []
    monkeypatch.setattr(simple_vector_ranking.Rows, "answer", counted(simple_vector_ranking.Rows.answer, native))
    assert_answers_equal(store, *wanted)
    assert native == []


def counted(answer: Callable[..., Any], misses: list[VectorStoreQuery]) -> Callable[..., Any]:
    def answered(self: Any, query: VectorStoreQuery, *args: Any) -> Any:
        found = answer(self, query, *args)
        if found is None:
            misses.append(query)
        return found

    return answered


# --- changes of the public data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", vector_changes.CHANGES)
@pytest.mark.parametrize("searches_before", [0, 1, 2, 3])
def test_any_change_of_the_public_data_is_noticed(change: Callable[[Any], None], searches_before: int) -> None:
    store = accelerated(filled(60))
    wanted = np.random.default_rng(5).standard_normal(DIM).tolist()
    for _ in range(searches_before):
        store.query(query(wanted))
    change(store)
    for _ in range(3):
        assert_answers_equal(store, query(wanted, 60), query(wanted, 3), query(wanted, 4, filters=THIRD))
    if type(store.data.embedding_dict.get("n7")) is list:
        store.data.embedding_dict["n7"][0] = 5.0
        assert_answers_equal(store, query(wanted, 3))


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(vector_changes.CHANGES), st.integers(0, 2)), max_size=6), st.integers(0, 2**32)
)
def test_generated_sequences_of_changes(changes: list[tuple[Callable[[Any], None], int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    store = accelerated(filled(80, seed=seed))
    for change, searches in changes:
        for _ in range(searches):
            assert_answers_equal(store, query(generator.standard_normal(DIM).tolist(), 3, filters=None))
        with suppress(Exception):  # what an earlier change took away
            change(store)
    assert_answers_equal(store, *queries(generator))


def test_rows_that_stay_are_not_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    store = accelerated(filled(60))
    computed: list[int] = []
    unit_vectors = simple_vector_ranking.unit_vectors
    store.query(query([1.0] * DIM))
    assert kept(store) == 0  # one query costs what it costs natively
    kept_units = store._aaflow_kept._kept
    monkeypatch.setattr(kept_units, "_derive", lambda rows: (computed.append(len(rows)), unit_vectors(rows))[1])
    changes = (
        vector_changes.add,
        vector_changes.change_a_float_in_place,
        vector_changes.a_duplicate,
        vector_changes.delete,
        vector_changes.other_order,
        vector_changes.other_ids,
        vector_changes.other_dict,
    )
    for change in (None, *changes):
        if change:
            change(store)
        assert_answers_equal(store, query([0.5, *[1.0] * (DIM - 1)]))
    # All, the two that were added, the changed one, the duplicate, none that was moved or renamed, all.
    assert computed == [60, 2, 1, 1, 62]


def kept(store: Any) -> int:
    found = getattr(store, "_aaflow_kept", None)
    return 0 if found is None else len(found)


# --- one object beside the other --------------------------------------------------------------------------------------


def test_view_shares_the_data_and_pickles_without_what_is_kept(tmp_path: Any) -> None:
    native = filled(60)
    view = accelerate(native)
    assert type(view) is AcceleratedSimpleVectorStore
    assert type(native) is SimpleVectorStore
    assert isinstance(view, SimpleVectorStore)
    assert view.data is native.data
    before = pickle.dumps(view)
    for _ in range(3):
        view.query(query([1.0] * DIM))
    assert kept(view) == 60
    assert pickle.dumps(view) == before
    again = pickle.loads(before)
    assert type(again) is AcceleratedSimpleVectorStore
    assert_answers_equal(again, query([1.0] * DIM))
    for copied in (copy.copy(view), copy.deepcopy(view), view.model_copy()):
        assert type(copied) is AcceleratedSimpleVectorStore
        assert_answers_equal(copied, query([1.0] * DIM))
    assert copy.copy(view).data is native.data
    assert vars(native).keys() == {"data", "stores_text", "is_embedding_query"}
    assert accelerate(view) is view
    native.clear()
    assert view.data is native.data
    view.data = filled(40).data
    assert native.data is view.data
    assert_answers_equal(view, query([1.0] * DIM))


def test_looks_as_the_native_one() -> None:
    native = filled(3)
    view = accelerate_store(native)
    assert view.class_name() == native.class_name()
    assert view.to_dict() == native.to_dict()
    assert view.to_json() == native.to_json()
    assert view.model_dump() == native.model_dump()
    assert repr(view) == repr(native)
    assert view.get("n1") is native.get("n1")
    assert view.client is None
    with pytest.raises(NotImplementedError, match="does not store nodes"):
        view.get_nodes(["n1"])
    assert type(type(view).from_dict(native.to_dict())) is AcceleratedSimpleVectorStore


def test_nodes_go_in_and_out_as_natively() -> None:
    native, view = SimpleVectorStore(), accelerate(SimpleVectorStore())
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    nodes = [
        TextNode(
            id_=str(row), text=f"t{row}", embedding=[float(row)] * DIM, metadata={"row": row}, relationships=source
        )
        for row in range(40)
    ]
    for store in (native, view):
        assert store.add(nodes) == [str(row) for row in range(40)]
        store.delete_nodes(["3"], where(("row", 3, FilterOperator.EQ)))
        with pytest.raises(ValueError, match="embedding not set"):
            store.add([TextNode(text="none")])
        with pytest.raises(KeyError):
            store.get("3")
    assert view.data == native.data
    assert view.data.embedding_dict["5"] is nodes[5].embedding
    for store in (native, view):
        store.delete("doc")
    assert view.data == native.data == SimpleVectorStoreData()


async def test_async_forms() -> None:
    store = accelerated(filled(60))
    wanted = queries(np.random.default_rng(4))
    expected = [bits(native_over(store).query(each)) for each in wanted]
    assert [bits(await store.aquery(each)) for each in wanted] == expected
    assert [bits(each) for each in await store.aquery_many(wanted)] == expected
    assert [bits(each) for each in await asyncio.gather(*map(store.aquery, wanted))] == expected
    assert store.query_many([]) == []


def test_queries_from_many_threads_while_the_store_grows() -> None:
    store = accelerated(filled(500))
    # All of one half of space: what one thread adds in the other half is far from what all of them look for.
    vectors = np.random.default_rng(3).standard_normal((40, DIM))
    vectors[:, 0] = 5.0
    wanted = [query(vector, 3) for vector in vectors.tolist()]
    expected = [bits(native_over(store).query(each)) for each in wanted]

    def work(row: int) -> bool:
        store.data.embedding_dict[f"far {row}"] = (-np.array(wanted[row].query_embedding)).tolist()
        found = bits(store.query(wanted[row]))
        del store.data.embedding_dict[f"far {row}"]
        return bool(found[2][0] == expected[row][2][0])

    def searched(row: int) -> bool:
        while True:
            try:
                return work(row)
            except RuntimeError:  # native iterates over the dict
                continue

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(searched, range(40)))


def test_numpy_hears_of_the_native_errors() -> None:
    """Of those that it warns of, or raises, as the user wishes. Warnings themselves are of all threads at once."""
    store = accelerated(filled(60))
    vector_changes.zero_vector(store)

    def heard(searched: Any) -> list[str]:
        kinds: list[str] = []
        with np.errstate(all="call", call=lambda kind, _: kinds.append(kind)):
            searched.query(query([1.0] * DIM))
        return kinds

    for _ in range(3):
        assert heard(store) == heard(native_over(store)) != []


# --- what is left native ----------------------------------------------------------------------------------------------


class Subclass(SimpleVectorStore):
    def query(self, query: VectorStoreQuery, **kwargs: Any) -> Any:
        return "mine"


def test_what_is_left_native(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Subclass()
    assert accelerate(store) is store
    assert "subclass" in str(native_reason(store))
    assert native_reason(filled(1)) is None
    assert accelerate(SimpleVectorStore) is AcceleratedSimpleVectorStore
    assert accelerate(AcceleratedSimpleVectorStore) is AcceleratedSimpleVectorStore
    view = accelerated(filled(60))
    monkeypatch.setattr(SimpleVectorStore, "query", Subclass.query)
    assert view.query(query([1.0] * DIM)) == "mine"
    assert view.query_many([query([1.0] * DIM)] * 2) == ["mine", "mine"]
    plain = filled(40)
    assert accelerate(plain) is plain


@pytest.mark.parametrize("name", ["get_top_k_embeddings", "default_similarity_fn"])
def test_replaced_functions_are_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    view = accelerated(filled(60))
    for _ in range(3):
        view.query(query([1.0] * DIM))
    if name == "get_top_k_embeddings":
        monkeypatch.setattr(simple, name, lambda *args, **kwargs: ([1.0], ["mine"]))
    else:
        monkeypatch.setattr(embedding_utils, name, lambda one, other: 1.0 if other[0] > 0 else 0.0)
    assert_answers_equal(view, query([1.0] * DIM), query([2.0] * DIM))


@pytest.mark.parametrize("owner", [SimpleVectorStore, simple], ids=["query", "get_top_k_embeddings"])
def test_a_wrapper_that_equals_what_it_wraps_is_called(owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing libraries put such wrappers in place of functions."""
    name, seen = "query" if owner is SimpleVectorStore else "get_top_k_embeddings", []

    @wrapt.decorator
    def traced(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(name)
        return wrapped(*args, **kwargs)

    view = accelerated(filled(60))
    for _ in range(3):
        view.query(query([1.0] * DIM))
    monkeypatch.setattr(owner, name, traced(getattr(owner, name)))
    assert_answers_equal(view, query([1.0] * DIM))
    assert len(seen) == 3  # natively, accelerated, in query_many


def test_other_kinds_of_data_are_searched_natively() -> None:
    class Data(SimpleVectorStoreData):
        pass

    class Vectors(dict[str, Any]):
        def items(self) -> Any:
            return list(super().items())[:40]

    store = filled(60)
    for change in (
        lambda data: Data(data.embedding_dict, data.text_id_to_ref_doc_id, data.metadata_dict),
        lambda data: SimpleVectorStoreData(Vectors(data.embedding_dict), {}, data.metadata_dict),
    ):
        view = accelerated(SimpleVectorStore(change(store.data)))
        for _ in range(3):
            assert_answers_equal(view, *queries(np.random.default_rng(1)))
