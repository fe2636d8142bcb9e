"""Arrow tables as what goes over a wire: columns whose rows are plain bytes as they are, all others as Arrow IPC.

A column is *flat* if each of its rows takes the same number of bytes and none is null: numbers, times, binary of a
fixed size, and vectors of those. Its buffer is sent and received as it stands, so that a row can be put in its place
at once. Strings, lists, structs, dictionaries, nulls and whatever else Arrow carries travel as an IPC stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Rows of a flat column: `(n, width)` bytes.
Rows = npt.NDArray[np.uint8]

#: Bytes of the batches that strings and lists are taken in: 32-bit offsets end at 2 GiB, and rows may be uneven.
_TAKEN_BYTES: Final = 2**27


def flat_columns(table: pa.Table) -> list[bool]:
    """For each column, whether it is flat."""
    return [width_of(column.type) is not None and not any(map(_has_nulls, column.chunks)) for column in table.columns]


def width_of(type_: pa.DataType) -> int | None:
    """Bytes a row of this type takes if it takes as many as any other; None for all other types."""
    if pa.types.is_fixed_size_list(type_):
        inner = width_of(type_.value_type)
        return inner * type_.list_size if inner and type_.list_size else None
    if pa.types.is_boolean(type_) or pa.types.is_null(type_) or isinstance(type_, pa.BaseExtensionType):
        return None
    try:
        bits: int = type_.bit_width
    except ValueError:
        return None
    plain = pa.types.is_primitive(type_) or pa.types.is_decimal(type_) or pa.types.is_fixed_size_binary(type_)
    return bits // 8 if plain and bits else None


def rows_of(column: pa.ChunkedArray) -> Rows:
    """The rows of a flat column, without a copy if it is in one piece."""
    chunks = [_rows_of_array(chunk) for chunk in column.chunks if len(chunk)]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate(chunks) if chunks else np.empty((0, width_of(column.type) or 0), dtype=np.uint8)


def array_of(rows: Rows, type_: pa.DataType) -> pa.Array:
    """A flat column of this type over `rows`, without a copy."""
    if pa.types.is_fixed_size_list(type_):
        size = type_.list_size
        items = array_of(rows.reshape(len(rows) * size, rows.shape[1] // size), type_.value_type)
        return pa.Array.from_buffers(type_, len(rows), [None], children=[items])
    return pa.Array.from_buffers(type_, len(rows), [None, pa.py_buffer(rows.reshape(-1))])


def to_ipc(table: pa.Table, rows: npt.NDArray[np.int64] | None = None, before: bytes = b"") -> pa.Buffer:
    """A table, or some of its rows in the order given, as an IPC stream.

    Args:
        table: The table.
        rows: Positions of the rows; None for all.
        before: Written before the stream.
    """
    sink = pa.BufferOutputStream()
    sink.write(before)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        for part in (table,) if rows is None else _taken(table, rows):
            stream.write_table(part)
    return sink.getvalue()


def from_ipc(streams: Sequence[pa.Buffer], schema: pa.Schema) -> pa.Table:
    """The rows of some streams of one schema, one stream after the other, as views of them."""
    batches = [batch for stream in streams for batch in pa.ipc.open_stream(stream)]
    table = pa.Table.from_batches(batches, schema)
    try:
        return table.unify_dictionaries()
    except pa.ArrowInvalid:  # dictionaries with nulls stay as they came
        return table


def _taken(table: pa.Table, rows: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
    block = max(1, table.num_rows * _TAKEN_BYTES // max(1, table.nbytes))
    for start in range(0, len(rows), block):
        yield table.take(pa.array(rows[start : start + block]))


def _has_nulls(array: pa.Array) -> bool:
    if pa.types.is_fixed_size_list(array.type):
        return bool(array.null_count) or _has_nulls(_items(array))
    return bool(array.null_count)


def _items(array: pa.FixedSizeListArray) -> pa.Array:
    size = array.type.list_size
    return array.values.slice(array.offset * size, len(array) * size)


def _rows_of_array(array: pa.Array) -> Rows:
    count, width = len(array), width_of(array.type) or 0
    while pa.types.is_fixed_size_list(array.type):
        array = _items(array)
    item = width_of(array.type) or 0
    held = np.frombuffer(array.buffers()[1], dtype=np.uint8)
    return held[array.offset * item : (array.offset + len(array)) * item].reshape(count, width)
