"""Ranks of an MPI job whose rows Cylon shuffles; everything else is as between ranks of the MPI engine."""

from __future__ import annotations

import logging
import threading
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from aaflow_plugins.engines.communicator import checked_keys
from aaflow_plugins.engines.cylon_check import check, found
from aaflow_plugins.engines.cylon_rows import (
    OWNER,
    STREAMS,
    Addressed,
    as_streams,
    direct_columns,
    of_streams,
    received,
)
from aaflow_plugins.engines.mpi import MpiCommunicator
from aaflow_plugins.engines.mpi import connect as connect_mpi

if TYPE_CHECKING:
    from aaflow_plugins.engines.cylon_library import Cylon

_log = logging.getLogger(__name__)

#: Bytes that all ranks together shuffle at a time: what one of them gets may be all of it, and 32-bit offsets end at
#: 2 GiB.
ROUND_BYTES: Final = 2**30


class CylonCommunicator(MpiCommunicator):
    """All ranks of an MPI job, with Cylon to shuffle their rows.

    Attributes:
        round_bytes: Bytes that all ranks together shuffle at a time; what is larger goes in rounds.
    """

    name = "cylon"

    def __init__(self, ranks: MpiCommunicator) -> None:
        """Set up, on all ranks together.

        Args:
            ranks: The same ranks, of which Cylon gets a communicator of its own.
        """
        super().__init__(ranks._comm, ranks._control)
        self._turn = ranks._turn  # calls of the two come one after the other
        self.round_bytes = ROUND_BYTES
        self.library = _library(ranks)

    def shuffle(self, table: pa.Table, key: str) -> pa.Table:
        """The rows whose key belongs here."""
        owners = np.mod(checked_keys(table, key), self.size)
        share = max(1, self.round_bytes // self.size)
        columns = [f"{field.name}: {field.type}" for field in table.schema]
        said = self._alike(f"shuffle by {key}", columns=columns, direct=direct_columns(table, share))
        direct = [all(each) for each in zip(*(each["direct"] for each in said), strict=True)]
        rows = table.select([number for number, is_direct in enumerate(direct) if is_direct])
        rest = table.select([number for number, is_direct in enumerate(direct) if not is_direct])
        sent = [Addressed(self.rank, owners, rows)]
        if rest.num_columns:
            sent.append(as_streams(self.rank, rest, owners, self.size, share))
        brought = self._exchanged(sent, share)
        direct_rows, _ = received(brought[0], rows.schema)
        others = of_streams(*received(brought[1], STREAMS), rest.schema).columns if rest.num_columns else []
        taken = iter(direct_rows.columns), iter(others)
        return pa.table([next(taken[not is_direct]) for is_direct in direct], schema=table.schema)

    def _exchanged(self, sent: list[Addressed], share: int) -> list[list[pa.Table]]:
        """What the ranks send here, table by table, in as many rounds as the rank with most rows needs."""
        slices = [each.slices(share) for each in sent]
        said = self._alike("the rounds of a shuffle", rounds=[len(each) for each in slices])
        rounds = [max(1, *counts) for counts in zip(*(each["rounds"] for each in said), strict=True)]
        with self._moving():
            return [
                [
                    self.library.shuffle(each.carried(parts[number] if number < len(parts) else slice(0, 0)), OWNER)
                    for number in range(count)
                ]
                for each, parts, count in zip(sent, slices, rounds, strict=True)
            ]


_connecting = threading.Lock()


def connect() -> MpiCommunicator:
    """This process as a rank of its job; the first call waits for all other ranks to make it.

    Where Cylon is missing, or fails its check, on any rank, they are ranks of the MPI engine, and rank 0 says why.

    Raises:
        RuntimeError: If a launcher has started several processes, and MPI knows of one.
    """
    with _connecting:
        return _connected()


@cache
def _connected() -> MpiCommunicator:
    ranks = connect_mpi()
    with ranks.together("engine cylon"):
        fault = _agreed(ranks, check().fault if ranks.rank == 0 else found().fault)
        fault = fault or _agreed(ranks, _fault_of_import(ranks.rank))
        if not fault:
            return CylonCommunicator(ranks)
    if ranks.rank == 0:
        _log.warning("%s; using the mpi engine", fault)
    return ranks


def _agreed(ranks: MpiCommunicator, fault: str) -> str:
    """What the first of the ranks that has something to say says."""
    return next(filter(None, map(bytes.decode, ranks.agree(fault.encode()))), "")


def _fault_of_import(rank: int) -> str:
    try:
        import aaflow_plugins.engines.cylon_library  # noqa: F401
    except Exception as error:
        return f"rank {rank} can't import pycylon: {type(error).__name__}: {error}"
    return ""


def _library(ranks: MpiCommunicator) -> Cylon:
    from aaflow_plugins.engines.cylon_library import Cylon

    with ranks._moving():
        return Cylon(ranks._comm.Dup())
