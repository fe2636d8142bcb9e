"""A store's vectors are not compared before a search if nobody else can reach them, and are if somebody can."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQuery

from aaflow_plugins import reach
from aaflow_plugins.kept_vectors import KeptVectors
from llama_index_aaflow import accelerate
from llama_index_aaflow.simple_vector_store import AcceleratedSimpleVectorStore
from tests.generated import examples
from tests.llama_index.index_pairs import DigestEmbedding
from tests.llama_index.stored_vectors import DIM, bits, filled, outcome, query
from tests.llama_index.vector_changes import CHANGES

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def alone(rows: int = 60) -> Any:
    """An accelerated store whose data nobody else has."""
    return accelerate(filled(rows))


def some_queries(seed: int, count: int = 3) -> list[VectorStoreQuery]:
    return [query(vector, 4) for vector in np.random.default_rng(seed).standard_normal((count, DIM)).tolist()]


def assert_as_natively(store: Any, twin: SimpleVectorStore, seed: int) -> None:
    """The store answers as a native one that has been treated alike and shares nothing with it."""
    asked = some_queries(seed)
    expected = [outcome(lambda each=each: twin.query(each)) for each in asked]
    assert [outcome(lambda each=each: store.query(each)) for each in asked] == expected


def test_vectors_that_nobody_can_reach_are_compared_once(compared: list[int]) -> None:
    store, twin = alone(), filled(60)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    store.query_many(some_queries(9))
    # The first search is native, the second takes the vectors as they are, the third finds the store alone.
    assert compared == [0, 60]
    store.add([TextNode(id_="new", text="", embedding=[1.0] * DIM)])
    twin.add([TextNode(id_="new", text="", embedding=[1.0] * DIM)])
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    assert compared == [0, 60, 60, 61]
    assert "data" in store.__dict__
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    assert compared == [0, 60, 60, 61, 61]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("searches_before", [2, 3, 4])
def test_any_change_is_noticed(change: Callable[[Any], None], searches_before: int) -> None:
    store, twin = alone(), filled(60)
    for seed in range(searches_before):
        store.query(some_queries(seed)[0])
    for each in (store, twin):
        change(each)
    for seed in range(3):
        assert_as_natively(store, twin, seed)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 3)), max_size=6))
def test_generated_sequences_of_changes(changes: list[tuple[Callable[[Any], None], int]]) -> None:
    store, twin = alone(), filled(60)
    for number, (change, searches) in enumerate(changes):
        for seed in range(searches):
            assert_as_natively(store, twin, seed + number)
        for each in (store, twin):
            with suppress(Exception):  # what an earlier change took away
                change(each)
    assert_as_natively(store, twin, 99)


def _node(store: Any) -> TextNode:
    node = TextNode(id_="n7", text="", embedding=store.get("n7"))
    store.add([node])
    return node


#: What somebody gets from a store, and how, from that alone, a list of the store.
HOLDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "data": (lambda store: store.data, lambda held: held.embedding_dict["n7"]),
    "dict": (lambda store: store.data.embedding_dict, lambda held: held["n7"]),
    "list": (lambda store: store.data.embedding_dict["n7"], lambda held: held),
    "get": (lambda store: store.get("n7"), lambda held: held),
    "values": (lambda store: store.data.embedding_dict.values(), lambda held: list(held)[7]),
    "items": (lambda store: [*store.data.embedding_dict.items()], lambda held: held[7][1]),
    "iterator": (lambda store: iter(store.data.embedding_dict.values()), lambda held: [*held][7]),
    "attributes of the data": (lambda store: vars(store.data), lambda held: held["embedding_dict"]["n7"]),
    "method of the dict": (lambda store: store.data.embedding_dict.get, lambda held: held("n7")),
    "method of the data": (lambda store: store.data.to_dict, lambda held: held.__self__.embedding_dict["n7"]),
    "weak reference": (lambda store: weakref.ref(store.data), lambda held: held().embedding_dict["n7"]),
    "attributes": (vars, lambda held: held["data"].embedding_dict["n7"]),
    "state": (lambda store: store.__getstate__(), lambda held: held["__dict__"]["data"].embedding_dict["n7"]),
    "fields": (dict, lambda held: held["data"].embedding_dict["n7"]),
    "copy": (copy.copy, lambda held: held.data.embedding_dict["n7"]),
    "copied model": (lambda store: store.model_copy(), lambda held: held.data.embedding_dict["n7"]),
    "native store": (lambda store: SimpleVectorStore(store.data), lambda held: held.data.embedding_dict["n7"]),
    "other view": (accelerate, lambda held: held.data.embedding_dict["n7"]),
    "node": (_node, lambda held: held.embedding),
}


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("searches_before", [0, 3])
def test_who_holds_anything_of_the_store_may_change_it(hold: str, searches_before: int) -> None:
    store, twin = alone(), filled(60)
    for seed in range(searches_before):
        assert_as_natively(store, twin, seed)
    take, get = HOLDS[hold]
    held = take(store)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    get(held)[3] = 1e6
    twin.data.embedding_dict["n7"][3] = 1e6
    assert_as_natively(store, twin, 5)
    del held
    for seed in range(4):
        assert_as_natively(store, twin, seed)


@pytest.mark.parametrize("hold", HOLDS)
def test_who_let_go_of_the_store_is_forgotten(hold: str, compared: list[int]) -> None:
    store = alone()
    store.query_many(some_queries(0))
    take, get = HOLDS[hold]
    get(take(store))
    for seed in range(4):
        store.query(some_queries(seed)[0])
    compared.clear()
    store.query(some_queries(5)[0])
    assert not compared


def test_the_native_store_of_a_view_may_change_it(compared: list[int]) -> None:
    native, twin = filled(60), filled(60)
    view = accelerate(native)
    for seed in range(4):
        assert_as_natively(view, twin, seed)
    for store in (native, twin):
        store.data.embedding_dict["n7"][3] = 1e6
    assert_as_natively(view, twin, 5)
    del native, store
    for seed in range(2):
        assert_as_natively(view, twin, seed)
    compared.clear()
    assert_as_natively(view, twin, 6)
    assert not compared


def test_data_put_in_place_without_a_look_at_the_old() -> None:
    store, twin = alone(), filled(60, seed=3)
    for seed in range(4):
        store.query(some_queries(seed)[0])
    object.__setattr__(store, "data", filled(60, seed=3).data)
    for seed in range(4):
        assert_as_natively(store, twin, seed)


def test_a_look_in_another_thread_is_noticed() -> None:
    store = alone(500)
    wanted = some_queries(3, 40)
    for each in wanted[:3]:
        store.query(each)

    def work(row: int) -> bool:
        far = (-np.array(wanted[row].query_embedding)).tolist()
        for _ in range(10):
            store.data.embedding_dict[f"n{row}"][:] = wanted[row].query_embedding
            if store.query(query(wanted[row].query_embedding, 1)).ids != [f"n{row}"]:
                return False
            store.data.embedding_dict[f"n{row}"][:] = far
            if store.query(query(wanted[row].query_embedding, 1)).ids == [f"n{row}"]:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


def test_lists_that_are_kept_while_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By another thread: they count, and must not be taken for those of somebody else."""
    nodes = [TextNode(id_=f"n{row}", text="", embedding=[float(row), 1.0, 2.0]) for row in range(60)]
    store, twin = accelerate(SimpleVectorStore)(), SimpleVectorStore()
    store.add(nodes)
    twin.add(copy.deepcopy(nodes))
    wanted = query([1.0, 5.0, 3.0], 3)
    store.query(wanted)
    counted, kept = reach.Found.__init__, store._aaflow_kept
    others = []

    def count(self: Any, *args: Any) -> None:
        counted(self, *args)
        if not others:
            others.append(threading.Thread(target=store.query, args=(wanted,)))
            others[0].start()
            others[0].join(0.2)

    monkeypatch.setattr(reach.Found, "__init__", count)
    store.query(wanted)
    others[0].join()
    for each in (nodes[50].embedding, twin.data.embedding_dict["n50"]):
        each[:] = [1.0, 5.0, 3.0]
    for _ in range(3):
        assert bits(store.query(wanted)) == bits(twin.query(wanted))
    assert len(kept) == 60


