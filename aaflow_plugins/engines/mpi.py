"""Ranks of an MPI job: Arrow buffers go from process to process as they are, and nothing is pickled."""

from __future__ import annotations

import atexit
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mpi4py import MPI

from aaflow_plugins.dataplane.wire import Rows, array_of, flat_columns, from_ipc, rows_of, to_ipc
from aaflow_plugins.engines.communicator import Communicator, RankError, checked_keys
from aaflow_plugins.engines.launching import launched_ranks
from aaflow_plugins.engines.mpi_control import Control, die_together
from aaflow_plugins.engines.waiting import check_cancelled, wait_for

#: Seconds that a rank which ends without having met the others waits for them.
_PARTING: Final = 60.0

#: Bytes of one message at the most: MPI's own counts end at 2 GiB in many builds.
MESSAGE_BYTES: Final = 2**30

#: Whether Arrow's pool has memory of earlier calls again, of which no page is touched for the first time: measured of
#: 26; the pools of 16, 18, 21 and 23 give it back.
_POOL_KEEPS_PAGES: Final = int(pa.__version__.split(".")[0]) >= 26

#: Bytes of rows that are put together at a time: two blocks stay in the cache while the other rank reads them.
BLOCK_BYTES: Final = 2**20


@dataclass(frozen=True)
class _Part:
    """What one rank sends to one other.

    Attributes:
        count: Rows.
        flat: The rows of each flat column.
        chosen: Which rows, by their numbers; None for all.
        rest: These rows of all other columns as an IPC stream; empty if there are none.
    """

    count: int
    flat: Sequence[Rows]
    chosen: npt.NDArray[np.int64] | None
    rest: Any


