"""What the nodes of a document depend on, spelled out: the document, how it is transformed, and by which code.

Whatever can't be told by its value or by its code has no key: what depends on it is computed each time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion.pipeline import remove_unstable_values
from pydantic import BaseModel

from llama_index_aaflow.known_code import plain
from llama_index_aaflow.native_classes import StandsFor
from llama_index_aaflow.node_parsers import Accelerated
from llama_index_aaflow.parsing.nodes import ATOMS

#: Packages whose code nodes depend on, and whose versions tell of it.
_PACKAGES: Final = ("llama-index-core", "nltk", "tiktoken")


class NoKeyError(Exception):
    """Something can't be told apart from others like it; the message says what."""


def digest(*parts: Any) -> bytes:
    """32 bytes that tell parts from others.

    Raises:
        NoKeyError: If a part holds anything but what is told by its value or its code.
    """
    try:
        written = json.dumps([_written(part) for part in parts])
    except ValueError as error:  # an integer of too many digits, or a value that holds itself
        raise NoKeyError(str(error)) from error
    return hashlib.sha256(written.encode()).digest()


def transformation_key(transformation: Any) -> bytes:
    """What tells a node parser or an embedding model from others.

    An embedding model is told by what the native cache tells it by, but for its API key, and by its class's code; a
    node parser by all its settings, functions and tokenizer included, which the native cache leaves out.

    Raises:
        NoKeyError: If a setting of a node parser can't be told by its value or its code.
    """
    native = _native_class(transformation)
    if isinstance(transformation, BaseEmbedding):
        settings = {name: value for name, value in transformation.to_dict().items() if name != "api_key"}
        return digest(_name(native), list(_codes(native)), remove_unstable_values(str(settings)), _versions())
    fields = {name: value for name, value in vars(transformation).items() if name != "callback_manager"}
    return digest(_name(native), fields, transformation.__pydantic_private__, _versions())


def _native_class(transformation: Any) -> Any:
    if isinstance(transformation, StandsFor):
        return transformation.aaflow_native
    return transformation._native if isinstance(transformation, Accelerated) else type(transformation)


@lru_cache(maxsize=1)
def _versions() -> Any:
    return [sys.version_info[:2], *(_version(package) for package in _PACKAGES)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(obj: Any) -> str:
    # By the second name worker processes know what a script defines.
    module = "__main__" if obj.__module__ == "__mp_main__" else obj.__module__
    return f"{module}.{obj.__qualname__}"


def _codes(cls: Any) -> Iterator[Any]:
    """The functions of a class, and of those between it and `BaseEmbedding`."""
    for base in cls.__mro__[: cls.__mro__.index(BaseEmbedding)]:
        for name, member in sorted(vars(base).items()):
            function = plain(member)
            if isinstance(function, FunctionType):
                yield name, _code(function.__code__)
                yield from _used(function)


def _used(function: Any) -> Iterator[Any]:
    """The plain values and the functions of a function's own module that it names."""
    for name in sorted(set(_names(function.__code__))):
        value = function.__globals__.get(name)
        if type(value) in ATOMS:
            yield name, value
        elif isinstance(value, FunctionType) and value.__module__ == function.__module__:
            yield name, _code(value.__code__)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _code(code: CodeType) -> str:
    """A digest of compiled code, wherever in a file it stands."""
    hashed = hashlib.sha256(code.co_code)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    hashed.update(repr((names, code.co_argcount, code.co_kwonlyargcount, code.co_flags)).encode())
    for constant in code.co_consts:
        hashed.update((_code(constant) if isinstance(constant, CodeType) else _constant(constant)).encode())
    return hashed.hexdigest()


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value) + type(value).__name__


def _written(value: Any) -> Any:
    """A value as JSON can hold it, different for each two that differ in order or type."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is list:
        return [_written(item) for item in value]
    if kind is tuple:
        return {"tuple": [_written(item) for item in value]}
    if kind is dict:
        return {"dict": [[_written(key), _written(item)] for key, item in value.items()]}
    if kind is set or kind is frozenset:
        return {kind.__name__: sorted(json.dumps(_written(item)) for item in value)}
    if isinstance(value, Enum):
        return {"enum": [_name(kind), value.name]}
    if isinstance(value, BaseModel):
        if value.__pydantic_extra__ or value.__pydantic_private__:
            raise NoKeyError(f"{kind.__name__} with attributes of its own")
        return {"model": [_name(kind), _written(value.__dict__)]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if isinstance(value, Path):
        return {"path": str(value)}
    return _written_function(value)


def _written_function(value: Any) -> Any:
    if isinstance(value, ModuleType):
        return {"module": value.__name__}
    if isinstance(value, partial):
        return {"partial": [_written(part) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, MethodType):
        return {"method": [_written(value.__func__), _encoding(value.__self__)]}
    if isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType):
        return {"builtin": _name(value)}
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        held = [_written(part) for part in (cells, value.__defaults__, value.__kwdefaults__, list(_used(value)))]
        return {"function": [_name(value), _code(value.__code__), *held]}
    raise NoKeyError(f"{type(value).__name__} can't be told from others by its value")


def _encoding(value: Any) -> str:
    """The name of one of tiktoken's own encodings."""
    registry = sys.modules.get("tiktoken.registry")
    name = getattr(value, "name", None)
    if registry is None or type(name) is not str or registry.ENCODINGS.get(name) is not value:
        raise NoKeyError(f"{type(value).__name__} can't be told from others by its value")
    return name


def document_parts(nodes: Sequence[Any], *, without_embedding: bool) -> list[Any]:
    """What nodes made of documents depend on.

    Args:
        nodes: Inputs of a pipeline.
        without_embedding: Whether their embeddings are set anew before nodes are made of them.
    """
    left_out = "embedding" if without_embedding else ""
    return [
        (_name(type(node)), {name: value for name, value in vars(node).items() if name != left_out}) for node in nodes
    ]
