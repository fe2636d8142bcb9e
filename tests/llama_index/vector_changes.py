"""What anybody may do to the public data of a SimpleVectorStore."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

from tests.llama_index.stored_vectors import DIM, filled, native_over, query


def _vectors(store: Any) -> dict[str, Any]:
    found: dict[str, Any] = store.data.embedding_dict
    return found


def replace_vector(store: Any) -> None:
    _vectors(store)["n7"] = [9.0] * DIM


def change_a_float_in_place(store: Any) -> None:
    _vectors(store)["n7"][3] = 1e6


def change_the_last_float_in_place(store: Any) -> None:
    _vectors(store)["n7"][-1] = -1e6


def negate_in_place(store: Any) -> None:
    vector = _vectors(store)["n3"]
    vector[:] = [-value for value in vector]


def shorten_a_vector(store: Any) -> None:
    _vectors(store)["n7"].pop()


def delete(store: Any) -> None:
    del _vectors(store)["n7"]


def delete_many(store: Any) -> None:
    for row in range(40):
        del _vectors(store)[f"n{row}"]


def delete_and_put_back(store: Any) -> None:
    _vectors(store)["n7"] = _vectors(store).pop("n7")


def swap_two_vectors(store: Any) -> None:
    vectors = _vectors(store)
    vectors["n7"], vectors["n8"] = vectors["n8"], vectors["n7"]


def other_ids(store: Any) -> None:
    store.data.embedding_dict = {f"m{key[1:]}": vector for key, vector in _vectors(store).items()}
    store.data.metadata_dict = {f"m{key[1:]}": value for key, value in store.data.metadata_dict.items()}


def other_order(store: Any) -> None:
    store.data.embedding_dict = dict(reversed(list(_vectors(store).items())))


def other_dict(store: Any) -> None:
    store.data.embedding_dict = {key: [value + 1 for value in vector] for key, vector in _vectors(store).items()}


def other_data(store: Any) -> None:
    store.data = copy.deepcopy(filled(70, seed=9).data)


def array_for_a_list(store: Any) -> None:
    _vectors(store)["n7"] = np.arange(DIM, dtype=float)


def tuple_for_a_list(store: Any) -> None:
    _vectors(store)["n7"] = tuple(float(value) for value in range(DIM))


def whole_numbers(store: Any) -> None:
    for key, vector in _vectors(store).items():
        _vectors(store)[key] = [round(10 * value) for value in vector]


def single_precision(store: Any) -> None:
    for key, vector in list(_vectors(store).items())[::3]:
        _vectors(store)[key] = list(np.array(vector, np.float32))


def single_precision_in_place(store: Any) -> None:
    """The same numbers: nothing in the lists says that they are other objects by `==`."""
    for vector in list(_vectors(store).values())[::3]:
        vector[:] = [0.5, *map(round, vector[1:])]
        vector[:] = [np.float32(value) for value in vector]


def equal_numbers_of_single_precision_in_place(store: Any) -> None:
    for vector in _vectors(store).values():
        vector[:] = np.array(vector, np.float32).tolist()
    for _ in range(2):
        store.query(query([1.0] * DIM))
    for vector in list(_vectors(store).values())[:20]:
        vector[:] = list(np.array(vector, np.float32))


def array_for_a_float(store: Any) -> None:
    _vectors(store)["n7"][3] = np.arange(3.0)


def nan(store: Any) -> None:
    _vectors(store)["n7"][0] = float("nan")


def infinity(store: Any) -> None:
    _vectors(store)["n7"][0] = float("inf")


def huge(store: Any) -> None:
    _vectors(store)["n7"][0] = 1e300


def zero_vector(store: Any) -> None:
    _vectors(store)["n7"] = [0.0] * DIM


def a_duplicate(store: Any) -> None:
    _vectors(store)["again"] = list(_vectors(store)["n7"])
    store.data.metadata_dict["again"] = {"row": 0, "third": 1}


def all_the_same(store: Any) -> None:
    for key in _vectors(store):
        _vectors(store)[key] = [1.0, 2.0] * (DIM // 2)


def other_metadata(store: Any) -> None:
    store.data.metadata_dict["n7"]["third"] = 2


def missing_metadata(store: Any) -> None:
    del store.data.metadata_dict["n7"]


def no_metadata(store: Any) -> None:
    store.data.metadata_dict = {}


def metadata_is_none(store: Any) -> None:
    store.data.metadata_dict = None


def another_dimension(store: Any) -> None:
    _vectors(store)["longer"] = [1.0] * (DIM + 1)


def add(store: Any) -> None:
    store.add([TextNode(id_=f"new {row}", text="new", embedding=[float(row)] * DIM) for row in (1, 2)])


def add_over_an_id(store: Any) -> None:
    store.add([TextNode(id_="n7", text="new", embedding=[7.0] * DIM)])


def add_through_the_native_store(store: Any) -> None:
    native_over(store).add([TextNode(id_="new", text="new", embedding=[7.0] * DIM)])


def delete_a_document(store: Any) -> None:
    store.delete("doc 1")


def delete_nodes(store: Any) -> None:
    store.delete_nodes(["n1", "n7"])
    few = MetadataFilter(key="row", value=4, operator=FilterOperator.LT)
    store.delete_nodes(filters=MetadataFilters(filters=[few]))


def clear(store: Any) -> None:
    store.clear()


#: All of them.
CHANGES = [
    replace_vector,
    change_a_float_in_place,
    change_the_last_float_in_place,
    negate_in_place,
    shorten_a_vector,
    delete,
    delete_many,
    delete_and_put_back,
    swap_two_vectors,
    other_ids,
    other_order,
    other_dict,
    other_data,
    array_for_a_list,
    tuple_for_a_list,
    whole_numbers,
    single_precision,
    single_precision_in_place,
    equal_numbers_of_single_precision_in_place,
    array_for_a_float,
    nan,
    infinity,
    huge,
    zero_vector,
    a_duplicate,
    all_the_same,
    other_metadata,
    missing_metadata,
    no_metadata,
    metadata_is_none,
    another_dimension,
    add,
    add_over_an_id,
    add_through_the_native_store,
    delete_a_document,
    delete_nodes,
    clear,
]
