"""Whether anybody but a store can reach the vectors that it holds.

Before each search the lists of a store are compared with what was computed from them, since somebody may have changed
one in place, and a list tells nobody (`aaflow_plugins.kept_vectors`). That takes longer than the search, and is needed
only if somebody could. Who has one of the store's lists, or anything on the way there, counts among the references to
it. Who gets it later does so by an attribute of the store, which notes it. (Who passes by the store's own
`__getattribute__`, as a debugger may, is not seen.)
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from operator import is_
from sys import getrefcount
from typing import Any, Final
from weakref import getweakrefcount

#: From all objects of one level to those that are held by them.
Step = Callable[[Sequence[Any]], Sequence[Any]]

#: Threads that run side by side do not count references exactly.
_COUNTS_ARE_EXACT: Final = not sysconfig.get_config_var("Py_GIL_DISABLED")


def attribute(store: object, name: str) -> Any:
    """An attribute of a store that notes who looks at it, without a note."""
    return object.__getattribute__(store, name)


class Found:
    """What a store holds at one moment, level by level from its attributes to its vectors, and who refers to it."""

    def __init__(self, store: object, steps: Sequence[Step]) -> None:
        """Look.

        Args:
            store: The store.
            steps: The way from its attributes to its vectors. No step gives anything that somebody might reach in
                another way than by those before.
        """
        self.levels: list[Sequence[Any]] = [[attribute(store, "__dict__")]]
        self.references: list[int] = []
        # Each level before it is looked into, in the order in which anybody gets from one to the next: nobody slips
        # through.
        for step in (*steps, None):
            level = self.levels[-1]
            count = sum(map(getrefcount, level))
            if len(level) == 1:  # a weak reference is none, until it is asked
                count += getweakrefcount(level[0])
            self.references.append(count)
            if step is not None:
                self.levels.append(step(level))
            del level


class Reach:
    """Notes who may have got hold of what a store holds.

    Attributes:
        look: Another object whenever somebody may have.
    """

    def __init__(self, steps: Sequence[Step], alone: Sequence[int]) -> None:
        """Set up.

        Args:
            steps: As for `Found`.
            alone: The references that are found of a store of one vector which nobody else can reach.
        """
        self._steps, self._alone = steps, alone
        self.look = object()

    def note(self) -> None:
        """Somebody has looked. To be called afterwards: before, who looks counts among the references."""
        self.look = object()

    def find(self, store: object) -> Found:
        """What the store holds."""
        return Found(store, self._steps)

    def is_alone(self, found: Found, kept: Sequence[Any]) -> bool:
        """Whether the store alone could reach what was found.

        Args:
            found: What it holds.
            kept: Vectors that are held beside: nobody is said to be alone who holds others.
        """
        vectors = found.levels[-1]
        if not _COUNTS_ARE_EXACT or len(kept) != len(vectors) or not all(map(is_, kept, vectors)):
            return False
        expected = [one * len(level) for one, level in zip(self._alone, found.levels, strict=True)]
        expected[-1] += len(kept)
        # No object has fewer references than those that are known, so none has more if all have as many.
        return found.references == expected
