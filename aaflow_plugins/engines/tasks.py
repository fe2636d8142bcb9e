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
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import copy_context
from itertools import islice
from types import TracebackType
from typing import Any, Final, TypeVar

import pyarrow as pa

from aaflow_plugins.dataplane.wire import to_ipc
from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.engines.waiting import check_cancelled, wait_for
from aaflow_plugins.interrupts import interrupts_put_off, result_of
from aaflow_plugins.remote import FAILED, RemoteCall

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: Tasks that another rank has been given and not answered: one at work, the other so that it need not wait. With more
#: of them it would be left with several at the end, when the others have none.
TASKS_A_RANK: Final = 2

#: Before each message: the number of the task and that of its function, or what became of it. Padded, so that the Arrow
#: data after it keeps its alignment.
_HEADER: Final = struct.Struct("<qq48x")
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
        #: Tasks that each rank may still be given; rank 0 is this one.
        self._free = {rank: TASKS_A_RANK if rank else 1 for rank in range(ranks.size)}
        #: Guards all of these, and tells of changes.
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._ending = False
        # What is cancelled here is not talked about any more, and who waits for an answer is told.
        talk = copy_context().run
        self._thread = threading.Thread(target=talk, args=(self._talk,), name="aaflow-ranks", daemon=True)

    @property
    def slots(self) -> int:
        """Tasks at once."""
        return 1 + TASKS_A_RANK * (self._ranks.size - 1)

    def __enter__(self) -> TaskPool:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ending = True
        self._thread.join()
        if error is None:
            for rank in range(1, self._ranks.size):
                self._ranks.post(rank, pa.py_buffer(_HEADER.pack(0, _END)))

    def do(self, function: int, elsewhere: RemoteCall, here: Callable[[Any], Any], item: Any) -> Any:
        """What `here(item)` returns, wherever that is found out.

        What another rank fails on, or cannot carry, is done here: the result, or the exception, is the native one. Not
        for the main thread: an interrupt may come while it has the lock.

        Args:
            function: The number of the function that the other ranks call.
            elsewhere: How to pack the item for them, and to unpack what comes back.
            here: Does the same in this process.
            item: What with.

        Raises:
            RankError: If another rank fails.
            Exception: What `here` raises.
        """
        if function not in self._functions:
            return here(item)
        task = self._put(_Task(function, elsewhere, item))
        with self._changed:
            # This rank comes last, as it has other things to do.
            self._changed.wait_for(lambda: task not in self._waiting or (self._free[0] and not self._roomiest()))
            if self._take(task):
                task.answer.set_result(None)

        def in_turn(item: Any) -> Any:
            with self._changed:
                self._changed.wait_for(lambda: self._free[0])
                self._free[0] -= 1
            try:
                return here(item)
            finally:
                with self._changed:
                    self._release(0)

        return task.result(in_turn)

    def each(
        self, function: int, elsewhere: RemoteCall, here: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """What `do` returns for each item, in order, with several under way.

        The thread that iterates does tasks itself while the result that comes next is not there. Items are read, and
        results kept, as far ahead as twice the slots.
        """
        if function not in self._functions:
            yield from map(here, items)
            return
        window: deque[_Task] = deque()
        coming = iter(items)
        try:
            while True:
                for item in islice(coming, 2 * self.slots - len(window)):
                    with interrupts_put_off():
                        window.append(self._put(_Task(function, elsewhere, item)))
                if not window:
                    return
                while not window[0].answer.done() and (task := self._first(window)):
                    task.do(here)
                yield window.popleft().result(here)
        finally:
            for task in window:
                with interrupts_put_off(), self._changed:
                    withdrawn = self._take(task)
                if not withdrawn and not task.answer.done():
                    with suppress(Exception, asyncio.CancelledError):
                        result_of(task.answer)

    def _put(self, task: _Task) -> _Task:
        with self._changed:
            if self._failure is not None:
                raise self._failure
            self._waiting.append(task)
        return task

    def _first(self, tasks: Iterable[_Task]) -> _Task | None:
        """The first of some tasks that nobody has begun, to be done by this thread; None if others are idle."""
        with interrupts_put_off(), self._changed:
            idle = sum(more == TASKS_A_RANK for rank, more in self._free.items() if rank)
            return next(filter(self._take, tasks), None) if len(self._waiting) > idle else None

    def _take(self, task: _Task) -> bool:
        """Whether nobody has begun a task; nobody else will."""
        waits = task in self._waiting
        if waits:
            self._waiting.remove(task)
        return waits

    def _roomiest(self) -> int:
        """Of the other ranks that may be given a task the one with the least to do; 0 if there is none."""
        rank = max(range(1, self._ranks.size), key=self._free.__getitem__, default=0)
        return rank if self._free[rank] else 0

    def _release(self, rank: int) -> None:
        self._free[rank] += 1
        self._changed.notify_all()

    # -- in the thread that talks --------------------------------------------------------------------------

    def _talk(self) -> None:
        failure: BaseException = CancelledError("the ranks are at work no more")
        try:
            while not wait_for(self._exchange, check=self._ranks.check):
                pass
        except BaseException as error:
            failure = error
        with self._changed:
            self._failure = failure
            tasks = [*self._given.values(), *self._waiting]
            self._given.clear()
            self._waiting.clear()
            self._changed.notify_all()
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
            number, state, batch = _read(message)
            with self._changed:
                task = self._given.pop(number)
                self._release(rank)
            task.answer.set_result(None if state == _FAILED else batch)
            moved = False
        return moved

    def _next(self) -> tuple[int, int, _Task] | None:
        """A rank, and the number and the task that it is to be given; None if there is none to be given."""
        with self._changed:
            rank = self._roomiest()
            if not (rank and self._waiting):
                return None
            self._free[rank] -= 1
            self._numbers += 1
            self._given[self._numbers] = task = self._waiting.popleft()
            self._changed.notify_all()
            return rank, self._numbers, task

    def _give(self, rank: int, number: int, task: _Task) -> None:
        try:
            message = _message(number, task.function, task.elsewhere.pack(task.item))
        except Exception as error:
            # As for text that UTF-8 cannot carry.
            _log.info("a task stays at rank 0: %r", error)
            with self._changed:
                del self._given[number]
                self._release(rank)
            task.answer.set_result(None)
        else:
            self._ranks.post(rank, message)


class _Task:
    """Something to be done, here or elsewhere.

    Attributes:
        function: The number of the function that the other ranks call.
        elsewhere: How to pack the item, and to unpack what comes back.
        item: What with.
        answer: What another rank has answered; None if it is still to be done here.
    """

    def __init__(self, function: int, elsewhere: RemoteCall, item: Any) -> None:
        self.function, self.elsewhere, self.item = function, elsewhere, item
        self.answer: Future[Any] = Future()
        self._done_here = False

    def do(self, here: Callable[[Any], Any]) -> None:
        """Do it in this thread."""
        self._done_here = True
        try:
            found, error = here(self.item), None
        except BaseException as raised:
            found, error = None, raised
        with interrupts_put_off():
            self.answer.set_exception(error) if error else self.answer.set_result(found)
        if error is not None and not isinstance(error, Exception):
            raise error  # of this thread, whoever's the task is

    def result(self, here: Callable[[Any], Any]) -> Any:
        """What has been found out, waited for, or is now.

        Raises:
            RankError: If another rank fails.
            Exception: What `here` raises.
        """
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
        number, function, batch = _read(message)
        if function == _END:
            return
        try:
            answer = _message(number, _DONE, functions[function](batch))
        except Exception as error:
            # Rank 0 does it again, and raises what it raises.
            _log.info("rank %d: a task failed, and is left to rank 0: %r", ranks.rank, error)
            answer = pa.py_buffer(_HEADER.pack(number, _FAILED))
        ranks.post(0, answer)


def _message(number: int, function: int, batch: pa.RecordBatch) -> pa.Buffer:
    return to_ipc(pa.Table.from_batches([batch]), before=_HEADER.pack(number, function))


def _read(message: pa.Buffer) -> tuple[int, int, Any]:
    number, function = _HEADER.unpack_from(message)
    if message.size == _HEADER.size:
        return number, function, None
    return number, function, pa.ipc.open_stream(message.slice(_HEADER.size)).read_next_batch()


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
    ranks: Communicator, fingerprint: str, source: bytes, calls: Mapping[int, RemoteCall], lead: Callable[[TaskPool], T]
) -> T | None:
    """Have rank 0 do something with the help of all others.

    Args:
        ranks: The ranks, of which there are several.
        fingerprint: What decides the result: the same on all ranks.
        source: What tells this rank's data from other data; empty if it has none. That of rank 0 counts.
        calls: What rank 0 may have done, by number; what not all ranks have stays at rank 0.
        lead: What rank 0 does.

    Returns:
        At rank 0 what `lead` returns, None elsewhere, once all are done.

    Raises:
        RankError: If another rank fails, has another fingerprint, other data, or gives other samples.
        BaseException: What `lead` raises.
    """
    with ranks.together(fingerprint):
        for other, rank in ranks.agree(source).items():
            if other and rank:
                raise RankError(rank, "has other data than rank 0: give all ranks the same, or none to all but rank 0")
        # What one rank keeps to itself, as somebody listens there, is nothing that it could be given.
        told = ranks.agree(json.dumps(sorted(calls)).encode())
        common = set.intersection(*(set(json.loads(numbers)) for numbers in told))
        calls = {number: call for number, call in calls.items() if number in common}
        for call in calls.values():
            if call.sample is not None:
                compare_samples(ranks, call.sample())
        if ranks.rank:
            serve(ranks, {number: call.function for number, call in calls.items()})
            return None
        with TaskPool(ranks, calls) as pool:
            return lead(pool)
