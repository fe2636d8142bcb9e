"""Short blocking calls of an event loop, made in its default executor: those of one turn of the loop in one go."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

#: Seconds after which calls that wait behind a long one get a thread of their own.
_PATIENCE: Final = 0.001

#: Seconds that no call takes which is made in line with others.
_LONG: Final = 0.01


class Hops:
    """Makes calls in threads of the loop's default executor.

    `loop.run_in_executor` costs two futures, the waking of a thread and a write to a pipe for each call (100 µs of
    CPU). Here a thread takes what there is when it begins. A call that lasts holds up none of the others for more than
    a millisecond: they are given threads as natively, and what has ended is told.

    Attributes:
        had_long_call: Whether a call of a `Line` took long.
    """

    had_long_call = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set up; everything but the calls themselves happens in the thread of `loop`."""
        self._loop = loop
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._arranged = False
        self._workers = 0
        self._look: asyncio.TimerHandle | None = None

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """What `function` returns or raises, some time after this turn of the loop."""
        future = self._loop.create_future()
        self._waiting.append((function, future))
        if not self._arranged:
            self._arranged = True
            self._loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        self._arranged = False
        if not self._waiting:
            return
        try:
            worker = self._loop.run_in_executor(None, self._work)
        except RuntimeError as error:  # the executor takes no calls any more
            while self._waiting:
                self._ended.append((self._waiting.popleft()[1], None, error))
            self._tell()
            return
        self._workers += 1
        worker.add_done_callback(self._settle)
        if self._look is None:
            self._look = self._loop.call_later(_PATIENCE, self._look_after)

    def _work(self) -> None:
        """Make the calls that wait, in a thread."""
        while True:
            try:
                function, future = self._waiting.popleft()
            except IndexError:
                return
            self._ended.append((future, *_outcome(function)))

    def _settle(self, worker: asyncio.Future[None]) -> None:
        self._workers -= 1
        self._tell()

    def _look_after(self) -> None:
        """Tell what has ended while a call lasts, and have another thread take what waits behind it."""
        self._look = None
        self._tell()
        if self._waiting:
            self._hand_over()
        elif self._workers:
            self._look = self._loop.call_later(_PATIENCE, self._look_after)

    def _tell(self) -> None:
        while self._ended:
            future, result, error = self._ended.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except StopIteration as error:  # no future takes it; from Python 3.12 on asyncio says the same
        stopped = RuntimeError("a call in a thread raised StopIteration")
        stopped.__cause__ = error
        return None, stopped
    except BaseException as error:
        return None, error


class Line:
    """Short calls that are made one after the other, and waited for once for several of them.

    A call is put in line and its caller goes on; before anything happens that may not come before the calls, `made`
    is awaited. So calls between which the loop's thread only computes cost a single change of threads.
    """

    def __init__(self, hops: Hops) -> None:
        """Set up.

        Args:
            hops: Makes the calls.
        """
        self._hops, self._loop = hops, asyncio.get_running_loop()
        self._waiting: deque[tuple[Callable[[], Any], Callable[[BaseException], Any]]] = deque()
        self._failed: deque[partial[Any]] = deque()
        self._at_work = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_slow(self) -> bool:
        """Whether a call of this line, or another of its hops, took so long that others should not wait for it."""
        return self._hops.had_long_call

    def is_of(self, hops: Hops) -> bool:
        """Whether `hops` makes the calls."""
        return self._hops is hops

    def put(self, function: Callable[[], Any], failed: Callable[[BaseException], Any]) -> None:
        """Have `function` called after all that are in line.

        Args:
            function: The call; what it returns is dropped.
            failed: Called in the loop's thread with what it raises; what that raises in turn, `made` does.
        """
        self._waiting.append((function, failed))

    async def call(self, function: Callable[[], Any]) -> None:
        """Have `function` called after all that are in line, and wait until it has been.

        Raises:
            BaseException: What it raised.
        """
        raised: list[BaseException] = []
        self.put(function, raised.append)
        await self.made()
        if raised:
            raise raised[0]

    async def made(self) -> None:
        """Wait until all calls in line have been made; if it is cancelled meanwhile, it is when they have.

        Raises:
            BaseException: What the function for a failed call raised.
        """
        cancelled = False
        while self._waiting or self._at_work:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            if not self._at_work:
                self._begin()
            try:
                await waiter
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    def _begin(self) -> None:
        self._at_work = True
        self._hops.call(self._work).add_done_callback(self._ended)

    def _work(self) -> None:
        """Make the calls, in a thread."""
        while self._waiting:
            function, failed = self._waiting.popleft()
            start = time.perf_counter()
            try:
                function()
            except BaseException as error:
                self._failed.append(partial(failed, error))
            if time.perf_counter() - start > _LONG:
                self._hops.had_long_call = True

    def _ended(self, work: asyncio.Future[None]) -> None:
        self._at_work = False
        if (refused := work.exception()) is not None:  # the executor takes no calls any more
            self._failed.extend(partial(failed, refused) for _, failed in self._waiting)
            self._waiting.clear()
        raised: BaseException | None = None
        while self._failed:
            try:
                self._failed.popleft()()
            except BaseException as error:
                raised = raised or error
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if waiter.done():
                continue
            if raised is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(raised)
