"""Handlers of one input do not hold up the others, and find the context as natively."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar, Token
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda, RunnableParallel

from aaflow_plugins import accelerate

RUN: ContextVar[UUID | None] = ContextVar("run", default=None)


class Slow(BaseCallbackHandler):
    """Takes a while at each event; counts how many it is told of at once."""

    def __init__(self) -> None:
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def _take_a_while(self, *_: Any, **__: Any) -> None:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self._lock:
            self.at_once -= 1

    on_chain_start = on_chain_end = on_chain_error = _take_a_while


class Attaches(BaseCallbackHandler):
    """Sets a variable for the time of a run, as tracers do that build on OpenTelemetry."""

    raise_error = True

    def __init__(self) -> None:
        self.tokens: dict[UUID, Token[UUID | None]] = {}

    def on_chain_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.tokens[run_id] = RUN.set(run_id)

    def on_chain_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
        RUN.reset(self.tokens.pop(run_id))  # refused in any other context


def chain() -> Any:
    sides = RunnableParallel(left=RunnableLambda(str), run=RunnableLambda(lambda _: RUN.get() is not None))
    return RunnableParallel(sides=sides) | RunnableLambda(lambda found: found["sides"])


@pytest.mark.parametrize("limit", [None, 3])
def test_slow_handlers_are_told_side_by_side(limit: int | None) -> None:
    slow = Slow()
    accelerate(chain()).batch(list(range(24)), {"callbacks": [slow], "max_concurrency": limit})
    assert slow.most_at_once >= 2
    assert limit is None or slow.most_at_once <= limit


def test_a_handler_sets_and_resets_variables_in_one_context() -> None:
    inputs = list(range(12))
    natively = chain().batch(inputs, {"callbacks": [Attaches()]})
    attaches = Attaches()
    assert accelerate(chain()).batch(inputs, {"callbacks": [attaches]}) == natively
    assert not attaches.tokens
    assert all(found["run"] for found in natively)
