"""Batches: rows between two operators, as Arrow columns or as the framework's own objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from aaflow_plugins.dataplane.schemas import is_native

Column: TypeAlias = Any  # pa.Array | Sequence[Any]; pyarrow ships no type hints


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows.

    A column is an Arrow array, or a sequence of Python objects where the framework works on those anyway:
    text that never leaves the process is not encoded to UTF-8 and back just to have been Arrow for a moment.
    `arrow()` and `native()` give either form; the conversion is made at the edge that needs it.

    Attributes:
        schema: The logical schema; every field has a column.
        columns: Column by field name, all of `num_rows` rows.
        num_rows: Number of rows.
        bytes_copied: Bytes that were copied to make this batch from the one before.
    """

    schema: pa.Schema
    columns: Mapping[str, Column]
    num_rows: int
    bytes_copied: int = 0

    def arrow(self, name: str) -> pa.Array:
        """The column as an Arrow array; no copy if it is one already.

        Raises:
            TypeError: If the field holds native objects, which have no Arrow form.
            UnicodeEncodeError: If a text holds a lone surrogate, which UTF-8 cannot carry.
        """
        column = self.columns[name]
        if isinstance(column, pa.Array):
            return column
        field = self.schema.field(name)
        if is_native(field):
            raise TypeError(f"column {name!r} holds native objects and has no Arrow form")
        return pa.array(column, type=field.type)

    def native(self, name: str) -> Sequence[Any]:
        """The column as a sequence of Python objects."""
        column = self.columns[name]
        values: Sequence[Any] = column.to_pylist() if isinstance(column, pa.Array) else column
        return values
