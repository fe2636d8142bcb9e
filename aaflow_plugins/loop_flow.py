"""Steps of many items as tasks of an event loop."""

from __future__ import annotations

import asyncio
import heapq
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from aaflow_plugins.flow import Flow, place_of_item
from aaflow_plugins.hops import Hops
from aaflow_plugins.operators import StoppedError

T = TypeVar("T")


class _Work:
    """A call in a thread, and what is to be done in the loop when it has ended and nobody waits for it any more."""

    def __init__(self, call: Callable[[], Any], loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
        self._call, self._loop, self._then = call, loop, then
        self._lock = threading.Lock()
        self._begun = self._ended = self._left = False

    def run(self) -> Any:
        with self._lock:
            if self._left:
                return None  # cancelled before a thread was free
            self._begun = True
        try:
            return self._call()
        finally:
            with self._lock:
                self._ended, left = True, self._left
            if left:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._then)

    def leave(self) -> None:
        """Wait no longer."""
        with self._lock:
            self._left, at_work = True, self._begun and not self._ended
        if not at_work:
            self._then()


class LoopFlow(Flow):
    """Runs coroutines as tasks of the running event loop.

    An asynchronous context manager: at its exit what it began is awaited, after an error cancelled first.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self._loop = asyncio.get_running_loop()
        #: Short blocking calls, at less cost each than `call`, and without slots.
        self.hops = Hops(self._loop)
        #: In the order in which they were begun: who waits for another one was begun before it.
        self._tasks: dict[asyncio.Task[Any], None] = {}

    async def __aenter__(self) -> LoopFlow:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while pending := [task for task in self._tasks if not task.done()]:
            if error is None:
                await asyncio.wait(pending)
            else:
                await self.abandon(pending)

    @asynccontextmanager
    async def slot(self, slots: int = 1, *, urgent: bool = False) -> Any:
        """Hold some of the `limit` slots during the block."""
        if self.limit is None or slots == 0:
            yield
            return
        await self._take(slots, urgent)
        try:
            yield
        finally:
            self._release(slots)

    async def _take(self, slots: int, urgent: bool) -> None:
        """Wait for slots."""
        turn = self._loop.create_future()
        self._put(urgent, place_of_item.get(), (turn, slots))
        self._grant()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._release(slots)
            raise

    def _release(self, slots: int) -> None:
        """Hand slots to who comes next."""
        self._in_flight -= slots
        self._grant()

    def _grant(self) -> None:
        while self._queue:
            _, place, _, (turn, slots) = self._queue[0]
            if not turn.done():
                if not self._fits(slots, place):
                    return
                self._in_flight += slots
                turn.set_result(None)
            heapq.heappop(self._queue)

    async def call(self, function: Callable[..., T], *args: Any, urgent: bool = False, slots: int = 1) -> T:
        """Make a blocking call in the loop's default executor.

        A thread can't be cancelled: who is cancelled goes on at once, but the slots are held until the call has ended.
        """

        def run() -> T:
            try:
                return function(*args)
            except StopIteration as error:
                raise StoppedError(error) from None

        if self.limit is None or slots == 0:
            return await self._loop.run_in_executor(None, run)
        await self._take(slots, urgent)
        work = _Work(run, self._loop, partial(self._release, slots))
        try:
            return await self._loop.run_in_executor(None, work.run)
        finally:
            work.leave()

    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
        """Begin a task."""
        task = self._loop.create_task(coroutine, context=context or copy_context())
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # retrieved: whoever awaits the task hears of it

    async def short_call(self, seconds: float) -> bool:
        """Wait until one of `hops` ends."""
        return await self.hops.some(seconds)

    async def abandon(self, tasks: Sequence[Any]) -> None:
        """Cancel tasks and wait for them, even if the waiting is itself cancelled."""
        for task in tasks:
            # Cancelled once more, it would be interrupted while it ends its runs.
            if not task.cancelling():
                task.cancel()
        pending, cancelled = set(tasks), False
        while pending:
            try:
                _, pending = await asyncio.wait(pending)
            except asyncio.CancelledError:
                cancelled = True
                pending = {task for task in pending if not task.done()}
        if cancelled:
            raise asyncio.CancelledError

    def promise(self) -> Any:
        """A future of the loop."""
        return self._loop.create_future()

    def settle(self, promise: Any, value: Any = None, error: BaseException | None = None) -> None:
        """Settle it."""
        if promise.done():
            return
        if error is None:
            promise.set_result(value)
        elif isinstance(error, asyncio.CancelledError):
            promise.cancel()
        else:
            promise.set_exception(error)

    def when_idle(self, function: Callable[[], None]) -> None:
        """Call `function` after all that is ready now."""
        self._loop.call_soon(function)
