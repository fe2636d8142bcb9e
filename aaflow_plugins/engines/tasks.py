"""Work that rank 0 hands out: the other ranks do it, and rank 0 goes on with what comes back.

What is done where is decided by who is free; what is in a task, and what becomes of its result, is not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from itertools import takewhile
from types import TracebackType
from typing import Any, Final, TypeVar

import pyarrow as pa

from aaflow_plugins.dataplane.wire import to_ipc
from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.engines.waiting import check_cancelled, wait_for
from aaflow_plugins.interrupts import interrupts_put_off, result_of
from aaflow_plugins.remote import FAILED, RemoteCall

T = TypeVar("T")
U = TypeVar("U")
_log = logging.getLogger(__name__)

#: Tasks that another rank has been given and not answered, however long they take: one at work, the other so that it
#: need not wait, as long as there are tasks for all. Otherwise it would be left with several when the others have none.
_LEAST: Final = 2
#: Of tasks that take less than this, in seconds, it is given as many as take so long together: rank 0 hears of answers
#: late where its own work has the interpreter, which changes hands every 5 ms among its threads.
_AHEAD: Final = 0.02
#: Nor is it given more of them than this, for the memory's sake.
_MOST: Final = 16

#: Before each message: the number of the task and that of its function, or what became of it, and the seconds that it
#: took. Padded, so that the Arrow data after it keeps its alignment.
_HEADER: Final = struct.Struct("<qqd40x")
_DONE: Final = 0
_FAILED: Final = -1
_END: Final = -2

Functions = Mapping[int, Callable[[pa.RecordBatch], pa.RecordBatch]]


class TaskPool:
    """Rank 0's side: what its threads want done is done by the other ranks, or here, one task at a time.

    A thread of its own does the talking. Leaving the block ends the other ranks' `serve`, unless it is left by an
    exception, which they hear of by themselves.
    """

    def __init__(self, ranks: Communicator, functions: Collection[int]) -> None:
        """Set up.

        Args:
            ranks: The ranks.
            functions: Numbers of the functions that all other ranks have; others are called here.
        """
        self._ranks, self._functions = ranks, frozenset(functions)
        self._numbers = 0
        self._given: dict[int, _Task] = {}
        #: What nobody has begun.
        self._waiting: deque[_Task] = deque()
        self._others = {rank: _Other() for rank in range(1, ranks.size)}
        #: Guards all of these.
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._ending = False
        # What is cancelled here is not talked about any more, and who waits for an answer is told.
        talk = copy_context().run
        self._thread = threading.Thread(target=talk, args=(self._talk,), name="aaflow-ranks", daemon=True)

    @property
    def slots(self) -> int:
        """Tasks that are at work, or ahead at a rank, at most."""
        return 1 + _MOST * len(self._others)

    def __enter__(self) -> TaskPool:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ending = True
        self._thread.join()
        if error is None:
            for rank in range(1, self._ranks.size):
                self._ranks.post(rank, pa.py_buffer(_HEADER.pack(0, _END, 0.0)))

    def each(
        self,
        function: int,
        elsewhere: RemoteCall,
        here: Callable[[T], U],
        items: Iterable[T],
        *,
        at_once: int | None = None,
        held: int | None = None,
        waiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[U]:
        """What `here` returns for each item, wherever that is found out, in order, with several under way.

        The thread that iterates does tasks itself while the result that comes next is not there. What another rank
        fails on, or cannot carry, is done here: the result, or the exception, is the native one. What comes before an
        item that fails, or that cannot be read, is handed on first; what comes after it is not begun any more.

        Args:
            function: The number of the function that the other ranks call.
            elsewhere: How to pack an item for them, and to unpack what comes back.
            here: Does the same in this process.
            items: What with. They are read, and results kept, as far ahead as twice what keeps all ranks at work.
            at_once: Tasks at work at once, at most; None for no bound.
            held: Items that are read, and results that are kept, at most; None for no bound.
            waiting: Entered while this thread has nothing to do but to wait.

        Raises:
            RankError: If another rank fails.
            Exception: What `here` raises, or reading the items.
        """
        if function not in self._functions:
            yield from map(here, items)
            return
        # A rank does one at a time, whatever it has ahead.
        if at_once is not None and at_once < self._ranks.size:
            held = at_once if held is None else min(held, at_once)
        window: deque[_Task] = deque()
        coming = _Coming(items)
        try:
            while True:
                while len(window) < self._reach(function, held) and not any(task.failed for task in window):
                    if not coming.look():
                        break
                    with interrupts_put_off():
                        window.append(self._put(_Task(function, elsewhere, coming.item)))
                if not window:
                    coming.end()
                    return
                while not window[0].answer.done() and (task := self._first(window)):
                    task.do(here)
                yield window.popleft().result(here, waiting)
        finally:
            for task in window:
                with interrupts_put_off(), self._lock:
                    withdrawn = self._take(task)
                if not withdrawn and not task.answer.done():
                    with suppress(Exception, asyncio.CancelledError):
                        result_of(task.answer)

    def _reach(self, function: int, held: int | None) -> int:
        """Items to be read ahead: twice what keeps all ranks at work."""
        wanted = 2 * (1 + sum(other.room(function) for other in self._others.values()))
        return wanted if held is None else min(held, wanted)

    def _put(self, task: _Task) -> _Task:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._waiting.append(task)
        return task

    def _first(self, tasks: Iterable[_Task]) -> _Task | None:
        """The first of some tasks that nobody has begun, to be done by this thread; None if others are idle."""
        with interrupts_put_off(), self._lock:
            idle = sum(not other.tasks for other in self._others.values())
            before = takewhile(lambda task: not task.failed, tasks)
            return next(filter(self._take, before), None) if len(self._waiting) > idle else None

    def _take(self, task: _Task) -> bool:
        """Whether nobody has begun a task; nobody else will."""
        waits = task in self._waiting
        if waits:
            self._waiting.remove(task)
        return waits

    # -- in the thread that talks --------------------------------------------------------------------------

    def _talk(self) -> None:
        failure: BaseException = CancelledError("the ranks are at work no more")
        try:
            # Ranks have tasks ahead, so that they need no answer at once.
            while not wait_for(self._exchange, check=self._ranks.check, hurried=False):
                pass
        except BaseException as error:
            failure = error
        with self._lock:
            self._failure = failure
            tasks = [*self._given.values(), *self._waiting]
            self._given.clear()
            self._waiting.clear()
        for task in tasks:
            task.answer.set_exception(failure)

    def _exchange(self) -> bool | None:
        """Send what is to be sent and take what has come; None if there was nothing, True if all is over."""
        if self._ending:
            return True
        check_cancelled()
        moved = None
        while (given := self._next()) is not None:
            self._give(*given)
            moved = False
        while (arrived := self._ranks.poll()) is not None:
            rank, message = arrived
            number, state, seconds, batch = _read(message)
            with self._lock:
                task = self._given.pop(number)
                self._others[rank].has_done(task, seconds)
            task.answer.set_result(None if state == _FAILED else batch)
            moved = False
        return moved

    def _next(self) -> tuple[int, int, _Task] | None:
        """A rank, and the number and the task that it is to be given; None if there is none to be given."""
        with self._lock:
            if not self._waiting:
                return None
            function = self._waiting[0].function
            plenty = len(self._waiting) > len(self._others)
            roomy = [rank for rank, other in self._others.items() if other.has_room(function, plenty=plenty)]
            if not roomy:
                return None
            rank = min(roomy, key=lambda rank: self._others[rank].load)
            self._numbers += 1
            self._given[self._numbers] = task = self._waiting.popleft()
            self._others[rank].is_given(task)
            return rank, self._numbers, task

    def _give(self, rank: int, number: int, task: _Task) -> None:
        try:
            message = _message(number, task.function, task.elsewhere.pack(task.item))
        except Exception as error:
            # As for text that UTF-8 cannot carry.
            _log.info("a task stays at rank 0: %r", error)
            with self._lock:
                del self._given[number]
                self._others[rank].has_done(task)
            task.answer.set_result(None)
        else:
            self._ranks.post(rank, message)


class _Coming:
    """Items, read up to the first that can't be.

    Attributes:
        item: The one that has been read last.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self._ended = False
        self._error: Exception | None = None
        self.item: Any = None

    def look(self) -> bool:
        """Read an item, if there is one."""
        if not self._ended:
            try:
                self.item = next(self._items)
            except StopIteration:
                self._ended = True
            except Exception as error:
                self._ended, self._error = True, error
        return not self._ended

    def end(self) -> None:
        """Raise what reading has raised."""
        if self._error is not None:
            raise self._error


