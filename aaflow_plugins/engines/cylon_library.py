"""The calls of pycylon that the engine makes; nothing else imports it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pycylon


class Cylon:
    """Cylon on the ranks of a communicator."""

    def __init__(self, comm: Any) -> None:
        """Set up; all ranks of the communicator do so together.

        Args:
            comm: An `mpi4py.MPI.Comm`, for this alone.
        """
        self._environment = pycylon.CylonEnv(config=pycylon.MPIConfig(comm), distributed=True)

    def round_trip(self, table: pa.Table) -> pa.Table:
        """The same rows; no rank talks to another."""
        return self._table(table).to_arrow()

    def shuffle(self, table: pa.Table, key: str) -> pa.Table:
        """The rows whose key, modulo the number of ranks, is this rank's number, in no particular order.

        Args:
            table: One chunk a column, without offset or nulls; the same schema on all ranks.
            key: The name of a column of int64, none of them negative, or 2**32 or more: Cylon takes 32 bits of them.
        """
        return self._table(table).shuffle([key]).to_arrow()

    def _table(self, table: pa.Table) -> Any:
        return pycylon.Table.from_arrow(self._environment.context, table)
