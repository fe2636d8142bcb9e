"""Stands in for Cylon: the few calls that the engine makes, with the limits that were measured of the real ones.

The variable `STAND_IN` says what is wrong with it: "crashes", "wrong" rows, "hangs", "strings" (it raises no fault, but
partitions them by something else than their bytes, as every released version does); unset, nothing is.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pyarrow as pa
from mpi4py import MPI

_FAULT = os.environ.get("STAND_IN", "")

_KNOWN = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_temporal, pa.types.is_string, pa.types.is_binary),
    pa.types.is_fixed_size_binary,
)


class MPIConfig:
    def __init__(self, comm: MPI.Comm) -> None:
        self.comm = comm


class CylonEnv:
    def __init__(self, config: MPIConfig, distributed: bool) -> None:
        assert distributed
        self.context = config.comm


class Table:
    """Rows at one rank."""

    def __init__(self, comm: MPI.Comm, rows: pa.Table) -> None:
        self._comm, self._rows = comm, rows

    @staticmethod
    def from_arrow(context: MPI.Comm, rows: pa.Table) -> Table:
        if _FAULT == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if _FAULT == "hangs":
            time.sleep(1000)
        assert type(rows) is pa.Table, "the real one crashes"
        return Table(context, rows)

    def to_arrow(self) -> pa.Table:
        return self._rows

    def shuffle(self, columns: list[str]) -> Table:
        comm, rows = self._comm, self._rows
        for field in rows.schema:
            if not any(is_known(field.type) for is_known in _KNOWN) or field.type == pa.float16():
                raise ValueError(f"Shuffle operation failed : splitter not implemented {field.type}")
        schemas = np.empty((comm.size, 1), np.int64)
        comm.Allgather(np.array([sum(map(ord, str(rows.schema)))]), schemas)
        assert (schemas == schemas[0]).all(), "the real one crashes"
        rows = pa.table([_seen(column) for column in rows.columns], rows.column_names)
        owners = _partition(rows[columns[0]], comm)
        parts = [_encoded(rows.filter(pa.array(owners == rank))) for rank in range(comm.size)]
        sent = np.array([len(part) for part in parts])
        counts = np.empty_like(sent)
        comm.Alltoall(sent, counts)
        incoming = np.empty(counts.sum(), np.uint8)
        comm.Alltoallv([np.concatenate(parts), sent, MPI.BYTE], [incoming, counts, MPI.BYTE])
        tables = [_decoded(part) for part in np.split(incoming, np.cumsum(counts)[:-1])]
        if _FAULT == "wrong":
            tables[0] = tables[0].slice(0, tables[0].num_rows - 1)
        # A rank has its own rows first, and then those of others as they come: here the last rank's come first.
        ranks = sorted(range(comm.size), key=lambda rank: (rank != comm.rank, -rank))
        return Table(comm, pa.concat_tables(tables[rank] for rank in ranks).combine_chunks())


def _seen(column: pa.ChunkedArray) -> pa.Array:
    """A column as the real one reads it: without regard to offsets and nulls."""
    assert column.num_chunks == 1, "the engine gives one"
    array = column.chunk(0)
    return pa.Array.from_buffers(array.type, len(array), [None, *array.buffers()[1:]])


def _partition(key: pa.ChunkedArray, comm: MPI.Comm) -> np.ndarray:
    if key.type == pa.string():
        if _FAULT == "strings":
            return (np.arange(len(key)) + comm.rank) % comm.size
        return np.array([sum(text.encode()) % comm.size for text in key.to_pylist()], np.int64)
    assert key.type == pa.int64()
    return key.to_numpy().astype(np.uint32).astype(np.int64) % comm.size


def _encoded(rows: pa.Table) -> np.ndarray:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _decoded(stream: np.ndarray) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(stream)).read_all()
