"""Vectors of an InMemoryVectorStore are compared before a search only if somebody else can reach them."""

from __future__ import annotations

import copy
import pickle
from collections import ChainMap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import FakeEmbeddings
from langchain_core.vectorstores import InMemoryVectorStore

from aaflow_plugins.kept_vectors import KeptVectors
from langchain_aaflow import accelerate
from langchain_aaflow.in_memory_store import AcceleratedInMemoryVectorStore
from langchain_aaflow.native_stores import shared_view
from tests.generated import examples
from tests.langchain.test_in_memory_store import CHANGES, DIM, exact, native_of, outcome
from tests.langchain.test_in_memory_store import filled as alone


def twin_of(rows: int, seed: int = 0) -> InMemoryVectorStore:
    """A native store of equal contents, which shares nothing."""
    return shared_view(alone(rows, seed=seed), InMemoryVectorStore)


def a_query(seed: int) -> list[float]:
    vector: list[float] = np.random.default_rng(seed).standard_normal(DIM).tolist()
    return vector


def assert_as_natively(store: Any, twin: Any, seed: int) -> None:
    """The store answers as a native one that has been treated alike and shares nothing with it."""
    for query in (a_query(seed), a_query(seed + 1)):

        def search(each: Any, query: list[float] = query) -> Any:
            return exact(each.similarity_search_with_score_by_vector(query, k=5))

        assert outcome(lambda: search(store)) == outcome(lambda: search(twin))


def test_vectors_that_nobody_can_reach_are_compared_once(compared: list[int]) -> None:
    store, twin = alone(60), twin_of(60)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    store.similarity_search_with_score_by_vectors([a_query(0), a_query(1)])
    # The first search is native, the second takes the vectors as they are, the third finds the store alone.
    assert compared == [0, 60]
    for each in (store, twin):
        each.add_texts(["new"], ids=["new"])
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    assert compared == [0, 60, 60, 61]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("searches_before", [2, 3, 4])
def test_any_change_is_noticed(change: Callable[[Any], None], searches_before: int) -> None:
    store, twin = alone(60), twin_of(60)
    for seed in range(searches_before):
        store.similarity_search_by_vector(a_query(seed))
    for each in (store, twin):
        change(each)
    for seed in range(3):
        assert_as_natively(store, twin, seed)


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 2)), max_size=6))
def test_generated_sequences_of_changes(changes: list[tuple[Callable[[Any], None], int]]) -> None:
    store, twin = alone(60), twin_of(60)
    for number, (change, searches) in enumerate(changes):
        for seed in range(searches):
            assert_as_natively(store, twin, seed + number)
        for each in (store, twin):
            with suppress(Exception):  # what an earlier change took away
                change(each)
    assert_as_natively(store, twin, 99)


#: What somebody gets from a store, and how, from that alone, a vector of the store.
HOLDS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "dict": (lambda store: store.store, lambda held: held["7"]["vector"]),
    "document": (lambda store: store.store["7"], lambda held: held["vector"]),
    "vector": (lambda store: store.store["7"]["vector"], lambda held: held),
    "values": (lambda store: store.store.values(), lambda held: list(held)[7]["vector"]),
    "iterator": (lambda store: iter(store.store.values()), lambda held: [*held][7]["vector"]),
    "method": (lambda store: store.store.get, lambda held: held("7")["vector"]),
    "read-only": (lambda store: MappingProxyType(store.store), lambda held: held["7"]["vector"]),
    "attributes": (vars, lambda held: held["store"]["7"]["vector"]),
    "state": (lambda store: store.__getstate__(), lambda held: held["store"]["7"]["vector"]),
    "copy": (copy.copy, lambda held: held.store["7"]["vector"]),
    "native store": (native_of, lambda held: held.store["7"]["vector"]),
    "other view": (accelerate, lambda held: held.store["7"]["vector"]),
    "private search": (
        lambda store: store._similarity_search_with_score_by_vector(store.store["7"]["vector"], 1),
        lambda held: held[0][2],
    ),
}


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("searches_before", [0, 3])
def test_who_holds_anything_of_the_store_may_change_it(hold: str, searches_before: int) -> None:
    store, twin = alone(60), twin_of(60)
    for seed in range(searches_before):
        assert_as_natively(store, twin, seed)
    take, get = HOLDS[hold]
    held = take(store)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    get(held)[3] = 1e6
    twin.store["7"]["vector"][3] = 1e6
    assert_as_natively(store, twin, 5)
    del held
    for seed in range(4):
        assert_as_natively(store, twin, seed)


@pytest.mark.parametrize("hold", HOLDS)
def test_who_let_go_of_the_store_is_forgotten(hold: str, compared: list[int]) -> None:
    store = alone(60)
    for seed in range(4):
        store.similarity_search_by_vector(a_query(seed))
    take, get = HOLDS[hold]
    get(take(store))
    for seed in range(4):
        store.similarity_search_by_vector(a_query(seed))
    compared.clear()
    store.similarity_search_by_vector(a_query(5))
    assert not compared


class Proxy(dict[str, Any]):
    """A document that keeps its vector where somebody else may put another."""

    def get(self, key: str, default: Any = None) -> Any:
        return self["elsewhere"][0] if key == "vector" else super().get(key, default)


