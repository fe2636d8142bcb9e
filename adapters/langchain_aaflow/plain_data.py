"""Data as JSON that comes back the same: what a chain gives may be sent to another process without pickle.

Carried are None, numbers (numpy's and decimals too), strings, bytes, dates, UUIDs, paths, lists, tuples and dicts, of
exactly these types; and of classes that their module names: members of enumerations, strings without attributes of
their own (such as `StrOutputParser` gives), and pydantic models made of all these, as messages, documents and
structured outputs are. A model is carried by its state, the way copying one goes: nothing is validated anew, so that
nothing can change, and what has been set stays told apart from defaults. `langchain_core.load` would know its own
classes only, and not tell that.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import UUID

import numpy as np
from pydantic import BaseModel

from aaflow_plugins.divided_batches import NoDataError

#: The key that tells what is written as a JSON object, and is no dict with strings for keys.
_TAG: Final = "$"
_VALUE: Final = "v"
_CLASS: Final = "c"
_SET: Final = "__pydantic_fields_set__"

#: What has a text that says all of it: its tag, the text, and back.
_TEXTS: Final[dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]]] = {
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    date: ("date", date.isoformat, date.fromisoformat),
    datetime: ("datetime", datetime.isoformat, datetime.fromisoformat),
    Decimal: ("Decimal", str, Decimal),
    UUID: ("UUID", str, UUID),
    type(Path()): ("Path", str, Path),
}
_FROM_TEXT: Final = {tag: back for tag, _, back in _TEXTS.values()}


def to_json(value: Any) -> bytes:
    """Data as JSON.

    Raises:
        NoDataError: If it would not come back equal, of the same types, all the way down.
    """
    try:
        written = _written(value, _refuse)
        try:
            return json.dumps(written, ensure_ascii=False, separators=(",", ":")).encode()
        except UnicodeEncodeError:  # halves of characters: two of them, one after the other, would come back as one
            escaped = json.dumps(written, separators=(",", ":"))
            if repr(json.loads(escaped)) != repr(written):
                raise
            return escaped.encode()
    except (RecursionError, ValueError) as error:  # too deep, no form, too many digits
        raise NoDataError(value) from error


def from_json(written: bytes) -> Any:
    """What `to_json` was given.

    Raises:
        ImportError: If a module of a class can't be imported here.
        AttributeError: If it has no such class.
    """
    return _read(json.loads(written))


def digest_of_data(values: Iterable[Any]) -> bytes:
    """What tells values from others, the same in every process; of what is no data, the class alone."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        try:
            told = json.dumps(_written(value, _class_alone))
        except (RecursionError, ValueError):
            told = json.dumps(_class_alone(value))
        digest.update(b"%d " % len(told))
        digest.update(told.encode())
    return digest.digest()


def _refuse(value: Any) -> NoReturn:
    raise NoDataError(value)


def _class_alone(value: Any) -> Any:
    return {_TAG: "other", _CLASS: f"{type(value).__module__}:{type(value).__qualname__}"}


def _written(value: Any, other: Callable[[Any], Any]) -> Any:
    """What JSON can say; `other` is asked for the rest."""
    kind: Any = type(value)
    if value is None or kind is str or kind is bool or kind is int or kind is float:
        return value
    if kind is list:
        return [_written(each, other) for each in value]
    if kind is dict:
        if _TAG not in value and all(type(key) is str for key in value):
            return {key: _written(each, other) for key, each in value.items()}
        return {_TAG: "dict", _VALUE: [[_written(key, other), _written(each, other)] for key, each in value.items()]}
    if kind is tuple:
        return {_TAG: "tuple", _VALUE: [_written(each, other) for each in value]}
    if kind in _TEXTS:
        # The ISO form of a time may not say all of its zone, and never which of two equal hours it is in.
        if kind is datetime and repr(datetime.fromisoformat(value.isoformat())) != repr(value):
            return other(value)
        tag, text_of, _ = _TEXTS[kind]
        return {_TAG: tag, _VALUE: text_of(value)}
    if issubclass(kind, np.generic) and value.dtype.kind in "fiub":
        return {_TAG: "numpy", _CLASS: value.dtype.str, _VALUE: value.tobytes().hex()}
    if isinstance(value, BaseModel) and _is_copied_by_state(kind) and (name := _name_of(kind)):
        state: dict[str, Any] = {**value.__getstate__()}
        state[_SET] = sorted(state[_SET])
        return {_TAG: "model", _CLASS: name, _VALUE: {key: _written(each, other) for key, each in state.items()}}
    if issubclass(kind, Enum) and (member := _member_name(value)) and (name := _name_of(kind)):
        return {_TAG: "member", _CLASS: name, _VALUE: member}
    if (
        issubclass(kind, str)
        and not issubclass(kind, np.generic)
        and not kind.__dictoffset__
        and (name := _name_of(kind))
    ):
        return {_TAG: "str", _CLASS: name, _VALUE: str.__str__(value)}
    return other(value)


def _read(written: Any) -> Any:
    if type(written) is list:
        return [_read(each) for each in written]
    if type(written) is not dict:
        return written
    if _TAG not in written:
        return {key: _read(each) for key, each in written.items()}
    tag, value = written[_TAG], written[_VALUE]
    if tag == "dict":
        return {_read(key): _read(each) for key, each in value}
    if tag == "tuple":
        return tuple(map(_read, value))
    if tag in _FROM_TEXT:
        return _FROM_TEXT[tag](value)
    if tag == "numpy":
        return np.frombuffer(bytes.fromhex(value), written[_CLASS])[0]
    kind = _class_of(written[_CLASS])
    if tag == "member":
        return kind.__members__[value]
    if tag == "str":
        return str.__new__(kind, value)
    state = _read(value)
    state[_SET] = set(state[_SET])
    model = kind.__new__(kind)
    model.__setstate__(state)
    return model


def _is_copied_by_state(kind: type[BaseModel]) -> bool:
    """Whether a model's state is all that a copy takes over."""
    methods = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__new__", "__copy__")
    return all(getattr(kind, name) is getattr(BaseModel, name) for name in methods) and not any(
        base.__dict__.get("__slots__") for base in kind.__mro__ if base is not BaseModel
    )


def _member_name(value: Any) -> str | None:
    """The name of a member of an enumeration; None for a combination of several."""
    name: str | None = value.name
    return name if type(value).__members__.get(name) is value else None


def _name_of(kind: type) -> str | None:
    """By what name another process finds a class; None if it does not."""
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return f"{kind.__module__}:{kind.__qualname__}" if found is kind else None


def _class_of(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, BaseModel | Enum | str)):
        raise AttributeError(f"{name} is here no class whose objects are data")
    return found
