"""Telling a framework's own code from what has been put in its place."""

from __future__ import annotations

from types import FunctionType
from typing import Any


def is_from(function: Any, module: Any) -> bool:
    """True for a plain function written in `module`.

    Instrumentation that wraps a function keeps its name and module, but not its code.
    """
    return isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__