def test_documents_and_dicts_of_other_kinds_are_searched_as_natively() -> None:
    for change in (
        lambda each: each.store.update({"7": Proxy({**each.store["7"], "elsewhere": [a_query(3)]})}),
        lambda each: setattr(each, "store", ChainMap({}, each.store)),
    ):
        store, twin = alone(60), twin_of(60)
        for each in (store, twin):
            change(each)
        held = [each.store["7"].get("elsewhere", each.store) for each in (store, twin)]
        for seed in range(5):
            assert_as_natively(store, twin, seed)
        for each in held:
            if isinstance(each, list):
                each[0] = a_query(4)
            else:
                each.maps[1]["7"] = {**each.maps[1]["7"], "vector": a_query(4)}
        assert_as_natively(store, twin, 4)


class Tenants(AcceleratedInMemoryVectorStore):
    """Has its documents elsewhere."""

    @property
    def store(self) -> Any:
        return self.__dict__.setdefault("tenant", {})

    @store.setter
    def store(self, value: Any) -> None:
        self.__dict__["tenant"] = value


def test_a_subclass_with_its_documents_elsewhere() -> None:
    store, twin = Tenants(FakeEmbeddings(size=DIM)), twin_of(60)
    store.store.update(copy.deepcopy(twin.store))
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    vars(store)["tenant"]["7"]["vector"][3] = twin.store["7"]["vector"][3] = 1e6
    assert_as_natively(store, twin, 5)


def test_vectors_that_a_search_gives_may_be_changed() -> None:
    store, twin = alone(60), twin_of(60)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    for each in (store, twin):
        each._similarity_search_with_score_by_vector(a_query(3), k=1)[0][2][:] = [-value for value in a_query(3)]
    for seed in range(2, 5):
        assert_as_natively(store, twin, seed)


def test_a_search_within_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal's handler may make it."""
    store, twin = alone(60), twin_of(60)
    native, found = KeptVectors.are, []

    def are(self: KeptVectors, vectors: list[Any]) -> bool:
        if not found:
            found.append(None)
            found[0] = exact(store.similarity_search_with_score_by_vector(a_query(1), k=5))
        return native(self, vectors)

    store.similarity_search_by_vector(a_query(0))
    monkeypatch.setattr(KeptVectors, "are", are)
    assert_as_natively(store, twin, 0)
    assert found == [exact(twin.similarity_search_with_score_by_vector(a_query(1), k=5))]


def test_the_native_store_of_a_view_may_change_it(compared: list[int]) -> None:
    native, twin = twin_of(60), twin_of(60)
    view = accelerate(native)
    for seed in range(4):
        assert_as_natively(view, twin, seed)
    for store in (native, twin):
        store.store["7"]["vector"][3] = 1e6
    assert_as_natively(view, twin, 5)
    del native, store
    for seed in range(2):
        assert_as_natively(view, twin, seed)
    compared.clear()
    assert_as_natively(view, twin, 6)
    assert not compared


def test_a_dict_put_in_place_without_a_look_at_the_old() -> None:
    store, twin = alone(60), twin_of(60, seed=3)
    for seed in range(4):
        store.similarity_search_by_vector(a_query(seed))
    store.store = alone(60, seed=3).store
    for seed in range(4):
        assert_as_natively(store, twin, seed)


def test_a_filter_may_change_the_store() -> None:
    store, twin = alone(60), twin_of(60)
    for seed in range(4):
        assert_as_natively(store, twin, seed)

    towards = [float(axis == 3) for axis in range(DIM)]

    def changing(each: Any) -> Callable[[Any], bool]:
        def keep(document: Any) -> bool:
            each.store["7"]["vector"][3] += 1e3
            return int(document.id) % 2 == 1

        return keep

    for seed in range(3):
        found = [each.similarity_search_with_score_by_vector(towards, 3, changing(each)) for each in (store, twin)]
        assert exact(found[0]) == exact(found[1])
        assert_as_natively(store, twin, seed)


def test_a_look_in_another_thread_is_noticed() -> None:
    store = alone(500)
    wanted = [a_query(seed) for seed in range(40)]
    for each in wanted[:3]:
        store.similarity_search_by_vector(each)

    def best(vector: list[float]) -> str | None:
        return store.similarity_search_by_vector(vector, k=1)[0].id

    def work(row: int) -> bool:
        vector = store.store[str(row)]["vector"]
        for _ in range(5):
            vector[:] = wanted[row]
            if best(wanted[row]) != str(row):
                return False
            vector[:] = [-value for value in wanted[row]]
            if best(wanted[row]) == str(row):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


def test_other_objects_are_compared_for_themselves() -> None:
    store, twin = alone(60), twin_of(60)
    for seed in range(4):
        assert_as_natively(store, twin, seed)
    others = [copy.deepcopy(store), pickle.loads(pickle.dumps(store))]
    twin.store["7"]["vector"][3] = 1e6
    for other in others:
        assert type(other) is AcceleratedInMemoryVectorStore
        other.store["7"]["vector"][3] = 1e6
        for seed in range(4):
            assert_as_natively(other, twin, seed)
    assert_as_natively(store, twin_of(60), 1)
