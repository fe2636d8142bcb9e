"""Runs the steps of many items at once: bounded calls, and points where items are answered together.

The steps are coroutines, written once. A `ThreadFlow` drives them in the calling thread, without an event loop, and
makes blocking calls in pool threads; a `LoopFlow` runs them as tasks of the running loop. An item goes on as soon as
it can: nothing waits for another item, but for a slot or at a point.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from aaflow_plugins.hops import Hops
from aaflow_plugins.interrupts import interrupts_put_off
from aaflow_plugins.operators import StoppedError
from aaflow_plugins.threads import await_threads

T = TypeVar("T")

#: Of the first items so many begin before the others: what they meet at can begin early.
FIRST_BLOCK = 16

#: An item by its number, within it another, and so on.
Place = tuple[int, ...]
_place: ContextVar[Place] = ContextVar("aaflow_place", default=())


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a coroutine ended.

    Attributes:
        value: What it returned, if it did.
        error: What it raised, or None.
        number: Its place in the order in which those of one `gather` ended.
    """

    value: T
    error: BaseException | None
    number: int


class Flow(ABC):
    """What steps may do.

    Attributes:
        limit: Calls in flight at the most; None for any number.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._in_flight = 0
        #: Those who wait for slots, earlier items first: what has begun is brought to its end.
        self._queue: list[tuple[bool, Place, int, Any]] = []
        self._numbers = itertools.count()

    def _fits(self, slots: int, place: Place) -> bool:
        return self.limit is None or slots == 0 or self._in_flight == 0 or self._in_flight + slots <= self.limit

    def _put(self, urgent: bool, place: Place, waiting: Any) -> None:
        heapq.heappush(self._queue, (not urgent, place, next(self._numbers), waiting))

    @abstractmethod
    async def call(self, function: Callable[..., T], *args: Any, urgent: bool = False, slots: int = 1) -> T:
        """Make a blocking call in a thread, within the limit.

        Args:
            function: The call.
            *args: Its arguments.
            urgent: Whether it comes before all that wait.
            slots: What it takes of the limit: more than one if it makes so many calls at once itself; none if it is
                short, so that it need not wait for long ones.

        Raises:
            StoppedError: In place of a StopIteration, which no coroutine can raise.
        """

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> Awaitable[T]:
        """Begin a coroutine beside the others, in a copy of the current context or in the one given."""

    @abstractmethod
    def promise(self) -> Any:
        """Something to await until `settle` is called with it."""

    @abstractmethod
    def settle(self, promise: Any, value: Any = None, error: BaseException | None = None) -> None:
        """Give the one who awaits `promise` a value or an error; nothing if it doesn't wait any more."""

    @abstractmethod
    def when_idle(self, function: Callable[[], None]) -> None:
        """Call `function` once all that can go on now has."""

    @abstractmethod
    async def abandon(self, tasks: Sequence[Any]) -> None:
        """Cancel what `spawn` returned, and wait until it has ended; after an error."""

    async def gather(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[Outcome[T]]:
        """Run coroutines side by side until the last has ended, whatever the others did."""
        numbers = itertools.count()

        async def watch(coroutine: Coroutine[Any, Any, T]) -> Outcome[T]:
            try:
                return Outcome(await coroutine, None, next(numbers))
            except Exception as error:
                return Outcome(cast(T, None), error, next(numbers))

        watched = [self.spawn(watch(coroutine)) for coroutine in coroutines]
        try:
            return [await outcome for outcome in watched]
        except BaseException:
            await self.abandon(watched)
            raise

    async def each(
        self, count: int, body: Callable[[int], Coroutine[Any, Any, None]], *, block: int, window: int | None
    ) -> None:
        """Run `body` for the items 0 to `count - 1`, which begin in order.

        Args:
            count: Number of items.
            body: The steps of one item.
            block: Items that begin together, so that the same ones meet at a point.
            window: Items begun and not ended at the most (but one block in any case); None for any number.

        Raises:
            BaseException: What a body raised; the others are abandoned then.
        """
        running = 0
        tasks: dict[int, Any] = {}
        failure: BaseException | None = None
        waiting: Any = None  # for an item to end

        async def item(index: int) -> None:
            nonlocal running, failure, waiting
            _place.set((*_place.get(), index))
            try:
                await body(index)
            except BaseException as error:
                failure = failure or error
            running -= 1
            tasks.pop(index, None)
            if waiting is not None:
                promise, waiting = waiting, None
                self.settle(promise)

        async def until_at_most(most: int) -> None:
            nonlocal waiting
            while running > most and failure is None:
                waiting = self.promise()
                await waiting
            if failure is not None:
                raise failure

        try:
            start = 0
            while start < count:
                is_first = start < block < count
                end = min(start + FIRST_BLOCK, block) if is_first else min(start + block, count)
                await until_at_most(count if window is None else max(0, window - (end - start)))
                running += end - start
                for index in range(start, end):
                    tasks[index] = self.spawn(item(index))
                if is_first:
                    await self._idle_once()
                start = end
            await until_at_most(0)
        except BaseException:
            await self.abandon(list(tasks.values()))
            raise

    async def _idle_once(self) -> None:
        promise = self.promise()
        self.when_idle(lambda: self.settle(promise))
        await promise


class Point:
    """Where the values of several items are answered together.

    A full batch is answered at once. What has come together when nothing else can go on is answered too, unless a
    batch is under way, after which it will be.
    """

    def __init__(
        self,
        flow: Flow,
        answer: Callable[[list[Any]], Awaitable[Sequence[Outcome[Any]]]],
        size: int,
        first: int | None = None,
        *,
        one_at_a_time: bool = False,
    ) -> None:
        """Set up.

        Args:
            flow: The flow whose items come here.
            answer: Gives an outcome for each value, in order.
            size: Values a batch at the most.
            first: The same for the first `size` values, so that what follows begins sooner; None for no difference.
            one_at_a_time: Whether even a full batch waits for the one under way.
        """
        self._flow, self._answer, self._size = flow, answer, size
        self._first, self._first_left = first or size, size
        self._one_at_a_time = one_at_a_time
        self._waiting: list[tuple[Any, Any]] = []
        self._under_way = 0

    async def ask(self, value: Any) -> Any:
        """Wait for the answer to `value`; raises its error."""
        promise = self._flow.promise()
        self._waiting.append((value, promise))
        full = len(self._waiting) >= (self._first if self._first_left > 0 else self._size)
        if full and not (self._one_at_a_time and self._under_way):
            self._begin()
        elif len(self._waiting) == 1:
            self._flow.when_idle(self._idle)
        return await promise

    def _idle(self) -> None:
        if self._waiting and not self._under_way:
            self._begin()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        self._first_left -= len(batch)
        self._under_way += 1
        self._flow.spawn(self._run(batch))

    async def _run(self, batch: list[tuple[Any, Any]]) -> None:
        try:
            outcomes = await self._answer([value for value, _ in batch])
            for (_, promise), outcome in zip(batch, outcomes, strict=True):
                self._flow.settle(promise, outcome.value, outcome.error)
        except BaseException as error:
            for _, promise in batch:
                self._flow.settle(promise, error=error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._under_way -= 1
            self._flow.when_idle(self._idle)


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

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        super().__init__()
        self.coroutine, self.context, self.begun = coroutine, context, False
        self.waits_for: _Promise | None = None


#: Items whose calls are in flight, where nothing is said: the threads of a `ThreadPoolExecutor` by default.
DEFAULT_ITEMS = min(32, (os.cpu_count() or 1) + 4)

#: Threads for the calls of an item side by side, where nothing bounds them.
_THREADS_AN_ITEM = 8


@dataclass(frozen=True, slots=True)
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
        self._short_calls = 0
        self._ready: deque[_Task] = deque()
        self._current: _Task | None = None
        self._idle: list[Callable[[], None]] = []
        self._blocked: dict[_Task, None] = {}
        self._inbox: SimpleQueue[tuple[_Work | None, Any, BaseException | None]] = SimpleQueue()
        self._interrupt: BaseException | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Drive `coroutine`, and all that it spawns, until it ends.

        Raises:
            BaseException: What it raised. After KeyboardInterrupt, and whatever else is no Exception, calls under way
                are awaited, those that wait are dropped, and each coroutine sees the error where it stands.
        """
        main = self._start(coroutine, copy_context())
        try:
            while not main.done():
                try:
                    self._turn(main)
                except BaseException as error:
                    self._stop(error)
        finally:
            self._shut_down()
            for task in [*self._blocked, *self._ready]:
                task.coroutine.close()
        value: T = main.take()
        return value

    async def call(self, function: Callable[..., T], *args: Any, urgent: bool = False, slots: int = 1) -> T:
        """Make a blocking call in a pool thread."""
        if self._interrupt is not None:
            raise self._interrupt
        work = _Work(_Promise(), function, args, slots, () if urgent else _place.get())
        if slots:
            self._put(urgent, work.place, work)
            self._submit_what_fits()
        else:
            self._submit(work)
        result: T = await work.promise
        return result

    async def call_here(self, function: Callable[..., T], *args: Any) -> T:
        """A short call in the very context of the one that awaits it: what `function` sets there is seen afterwards."""
        assert self._current is not None
        # From a coroutine of its own: the call begins when this one waits, and has left its context.
        return await self.spawn(self.call(self._current.context.run, function, *args, slots=0))

    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> Awaitable[T]:
        """Begin a coroutine; it runs when the current one waits."""
        return self._start(coroutine, context or copy_context())

    async def abandon(self, tasks: Sequence[Any]) -> None:
        """Wait for tasks; they end by themselves, after an interrupt with it."""
        for task in tasks:
            try:
                await task
            except BaseException:
                continue

    def promise(self) -> Any:
        """A promise."""
        promise = _Promise()
        if self._interrupt is not None:
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

    def interrupt(self, error: BaseException) -> None:
        """End the run from another thread, as if `error` had been raised in the driving one."""
        self._inbox.put((None, None, error))

    def _start(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> _Task:
        task = _Task(coroutine, context)
        self._ready.append(task)
        return task

    def _wake(self, task: _Task) -> None:
        self._blocked.pop(task, None)
        task.waits_for = None
        self._ready.append(task)

    def _turn(self, main: _Task) -> None:
        """Let all that can go on do so, then wait for a call to end, unless `main` has ended."""
        while self._ready:
            self._step(self._ready.popleft())
        if main.done():
            return
        if self._idle:
            idle, self._idle = self._idle, []
            for function in idle:
                function()
        elif self._in_flight or self._short_calls:
            self._receive(block=True)
            while self._receive(block=False):
                pass
        elif not self._ready:
            raise RuntimeError("every step waits for another: this is a defect of aaflow_plugins")

    def _step(self, task: _Task) -> None:
        if self._interrupt is not None and not task.begun:
            task.coroutine.close()
            self.settle(task, error=self._interrupt)
            return
        task.begun, self._current = True, task
        try:
            waits_for: _Promise = task.context.run(task.coroutine.send, None)
        except StopIteration as stop:
            self.settle(task, stop.value)
        except BaseException as error:
            self.settle(task, error=error)
            if not isinstance(error, Exception) and self._interrupt is None:
                self._stop(error)
        else:
            if waits_for.done():
                self._ready.append(task)
            else:
                waits_for.waiter, task.waits_for = task, waits_for
                self._blocked[task] = None
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
        if is_short:
            self._short_calls += 1
        else:
            self._in_flight += work.slots
            self._at_work[work.place[:1]] += 1
        if (pool := self._pools.get(is_short)) is None:
            assert self.limit is not None
            threads = self.limit * _THREADS_AN_ITEM if self._by_item else self.limit
            pool = self._pools[is_short] = ThreadPoolExecutor(threads, thread_name_prefix=self._name)
        with interrupts_put_off():
            pool.submit(run)

    def _receive(self, *, block: bool) -> bool:
        """Take note of a call that has ended; False if none has."""
        try:
            work, value, error = self._inbox.get(block)
        except Empty:
            return False
        if work is None:
            assert error is not None
            raise error
        if work.slots:
            self._in_flight -= work.slots
            self._at_work[work.place[:1]] -= 1
            if not self._at_work[work.place[:1]]:
                del self._at_work[work.place[:1]]
        else:
            self._short_calls -= 1
        self.settle(work.promise, value, error)
        if error is not None and not isinstance(error, Exception):
            raise error
        self._submit_what_fits()
        return True

    def _shut_down(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
        if self._pools:
            await_threads(self._name)

    def _stop(self, error: BaseException) -> None:
        """Await the calls under way, then raise `error` in every coroutine that waits for something else to happen."""
        self._interrupt = error
        self._queue.clear()
        self._shut_down()
        while not self._inbox.empty():
            work, value, failed = self._inbox.get()
            if work is not None:
                self.settle(work.promise, value, failed)
        self._in_flight = self._short_calls = 0
        self._at_work.clear()
        for task in list(self._blocked):
            promise = task.waits_for
            if promise is not None and not isinstance(promise, _Task):
                self.settle(promise, error=error)


class LoopFlow(Flow):
    """Runs coroutines as tasks of the running event loop.

    An asynchronous context manager: at its exit what it began is awaited, after an error cancelled first.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__(limit)
        self._loop = asyncio.get_running_loop()
        #: Short blocking calls, at less cost each than `call`, and without slots.
        self.hops = Hops(self._loop)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> LoopFlow:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._tasks:
            if error is None:
                await asyncio.wait(self._tasks)
            else:
                await self.abandon(list(self._tasks))

    @asynccontextmanager
    async def slot(self, slots: int = 1, *, urgent: bool = False) -> Any:
        """Hold some of the `limit` slots during the block."""
        if self.limit is None or slots == 0:
            yield
            return
        turn = self._loop.create_future()
        self._put(urgent, _place.get(), (turn, slots))
        self._grant()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._release(slots)
            raise
        try:
            yield
        finally:
            self._release(slots)

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
        """Make a blocking call in the loop's default executor."""

        def run() -> T:
            try:
                return function(*args)
            except StopIteration as error:
                raise StoppedError(error) from None

        async with self.slot(slots, urgent=urgent):
            return await self._loop.run_in_executor(None, run)

    def spawn(self, coroutine: Coroutine[Any, Any, T], context: Context | None = None) -> Awaitable[T]:
        """Begin a task."""
        task = self._loop.create_task(coroutine, context=context or copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: whoever awaits the task hears of it

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
