"""Steps of many items in the calling thread, without an event loop."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from aaflow_plugins.flow import Flow, Place, place_of_item
from aaflow_plugins.interrupts import interrupts_put_off
from aaflow_plugins.operators import StoppedError
from aaflow_plugins.threads import await_threads

T = TypeVar("T")


class _Promise:
    """A result to come in a `ThreadFlow`; one coroutine may await it."""

    __slots__ = ("_done", "error", "value", "waiter")

    def __init__(self) -> None:
        self._done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.waiter: _Task | None = None

    def done(self) -> bool:
        return self._done

    def settle(self, value: Any, error: BaseException | None) -> None:
        self.value, self.error, self._done = value, error, True

    def __await__(self) -> Generator[_Promise, None, Any]:
        if not self._done:
            yield self
        return self.take()

    def take(self) -> Any:
        """The value; raises the error, and lets go of it: its traceback will hold what holds this promise."""
        if self.error is None:
            return self.value
        error, self.error = self.error, None
        try:
            raise error
        finally:
            del error


class _Task(_Promise):
    __slots__ = ("begun", "context", "coroutine", "waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context | None) -> None:
        super().__init__()
        #: None for the one that is driven, which runs in the context of the call itself.
        self.coroutine, self.context, self.begun = coroutine, context, False
        self.waits_for: _Promise | None = None


#: Items whose calls are in flight, where nothing is said: the threads of a `ThreadPoolExecutor` by default.
DEFAULT_ITEMS = min(32, (os.cpu_count() or 1) + 4)

#: Threads for the calls of an item side by side, where nothing bounds them.
_THREADS_AN_ITEM = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A blocking call, and who waits for it."""

    promise: _Promise
    function: Callable[..., Any]
    args: tuple[Any, ...]
    slots: int
    place: Place


