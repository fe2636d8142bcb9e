"""Threads that make the blocking calls of a `ThreadFlow`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from aaflow_plugins.interrupts import interrupts_put_off


class Pool:
    """Makes calls in threads, for one thread that hands them over and hears of their ends.

    A `ThreadPoolExecutor` has a future, several locks and an interrupt to be put off for each call. Here a call is put
    into a queue, which no interrupt leaves half done; what becomes of it the call itself tells.
    """

    def __init__(self, most: int, prefix: str) -> None:
        """Set up; threads are started as they are needed.

        Args:
            most: Threads at the most.
            prefix: What their names begin with, for `await_threads`.
        """
        self._most, self._prefix = most, prefix
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = self._under_way = 0

    def submit(self, call: Callable[[], None]) -> None:
        """Have a call made, which raises nothing."""
        self._under_way += 1
        self._calls.put(call)
        # Calls may wait for one another: each that is under way has a thread.
        if self._threads < min(self._most, self._under_way):
            self._threads += 1
            with interrupts_put_off():
                threading.Thread(target=self._work, name=f"{self._prefix}_{self._threads}").start()

    def ended(self) -> None:
        """Note that a call has ended."""
        self._under_way -= 1

    def close(self) -> None:
        """Drop calls that have not begun, and end the threads after those under way; see `await_threads`."""
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # and what it was made for
