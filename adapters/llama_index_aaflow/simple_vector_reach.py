"""Whether anybody but a SimpleVectorStore can reach the vectors that it holds.

Before each search the lists of a store are compared with what was computed from them: somebody may have changed one
in place, and a list tells nobody. That takes longer than the search. It is needed only if somebody could: who has the
store's attributes, data, dict or one of its lists counts among the references to it, and who gets them later does so by
an attribute of the store, which notes it.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from operator import is_
from sys import getrefcount
from typing import Any, NamedTuple
from weakref import getweakrefcount

from llama_index.core.vector_stores.simple import SimpleVectorStore, SimpleVectorStoreData

#: Attributes of a store by which one gets hold of its data.
WAYS_IN = frozenset({"data", "__dict__"})


def data_of(store: SimpleVectorStore) -> SimpleVectorStoreData:
    """The data of a store, without a note that somebody has it."""
    data: SimpleVectorStoreData = object.__getattribute__(store, "data")
    return data


class Contents(NamedTuple):
    """What a store holds at one moment.

    Attributes:
        stored: Its public dict of vectors.
        ids: The ids of the dict, in order.
        vectors: Its lists, in order.
        references: How many references there were to its attributes, data and dict, and to all its lists together.
    """

    stored: dict[str, Any]
    ids: list[str]
    vectors: list[Any]
    references: tuple[int, int, int, int]


def contents(store: SimpleVectorStore) -> Contents:
    """What a store holds."""
    state = object.__getattribute__(store, "__dict__")
    data = state["data"]
    stored = data.embedding_dict
    # Each before it is looked into, in the order in which anybody gets from one to the next: nobody slips through.
    references = (
        getrefcount(state),
        getrefcount(data) + getweakrefcount(data),  # a weak reference is none, until it is asked
        getrefcount(stored),
    )
    ids, vectors = list(stored), list(stored.values())
    return Contents(stored, ids, vectors, (*references, sum(map(getrefcount, vectors))))


def is_alone(found: Contents, kept: list[Any]) -> bool:
    """Whether the store alone could reach what it held when its contents were taken.

    Args:
        found: The contents.
        kept: Lists that are held beside: alone counts only who holds exactly those of the store.
    """
    if len(kept) != len(found.vectors) or not all(map(is_, kept, found.vectors)):
        return False
    *others, a_list = _alone()
    # One more for each list, that is kept. None has fewer, so none has more.
    return found.references == (*others, (a_list + 1) * len(kept))


@cache
def _alone() -> tuple[int, int, int, int]:
    """The references, as they are counted here, to what a store of one list alone can reach."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return -1, -1, -1, -1  # no count: they are not exact where threads run side by side
    return contents(SimpleVectorStore(SimpleVectorStoreData(embedding_dict={"": [0.0]}))).references
