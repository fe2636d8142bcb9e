"""Work that rank 0 hands out: the other ranks do it, and rank 0 goes on with what comes back.

What is done where is decided by who is free; what is in a task, and what becomes of its result, is not.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, TypeVar

import pyarrow as pa

from aaflow_plugins.dataplane.wire import to_ipc
from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.engines.waiting import wait_for
from aaflow_plugins.interrupts import interrupts_put_off, result_of
from aaflow_plugins.remote import RemoteCall

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: Tasks that another rank has been given and not answered: one at work, the others so that it need not wait.
TASKS_A_RANK: Final = 3

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

    def __init__(self, ranks: Communicator) -> None:
        self._ranks = ranks
        self._numbers = 0
        self._given: dict[int, Future[pa.RecordBatch | None]] = {}
        self._to_send: deque[tuple[int, pa.Buffer]] = deque()
        #: Tasks that each rank may still be given; rank 0 is this one.
        self._free = {rank: TASKS_A_RANK if rank else 1 for rank in range(ranks.size)}
        self._freed = threading.Condition()
        self._failure: BaseException | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._talk, name="aaflow-ranks", daemon=True)

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

        What another rank fails on, or cannot carry, is done here: the result, or the exception, is the native one.

        Args:
            function: The number of the function that the other ranks call.
            elsewhere: How to pack the item for them, and to unpack what comes back.
            here: Does the same in this process.
            item: What with.

        Raises:
            RankError: If another rank fails.
            Exception: What `here` raises.
        """
        rank = self._place()
        if rank:
            try:
                answer = self._hand_out(rank, function, elsewhere.pack(item)).result()
                result = None if answer is None else elsewhere.unpack(item, answer)
            except UnicodeEncodeError:  # text that UTF-8 cannot carry stays here
                result = None
            finally:
                self._release(rank)
            if result is not None:
                return result
            rank = self._place(here=True)
        try:
            return here(item)
        finally:
            self._release(rank)

    def each(
        self, function: int, elsewhere: RemoteCall, here: Callable[[Any], Any], items: Iterable[Any]
    ) -> Iterator[Any]:
        """What `do` returns for each item, in order, with several under way.

        Items are read, and results kept, as far ahead as twice the slots.
        """
        window: deque[Future[Any]] = deque()
        threads = ThreadPoolExecutor(self.slots, thread_name_prefix="aaflow-task")
        try:
            for item in items:
                run = copy_context().run
                with interrupts_put_off():
                    window.append(threads.submit(run, self.do, function, elsewhere, here, item))
                if len(window) >= 2 * self.slots:
                    yield result_of(window.popleft())
            while window:
                yield result_of(window.popleft())
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def _place(self, *, here: bool = False) -> int:
        """The rank that is to do the next task: of those that may be given one, the one with the least to do."""

        def free() -> list[int]:
            return [rank for rank, more in self._free.items() if more and (rank == 0 or not here)]

        with self._freed:
            self._freed.wait_for(free)
            # Rank 0 comes last, as it has other things to do.
            rank = max(free(), key=lambda each: (each > 0, self._free[each]))
            self._free[rank] -= 1
            return rank

    def _release(self, rank: int) -> None:
        with self._freed:
            self._free[rank] += 1
            self._freed.notify_all()

    def _hand_out(self, rank: int, function: int, batch: pa.RecordBatch) -> Future[pa.RecordBatch | None]:
        future: Future[pa.RecordBatch | None] = Future()
        with self._freed:
            if self._failure is not None:
                raise self._failure
            self._numbers += 1
            self._given[self._numbers] = future
            self._to_send.append((rank, _message(self._numbers, function, batch)))
        return future

    # -- in the thread that talks --------------------------------------------------------------------------

    def _talk(self) -> None:
        failure: BaseException = CancelledError("the ranks are at work no more")
        try:
            while not wait_for(self._exchange, check=self._ranks.check):
                pass
        except BaseException as error:
            failure = error
        with self._freed:
            self._failure = failure
            given, self._given = list(self._given.values()), {}
        for future in given:
            future.set_exception(failure)

    def _exchange(self) -> bool | None:
        """Send what is to be sent and take what has come; None if there was nothing, True if all is over."""
        if self._ending:
            return True
        moved = None
        while self._to_send:
            self._ranks.post(*self._to_send.popleft())
            moved = False
        while (arrived := self._ranks.poll()) is not None:
            number, state, batch = _read(arrived[1])
            with self._freed:
                future = self._given.pop(number)
            future.set_result(None if state == _FAILED else batch)
            moved = False
        return moved


def serve(ranks: Communicator, functions: Functions) -> None:
    """The other ranks' side: do what rank 0 hands out, until it says that all is done.

    Raises:
        RankError: If another rank fails.
    """
    while True:
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


def lead_or_serve(
    ranks: Communicator, fingerprint: str, source: bytes, calls: Mapping[int, RemoteCall], lead: Callable[[TaskPool], T]
) -> T | None:
    """Have rank 0 do something with the help of all others.

    Args:
        ranks: The ranks, of which there are several.
        fingerprint: What decides the result: the same on all ranks.
        source: What tells this rank's data from other data; empty if it has none. That of rank 0 counts.
        calls: What rank 0 may have done, by number; alike on all ranks.
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
        for call in calls.values():
            if call.sample is not None:
                ranks.compare(hashlib.blake2b(call.sample()).digest(), "gives a text other vectors than rank 0")
        if ranks.rank:
            serve(ranks, {number: call.function for number, call in calls.items()})
            return None
        with TaskPool(ranks) as pool:
            return lead(pool)
