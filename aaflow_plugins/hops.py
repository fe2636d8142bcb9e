"""Short blocking calls of an event loop, made in its default executor: those of one turn of the loop in one go."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

#: Seconds after which calls that wait behind a long one get a thread of their own.
_PATIENCE: Final = 0.001


class _Call(asyncio.Future[Any]):
    """The result of a call, which is not taken back: a task that is cancelled while it waits goes on to its end."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


class Hops:
    """Makes calls in threads of the loop's default executor.

    `loop.run_in_executor` costs two futures, the waking of a thread and a write to a pipe for each call (100 µs of
    CPU). Here a thread takes what there is when it begins. A call that lasts holds up none of the others for more than
    a millisecond: they are given threads as natively, and what has ended is told.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set up; everything but the calls themselves happens in the thread of `loop`."""
        self._loop = loop
        self._waiting: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._arranged = False
        self._workers = 0
        #: One for each worker that has no thread yet.
        self._queued: deque[None] = deque()
        self._look: asyncio.TimerHandle | None = None
        #: For who waits for a thread to be done.
        self._done: asyncio.Future[None] | None = None

    async def some(self, seconds: float) -> bool:
        """Wait until some calls have ended, for so many seconds at the most; False at once if there are none."""
        if not (self._waiting or self._workers):
            return False
        if self._done is None:
            self._done = self._loop.create_future()
        await asyncio.wait([self._done], timeout=seconds)
        return True

    def call(self, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """What `function` returns or raises, some time after this turn of the loop.

        A task that waits for it is cancelled when the call has ended, and not before.
        """
        future = _Call(loop=self._loop)
        self._waiting.append((function, future))
        if not self._arranged:
            self._arranged = True
            self._loop.call_soon(self._hand_over)
        return future

    def _hand_over(self) -> None:
        self._arranged = False
        if not self._waiting:
            return
        self._queued.append(None)
        try:
            worker = self._loop.run_in_executor(None, self._work)
        except RuntimeError as error:  # the executor takes no calls any more
            self._begun()
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
        self._begun()
        while True:
            try:
                function, future = self._waiting.popleft()
            except IndexError:
                return
            self._ended.append((future, *outcome(function)))

    def _begun(self) -> None:
        with suppress(IndexError):
            self._queued.pop()

    def _settle(self, worker: asyncio.Future[None]) -> None:
        if worker.cancelled():
            self._begun()
        self._tell()
        self._loop.call_soon(self._gone)  # when those who have been told may have more to be done

    def _gone(self) -> None:
        self._workers -= 1
        if self._done is not None:
            self._done.set_result(None)
            self._done = None

    def _look_after(self) -> None:
        """Tell what has ended while a call lasts, and have another thread take what waits behind it."""
        self._look = None
        self._tell()
        # Where all threads are busy, more workers than there are calls for would only stand in line.
        if len(self._waiting) > len(self._queued):
            self._hand_over()
        elif self._workers:
            self._look = self._loop.call_later(_PATIENCE, self._look_after)

    def _tell(self) -> None:
        while self._ended:
            future, result, error = self._ended.popleft()
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """What a function returns, or None, and what it raises, or None: as a future takes it."""
    try:
        return function(), None
    except StopIteration as error:  # no future takes it; from Python 3.12 on asyncio says the same
        stopped = RuntimeError("StopIteration interacts badly with generators and cannot be raised into a Future")
        stopped.__cause__ = error
        return None, stopped
    except BaseException as error:
        return None, error