class _Other:
    """What another rank has been given and not answered, and how long tasks take it."""

    def __init__(self) -> None:
        self.tasks = 0
        self._seconds = 0.0
        #: By function: the latest one.
        self._took: dict[int, float] = {}

    @property
    def load(self) -> tuple[float, int]:
        """How much it has to do."""
        return self._seconds, self.tasks

    def room(self, function: int) -> int:
        """Tasks of one kind that it may have."""
        return min(_MOST, max(_LEAST, int(_AHEAD / max(self._took.get(function, _AHEAD), 1e-6))))

    def has_room(self, function: int, *, plenty: bool) -> bool:
        """Whether it may be given another one; `plenty` of them wait, or so few that all ranks should have some."""
        if self.tasks < (_LEAST if plenty else 1):
            return True
        return self.tasks < _MOST and self._seconds + self._took.get(function, _AHEAD) <= _AHEAD

    def is_given(self, task: _Task) -> None:
        """It has one more to do."""
        task.expected = self._took.get(task.function, _AHEAD)
        self.tasks += 1
        self._seconds += task.expected

    def has_done(self, task: _Task, seconds: float | None = None) -> None:
        """It has one less to do; how long that took is known if it has answered."""
        self.tasks -= 1
        self._seconds = self._seconds - task.expected if self.tasks else 0.0
        if seconds is not None:
            self._took[task.function] = seconds


