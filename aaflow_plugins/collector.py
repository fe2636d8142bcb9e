"""What Python's cyclic garbage collector costs: paused for bulk creation, spared what was there before a long run."""

from __future__ import annotations

import gc
import os
import threading
from types import TracebackType


class _Pause:
    """The pause itself: one object, entered as often as there are pauses."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _pauses, _was_enabled
        with _lock:
            if _pauses == 0:
                _was_enabled = gc.isenabled()
                gc.disable()
            _pauses += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _pauses
        with _lock:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()


_lock = threading.Lock()
_pauses = 0
_was_enabled = False
_pause = _Pause()


def paused_collector() -> _Pause:
    """Pause the cyclic collector inside a `with` block, in every thread, and always restore it.

    Creating many container objects triggers full collections that walk everything alive; where the new
    objects form no cycles that work is wasted (1.5-1.8x of LangChain's splitting time). Pauses nest and may
    overlap between threads: the collector comes back when the last one ends, and stays off if the
    user had switched it off.
    """
    return _pause


class _Spare:
    """Keeps what is alive from the collector: one object, entered as often as there are runs."""

    __slots__ = ()

    def __enter__(self) -> None:
        global _spares, _has_frozen
        with _lock:
            if _spares == 0:
                # What the user has frozen would be let go of with the rest.
                _has_frozen = gc.get_freeze_count() == 0
                if _has_frozen:
                    gc.freeze()
            _spares += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _spares
        with _lock:
            _spares -= 1
            if _spares == 0 and _has_frozen:
                gc.unfreeze()


_spares = 0
_has_frozen = False
_spare = _Spare()


def spared_collector() -> _Spare:
    """Keep the objects that are alive now out of collections inside a `with` block, in every thread.

    A full collection walks everything alive: 150 ms for an index of 20,000 documents, during which nothing else goes
    on. What comes up inside the block is collected as ever, and garbage from before it at the first full collection
    afterwards. Blocks nest and may overlap between threads. Where the user has frozen objects nothing is done.
    """
    return _spare


def _after_fork_in_child() -> None:
    # The threads that held the other pauses do not exist here, and the lock may be held by one of them.
    global _lock, _pauses, _spares
    _lock = threading.Lock()
    if _spares:
        _spares = 0
        if _has_frozen:
            gc.unfreeze()
    if _pauses:
        _pauses = 0
        if _was_enabled:
            gc.enable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
