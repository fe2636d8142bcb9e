"""Arrow schemas on the edges of a plan.

Three kinds of field occur: plain Arrow types, vectors (fixed_size_list<float32>, whose dimension may be unknown
until the model has answered once) and native objects (a framework's documents or metadata), which have a place
in the schema but no Arrow form.
"""

from __future__ import annotations

import pyarrow as pa

_KIND = b"aaflow.kind"


def text(name: str) -> pa.Field:
    """A field of text; `large_utf8`, so that a batch may exceed 2 GiB of text."""
    return pa.field(name, pa.large_utf8(), nullable=False)


def native(name: str, of: str) -> pa.Field:
    """A field of native objects, for example `native("document", "langchain.Document")`."""
    return pa.field(name, pa.null(), metadata={_KIND: b"native:" + of.encode()})


def vector(name: str, dimension: int | None = None) -> pa.Field:
    """A field of float32 vectors of `dimension` floats; None where only the model's answer will tell."""
    if dimension is None:
        return pa.field(name, pa.list_(pa.float32()), nullable=False, metadata={_KIND: b"vector"})
    return pa.field(name, pa.list_(pa.float32(), dimension), nullable=False, metadata={_KIND: b"vector"})


def is_native(field: pa.Field) -> bool:
    """True if the field holds native objects."""
    return _kind(field).startswith(b"native:")


def type_name(field: pa.Field) -> str:
    """The field's type as `explain()` and error messages print it."""
    kind = _kind(field)
    if kind.startswith(b"native:"):
        return kind.removeprefix(b"native:").decode()
    if kind == b"vector":
        size = field.type.list_size if pa.types.is_fixed_size_list(field.type) else "?"
        return f"vector<float32>[{size}]"
    return str(field.type)


def compatible(have: pa.Field, want: pa.Field) -> bool:
    """True if a column of field `have` can be read as `want`; an unknown vector dimension fits any."""
    if _kind(have) == _kind(want) == b"vector":
        fixed = [f.type.list_size for f in (have, want) if pa.types.is_fixed_size_list(f.type)]
        return len(set(fixed)) <= 1
    return bool(have.type == want.type and _kind(have) == _kind(want))


def describe(schema: pa.Schema) -> str:
    """One line: `text: large_string, vector: vector<float32>[384]`."""
    return ", ".join(f"{field.name}: {type_name(field)}" for field in schema) or "(nothing)"


def _kind(field: pa.Field) -> bytes:
    metadata = field.metadata or {}
    return bytes(metadata.get(_KIND, b""))
