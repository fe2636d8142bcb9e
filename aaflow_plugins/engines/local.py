"""One rank: this process by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from aaflow_plugins.engines.communicator import Communicator, checked_keys


class LocalCommunicator(Communicator):
    """Everything is here already."""

    name = "local"
    rank = 0
    size = 1

    def agree(self, value: bytes) -> dict[bytes, int]:
        """This process's own value."""
        return {value: 0}

    def check(self) -> None:
        """There is nobody else."""

    def post(self, rank: int, message: pa.Buffer) -> None:
        """There is nobody else."""
        raise ValueError(f"rank {rank}: this process is the only one")

    def poll(self) -> tuple[int, pa.Buffer] | None:
        """There is nobody else."""
        return None

    def broadcast(self, table: pa.Table | None, root: int = 0) -> pa.Table:
        """The table itself."""
        if table is None:
            raise ValueError("table is None at the root: rank 0 is the only one here")
        return table

    def gather(self, table: pa.Table, root: int = 0) -> pa.Table | None:
        """The table itself."""
        return table

    def all_gather(self, table: pa.Table) -> pa.Table:
        """The table itself."""
        return table

    def shuffle(self, table: pa.Table, key: str) -> pa.Table:
        """The table itself; raises ValueError where it has no such keys."""
        checked_keys(table, key)
        return table

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        yield  # there is nobody to keep an order with

    def _begin(self) -> None:
        pass

    def _fail(self, error: BaseException) -> None:
        pass
