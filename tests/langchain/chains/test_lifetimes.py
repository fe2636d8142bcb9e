"""What goes through an accelerated chain dies when its caller drops it, without a run of the collector."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from langchain_core.runnables import Runnable, RunnableLambda

from aaflow_plugins import accelerate

Chain = Runnable[Any, Any]


class Value:
    """Something to refer to weakly."""

    def __init__(self, number: int) -> None:
        self.number = number


def doubled(value: Value) -> Value:
    return Value(2 * value.number)


def refuses_every_third(value: Value) -> Value:
    if value.number % 3 == 0:
        raise ValueError("A third one")
    return Value(value.number + 1)


async def batch(chain: Chain, values: list[Value], keywords: dict[str, Any]) -> list[Any]:
    return chain.batch(values, **keywords)


async def abatch(chain: Chain, values: list[Value], keywords: dict[str, Any]) -> list[Any]:
    return await chain.abatch(values, **keywords)


async def batch_as_completed(chain: Chain, values: list[Value], keywords: dict[str, Any]) -> list[Any]:
    return [output for _, output in chain.batch_as_completed(values, **keywords)]


async def abatch_as_completed(chain: Chain, values: list[Value], keywords: dict[str, Any]) -> list[Any]:
    return [output async for _, output in chain.abatch_as_completed(values, **keywords)]


FORMS = [batch, abatch, batch_as_completed, abatch_as_completed]
Form = Callable[[Chain, list[Value], dict[str, Any]], Awaitable[list[Any]]]


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def chain_of(last: Callable[[Value], Value]) -> Chain:
    sides = {"left": RunnableLambda(doubled), "right": RunnableLambda(doubled)}
    return accelerate(RunnableLambda(doubled) | sides | RunnableLambda(lambda both: both["left"]) | last)


async def seen_of(form: Form, chain: Chain, **keywords: Any) -> tuple[list[weakref.ref[Value]], int]:
    """Weak references to inputs and outputs, and how many inputs failed."""
    values = [Value(number) for number in range(8)]
    failed, outputs = 0, []
    try:
        outputs = await form(chain, values, keywords)
    except ValueError:
        failed = 1
    failed += sum(isinstance(output, ValueError) for output in outputs)
    return [weakref.ref(value) for value in (*values, *outputs) if isinstance(value, Value)], failed


def left_of(seen: list[weakref.ref[Value]]) -> int:
    """How many live on; a thread that has just ended its call may hold one a moment longer."""
    until = time.monotonic() + 2
    while any(reference() is not None for reference in seen) and time.monotonic() < until:
        time.sleep(0.001)
    return sum(reference() is not None for reference in seen)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("return_exceptions", [False, True])
@pytest.mark.parametrize("form", FORMS)
async def test_values_die_with_their_caller(form: Form, return_exceptions: bool) -> None:
    seen, failed = await seen_of(form, chain_of(doubled), return_exceptions=return_exceptions)
    assert (len(seen), failed) == (16, 0)
    assert left_of(seen) == 0


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("form", FORMS)
async def test_values_die_with_the_errors_of_others(form: Form) -> None:
    seen, failed = await seen_of(form, chain_of(refuses_every_third), return_exceptions=True)
    assert (len(seen), failed) == (13, 3)
    assert left_of(seen) == 0


@pytest.mark.usefixtures("no_collection")
async def test_values_die_with_the_error_that_is_raised() -> None:
    """Of `batch`: where the others end early, natively too some live until a collection."""
    seen, failed = await seen_of(batch, chain_of(refuses_every_third))
    assert (len(seen), failed) == (8, 1)
    assert left_of(seen) == 0