class ThreadFlow(Flow):
    """Drives coroutines in the calling thread, and makes their blocking calls in pool threads.

    No event loop is involved: it works in a thread that runs one, and what it calls may start its own.
    """

    _flows = itertools.count(1)

    def __init__(self, limit: int | None = None) -> None:
        """Set up.

        Args:
            limit: Calls in flight at the most. None: those of as many items as `ThreadPoolExecutor` has threads by
                default, however many calls an item makes at once.
        """
        super().__init__(limit or DEFAULT_ITEMS)
        self._by_item = limit is None
        self._at_work: Counter[Place] = Counter()
        self._name = f"aaflow-flow-{next(self._flows)}"
        self._pools: dict[bool, ThreadPoolExecutor] = {}
        self._under_way: dict[_Work, Future[None]] = {}
        self._ready: deque[_Task] = deque()
        self._current: _Task | None = None
        #: A call in the context of the current coroutine, to be made when it has left that.
        self._leaving: _Work | None = None
        self._idle: list[Callable[[], None]] = []
        self._blocked: dict[_Task, None] = {}
        self._inbox: SimpleQueue[tuple[_Work | None, Any, BaseException | None]] = SimpleQueue()
        self._interrupt: BaseException | None = None
        #: Whether a coroutine has been told of it.
        self._told = False
        #: What is settled when a short one of them ends, and when it is in any case.
        self._ending: tuple[_Promise, float] | None = None
        #: Whether calls are under way that nobody waits for.
        self._left = False
        self._closing = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Drive `coroutine`, in the context of this call, and all that it spawns, until it ends.

        Raises:
            BaseException: What it raised. After KeyboardInterrupt, and whatever else is no Exception, calls under way
                are awaited, those that wait are dropped, and each coroutine sees the error where it stands.
        """
        main = self._start(coroutine, None)
        # Until the end: interrupts are heard between steps and while waiting, where nothing is half done.
        with interrupts_put_off(lambda: self._inbox.put((None, None, None))) as self._interrupts:
            try:
                while not main.done():
                    try:
                        self._turn(main)
                    except BaseException as error:
                        # The second one ends the run as it stands, as does one after the last step.
                        if self._interrupt is not None or main.done():
                            raise
                        self._stop(error)
            finally:
                self._shut_down()
        value: T = main.take()
        if self._interrupts.heard is not None and not self._told:
            raise self._interrupts.heard  # it came when nothing was left to wait for
        return value

    async def call(self, function: Callable[..., T], *args: Any, urgent: bool = False, slots: int = 1) -> T:
        """Make a blocking call in a pool thread."""
        work = self._work(function, args, slots, () if urgent else place_of_item.get())
        self._begin(work, urgent)
        result: T = await work.promise
        return result

    async def call_here(self, function: Callable[..., T], *args: Any, slots: int = 0) -> T:
        """A call in the very context of the one that awaits it: what `function` sets there is seen afterwards."""
        assert self._current is not None
        if self._current.context is None:
            return self.here(function, *args)
        work = self._work(self._current.context.run, (function, *args), slots, place_of_item.get())
        self._leaving = work
        result: T = await work.promise
        return result

    def here(self, function: Callable[..., T], *args: Any) -> T:
        """A call of somebody's code in the driving thread, which may wait there: interrupts end it as natively."""
        with self._interrupts.let_through():
            return function(*args)

    def _work(self, function: Callable[..., Any], args: tuple[Any, ...], slots: int, place: Place) -> _Work:
        if self._interrupt is not None:
            self._told = True
            raise self._interrupt
        # With a limit of 1 there is one thing at a time.
        return _Work(_Promise(), function, args, 1 if self.limit == 1 else slots, place)

    def _begin(self, work: _Work, urgent: bool = False) -> None:
        if work.slots:
            self._put(urgent, work.place, work)
            self._submit_what_fits()
        else:
            self._submit(work)

    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> Awaitable[T]:
        """Begin a coroutine; it runs when the current one waits."""
        return self._start(coroutine, context or copy_context())

    async def abandon(self, tasks: Sequence[Any]) -> None:
        """Wait for tasks; they end by themselves, after an interrupt with it."""
        for task in tasks:
            try:
                await task
            except BaseException:
                if self._closing:
                    raise

    def promise(self) -> Any:
        """A promise."""
        promise = _Promise()
        if self._interrupt is not None:
            self._told = True
            promise.settle(None, self._interrupt)
        return promise

    def settle(self, promise: Any, value: Any = None, error: BaseException | None = None) -> None:
        """Settle it; the one who awaits it goes on in its turn."""
        if not promise.done():
            promise.settle(value, error)
            if promise.waiter is not None:
                self._wake(promise.waiter)

    def when_idle(self, function: Callable[[], None]) -> None:
        """Call `function` when every coroutine waits."""
        self._idle.append(function)

    async def short_call(self, seconds: float) -> bool:
        """Wait until a call without slots ends."""
        if self._ending is not None or all(work.slots for work in self._under_way):
            return False
        promise = self.promise()
        self._ending = promise, time.monotonic() + seconds
        await promise
        return True

    def interrupt(self, error: BaseException) -> None:
        """End the run from another thread, as if `error` had been raised in the driving one."""
        self._inbox.put((None, None, error))

    def _start(self, coroutine: Coroutine[Any, Any, Any], context: Context | None) -> _Task:
        task = _Task(coroutine, context)
        self._ready.append(task)
        return task

    def _wake(self, task: _Task) -> None:
        self._blocked.pop(task, None)
        task.waits_for = None
        self._ready.append(task)

    def _turn(self, main: _Task) -> None:
        """Let all that can go on do so, then wait for a call to end, unless `main` has ended."""
        self._interrupts.hear_interrupts()
        while self._ready:
            self._step(self._ready.popleft())
            self._interrupts.hear_interrupts()
        if main.done():
            return
        if self._idle:
            idle, self._idle = self._idle, []
            for function in idle:
                function()
        elif self._under_way:
            self._receive(block=True)
            while self._receive(block=False):
                pass
        elif not self._ready:
            raise self._interrupt or RuntimeError("every step waits for another: this is a defect of aaflow_plugins")

    def _step(self, task: _Task) -> None:
        if self._interrupt is not None and not task.begun:
            task.coroutine.close()
            self._told = True
            self.settle(task, error=self._interrupt)
            return
        task.begun, self._current = True, task
        try:
            send = task.coroutine.send
            waits_for: _Promise = send(None) if task.context is None else task.context.run(send, None)
        except StopIteration as stop:
            self.settle(task, stop.value)
        except BaseException as error:
            self.settle(task, error=error)
            if not isinstance(error, Exception) and self._interrupt is None:
                raise
        else:
            if waits_for.done():
                self._ready.append(task)
            else:
                waits_for.waiter, task.waits_for = task, waits_for
                self._blocked[task] = None
                leaving, self._leaving = self._leaving, None
                if leaving is not None:
                    self._begin(leaving)
        finally:
            self._current = None

    def _fits(self, slots: int, place: Place) -> bool:
        if not self._by_item:
            return super()._fits(slots, place)
        assert self.limit is not None
        return place[:1] in self._at_work or len(self._at_work) < self.limit

    def _submit_what_fits(self) -> None:
        while self._queue and self._fits((work := self._queue[0][3]).slots, work.place):
            heapq.heappop(self._queue)
            self._submit(work)

    def _submit(self, work: _Work) -> None:
        inbox = self._inbox

        def run() -> None:
            try:
                result = work.function(*work.args)
            except StopIteration as error:
                inbox.put((work, None, StoppedError(error)))
            except BaseException as error:
                inbox.put((work, None, error))
            else:
                inbox.put((work, result, None))

        is_short = work.slots == 0
        if not is_short:
            self._in_flight += work.slots
            self._at_work[work.place[:1]] += 1
        if (pool := self._pools.get(is_short)) is None:
            assert self.limit is not None
            threads = self.limit * _THREADS_AN_ITEM if self._by_item else self.limit
            pool = self._pools[is_short] = ThreadPoolExecutor(threads, thread_name_prefix=self._name)
        self._under_way[work] = pool.submit(run)

    def _receive(self, *, block: bool) -> bool:
        """Take note of a call that has ended; False if none has, also because a short one is not waited for longer."""
        patience = self._ending and max(0.0, self._ending[1] - time.monotonic())
        try:
            work, value, error = self._inbox.get(block, patience)
        except Empty:
            if block:
                self._go_on()
            return False
        if work is None:
            if error is not None:
                raise error
            return True  # an interrupt, to be heard
        del self._under_way[work]
        if not work.slots:
            self._go_on()
        else:
            self._in_flight -= work.slots
            self._at_work[work.place[:1]] -= 1
            if not self._at_work[work.place[:1]]:
                del self._at_work[work.place[:1]]
        self.settle(work.promise, value, error)
        if error is not None and not isinstance(error, Exception):
            raise error
        self._submit_what_fits()
        return True

    def _go_on(self) -> None:
        """Let go on who waits for a short call."""
        if self._ending is not None:
            (promise, _), self._ending = self._ending, None
            self.settle(promise)

    def _await_calls(self) -> None:
        """Drop calls that have not begun, and wait for those under way; an interrupt ends that."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._under_way = {work: future for work, future in self._under_way.items() if not future.cancelled()}
        while self._under_way:
            work, value, error = self._inbox.get()
            if work is not None:
                del self._under_way[work]
                self.settle(work.promise, value, error)
            self._interrupts.hear_interrupts()

    def _shut_down(self) -> None:
        """Leave no thread behind, but those whose calls a second interrupt did not wait for."""
        try:
            if not self._left:
                self._await_calls()
        finally:
            self._closing = True
            for task in [*self._blocked, *self._ready]:
                with suppress(RuntimeError):  # of one that goes on to end its runs, which nobody waits for any more
                    task.coroutine.close()
        if self._pools and not self._left:
            await_threads(self._name)

    def _stop(self, error: BaseException) -> None:
        """Await the calls under way, then raise `error` in every coroutine that waits for something else to happen."""
        self._interrupt = error
        self._queue.clear()
        self._leaving = None
        self._left = True
        self._await_calls()
        self._left = False
        self._in_flight = 0
        self._at_work.clear()
        for task in list(self._blocked):
            promise = task.waits_for
            if promise is not None and not isinstance(promise, _Task):
                self._told = True
                self.settle(promise, error=error)
