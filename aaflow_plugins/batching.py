"""Joins single calls that are made at the same time into one call for many items.

Agents and request handlers each make one call at a time. Where many of them run at once, their calls of the same
callee are answered together:

- A call that finds no other in flight is made at once, by its caller, as it would be without this module.
- Any other waits for more of its kind: at most for the window, at most until `max_batch` have come, and no longer than
  calls are in flight. Then one call is made for all of them, and each caller gets its own result.
- If that call fails, or is for one caller only, each caller makes its own single call, and gets its own error.
- A caller that is cancelled or interrupted leaves, and the others go on. When the last one leaves, the joint call is
  cancelled.

Tasks are joined with tasks of their own event loop, since asynchronous clients belong to a loop, and threads with
threads. A joint call runs in an empty context: no caller's context variables would be right for all.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aaflow_plugins.interrupts import result_of

Item = TypeVar("Item")
Result = TypeVar("Result")

#: What a call may be joined with: the callee and the settings of the call.
Key = tuple[Hashable, ...]

_logger = logging.getLogger(__name__)

#: In place of a result: the joint call failed, make your own.
_ALONE: Any = object()

#: In place of a result: make the call, for yourself and for all who wait for the same.
_YOURS: Any = object()

#: The calls inside which this code runs. What a call makes of itself is not joined with it: it would wait for itself.
_inside: ContextVar[frozenset[Key]] = ContextVar("aaflow_joined_calls", default=frozenset())


@dataclass(eq=False)
class _Group:
    """Calls in flight that may be joined. It lives as long as there are any.

    Attributes:
        name: Where it is found: the event loop, or None for threads, and the key.
        in_flight: Single calls and batches, the open batch among them.
        open: The batch that takes in calls.
        shared: Calls by item, of those whose result may be shared.
    """

    name: Any
    in_flight: int = 0
    open: _Batch | None = None
    shared: dict[Any, _Call] = field(default_factory=dict)


@dataclass(eq=False)
class _Call:
    """One item, and the answers (futures of either kind) that callers wait for."""

    group: _Group
    item: Any
    share: bool = False
    batch: _Batch | None = None
    answers: list[Any] = field(default_factory=list)

    def wanted(self) -> bool:
        return any(not answer.done() for answer in self.answers)

    def forget(self) -> None:
        """Let nobody share it any more."""
        if self.share and self.group.shared.get(self.item) is self:
            del self.group.shared[self.item]


@dataclass(eq=False)
class _Batch:
    """Calls that one joint call answers, and the event (of either kind) at which it is made."""

    group: _Group
    closing: Any
    calls: list[_Call] = field(default_factory=list)
    closed: bool = False
    task: asyncio.Task[Any] | None = None


@dataclass(eq=False)
class _Ticket:
    """A caller's place: the answer to wait for, or None to make the call; the batch that it has to lead."""

    call: _Call
    answer: Any = None
    leads: _Batch | None = None


