"""The file of a SimpleVectorStore: the very bytes that the native `persist` writes, and read as natively, sooner.

Natively dataclasses_json walks every float, and the file is written by json's encoder in Python. Here each vector is
written by itself, by `orjson` where it is installed. orjson writes the same shortest digits as Python, but numbers
below 1e-4 or from 1e16 on in another notation: those are written by Python. What is not exactly what the native `add`
puts into a store is left to the native code, before the file is touched.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final

from llama_index.core.vector_stores.simple import SimpleVectorStoreData

from aaflow_plugins.collector import paused_collector
from aaflow_plugins.known_code import is_one_of

orjson: Any
try:
    orjson = import_module("orjson")
except ImportError:
    orjson = None

_dataclasses_json: Any = import_module("dataclasses_json.core")

#: Structures of what is reproduced of dataclasses-json 0.6.7.
_WALKS: Final = {
    "_asdict": frozenset({"79cc507647c8051a"}),
    "_decode_dataclass": frozenset({"a408453315c107e9"}),
    "_decode_generic": frozenset({"f877e2ccce79ea56"}),
    "_decode_items": frozenset({"26ecd91708bdd021"}),
}
_TO_DICT: Final = frozenset({"ae3782fbe76f947c"})
_FROM_DICT: Final = frozenset({"35a31987cf75c59b"})

#: Entries written at once.
_ENTRIES_AT_ONCE: Final = 128

#: Metadata nested more deeply is left to the native code, and its limit.
_DEEPEST: Final = 32

#: Integers from here on orjson reads as floats.
_HUGE: Final = 2.0**63

_FIELDS: Final = ("embedding_dict", "text_id_to_ref_doc_id", "metadata_dict")


def write(data: Any, path: str, fs: Any) -> bool:
    """Write a store's data as the native `persist` does.

    Args:
        data: The store's `data`.
        path: Where to, a path of `fs`.
        fs: A filesystem of fsspec.

    Returns:
        False, with nothing done, for data that is left to the native code.

    Raises:
        Exception: What the filesystem raises.
    """
    if not (_walk_is_known() and _is_plain_data(data)):
        return False
    directory = os.path.dirname(path)
    if not fs.exists(directory):
        fs.makedirs(directory)
    with fs.open(path, "w", encoding="utf-8") as file:
        opening = "{"
        for name, encode in zip(_FIELDS, (_vector_writer(), json.dumps, json.dumps), strict=True):
            file.write(f'{opening}"{name}": {{')
            for part in _entries(getattr(data, name), encode):
                file.write(part)
            file.write("}")
            opening = ", "
        file.write("}")
    return True


def read(path: str, fs: Any, logger: logging.Logger) -> SimpleVectorStoreData:
    """Read a store's data from an existing file as the native `from_persist_path` does.

    Raises:
        Exception: What the filesystem, or the native code for what the file holds, raises.
    """
    logger.debug(f"Loading {logger.name} from {path}.")
    with fs.open(path, "rb") as file:
        content = file.read()
    with paused_collector():
        fields = _plain_fields(content) if _walk_is_known() else None
        if fields is not None:
            return SimpleVectorStoreData(**fields)
    # mypy does not see what the mixin gives.
    native: Any = SimpleVectorStoreData
    found: SimpleVectorStoreData = native.from_dict(json.loads(content))
    return found


def _entries(mapping: Mapping[str, Any], encode: Callable[[Any], str]) -> Iterator[str]:
    pending: list[str] = []
    separator = ""
    for key, value in mapping.items():
        pending.append(f"{json.dumps(key)}: {encode(value)}")
        if len(pending) == _ENTRIES_AT_ONCE:
            yield separator + ", ".join(pending)
            pending.clear()
            separator = ", "
    if pending:
        yield separator + ", ".join(pending)


def _is_plain_data(data: Any) -> bool:
    if type(data) is not SimpleVectorStoreData or any(type(getattr(data, name)) is not dict for name in _FIELDS):
        return False
    keys = {type(key) for name in _FIELDS for key in getattr(data, name)}
    return (
        keys <= {str}
        and all(type(vector) is list and set(map(type, vector)) <= {float} for vector in data.embedding_dict.values())
        and set(map(type, data.text_id_to_ref_doc_id.values())) <= {str}
        and all(_is_plain(value, _DEEPEST) for value in data.metadata_dict.values())
    )


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a value is the same to json whether or not dataclasses_json has copied it."""
    kind = type(value)
    if kind is dict:
        return depth > 0 and all(type(key) is str and _is_plain(each, depth - 1) for key, each in value.items())
    if kind is list:
        return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    return kind in _SCALARS


_SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def _vector_writer() -> Callable[[list[float]], str]:
    return json.dumps if orjson is None or not _writes_as_python() else _vector


def _vector(vector: list[float]) -> str:
    """`json.dumps` of finite and other floats, mostly by orjson."""
    text: str = orjson.dumps(vector).decode("ascii")
    if "n" in text:  # null, for what is no finite number
        return json.dumps(vector)
    if "e" in text or "0.0000" in text:
        written = zip(vector, text[1:-1].split(","), strict=True)
        return (
            f"[{', '.join([part if 1e-4 <= abs(each) < 1e16 or not each else repr(each) for each, part in written])}]"
        )
    return text.replace(",", ", ")


def _plain_fields(content: bytes) -> dict[str, Any] | None:
    """The fields of a file that is read without converting anything; None for any other."""
    load = json.loads if orjson is None or not _writes_as_python() else orjson.loads
    try:
        fields = load(content)
    except ValueError:
        # Some of it Python's json takes: NaN, numbers beyond float64, surrogates, other encodings.
        return None
    if type(fields) is not dict or not set(fields) <= set(_FIELDS):
        return None
    if any(type(value) is not dict for value in fields.values()):
        return None
    vectors, documents, metadata = (fields.get(name, {}) for name in _FIELDS)
    if not all(type(vector) is list and set(map(type, vector)) <= {float} for vector in vectors.values()):
        return None
    if not set(map(type, documents.values())) <= {str} or _has_huge(metadata):
        return None
    return fields


def _has_huge(value: Any) -> bool:
    # Without recursion: the native reader goes deeper than a function of Python that calls itself.
    left = [value]
    while left:
        each = left.pop()
        if type(each) is dict:
            left.extend(each.values())
        elif type(each) is list:
            left.extend(each)
        elif type(each) is float and abs(each) >= _HUGE:
            return True
    return False


def _walk_is_known() -> bool:
    """Whether dataclasses_json walks data as known, and nobody told it to do otherwise."""
    settings = _dataclasses_json.cfg.global_config
    native: Any = SimpleVectorStoreData
    return (
        not (settings.encoders or settings.decoders or settings.mm_fields)
        and native.dataclass_json_config is None
        and all(is_one_of(getattr(_dataclasses_json, name), known) for name, known in _WALKS.items())
        and is_one_of(native.to_dict, _TO_DICT)
        and is_one_of(native.from_dict.__func__, _FROM_DICT)
    )


@cache
def _writes_as_python() -> bool:
    """Whether the installed orjson writes and reads floats as Python does, on some of every size."""
    numbers = [
        sign * digits * 10.0**power
        for power in range(-4, 16)
        for digits in (1, 1.1, 2 / 3, 0.1 + 0.2)
        for sign in (1, -1)
    ]
    written = orjson.dumps([0.0, -0.0, *numbers]).decode("ascii")
    texts = [repr(each) for each in (5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 1e-7 / 3, 1e22 / 3)]
    return all(
        float(part).hex() == each.hex() and (not 1e-4 <= abs(each) < 1e16 or part == repr(each))
        for part, each in zip(written[1:-1].split(","), [0.0, -0.0, *numbers], strict=True)
    ) and [each.hex() for each in orjson.loads(f"[{','.join(texts)}]")] == [float(text).hex() for text in texts]
