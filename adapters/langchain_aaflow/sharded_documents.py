"""Documents as bytes between ranks: JSON, in which what JSON has no form for says what it is. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
from langchain_core.documents import Document

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
#: What marks a value that says what it is.
_KIND: Final = "$kind"

#: By type: its mark, to JSON, and back.
_FORMS: Final[dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    tuple: ("tuple", lambda value: [_told(each) for each in value], lambda told: tuple(map(_value, told))),
    dict: (
        "dict",
        lambda value: [[_told(key), _told(each)] for key, each in value.items()],
        lambda told: {_value(key): _value(each) for key, each in told},
    ),
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    date: ("date", date.isoformat, date.fromisoformat),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    Decimal: ("Decimal", str, Decimal),
    UUID: ("UUID", str, UUID),
    type(Path()): ("Path", str, Path),
}
_BACK: Final = {mark: back for mark, _, back in _FORMS.values()}


def to_bytes(document: Document) -> bytes:
    """A document as bytes, of which `from_bytes` makes one that is equal in everything, types included.

    Raises:
        TypeError: If it, or something in its metadata, is of a class without a form here.
    """
    if type(document) is not Document:
        raise TypeError(f"a {type(document).__name__} can't go to another rank: make it a Document")
    return json.dumps([document.id, document.page_content, _told(document.metadata)]).encode()


def from_bytes(held: bytes) -> Document:
    """The document that `to_bytes` was given."""
    id_, text, metadata = json.loads(held)
    return Document(id=id_, page_content=text, metadata=_value(metadata))


def _told(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [_told(each) for each in value]
    if kind is dict and _KIND not in value and set(map(type, value)) <= {str}:
        return {key: _told(each) for key, each in value.items()}
    if isinstance(value, np.generic) and value.dtype.kind in "fiub":
        return {_KIND: f"numpy {value.dtype.str}", "value": value.tobytes().hex()}
    # A time's zone may be more than the offset that its ISO form keeps.
    if kind not in _FORMS or (kind is datetime and repr(datetime.fromisoformat(value.isoformat())) != repr(value)):
        raise TypeError(f"metadata: a {kind.__name__} can't go to another rank; text, numbers, dates, lists, dicts can")
    mark, form, _ = _FORMS[kind]
    return {_KIND: mark, "value": form(value)}


def _value(told: Any) -> Any:
    if type(told) is list:
        return [_value(each) for each in told]
    if type(told) is not dict:
        return told
    mark = told.get(_KIND)
    if mark is None:
        return {key: _value(each) for key, each in told.items()}
    if mark.startswith("numpy "):
        return np.frombuffer(bytes.fromhex(told["value"]), mark.removeprefix("numpy "))[0]
    return _BACK[mark](told["value"])