class Batching:
    """Joins concurrent calls.

    Attributes:
        window: Seconds that a call waits for others at the most.
        max_batch: Items a joint call at the most.
        deduplicate: Whether identical concurrent calls of language models are made once. (Identical requests for
            embeddings always are.)
    """

    def __init__(self, window: float = 0.002, max_batch: int = 64, deduplicate: bool = False) -> None:
        """Set up.

        Raises:
            ValueError: If `window` is negative or `max_batch` less than 1.
        """
        if window < 0:
            raise ValueError(f"window must not be negative, but is {window}")
        if max_batch < 1:
            raise ValueError(f"max_batch must be at least 1, not {max_batch}")
        self.window = window
        self.max_batch = max_batch
        self.deduplicate = deduplicate
        self._lock = threading.Lock()
        self._groups: dict[Any, _Group] = {}

    def call(
        self,
        key: Key,
        item: Item,
        one: Callable[[Item], Result],
        many: Callable[[list[Item]], Sequence[Result]] | None = None,
        *,
        share: bool = False,
    ) -> Result:
        """Make a blocking call, joined with those of the same key that other threads make.

        In a thread that runs an event loop the call is made alone: a loop must not wait for other threads.

        Args:
            key: The callee and the settings of the call. Nothing is kept when no call is in flight: `id(callee)`
                names the callee well enough.
            item: What the call is about; hashable if `share`.
            one: The single call.
            many: The call for many items: a result an item, in their order. None if there is no such call.
            share: Whether concurrent calls with equal items are made once. All get the same object.

        Raises:
            Exception: What `one` raises.
        """
        if key in _inside.get() or asyncio._get_running_loop() is not None:
            return one(item)
        ticket = self._admit((None, key), item, many is not None, share, Future, threading.Event)
        answer = _YOURS
        if ticket.answer is not None:
            try:
                if ticket.leads is not None and many is not None:
                    self._lead(ticket.leads, _inside.get() | {key}, many)
                answer = result_of(ticket.answer)
            except BaseException:
                self._leave(ticket)
                raise
        result: Result
        if answer is not _ALONE and answer is not _YOURS:
            result = answer
            return result
        call = ticket.call if answer is _YOURS else self._again(ticket.call)
        token = _inside.set(_inside.get() | {key})
        try:
            result = one(item)
        except BaseException as error:
            self._failed(call, error)
            raise
        finally:
            _inside.reset(token)
        self._finish(call.group, [call], [result])
        return result

    async def acall(
        self,
        key: Key,
        item: Item,
        one: Callable[[Item], Awaitable[Result]],
        many: Callable[[list[Item]], Awaitable[Sequence[Result]]] | None = None,
        *,
        share: bool = False,
    ) -> Result:
        """Make a call, joined with those of the same key that other tasks of the running loop make.

        Args:
            key: As for `call`.
            item: As for `call`.
            one: The single call.
            many: The call for many items, or None.
            share: As for `call`.

        Raises:
            Exception: What `one` raises.
            asyncio.CancelledError: If the caller's task is cancelled.
        """
        if key in _inside.get():
            return await one(item)
        loop = asyncio.get_running_loop()
        ticket = self._admit((loop, key), item, many is not None, share, loop.create_future, asyncio.Event)
        answer = _YOURS
        if ticket.answer is not None:
            if (batch := ticket.leads) is not None and many is not None:
                batch.task = loop.create_task(self._together(batch, _inside.get() | {key}, many), context=Context())
                # Not in the coroutine, which does nothing if it is cancelled before it begins.
                batch.task.add_done_callback(lambda task: self._settle(batch, _results(task)))
            try:
                answer = await ticket.answer
            except asyncio.CancelledError:
                self._leave(ticket)
                raise
        result: Result
        if answer is not _ALONE and answer is not _YOURS:
            result = answer
            return result
        call = ticket.call if answer is _YOURS else self._again(ticket.call)
        token = _inside.set(_inside.get() | {key})
        try:
            result = await one(item)
        except BaseException as error:
            self._failed(call, error)
            raise
        finally:
            _inside.reset(token)
        self._finish(call.group, [call], [result])
        return result

    def _admit(
        self, name: Any, item: Any, joins: bool, share: bool, new_answer: Callable[[], Any], new_event: Any
    ) -> _Ticket:
        """Find a place for a call: on its own, in the batch that is open, or with another that asks for the same."""
        with self._lock:
            group = self._groups.setdefault(name, _Group(name))
            if share and (same := group.shared.get(item)) is not None:
                same.answers.append(new_answer())
                return _Ticket(same, same.answers[-1])
            call = _Call(group, item, share)
            if share:
                group.shared[item] = call
            if not joins or not group.in_flight:
                group.in_flight += 1
                return _Ticket(call)
            call.answers.append(new_answer())
            leads = None
            if group.open is None:
                group.open = leads = _Batch(group, new_event())
                group.in_flight += 1
            call.batch = group.open
            call.batch.calls.append(call)
            if len(call.batch.calls) >= self.max_batch:
                call.batch.closing.set()
                group.open = None
            return _Ticket(call, call.answers[-1], leads)

    def _lead(self, batch: _Batch, inside: frozenset[Key], many: Callable[[list[Any]], Sequence[Any]]) -> None:
        """Wait for the batch to close, and answer it in this thread."""
        results: Sequence[Any] | None = None
        try:
            batch.closing.wait(self.window)
            items = self._close(batch)
            if len(items) > 1:
                context = Context()
                context.run(_inside.set, inside)
                results = context.run(many, items)
        except Exception:
            _logger.debug("a joint call failed; its calls are made one by one", exc_info=True)
        finally:
            self._settle(batch, results)

    async def _together(
        self, batch: _Batch, inside: frozenset[Key], many: Callable[[list[Any]], Awaitable[Sequence[Any]]]
    ) -> Sequence[Any] | None:
        """Wait for the batch to close, and answer it in this task."""
        _inside.set(inside)
        timer = asyncio.get_running_loop().call_later(self.window, batch.closing.set)
        try:
            await batch.closing.wait()
        finally:
            timer.cancel()
        items = self._close(batch)
        return await many(items) if len(items) > 1 else None

    def _close(self, batch: _Batch) -> list[Any]:
        """Let nobody in any more and leave out those who left; the items to answer."""
        with self._lock:
            if not batch.closed:
                batch.closed = True
                if batch.group.open is batch:
                    batch.group.open = None
                for call in batch.calls:
                    if not call.wanted():
                        call.forget()
                batch.calls = [call for call in batch.calls if call.wanted()]
            return [call.item for call in batch.calls]

    def _settle(self, batch: _Batch, results: Sequence[Any] | None) -> None:
        """Hand out what the joint call gave; None if there was none, or none that succeeded."""
        items = self._close(batch)
        if results is None and len(items) == 1:
            self._pass_on(batch.calls[0])
            return
        if results is not None and len(results) != len(items):
            _logger.debug("a joint call gave %d results for %d items: made one by one", len(results), len(items))
            results = None
        self._finish(batch.group, batch.calls, [_ALONE] * len(items) if results is None else results)

    def _finish(self, group: _Group, calls: Sequence[_Call], results: Sequence[Any]) -> None:
        """Answer all who wait for a call, or for the calls of a batch, that is no longer in flight."""
        with self._lock:
            for call, result in zip(calls, results, strict=True):
                call.forget()
                for answer in call.answers:
                    if not answer.done():
                        answer.set_result(result)
            group.in_flight -= 1
            if group.open is not None and group.in_flight == 1:
                group.open.closing.set()
            if not group.in_flight:
                del self._groups[group.name]

    def _failed(self, call: _Call, error: BaseException) -> None:
        """The single call of one who makes it for others too has failed, or its caller was stopped."""
        if isinstance(error, Exception):
            self._finish(call.group, [call], [_ALONE])
        else:
            self._pass_on(call)

    def _pass_on(self, call: _Call) -> None:
        """Let the first who waits make the call, for all who do."""
        with self._lock:
            for answer in call.answers:
                if not answer.done():
                    answer.set_result(_YOURS)
                    return
        self._finish(call.group, [call], [_ALONE])

    def _again(self, call: _Call) -> _Call:
        """A call of its own for one whose joint call failed."""
        with self._lock:
            group = self._groups.setdefault(call.group.name, _Group(call.group.name))
            group.in_flight += 1
            return _Call(group, call.item)

    def _leave(self, ticket: _Ticket) -> None:
        """A caller was cancelled or interrupted while it waited."""
        call, answer = ticket.call, ticket.answer
        with self._lock:
            left = answer.cancel() or answer.cancelled()
        if not left and answer.result() is _YOURS:
            self._pass_on(call)
        batch = call.batch
        if batch is not None and batch.task is not None and not any(each.wanted() for each in batch.calls):
            batch.task.cancel()


