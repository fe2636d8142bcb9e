"""A pytest plugin under which every batch of a chain runs as the accelerated chain's.

Loaded by `scripts/upstream.py` into the test suite of langchain-core. Writes the outcome of each test, and which
batches ran as a plan, as JSON to the file named by `OUTCOMES`. With `ACCELERATION=native` it only records.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase

METHODS = ("batch", "abatch", "batch_as_completed", "abatch_as_completed")

outcomes: dict[str, str] = {}
calls: Counter[str] = Counter()


def _through_acceleration(owner: Any, name: str) -> None:
    """Let a batch method of a class hand over to an accelerated copy of the object that it is called on."""
    native = vars(owner)[name]

    @functools.wraps(native)
    def method(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        chosen = self if isinstance(self, chains.Batching) else chains.accelerate_chain(self)
        called = f"{type(self).__name__.partition('[')[0]}.{name}"
        if chosen is self:
            if not isinstance(self, chains.Batching):
                calls[f"{called}: native, its class is not accelerated"] += 1
            return native(self, inputs, *args, **kwargs)
        how = "native, it is one step" if chosen._plan_for(inputs, None) is None else "fast"
        calls[f"{called}: {how}"] += 1
        return getattr(chosen, name)(inputs, *args, **kwargs)

    setattr(owner, name, method)


def pytest_configure() -> None:
    if os.environ.get("ACCELERATION") == "native":
        return
    # Before the adapter is imported, which takes the methods that it finds for the native ones.
    for owner in (Runnable, RunnableSequence, RunnableBindingBase):
        for name in METHODS:
            if name in vars(owner):
                _through_acceleration(owner, name)
    global chains
    from langchain_aaflow.chains import accelerated as chains

    # These tests run batches of a few inputs; the number that runs natively must not hide the fast path from them.
    chains.FEW = 0


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = f"{report.when}: {report.outcome}"


def pytest_sessionfinish() -> None:
    Path(os.environ["OUTCOMES"]).write_text(json.dumps({"outcomes": outcomes, "calls": calls}), encoding="utf-8")
