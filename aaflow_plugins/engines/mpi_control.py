"""Small messages between MPI ranks: what they agree upon, and word of failures.

Nobody waits here without looking for bad news: a wait is a loop that asks MPI whether there is something, so that a
rank that fails, or ends, is heard of wherever the others are. Only when all have agreed that they are ready is data
moved by calls that block.
"""

from __future__ import annotations

import asyncio
import struct
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import numpy as np
from mpi4py import MPI

from aaflow_plugins.engines.communicator import RankError
from aaflow_plugins.engines.launching import is_child
from aaflow_plugins.engines.waiting import check_cancelled, is_cancelled, wait_for

#: A notice: whom it is about, whether that rank has left for good, and its latest block. Text follows.
_NOTICE: Final = struct.Struct("<q?q")
_NOTICE_TAG: Final = 0
_CANCELLED: Final = "was cancelled"
#: One of the values agreed upon: the first rank that has it, and its length.
_VALUE: Final = struct.Struct("<qq")
#: Values of one block never meet those of another, of which some may be left over from a failure.
_BLOCK_TAGS: Final = 16_000

#: Seconds that a rank which ends with an exception gives the others to do so themselves.
_GRACE: Final = 2.0


class Control:
    """The messages of one communicator, which has no other use."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._block = 0
        #: The block in which rank 0 was asked to end it.
        self._asked = 0
        self._notices: list[tuple[int, bool, int, str]] = []
        #: Messages that MPI still reads from.
        self._sent: list[tuple[MPI.Request, Any]] = []

    def begin(self) -> None:
        """A block of calls begins; ranks count them alike."""
        self._block += 1

    def agree(self, value: bytes, *, binding: bool = False) -> dict[bytes, int]:
        """The values that the ranks have come with, each with the first rank that has it.

        Args:
            value: This rank's.
            binding: Whether data is moved next, by calls that block. Then no rank leaves that may have agreed: one that
                is cancelled does so before its value is known, rank 0 before it has told anybody.
        """
        check_cancelled()
        if self._comm.rank:
            self._deliver(value, 0, self.check)
            return _parted(self._receive(0, self._check_asking if binding else self._check_leaving))
        found = {value: 0}
        for other in range(1, self._comm.size):
            found.setdefault(self._receive(other, self._check_leaving), other)
        joined = _joined(found)
        for other in range(1, self._comm.size):
            self._deliver(joined, other)
        return found

    def check(self) -> None:
        """Raise if another rank has failed in this block, or left before it."""
        while (message := self._comm.Improbe(MPI.ANY_SOURCE, _NOTICE_TAG, status := MPI.Status())) is not None:
            held = _read(message, status)
            text = held[_NOTICE.size :].decode("utf-8", "replace")
            self._notices.append((*_NOTICE.unpack_from(held), text))
        self._notices = [each for each in self._notices if each[1] or each[2] >= self._block]
        for rank, left, block, text in self._notices:
            if block < self._block if left else block == self._block:
                raise RankError(rank, text)

    def _check_leaving(self) -> None:
        check_cancelled()
        self.check()

    def _check_asking(self) -> None:
        """Ask rank 0, once, to have all ranks leave if this one is cancelled: it tells them, or they have agreed."""
        self.check()
        if is_cancelled() and self._asked < self._block:
            self._asked = self._block
            self._send(self._notice(self._comm.rank, _CANCELLED), 0, _NOTICE_TAG)

    def fail(self, error: BaseException) -> None:
        """Tell the others of an error; rank 0 passes on what it was told, and what all know is not told again."""
        if isinstance(error, RankError):
            if self._comm.rank == 0:
                self._tell_all(error.rank, error.what)
            return
        if isinstance(error, asyncio.CancelledError):
            self._tell_all(self._comm.rank, _CANCELLED)
            return
        what = "was interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self._tell_all(self._comm.rank, f"{what}: {type(error).__name__}: {error}")

    def leave(self) -> None:
        """Tell those who may still wait for this rank, which ends in peace, that it comes to no further block."""
        if not is_child() and not MPI.Is_finalized():
            for other in [0] if self._comm.rank else range(1, self._comm.size):
                self._send(_NOTICE.pack(self._comm.rank, True, self._block) + b"has ended", other, _NOTICE_TAG)

    def post(self, rank: int, message: Any) -> None:
        """Send a message; what it is made of is kept until it is on its way."""
        self._send(message, rank, self._message_tag)

    def poll(self) -> tuple[int, Any] | None:
        """The next message that some rank has posted in this block, and the rank; None if there is none yet."""
        status = MPI.Status()
        message = self._comm.Improbe(MPI.ANY_SOURCE, self._message_tag, status)
        if message is None:
            return None
        held = np.empty(status.Get_count(MPI.BYTE), np.uint8)
        message.Recv([held, MPI.BYTE])
        return status.Get_source(), held

    def _tell_all(self, rank: int, what: str) -> None:
        notice = self._notice(rank, what)
        for other in range(self._comm.size):
            # A rank that is cancelled may have asked, and wait for an answer.
            if other != self._comm.rank and (other != rank or what == _CANCELLED):
                self._send(notice, other, _NOTICE_TAG)

    def _notice(self, rank: int, what: str) -> bytes:
        return _NOTICE.pack(rank, False, self._block) + what.encode("utf-8", "replace")

    def _send(self, value: Any, rank: int, tag: int) -> MPI.Request:
        request = self._comm.Isend([value, MPI.BYTE], rank, tag)
        self._sent = [(each, held) for each, held in self._sent if not each.Test()]
        self._sent.append((request, value))
        return request

    def _deliver(self, value: bytes, rank: int, check: Callable[[], None] = lambda: None) -> None:
        request = self._send(value, rank, self._value_tag)
        wait_for(lambda: request.Test() or None, f"rank {rank}", check)

    def _receive(self, rank: int, check: Callable[[], None]) -> bytes:
        status = MPI.Status()
        message = wait_for(lambda: self._comm.Improbe(rank, self._value_tag, status), f"rank {rank}", check)
        return _read(message, status)

    @property
    def _value_tag(self) -> int:
        return 1 + self._block % _BLOCK_TAGS * 2

    @property
    def _message_tag(self) -> int:
        return self._value_tag + 1


def die_together(comm: MPI.Comm) -> None:
    """Have the job end when an exception ends one of its ranks, as the others would wait for it without end.

    If all of them end that way, each by itself, nothing is done: each has shown its own exception.
    """
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        shown(kind, error, trace)
        if is_child() or MPI.Is_finalized():
            return
        sys.stderr.flush()
        # One after the other: launchers that are asked to end a job twice at once may crash, or never end.
        everybody, until = comm.Ibarrier(), time.monotonic() + _GRACE + min(comm.rank, _GRACE)
        while not everybody.Test():
            if time.monotonic() > until:
                comm.Abort(1)
            time.sleep(0.01)

    sys.excepthook = hook


def _read(message: Any, status: MPI.Status) -> bytes:
    held = bytearray(status.Get_count(MPI.BYTE))
    message.Recv([held, MPI.BYTE])
    return bytes(held)


def _joined(values: dict[bytes, int]) -> bytes:
    return b"".join(_VALUE.pack(rank, len(value)) + value for value, rank in values.items())


def _parted(joined: bytes) -> dict[bytes, int]:
    values, start = {}, 0
    while start < len(joined):
        rank, size = _VALUE.unpack_from(joined, start)
        start += _VALUE.size + size
        values[joined[start - size : start]] = rank
    return values
