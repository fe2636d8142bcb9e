"""Rows as Cylon carries them, and back.

Its shuffle knows few types, and older versions lose nulls. So a column of which every row takes the same number of
bytes goes as integers or as binary of a fixed size, a view of its buffer; truth values go as uint8; strings and binary
with 32-bit offsets; and all columns that are something else, or have nulls, together as Arrow IPC streams, one for
each rank that gets rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aaflow_plugins.dataplane.wire import array_of, flat_columns, from_ipc, rows_of, to_ipc, width_of

Integers = npt.NDArray[np.int64]

#: Two int64 columns beside those of a table: the rank that a row goes to, which it is shuffled by; and the rank that it
#: comes from, with its number there. All other columns are named by their positions.
OWNER: Final = "owner"
_PLACE: Final = "place"
#: Bits of a place that are a row's number.
_NUMBER_BITS: Final = 40

_BY_WIDTH: Final = {1: pa.uint8(), 2: pa.int16(), 4: pa.int32(), 8: pa.int64()}


def carried_type(type_: pa.DataType) -> pa.DataType | None:
    """The type as which a column without nulls travels; None if it goes as Arrow IPC."""
    if pa.types.is_boolean(type_):
        return pa.uint8()
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return pa.string()
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return pa.binary()
    width = width_of(type_)
    if width is None:
        return None
    plain = pa.types.is_primitive(type_) and width in _BY_WIDTH
    return _BY_WIDTH[width] if plain else pa.binary(width)


def direct_columns(table: pa.Table, row_bytes: int) -> list[bool]:
    """For each column, whether it goes as it is, in a type of `carried_type`.

    Args:
        table: Any table.
        row_bytes: Bytes of a row of all columns together, at the most, that are strings or binary.
    """
    longest = row_bytes // max(1, table.num_columns)
    return [
        is_flat or (carried_type(column.type) is not None and not column.null_count and _longest(column) <= longest)
        for column, is_flat in zip(table.columns, flat_columns(table), strict=True)
    ]


@dataclass(frozen=True)
class Addressed:
    """Rows of one rank, and where they go.

    Attributes:
        rank: This rank.
        owners: `(n,)` int64, the rank that each row goes to.
        table: The rows; columns that go as they are.
    """

    rank: int
    owners: Integers
    table: pa.Table

    def slices(self, size: int) -> list[slice]:
        """The rows in slices of no more than `size` bytes each, where no row is larger."""
        if not len(self.owners):
            return []
        ends = np.cumsum(_row_bytes(self.table))
        found, start, before = [], 0, 0
        while start < len(ends):
            stop = max(start + 1, int(np.searchsorted(ends, before + size, side="right")))
            found.append(slice(start, stop))
            start, before = stop, int(ends[stop - 1])
        return found

    def carried(self, rows: slice) -> pa.Table:
        """Some of the rows as Cylon takes them: one chunk a column, no offset, no null."""
        places = (self.rank << _NUMBER_BITS) + np.arange(rows.start, rows.stop)
        table = self.table.slice(rows.start, rows.stop - rows.start)
        names = [OWNER, _PLACE, *map(str, range(table.num_columns))]
        return pa.table([pa.array(self.owners[rows]), pa.array(places), *map(_carried, table.columns)], names)


def received(parts: Sequence[pa.Table], schema: pa.Schema) -> tuple[pa.Table, Integers]:
    """What Cylon brought, one table a slice: the rows in the order of their ranks, and of each the rank it is from."""
    brought = pa.concat_tables(parts)
    columns = [_restored(brought.column(str(number)), field.type) for number, field in enumerate(schema)]
    places = brought.column(_PLACE).to_numpy()
    # Blocks that follow one another keep to views; Cylon itself promises no order.
    order = np.argsort(places, kind="stable")
    starts = np.flatnonzero(np.diff(order, prepend=-2) != 1)
    counts = np.diff(starts, append=len(order))
    table = pa.table(columns, schema=schema)
    if len(starts) > 1:
        table = pa.concat_tables(map(table.slice, order[starts].tolist(), counts.tolist()))
    return table, places[order] >> _NUMBER_BITS


def as_streams(rank: int, table: pa.Table, owners: Integers, ranks: int, size: int) -> Addressed:
    """Rows of any types as parts of Arrow IPC streams, one stream a rank that gets them.

    Args:
        rank: This rank.
        table: The rows.
        owners: `(n,)` int64, the rank that each goes to.
        ranks: Number of ranks.
        size: Bytes of a part at the most.
    """
    order = np.argsort(owners, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(owners, minlength=ranks))[:-1])
    streams = [np.frombuffer(to_ipc(table, each), np.uint8) for each in rows]
    parts = [
        (owner, stream[start : start + size])
        for owner, stream in enumerate(streams)
        for start in range(0, len(stream), size)
    ]
    offsets = np.cumsum([0, *(len(part) for _, part in parts)])
    held = np.concatenate([part for _, part in parts])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(held)]
    column = pa.Array.from_buffers(pa.large_binary(), len(parts), buffers)
    return Addressed(rank, np.array([owner for owner, _ in parts]), pa.table([column], STREAMS))


#: What `as_streams` makes.
STREAMS: Final = pa.schema([("stream", pa.large_binary())])


def of_streams(parts: pa.Table, sources: Integers, schema: pa.Schema) -> pa.Table:
    """The rows of streams that came in parts, in order, each with the rank it is from."""
    pieces = (np.frombuffer(part.as_buffer(), np.uint8) for part in parts.column(0))
    streams = groupby(zip(sources.tolist(), pieces, strict=True), key=itemgetter(0))
    # Joined even where it is one: a stream of its own is aligned.
    joined = [np.concatenate([piece for _, piece in stream]) for _, stream in streams]
    return from_ipc([pa.py_buffer(stream) for stream in joined], schema)


def _longest(column: pa.ChunkedArray) -> int:
    """Bytes of the longest string."""
    return 0 if pa.types.is_boolean(column.type) else pc.max(pc.binary_length(column)).as_py() or 0


def _row_bytes(table: pa.Table) -> Integers:
    sizes = np.full(table.num_rows, 16, np.int64)
    for column in table.columns:
        width = 1 if pa.types.is_boolean(column.type) else width_of(column.type)
        sizes += width if width else pc.binary_length(column).to_numpy()
    return sizes


def _carried(column: pa.ChunkedArray) -> pa.Array:
    type_ = carried_type(column.type)
    if width_of(column.type):
        return array_of(rows_of(column), type_)
    if column.num_chunks == 1 and not column.chunk(0).offset and column.type == type_:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks or [pa.array([], column.type)]).cast(type_)


def _restored(column: pa.ChunkedArray, type_: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return array_of(rows_of(column), type_) if width_of(type_) else column.cast(type_)
