"""Telling which version of a framework's code is installed, by the code itself.

A fast path reproduces functions of a framework as they were when somebody looked. A release that changes one of them
takes its own path until somebody has looked again; one that rewords a docstring or an annotation does not.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
import threading
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType
from typing import Any, Final


def is_from(function: Any, module: Any) -> bool:
    """True for a plain function written in `module`.

    Instrumentation that wraps a function keeps its name and module, but not its code.
    """
    return isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__


def is_one_of(function: Any, structures: frozenset[str]) -> bool:
    """Whether a function has one of these structures, with nothing wrapped around it."""
    # Some wrappers are equal to what they wrap, and pass for it, also with a cache.
    return type(function) is FunctionType and _is_one_of(function, structures)


@lru_cache(maxsize=1024)
def _is_one_of(function: FunctionType, structures: frozenset[str]) -> bool:
    # A wrapper bears the wrapped function's name and module, and its source is the wrapped function's to `inspect`.
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return (
        module is not None
        and is_from(function, module)
        and not hasattr(function, "__wrapped__")
        and structure(function) in structures
    )


def structure(code: Any) -> str:
    """A digest of a function's or a class's code without docstrings, annotations and layout; "" without source.

    The same on every supported version of Python.
    """
    source = source_of(code)
    return digest(source) if source else ""


def source_of(code: Any) -> str:
    """The source of a function or a class, as a module of its own; "" if it is not there."""
    try:
        with _parsing:  # a class is looked for in its module's tree
            return textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):
        return ""


def digest(source: str) -> str:
    """The digest of a piece of source, by which `structure` calls it."""
    with _parsing:
        tree = ast.parse(source)
    return hashlib.sha256("\n".join(_walk(tree)).encode()).hexdigest()[:16]


#: Python 3.11 counts the depth of trees that several threads make in one place, and fails when it does not add up.
_parsing: Final = threading.Lock()


#: What doesn't change what a function does, or what some versions of Python don't record.
_LEFT_OUT: Final = frozenset({"annotation", "returns", "decorator_list", "type_params", "type_comment", "kind", "ctx"})


def _walk(node: Any) -> Iterator[str]:
    if not isinstance(node, ast.AST):
        yield repr(node)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name in _LEFT_OUT:
            continue
        yield name
        for child in value if isinstance(value, list) else (value,):
            yield from _walk(child)
    yield "end"