class MpiCommunicator(Communicator):
    """All ranks of the job that `mpirun` or `srun` has started.

    Attributes:
        message_bytes: Bytes of one message at the most; what is larger goes in parts.
        block_bytes: Bytes of rows that are put together at a time.
    """

    name = "mpi"

    def __init__(self, comm: MPI.Comm, control: Control) -> None:
        """Set up; `connect` makes both.

        Args:
            comm: For data alone.
            control: For everything else, on a communicator of its own.
        """
        super().__init__()
        self._comm, self._control = comm, control
        self.rank, self.size = comm.rank, comm.size
        self.message_bytes, self.block_bytes = MESSAGE_BYTES, BLOCK_BYTES

    def agree(self, value: bytes) -> dict[bytes, int]:
        """The values that the ranks have come with."""
        return self._control.agree(value)

    def check(self) -> None:
        """Raise if another rank has failed, or if this one's call is cancelled."""
        check_cancelled()
        self._control.check()

    def post(self, rank: int, message: pa.Buffer) -> None:
        """Send a message to another rank."""
        self._control.post(rank, np.frombuffer(message, np.uint8))

    def poll(self) -> tuple[int, pa.Buffer] | None:
        """The next message, if there is one."""
        found = self._control.poll()
        return None if found is None else (found[0], pa.py_buffer(found[1]))

    def broadcast(self, table: pa.Table | None, root: int = 0) -> pa.Table:
        """The table of `root`."""
        held = to_ipc(table) if self.rank == root and table is not None else None
        if any(each["none"] for each in self._alike(f"broadcast from {root}", none=self.rank == root and held is None)):
            raise ValueError(f"table is None at the root, rank {root}")
        with self._moving():
            size = np.array([0 if held is None else held.size])
            self._comm.Bcast(size, root)
            moved = np.empty(size[0], np.uint8) if held is None else np.frombuffer(held, np.uint8)
            for part in self._parts(moved):
                self._comm.Bcast([part, MPI.BYTE], root)
        if table is not None and self.rank == root:
            return table
        schema = pa.ipc.open_stream(pa.py_buffer(moved)).schema
        return from_ipc([pa.py_buffer(moved)], schema)

    def gather(self, table: pa.Table, root: int = 0) -> pa.Table | None:
        """At `root` the rows of all ranks; None elsewhere."""

        def parts(flat: list[bool]) -> list[_Part]:
            whole, nothing = _part(table, flat), _part(table.slice(0, 0), flat)
            return [whole if rank == root else nothing for rank in range(self.size)]

        gathered = self._exchange(f"gather at {root}", table, parts)
        return gathered if self.rank == root else None

    def all_gather(self, table: pa.Table) -> pa.Table:
        """The rows of all ranks."""
        return self._exchange("all_gather", table, lambda flat: [_part(table, flat)] * self.size)

    def shuffle(self, table: pa.Table, key: str) -> pa.Table:
        """The rows whose key belongs here."""
        owners = np.mod(checked_keys(table, key), self.size)

        def parts(flat: list[bool]) -> list[_Part]:
            # Numbers of up to 16 bits are sorted by radix, in a quarter of the time.
            order = np.argsort(owners.astype(np.min_scalar_type(self.size)), kind="stable")
            ends = np.cumsum(np.bincount(owners, minlength=self.size)).tolist()
            columns, rest = _columns(table, flat), _rest(table, flat)
            return [
                _Part(len(chosen), columns, chosen, to_ipc(rest, chosen) if rest.num_columns else b"")
                for chosen in np.split(order, ends[:-1])
            ]

        return self._exchange(f"shuffle by {key}", table, parts)

    # -- moving data ---------------------------------------------------------------------------------------

    def _exchange(self, call: str, table: pa.Table, parts: Callable[[list[bool]], list[_Part]]) -> pa.Table:
        """Send every rank its part, and put together what comes, in the order of the ranks."""
        schema = table.schema
        columns = [f"{field.name}: {field.type}" for field in schema]
        said = self._alike(call, columns=columns, flat=flat_columns(table))
        flat = [all(each) for each in zip(*(each["flat"] for each in said), strict=True)]
        sent = parts(flat)
        with self._moving():  # whoever could not make its parts has said so
            moved, streams = self._moved(sent)
        return _table(schema, flat, moved, streams)

    def _alike(self, call: str, **mine: Any) -> list[dict[str, Any]]:
        """What different ranks say of the call they have come to.

        Raises:
            RankError: On every rank, if one has come to another call, or with other columns.
        """
        value = json.dumps({"call": call, **mine}).encode()
        said = {rank: json.loads(value) for value, rank in self.agree(value).items()}
        first = said[0]
        for rank, other in said.items():
            if other["call"] != first["call"]:
                raise RankError(rank, f"came to {other['call']}, rank 0 to {first['call']}")
            for one, another in zip_longest(first.get("columns", ()), other.get("columns", ()), fillvalue="no column"):
                if one != another:
                    raise RankError(rank, f"came to {call} with {another}, where rank 0 has {one}")
        return list(said.values())

    def _moved(self, sent: Sequence[_Part]) -> tuple[list[Rows], list[Any]]:
        """The rows of each flat column and the streams that the ranks sent here."""
        sizes = np.array([[part.count, len(part.rest)] for part in sent], dtype=np.int64)
        incoming = np.empty_like(sizes)
        self._comm.Alltoall(sizes, incoming)
        counts = incoming[:, 0]
        ends = np.cumsum(counts)
        columns = [_room(ends[-1], column.shape[1]) for column in sent[self.rank].flat]
        streams: list[Any] = [_room(size, 1) for size in incoming[:, 1]]
        requests = []
        for other in self._others():
            here = slice(ends[other] - counts[other], ends[other])
            for column in columns:
                for block in self._blocks(column[here]):
                    requests += self._messages(self._comm.Irecv, block, other)
            requests += self._messages(self._comm.Irecv, streams[other], other)
        for other in self._others():
            for rows in sent[other].flat:
                requests += self._sent(rows, sent[other].chosen, other)
            requests += self._messages(self._comm.Isend, np.frombuffer(sent[other].rest, np.uint8), other)
        mine = sent[self.rank]
        for column, rows in zip(columns, mine.flat, strict=True):
            _take(rows, mine.chosen, column[ends[self.rank] - counts[self.rank] : ends[self.rank]])
        streams[self.rank] = mine.rest
        MPI.Request.Waitall(requests)
        return columns, streams

    def _sent(self, rows: Rows, chosen: npt.NDArray[np.int64] | None, other: int) -> list[MPI.Request]:
        """Send rows to another rank; what is still on its way when this returns.

        Rows to choose are put together in two blocks by turns, one of which is on its way meanwhile.
        """
        if chosen is None:
            return [each for block in self._blocks(rows) for each in self._messages(self._comm.Isend, block, other)]
        size = min(len(chosen), self._block_rows(rows))
        turns: list[tuple[Rows, list[MPI.Request]]]
        turns = [(_room(size, rows.shape[1]), []) for _ in range(2)]
        for number, start in enumerate(range(0, len(chosen), max(1, size))):
            block = chosen[start : start + size]
            held, under_way = turns[number % 2]
            MPI.Request.Waitall(under_way)
            _take(rows, block, held[: len(block)])
            under_way[:] = self._messages(self._comm.Isend, held[: len(block)], other)
        return [each for _, under_way in turns for each in under_way]

    def _blocks(self, rows: Rows) -> Iterator[Rows]:
        """Rows in blocks, which are the same where they are sent and where they come."""
        size = self._block_rows(rows)
        return (rows[start : start + size] for start in range(0, len(rows), size))

    def _block_rows(self, rows: Rows) -> int:
        return max(1, self.block_bytes // max(1, int(rows.shape[1])))

    def _others(self) -> Iterator[int]:
        """The other ranks, each rank beginning with the one after it, so that not all turn to one."""
        return ((self.rank + step) % self.size for step in range(1, self.size))

    def _messages(
        self, move: Callable[[Any, int], MPI.Request], buffer: npt.NDArray[np.uint8], other: int
    ) -> list[MPI.Request]:
        """A contiguous buffer in parts that go as one message each."""
        return [move([part, MPI.BYTE], other) for part in self._parts(buffer)]

    def _parts(self, buffer: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
        held = buffer.reshape(-1)
        return (held[start : start + self.message_bytes] for start in range(0, len(held), self.message_bytes))

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Wait for all ranks before calls that block; end the job with whatever goes wrong in these."""
        self._control.agree(b"", binding=True)
        try:
            yield
        except BaseException:
            trace = traceback.format_exc()
            sys.stderr.write(f"{trace}rank {self.rank} failed while data was on its way: the job ends\n")
            sys.stderr.flush()
            self._comm.Abort(1)
            raise

    # -- blocks --------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._control.begin()

    def _fail(self, error: BaseException) -> None:
        self._control.fail(error)


_connecting = threading.Lock()


def connect() -> MpiCommunicator:
    """This process as a rank of its job; the first call waits for all other ranks to make it.

    Raises:
        RuntimeError: If a launcher has started several processes, and MPI knows of one.
    """
    with _connecting:
        return _connected()


@cache
def _connected() -> MpiCommunicator:
    launched, world = launched_ranks(), MPI.COMM_WORLD
    if world.size == 1 and launched > 1:
        library = MPI.Get_library_version().splitlines()[0].strip("\0 ")
        raise RuntimeError(
            f"a launcher has started {launched} ranks, but the MPI library that mpi4py found sees 1: {library}. "
            "Launcher and library are of different MPIs: use the `mpirun` of that library, or `aaflow launch`"
        )
    if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        raise RuntimeError(
            "MPI was started for calls from its main thread alone, and ranks wait for one another in other threads: "
            "leave mpi4py.rc.thread_level at 'multiple', with an MPI library that gives at least 'serialized'"
        )
    data, messages, requests = _duplicated()
    # Whoever is cancelled meanwhile comes with the others to the call that they wait in, and tells them.
    wait_for(lambda: MPI.Request.Testall(requests) or None, "the other ranks")
    control = Control(messages)
    die_together(messages)
    atexit.register(control.leave)
    return MpiCommunicator(data, control)


def leave() -> None:
    """Meet the other ranks at the end of this one, if it has not met them yet, to tell those who wait that it ends.

    They may come to that later, or end like this one. They are not waited for without end: one that has finalized MPI
    by itself does not come.
    """
    if _connected.cache_info().currsize or MPI.COMM_WORLD.size == 1 or MPI.Query_thread() < MPI.THREAD_SERIALIZED:
        return
    _, messages, requests = _duplicated()
    until = time.monotonic() + _PARTING
    met = wait_for(lambda: True if MPI.Request.Testall(requests) else False if time.monotonic() > until else None)
    if met:
        _parted.append(Control(messages))
        _parted[0].leave()


#: Held until the end: MPI reads from its messages.
_parted: list[Control] = []


@cache
def _duplicated() -> tuple[MPI.Comm, MPI.Comm, list[MPI.Request]]:
    """Two communicators to be, and what they wait for; once, however often somebody gives up waiting."""
    # Not `Dup`, which would wait for the others in silence.
    (data, first), (messages, second) = MPI.COMM_WORLD.Idup(), MPI.COMM_WORLD.Idup()
    return data, messages, [first, second]


def _part(table: pa.Table, flat: list[bool]) -> _Part:
    """A whole table."""
    rest = _rest(table, flat)
    return _Part(table.num_rows, _columns(table, flat), None, to_ipc(rest) if rest.num_columns else b"")


def _columns(table: pa.Table, flat: list[bool]) -> list[Rows]:
    return [
        np.ascontiguousarray(rows_of(column)) for column, is_flat in zip(table.columns, flat, strict=True) if is_flat
    ]


def _take(rows: Rows, chosen: npt.NDArray[np.int64] | None, out: Rows) -> None:
    """Put rows together; eight bytes at a time where that is possible, which takes two thirds of the time."""
    if chosen is None:
        out[:] = rows
    elif rows.shape[1] % 8 or rows.ctypes.data % 8 or out.ctypes.data % 8:
        np.take(rows, chosen, axis=0, out=out, mode="clip")
    else:
        np.take(rows.view(np.uint64), chosen, axis=0, out=out.view(np.uint64), mode="clip")


def _room(count: int, width: int) -> Rows:
    """Memory for rows, the quickest to touch: huge pages of NumPy's, or pages that Arrow's pool has kept."""
    if _POOL_KEEPS_PAGES:
        return np.frombuffer(pa.allocate_buffer(count * width), np.uint8).reshape(count, width)
    return np.empty((count, width), np.uint8)


def _rest(table: pa.Table, flat: list[bool]) -> pa.Table:
    return table.select([position for position, is_flat in enumerate(flat) if not is_flat])


def _table(schema: pa.Schema, flat: list[bool], columns: Sequence[Rows], streams: Sequence[Any]) -> pa.Table:
    """The table of what has come."""
    others = pa.schema([field for field, is_flat in zip(schema, flat, strict=True) if not is_flat])
    rest = iter(from_ipc([pa.py_buffer(stream) for stream in streams], others).columns if len(others) else ())
    taken = iter(columns)
    return pa.table(
        [
            array_of(next(taken), field.type) if is_flat else next(rest)
            for field, is_flat in zip(schema, flat, strict=True)
        ],
        schema=schema,
    )
