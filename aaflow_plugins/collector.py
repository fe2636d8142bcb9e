"""What Python's cyclic garbage collector costs: paused for bulk creation, spared what is there in a long run."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

#: Python 3.12 starts with 375 frozen objects of its own, 3.11 and 3.13 with none; `gc.freeze()` by a user takes
#: whatever is tracked, and the barest interpreter tracks 4,000 objects.
_FROZEN_AT_START = 1_000


class _Whole:
    """What holds for the whole process while any thread is in a block of it: one object, entered once a block."""

    __slots__ = ("_begin", "_begun", "_blocks", "_end")

    def __init__(self, begin: Callable[[], bool], end: Callable[[], None]) -> None:
        """Set up.

        Args:
            begin: Makes it hold; False if it is not for us to end it.
            end: Ends it.
        """
        self._begin, self._end = begin, end
        self._blocks, self._begun = 0, False

    def __enter__(self) -> None:
        with _lock:
            if self._blocks == 0:
                self._begun = self._begin()
            self._blocks += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            self._blocks -= 1
            if self._blocks == 0 and self._begun:
                self._end()

    def forget(self) -> None:
        """End it, whatever blocks there are."""
        if self._blocks:
            self._blocks = 0
            if self._begun:
                self._end()


def _disable() -> bool:
    was_enabled = gc.isenabled()
    gc.disable()
    return was_enabled


def _freeze() -> bool:
    if gc.get_freeze_count() > _FROZEN_AT_START:
        return False  # what the user has frozen would be let go of with the rest
    gc.freeze()
    return True


#: How many times as rare full collections are: they come about with 1.4 million objects that stay, in place of 70,000.
_RARITY = 20
_full = 0


def _seldom() -> bool:
    global _full
    first, second, _full = gc.get_threshold()
    gc.set_threshold(first, second, _RARITY * _full)
    return True


def _as_often() -> None:
    first, second, full = gc.get_threshold()
    if full == _RARITY * _full:  # else somebody has set it anew
        gc.set_threshold(first, second, _full)


_lock = threading.Lock()
_pause = _Whole(_disable, gc.enable)
_spare = _Whole(_freeze, gc.unfreeze)
_rare = _Whole(_seldom, _as_often)


def paused_collector() -> AbstractContextManager[None]:
    """Pause the cyclic collector inside a `with` block, in every thread, and always restore it.

    Creating many container objects triggers full collections that walk everything alive; where the new
    objects form no cycles that work is wasted (1.5-1.8x of LangChain's splitting time). Pauses nest and may
    overlap between threads: the collector comes back when the last one ends, and stays off if the
    user had switched it off.
    """
    return _pause


def spared_collector() -> AbstractContextManager[None]:
    """Keep the objects that are alive now out of collections inside a `with` block, in every thread.

    A full collection walks everything alive: 150 ms for an index of 20,000 documents, during which nothing else goes
    on. What comes up inside the block is collected as ever, and garbage from before it at the first full collection
    afterwards. Blocks nest and may overlap between threads. Where the user has frozen objects nothing is done.
    """
    return _spare


def rare_collector() -> AbstractContextManager[None]:
    """Make full collections rare inside a `with` block, in every thread.

    For long work that makes many objects to stay, and garbage besides: embedding texts, whose replies and connections
    hold cycles. What is young is collected as ever; what stays is not walked again and again. Blocks nest and may
    overlap between threads; afterwards the threshold of full collections is what it was.
    """
    return _rare


def _after_fork_in_child() -> None:
    # The threads that were in the other blocks do not exist here, and the lock may be held by one of them.
    global _lock
    _lock = threading.Lock()
    for whole in (_spare, _pause, _rare):
        whole.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