class _Task:
    """Something to be done, here or elsewhere.

    Attributes:
        function: The number of the function that the other ranks call.
        elsewhere: How to pack the item, and to unpack what comes back.
        item: What with.
        answer: What another rank has answered; None if it is still to be done here.
        failed: Whether it has been done here, and raised.
        expected: Seconds that it was expected to take the rank that was given it.
    """

    def __init__(self, function: int, elsewhere: RemoteCall, item: Any) -> None:
        self.function, self.elsewhere, self.item = function, elsewhere, item
        self.answer: Future[Any] = Future()
        self.failed = False
        self.expected = 0.0
        self._done_here = False

    def do(self, here: Callable[[Any], Any]) -> None:
        """Do it in this thread."""
        self._done_here = True
        try:
            found, error = here(self.item), None
        except BaseException as raised:
            found, error, self.failed = None, raised, True
        with interrupts_put_off():
            self.answer.set_exception(error) if error else self.answer.set_result(found)
        if error is not None and not isinstance(error, Exception):
            raise error  # of this thread, whoever's the task is

    def result(self, here: Callable[[Any], Any], waiting: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What has been found out, waited for within `waiting()`, or is now.

        Raises:
            RankError: If another rank fails.
            Exception: What `here` raises.
        """
        if self.answer.done():
            answer = self.answer.result()
        else:
            with waiting():
                answer = result_of(self.answer)
        if self._done_here:
            return answer
        result = None if answer is None else self.elsewhere.unpack(self.item, answer)
        return here(self.item) if result is None else result


def serve(ranks: Communicator, functions: Functions) -> None:
    """The other ranks' side: do what rank 0 hands out, until it says that all is done.

    Raises:
        RankError: If another rank fails.
    """
    while True:
        check_cancelled()
        _, message = wait_for(ranks.poll, check=ranks.check)
        number, function, _, batch = _read(message)
        if function == _END:
            return
        began = time.perf_counter()
        try:
            found = functions[function](batch)
            answer = _message(number, _DONE, found, time.perf_counter() - began)
        except Exception as error:
            # Rank 0 does it again, and raises what it raises.
            _log.info("rank %d: a task failed, and is left to rank 0: %r", ranks.rank, error)
            answer = pa.py_buffer(_HEADER.pack(number, _FAILED, time.perf_counter() - began))
        ranks.post(0, answer)


def _message(number: int, function: int, batch: pa.RecordBatch, seconds: float = 0.0) -> pa.Buffer:
    return to_ipc(pa.Table.from_batches([batch]), before=_HEADER.pack(number, function, seconds))


def _read(message: pa.Buffer) -> tuple[int, int, float, Any]:
    number, function, seconds = _HEADER.unpack_from(message)
    if message.size == _HEADER.size:
        return number, function, seconds, None
    return number, function, seconds, pa.ipc.open_stream(message.slice(_HEADER.size)).read_next_batch()


def digest_of(texts: Iterable[str]) -> bytes:
    """What tells texts from others; empty without any."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    for text in texts:
        digest.update(b"%d " % len(text))
        digest.update(text.encode("utf-8", "surrogatepass"))
        count += 1
    return digest.digest() if count else b""


def compare_samples(ranks: Communicator, sample: bytes) -> None:
    """Raise on all ranks if their models are not the same.

    Args:
        ranks: The ranks.
        sample: `sample_of` this rank's.

    Raises:
        RankError: Naming the first rank that fails, if not all do alike, or whose vectors are not those of rank 0.
    """
    samples = ranks.agree(sample)
    if len(samples) == 1:
        return
    for found, rank in samples.items():
        if found.startswith(FAILED):
            raise RankError(rank, found.decode())
    raise RankError(list(samples.values())[1], "gives a text other vectors than rank 0")


def lead_or_serve(
    ranks: Communicator,
    call: str,
    same: Mapping[str, object],
    source: bytes,
    calls: Mapping[int, RemoteCall],
    lead: Callable[[TaskPool], T],
) -> T | None:
    """Have rank 0 do something with the help of all others.

    Args:
        ranks: The ranks, of which there are several.
        call: What they do.
        same: What decides the result, by name: the same on all ranks.
        source: What tells this rank's data from other data; empty if it has none. That of rank 0 counts.
        calls: What rank 0 may have done, by number; what not all ranks have stays at rank 0.
        lead: What rank 0 does.

    Returns:
        At rank 0 what `lead` returns, None elsewhere, once all are done.

    Raises:
        RankError: If another rank fails, does something else, has other data, or gives other samples.
        BaseException: What `lead` raises.
    """
    with ranks.together(call, **same):
        for other, rank in ranks.agree(source).items():
            if other and rank:
                raise RankError(rank, "has other data than rank 0: give all ranks the same, or none to all but rank 0")
        # What one rank keeps to itself, as somebody listens there, is nothing that it could be given.
        told = ranks.agree(json.dumps(sorted(calls)).encode())
        common = set.intersection(*(set(json.loads(numbers)) for numbers in told))
        calls = {number: each for number, each in calls.items() if number in common}
        for each in calls.values():
            if each.sample is not None:
                compare_samples(ranks, each.sample())
        if ranks.rank:
            serve(ranks, {number: each.function for number, each in calls.items()})
            return None
        with TaskPool(ranks, calls) as pool:
            return lead(pool)
