"""How many threads there is room for, and waiting for those of a pool to end, whatever interrupted it."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

#: What a model takes for a batch, each thread takes by itself.
_MOST_FOR_MODELS: Final = 4


def threads_for_models() -> int:
    """How many threads call a model of this process at once: one for each core that it may use, four at the most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_FOR_MODELS)


def threads_can_start() -> bool:
    """Whether pools take calls: not when the main thread has ended, though others may go on for long."""
    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
    except RuntimeError:
        return False
    return True


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
