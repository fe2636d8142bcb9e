"""How many threads there is room for, and waiting for those of a pool to end, whatever interrupted it."""

from __future__ import annotations

import os
import threading
import time


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def await_threads(prefix: str) -> None:
    """Wait until every thread whose name begins with `prefix` has ended.

    An interrupt in the middle of a submit can leave a thread that its pool does not know of.
    """
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            await_end(thread)


def await_end(thread: threading.Thread) -> None:
    """Wait until `thread` has ended. One that was interrupted while it was being started may never begin."""
    deadline = time.monotonic() + 0.5
    while True:
        try:
            return thread.join()
        except RuntimeError:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.001)
