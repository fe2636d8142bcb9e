"""Runs the steps of many items at once: bounded calls, and points where items are answered together.

The steps are coroutines, written once. A `ThreadFlow` (`thread_flow.py`) drives them in the calling thread, without an
event loop, and makes blocking calls in pool threads; a `LoopFlow` (`loop_flow.py`) runs them as tasks of the running
loop. An item goes on as soon as it can: nothing waits for another item, but for a slot or at a point.
"""

from __future__ import annotations

import heapq
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")

#: Of the first items so many begin before the others: what they meet at can begin early.
FIRST_BLOCK = 16

#: Seconds that items which have begun go ahead of the others, at the most.
HEAD_START = 0.02

#: An item by its number, within it another, and so on.
Place = tuple[int, ...]
#: The item that the current context belongs to.
place_of_item: ContextVar[Place] = ContextVar("aaflow_place", default=())


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
    async def short_call(self, seconds: float) -> bool:
        """Wait until a short call ends, for so many seconds at the most; False at once if none is under way."""

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

        As long as there is work enough without them, the first of many items go ahead: the next block begins when all
        that has begun waits for calls that are not short.

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
            place_of_item.set((*place_of_item.get(), index))
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
            start, is_outermost = 0, not place_of_item.get()
            while start < count:
                is_first = start < block < count
                end = min(start + FIRST_BLOCK, block) if is_first else min(start + block, count)
                await until_at_most(count if window is None else max(0, window - (end - start)))
                running += end - start
                for index in range(start, end):
                    tasks[index] = self.spawn(item(index))
                fills = is_outermost and window is not None and end < min(window, count)
                if is_first or fills:
                    await self._go_ahead(HEAD_START if is_outermost else 0)
                start = end
            await until_at_most(0)
        except BaseException:
            await self.abandon(list(tasks.values()))
            raise

    async def _go_ahead(self, seconds: float) -> None:
        """Wait until all that can go on has, and no short call is under way, for so many seconds at the most."""
        until, under_way = time.monotonic() + seconds, True
        while under_way:
            promise = self.promise()
            self.when_idle(partial(self.settle, promise))
            await promise
            left = until - time.monotonic()
            under_way = left > 0 and await self.short_call(left)


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
