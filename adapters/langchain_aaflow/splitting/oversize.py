"""Native's log message for a chunk of more than the specified size, as native logs it."""

from __future__ import annotations

import dis
from collections.abc import Callable
from types import CodeType, FunctionType

from langchain_text_splitters import TextSplitter
from langchain_text_splitters.base import logger

from langchain_aaflow.splitting.known_code import is_known


def _merge_splits(length: int, size: int) -> None:
    logger.warning("Created a chunk of size %d, which is longer than the specified %d", length, size)


def _logging_as(native: CodeType) -> Callable[[int, int], None]:
    """`_merge_splits` under the file and line from which native logs, so that a log's format shows the same."""
    warnings = (step.positions for step in dis.get_instructions(native) if step.argval == "warning")
    line = next((at.lineno for at in warnings if at and at.lineno), native.co_firstlineno)
    code = _merge_splits.__code__.replace(co_filename=native.co_filename, co_firstlineno=line - 1)
    return FunctionType(code, globals())


#: Log that a chunk's length is above the size.
log_oversize: Callable[[int, int], None] = (
    _logging_as(TextSplitter._merge_splits.__code__) if is_known(TextSplitter._merge_splits) else _merge_splits
)
