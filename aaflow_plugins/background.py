"""One event loop in a thread of its own, for asynchronous stages of a synchronous run.

A loop per call would leave clients with connections that belong to a closed loop; one loop for the life of the
process does not.
"""

from __future__ import annotations

import asyncio
import os
import threading

from aaflow_plugins.interrupts import interrupts_put_off

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started on first use (in a forked child: anew)."""
    global _loop
    with interrupts_put_off(), _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="aaflow-loop", daemon=True).start()
        return _loop


def _after_fork_in_child() -> None:
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
