"""Pausing Python's cyclic garbage collector around bulk creation of objects that hold no cycles."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_pauses = 0
_was_enabled = False


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause the cyclic collector inside the block, in every thread, and always restore it.

    Creating many container objects triggers full collections that walk everything alive; where the new
    objects form no cycles that work is wasted (1.5-1.8x of LangChain's splitting time). Pauses nest and may
    overlap between threads: the collector comes back when the last one ends, and stays off if the
    user had switched it off.
    """
    global _pauses, _was_enabled
    with _lock:
        if _pauses == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if _pauses == 0 and _was_enabled:
                gc.enable()


def _after_fork_in_child() -> None:
    global _lock, _pauses
    _lock = threading.Lock()
    if _pauses:
        _pauses = 0
        if _was_enabled:
            gc.enable()


def _register_fork_handler() -> None:
    import os

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork_in_child)


_register_fork_handler()