_scopes: tuple[Batching, ...] = ()
_entering = threading.Lock()


@contextmanager
def batching(window: float = 0.002, max_batch: int = 64, deduplicate: bool = False) -> Iterator[Batching]:
    """Join concurrent single calls of accelerated objects, in the whole process, until the block is left.

    All tasks and threads take part, also those that were there before: a server enters the block once. Blocks may
    be nested; the one entered last counts. Calls that are in flight when the block is left end as they began.

    Args:
        window: Seconds that a call waits for others at the most. A call alone never waits.
        max_batch: Items a joint call at the most.
        deduplicate: Whether identical concurrent calls of language models are made once.

    Raises:
        ValueError: If `window` is negative or `max_batch` less than 1.
    """
    global _scopes
    scope = Batching(window, max_batch, deduplicate)
    with _entering:
        _scopes = (*_scopes, scope)
    try:
        yield scope
    finally:
        with _entering:
            _scopes = tuple(each for each in _scopes if each is not scope)


def active() -> Batching | None:
    """The batching of the block entered last; None outside of all blocks."""
    scopes = _scopes
    return scopes[-1] if scopes else None


def _results(task: asyncio.Task[Sequence[Any] | None]) -> Sequence[Any] | None:
    if task.cancelled():
        return None
    if error := task.exception():
        _logger.debug("a joint call failed; its calls are made one by one", exc_info=error)
        return None
    return task.result()
