"""How ranks talk: the one interface that all engines have.

A rank is one of several processes that run the same program. What they do together happens within `together`; there,
an exception on one of them is raised on all.
"""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aaflow_plugins.dataplane.vectors import fixed_lists, to_arrow, to_numpy
from aaflow_plugins.dataplane.wire import rows_of

Scores = npt.NDArray[np.float32]
RowNumbers = npt.NDArray[np.int64]


_within: ContextVar[bool] = ContextVar("_within", default=False)


def within_a_block() -> bool:
    """Whether this is part of what ranks do together, which they do not begin anew within it."""
    return _within.get()


class RankError(RuntimeError):
    """Another rank failed, ended, or came with something else than this one.

    Attributes:
        rank: Its number.
        what: What it did.
    """

    def __init__(self, rank: int, what: str) -> None:
        super().__init__(rank, what)
        self.rank, self.what = rank, what

    def __str__(self) -> str:
        return f"rank {self.rank} {self.what}"


class BusyError(RuntimeError):
    """This process is within what the ranks do together already, in another thread."""


class Communicator(ABC):
    """Moves Arrow tables between ranks. Every rank makes the same calls in the same order.

    Attributes:
        name: The engine's.
        rank: This rank's number, from 0.
        size: Number of ranks.
    """

    name: str
    rank: int
    size: int

    def __init__(self) -> None:
        """Set up."""
        self._turn = threading.Lock()

    @contextmanager
    def together(self, call: str, /, **same: object) -> Iterator[None]:
        """What the ranks do together.

        Whoever leaves the block by an exception tells the others, which raise a `RankError` in their next call here,
        or at once if they wait in one. No rank leaves the block before all have come to its end.

        Args:
            call: What they do.
            **same: What decides the result (a plan's fingerprint, settings), by the name under which a user knows it;
                as strings the same on all ranks.

        Raises:
            RankError: If another rank does something else, with what differs; or if another rank fails or ends.
            BusyError: If this process is within such a block already.
        """
        with self._in_turn():
            token = _within.set(True)
            try:
                with self._block(call, {name: str(value) for name, value in same.items()}):
                    yield
            finally:
                _within.reset(token)

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One block of this process at a time: the others come in the same order on all ranks."""
        if not self._turn.acquire(blocking=False):
            raise BusyError(
                "the ranks are at work for another call: in one process calls come one after the other, in the same "
                'order on all ranks; Executor(engine="local") keeps a call in its process'
            )
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _block(self, call: str, same: dict[str, str]) -> Iterator[None]:
        self._begin()
        try:
            found = list(self.agree(json.dumps([call, same]).encode()).items())
            if len(found) > 1:
                (first, _), (other, rank) = found[:2]
                raise RankError(rank, f"runs something else: {_difference(json.loads(other), json.loads(first))}")
            yield
            self.barrier()
        except BaseException as error:
            self._fail(error)
            raise

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.agree(b"")

    def compare(self, value: bytes, what: str) -> None:
        """Raise on all ranks if they have not come with the same value.

        Args:
            value: Some bytes.
            what: What to say of the first rank whose value is not that of rank 0.

        Raises:
            RankError: Naming that rank.
        """
        for rank in list(self.agree(value).values())[1:]:
            raise RankError(rank, what)

    @abstractmethod
    def agree(self, value: bytes) -> dict[bytes, int]:
        """The values that the ranks have come with, each with the first rank that has it, in the order of the ranks.

        Args:
            value: Some bytes, no data.

        Raises:
            RankError: If another rank has failed or ended, whether before this call or while it waits.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise if another rank has failed: called between batches, where a rank works by itself for long.

        Raises:
            RankError: If one has.
        """

    @abstractmethod
    def post(self, rank: int, message: pa.Buffer) -> None:
        """Send a message to another rank, which finds it by `poll`; messages to one rank keep their order.

        May be called by one thread at a time, as `poll` and `check`.
        """

    @abstractmethod
    def poll(self) -> tuple[int, pa.Buffer] | None:
        """The next message that was posted to this rank within this block, with its sender; None if there is none."""

    @abstractmethod
    def broadcast(self, table: pa.Table | None, root: int = 0) -> pa.Table:
        """The table of `root`; the other ranks may give None."""

    @abstractmethod
    def gather(self, table: pa.Table, root: int = 0) -> pa.Table | None:
        """At `root` the rows of all ranks, in the order of the ranks; None elsewhere."""

    @abstractmethod
    def all_gather(self, table: pa.Table) -> pa.Table:
        """The rows of all ranks, in the order of the ranks."""

    @abstractmethod
    def shuffle(self, table: pa.Table, key: str) -> pa.Table:
        """The rows whose key, modulo the number of ranks, is this rank's number.

        They come in the order of the ranks that had them, and among those of one rank in its order.

        Args:
            table: Any rows; the same schema on all ranks.
            key: The name of a column of int64 without nulls.

        Raises:
            ValueError: If there is no such column, on any rank.
        """

    def reduce_top_k(self, scores: Scores, rows: RowNumbers, *, largest: bool) -> tuple[Scores, RowNumbers]:
        """For each of some queries, the best of what the ranks have found.

        Args:
            scores: `(q, k)` float32, what this rank found; k > 0, the same on all ranks.
            rows: `(q, k)` int64, what the scores belong to, numbered over all ranks; -1 where this rank found less.
            largest: Whether a larger score is better.

        Returns:
            Scores and rows, `(q, k)`, best first; of equal scores the lower row first. Where all ranks together found
            less than k the rows are -1, and the scores infinitely bad.
        """
        queries, k = scores.shape
        mine = {"score": to_arrow(scores.astype(np.float32)), "row": fixed_lists(rows.astype(np.int64))}
        found = self.all_gather(pa.table(mine))
        all_scores = to_numpy(found["score"].combine_chunks()).reshape(self.size, queries, k)
        all_rows = rows_of(found["row"]).view(np.int64).reshape(self.size, queries, k)
        candidates = np.swapaxes(all_rows, 0, 1).reshape(queries, -1)
        worst = np.float32(-np.inf if largest else np.inf)
        scored = np.where(candidates < 0, worst, np.swapaxes(all_scores, 0, 1).reshape(queries, -1))
        # What is missing comes last, even after what is infinitely bad.
        order = np.lexsort((candidates, -scored if largest else scored, candidates < 0), axis=-1)[:, :k]
        return np.take_along_axis(scored, order, -1), np.take_along_axis(candidates, order, -1)

    # -- what `together` needs of an engine ----------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Begin a block."""

    @abstractmethod
    def _fail(self, error: BaseException) -> None:
        """Tell the others, unless it is they who told us."""


def _difference(other: list[Any], first: list[Any]) -> str:
    """What another rank's call, and what decides its result, has that differs from rank 0's."""
    (call, same), (first_call, first_same) = other, first
    if call != first_call:
        return f"{call}, where rank 0 runs {first_call}"
    names = [name for name in {**first_same, **same} if same.get(name) != first_same.get(name)]
    return f"not with rank 0's {', '.join(names)}; settings and versions must be the same on all ranks"


def checked_keys(table: pa.Table, key: str) -> npt.NDArray[np.int64]:
    """The keys to shuffle by.

    Raises:
        ValueError: If there is no column `key` of int64 without nulls.
    """
    position = table.schema.get_field_index(key)
    if position < 0:
        raise ValueError(f"key: the table has no column {key!r}, but {', '.join(table.column_names) or 'none'}")
    column = table.column(position)
    if column.type != pa.int64() or column.null_count:
        nulls = " with nulls" if column.null_count else ""
        raise ValueError(f"key: column {key!r} is {column.type}{nulls}; rows are shuffled by int64 without nulls")
    keys: npt.NDArray[np.int64] = column.to_numpy()
    return keys
