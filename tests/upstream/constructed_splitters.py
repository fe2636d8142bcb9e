"""A pytest plugin under which every splitter that a test constructs is the accelerated one.

Loaded by `scripts/upstream.py` into the test suite of langchain-text-splitters. Writes the outcome of each test, and
which splitters and calls took the fast path, as JSON to the file named by `OUTCOMES`. With `ACCELERATION=native` it
only records.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import langchain_text_splitters
import pytest
from langchain_text_splitters import MarkdownHeaderTextSplitter, TextSplitter

from langchain_aaflow import splitters
from langchain_aaflow.splitters import Accelerated, accelerate_splitter, native_reason

outcomes: dict[str, str] = {}
constructed: Counter[str] = Counter()
calls: Counter[str] = Counter()
_native_construction = 0


def _construct(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Stand in for `__new__`: construct natively, then accelerate."""
    global _native_construction
    if _native_construction or issubclass(cls, Accelerated):
        return object.__new__(cls)
    native = object.__new__(cls)
    _native_construction += 1
    try:
        native.__init__(*args, **kwargs)
    finally:
        _native_construction -= 1
    accelerated = accelerate_splitter(native)
    assert vars(accelerated) == vars(native)
    kind = "native" if accelerated is native else "accelerated"
    constructed[f"{cls.__name__}: {kind}; texts: {native_reason(accelerated) or 'fast'}"] += 1
    return accelerated


def _count_calls(cls: Any, name: str) -> None:
    replaced = getattr(cls, name)

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[f"{type(self)._native.__name__}.{name}: {native_reason(self) or 'fast'}"] += 1
        return replaced(self, *args, **kwargs)

    setattr(cls, name, counted)


def _count_native(cls: Any) -> None:
    replaced = cls.__init__

    def counted(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is cls:
            constructed[f"{cls.__name__}: native; no splitter that is known here"] += 1
        replaced(self, *args, **kwargs)

    cls.__init__ = counted


def pytest_configure() -> None:
    if os.environ.get("ACCELERATION") == "native":
        return
    # These tests split a few lines each; the size under which native is as fast must not hide the fast path from them.
    splitters._TINY_MARKDOWN = 0
    for cls in (TextSplitter, MarkdownHeaderTextSplitter):
        cls.__new__ = staticmethod(_construct)
    for name in langchain_text_splitters.__all__:
        cls = getattr(langchain_text_splitters, name)
        if (
            isinstance(cls, type)
            and name.endswith("Splitter")
            and not issubclass(cls, (TextSplitter, MarkdownHeaderTextSplitter))
        ):
            _count_native(cls)
    _count_calls(splitters._SplitsText, "split_text")
    _count_calls(splitters._SplitsMarkdown, "split_text")
    _count_calls(splitters._CreatesDocuments, "create_documents")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = f"{report.when}: {report.outcome}"


def pytest_sessionfinish() -> None:
    Path(os.environ["OUTCOMES"]).write_text(
        json.dumps({"outcomes": outcomes, "constructed": constructed, "calls": calls}), encoding="utf-8"
    )
