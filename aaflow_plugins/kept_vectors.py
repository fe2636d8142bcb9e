"""What was computed from a store's vectors, kept as long as they stay what they were.

A store that is a public dict of lists of floats can be changed by anybody, in place too, and a list tells nobody.
So before each use the lists are compared with what was computed from. They have to be the very lists and hold the very
floats (a pointer each to compare, no arithmetic). Python compares what is not identical by `==`, so one change stays
unseen: a float replaced in the same list by a number of another type which says that it equals it. Who can't have that
looks at types, too; `begin_with_floats` says it of the first of each list.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import is_, itemgetter
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from aaflow_plugins.collector import paused_collector

T = TypeVar("T")

#: Rows turned into an array at once: what was read last is still in the processor's cache when it is used.
_ROWS_AT_ONCE = 256

#: `(n, d)` vectors in float64 -> arrays of `n` rows each; None for vectors that are not to be kept.
Derive = Callable[[npt.NDArray[np.float64]], tuple[npt.NDArray[Any], ...] | None]


class KeptVectors:
    """Arrays derived from lists of floats. Who uses it from several threads holds a lock.

    It takes 8 bytes a float for the comparison, beside what the arrays take.
    """

    def __init__(self, derive: Derive) -> None:
        """Set up.

        Args:
            derive: Computes the arrays, each row from the same row of the vectors alone.
        """
        self._derive = derive
        #: The vectors as the store holds them, and copies with the very floats: holding both keeps their identities
        #: from being reused.
        self._lists: list[list[float]] = []
        self._floats: list[list[float]] = []
        #: With room for more rows.
        self._arrays: tuple[npt.NDArray[Any], ...] = ()

    def __len__(self) -> int:
        """Rows that are kept."""
        return len(self._lists)

    @property
    def lists(self) -> list[list[float]]:
        """The very lists that are kept."""
        return self._lists

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays of all rows, as views that later additions do not change."""
        return tuple(array[: len(self._lists)] for array in self._arrays)

    def are(self, vectors: list[list[float]]) -> bool:
        """Whether these lists are the kept ones, in their order, and none has been changed."""
        try:
            return len(vectors) == len(self._lists) and all(map(is_, vectors, self._lists)) and vectors == self._floats
        except Exception:
            # What somebody put in place of a float can't be compared.
            return False

    def append(self, vectors: list[list[float]]) -> bool:
        """Add vectors that numpy turns into finite float64 rows of the length of those that are kept.

        Returns:
            False, with everything as it was, for vectors that it turns into something else, or that are not to be kept.
        """
        known, total = len(self._lists), len(self._lists) + len(vectors)
        found = self._derived(vectors)
        if found is None:
            return False
        floats, arrays = found
        if not known:
            self._arrays = arrays
        elif not _fit(arrays, self._arrays):
            return False
        else:
            if total > len(self._arrays[0]):
                self._arrays = tuple(_grown(array[:known], max(total, 2 * known)) for array in self._arrays)
            for kept, new in zip(self._arrays, arrays, strict=True):
                kept[known:total] = new
        self._floats.extend(floats)
        self._lists.extend(vectors)
        return True

    def renew(self, vectors: list[list[float]]) -> bool:
        """Keep these vectors instead: rows of lists that were kept, and are unchanged, are taken over.

        Returns:
            False, with nothing kept, if most of them are new, or one is not to be kept.
        """
        row_of = {id(vector): row for row, vector in enumerate(self._lists)}
        rows = [row_of.get(id(vector), -1) for vector in vectors]
        new = [at for at, row in enumerate(rows) if row < 0 or not _equal(vectors[at], self._floats[row])]
        kept, floats = self._arrays, [self._floats[row] for row in rows]
        self.forget()
        if 2 * len(new) > len(vectors):
            return False
        arrays = tuple(array[rows] for array in kept)
        if new:
            found = self._derived([vectors[at] for at in new])
            if found is None or not _fit(found[1], arrays):
                return False
            for at, copy in zip(new, found[0], strict=True):
                floats[at] = copy
            for array, part in zip(arrays, found[1], strict=True):
                array[new] = part
        self._lists, self._floats, self._arrays = list(vectors), floats, arrays
        return True

    def forget(self) -> None:
        """Keep nothing."""
        self._lists, self._floats, self._arrays = [], [], ()

    def _derived(self, vectors: list[list[float]]) -> tuple[list[list[float]], tuple[npt.NDArray[Any], ...]] | None:
        # Whatever another thread changes meanwhile, arrays and copies agree.
        with paused_collector():
            floats = list(map(list, vectors))
        # A row with a Python float first is at least float64, in whatever company a filter leaves it.
        if not all(row and type(row[0]) is float for row in floats):
            return None
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        for start in range(0, len(floats), _ROWS_AT_ONCE):
            try:
                rows = np.array(floats[start : start + _ROWS_AT_ONCE])
            except (TypeError, ValueError):
                return None
            arrays = self._derive(rows) if rows.dtype == np.float64 and rows.ndim == 2 else None
            if arrays is None or (parts and not _fit(arrays, parts[0])):
                return None
            parts.append(arrays)
        return floats, tuple(np.concatenate(each) for each in zip(*parts, strict=True))


class KeptSearches(ABC, Generic[T]):
    """What a store's searches keep between them, one search at a time.

    It is made at the second search, so that one search costs what it costs natively. A search within a search, as a
    signal's handler may make it, is told to go natively.
    """

    def __init__(self, derive: Derive) -> None:
        """Set up.

        Args:
            derive: As for `KeptVectors`.
        """
        self._lock, self._at_work = threading.RLock(), False
        self._searched = False
        self._refused = -1
        self._kept = KeptVectors(derive)

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, vectors: list[Any]) -> T | None:
        """What is kept of exactly these vectors, or None if they have to be taken natively."""
        with self._turn() as is_free:
            if not is_free:
                return None
            if not self._searched or len(vectors) == self._refused:
                self._searched = True
                return None
            return self._of(vectors)

    @abstractmethod
    def _of(self, vectors: list[Any]) -> T | None:
        """The same, for a search in its turn that is not the first."""

    def _append(self, vectors: list[Any]) -> bool:
        """Keep these, too; nothing is kept, nor tried for as many again, where they can't be."""
        if self._kept.append(vectors[len(self._kept) :]):
            return True
        self._kept.forget()
        self._refused = len(vectors)
        return False

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait for other threads; whether this one is not at work already."""
        with self._lock:
            is_free, self._at_work = not self._at_work, True
            try:
                yield is_free
            finally:
                self._at_work = not is_free


def _equal(vector: list[float], floats: list[float]) -> bool:
    try:
        return vector == floats
    except Exception:
        return False


def _fit(arrays: Sequence[npt.NDArray[Any]], others: Sequence[npt.NDArray[Any]]) -> bool:
    return all(one.shape[1:] == other.shape[1:] for one, other in zip(arrays, others, strict=True))


def begin_with_floats(vectors: Iterable[list[float]]) -> bool:
    """Whether each of these lists begins with a Python float."""
    try:
        return set(map(type, map(itemgetter(0), vectors))) <= {float}
    except IndexError:
        return False


def _grown(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    grown = np.empty((capacity, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
