"""Threads that make the blocking calls of a `ThreadFlow`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue


class Pool:
    """Makes calls in threads, for one thread that hands them over and hears of their ends.

    A `ThreadPoolExecutor` has a future and several locks for each call. Here a call is put into a queue, and what
    becomes of it the call itself tells.

    Attributes:
        under_way: Calls that have been handed over, and neither ended nor dropped.
    """

    def __init__(self, most: int, prefix: str) -> None:
        """Set up; threads are started as they are needed.

        Args:
            most: Threads at the most.
            prefix: What their names begin with, for `await_threads`.
        """
        self._most, self._prefix = most, prefix
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = self.under_way = 0

    def submit(self, call: Callable[[], None]) -> None:
        """Have a call made, which raises nothing."""
        self.under_way += 1
        self._calls.put(call)
        # Calls may wait for one another: each that is under way has a thread.
        if self._threads < min(self._most, self.under_way):
            self._threads += 1
            threading.Thread(target=self._work, name=f"{self._prefix}_{self._threads}").start()

    def ended(self) -> None:
        """Note that a call has ended."""
        self.under_way -= 1

    def drop(self) -> None:
        """Forget calls that have not begun."""
        with suppress(Empty):
            while True:
                self._calls.get_nowait()
                self.under_way -= 1

    def close(self) -> None:
        """End the threads, each after the call that it is making; see `await_threads`."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # and what it was made for