def test_a_search_within_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal's handler may make it."""
    store, twin = alone(), filled(60)
    native, found, inner = KeptVectors.are, [], some_queries(1)[0]

    def are(self: KeptVectors, vectors: list[Any]) -> bool:
        if not found:
            found.append(None)
            found[0] = bits(store.query(inner))
        return native(self, vectors)

    store.query(inner)
    monkeypatch.setattr(KeptVectors, "are", are)
    assert_as_natively(store, twin, 0)
    assert found == [bits(twin.query(inner))]


def test_an_index_is_alone_with_its_vectors(compared: list[int]) -> None:
    documents = [Document(text=f"What {number} says.", id_=str(number)) for number in range(60)]
    index: Any = accelerate(VectorStoreIndex).from_documents(documents, embed_model=DigestEmbedding())
    retriever = index.as_retriever()
    for _ in range(5):
        retriever.retrieve("a")
    compared.clear()
    retriever.retrieve("a")
    assert not compared


def test_other_objects_are_compared_for_themselves() -> None:
    store, twin = alone(), filled(60)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    others = [copy.deepcopy(store), pickle.loads(pickle.dumps(store))]
    twin.data.embedding_dict["n7"][3] = 1e6
    for other in others:
        assert type(other) is AcceleratedSimpleVectorStore
        other.data.embedding_dict["n7"][3] = 1e6
        for seed in range(4):
            assert_as_natively(other, twin, seed)
    assert bits(store.query(some_queries(0)[0])) == bits(filled(60).query(some_queries(0)[0]))
