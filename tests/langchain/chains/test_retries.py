"""Steps that are tried again, natively and accelerated: an error that is not retried is every input's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableLambda,
    RunnablePassthrough,
    RunnableSequence,
)

from langchain_aaflow import accelerate, any_order

Make = Callable[[], Runnable[Any, Any]]
SECONDS = 20
QUESTIONS = [f"q{number}" for number in range(6)]


class RateLimitedError(Exception):
    """What is tried again."""


def retried(function: Callable[[Any], Any]) -> Runnable[Any, Any]:
    return RunnableLambda(function).with_retry(
        retry_if_exception_type=(RateLimitedError,), stop_after_attempt=3, wait_exponential_jitter=False
    )


def ask(question: str) -> str:
    if question == "q5":
        raise ValueError("refused")
    return f"answer to {question}"


def flaky() -> Runnable[Any, Any]:
    tries: Counter[str] = Counter()

    @any_order
    def once(answer: str) -> str:
        tries[answer] += 1
        if tries[answer] == 1 and answer.endswith("q1"):
            raise RateLimitedError
        return answer.upper()

    return retried(once)


#: Steps before which inputs wait for each other.
LATER: dict[str, Make] = {
    "retry": flaky,
    "router": lambda: RunnableLambda(lambda a: {"key": "k", "input": a}) | RouterRunnable({"k": RunnableLambda(str)}),
    "own bound": lambda: RunnableLambda(str).with_config(max_concurrency=2),
    "exception key": lambda: (
        RunnableLambda(lambda a: {"a": a})
        | RunnableLambda(str).with_fallbacks([RunnableLambda(str)], exception_key="e")
    ),
}

#: A retry within another step.
WITHIN: dict[str, Make] = {
    "fallbacks": lambda: retried(ask).with_fallbacks([RunnableLambda("instead of {}".format)]),
    "binding": lambda: retried(ask).with_config(tags=["bound"]),
    "sequence": lambda: RunnableSequence(retried(ask), RunnableLambda(str)).with_config(run_name="inner"),
    "alternatives": lambda: (RunnablePassthrough() | retried(ask)).configurable_alternatives(
        ConfigurableField(id="which"), default_key="first", second=RunnableLambda(str)
    ),
    "retry": lambda: (RunnablePassthrough() | retried(ask)).with_retry(
        retry_if_exception_type=(RateLimitedError,), stop_after_attempt=2, wait_exponential_jitter=False
    ),
    "map": lambda: RunnableLambda(lambda question: [question, "q1"]) | retried(ask).map(),
}


def outcome(chain: Runnable[Any, Any], way: str, *, returned: bool) -> Any:
    async def awaited() -> Any:
        return await asyncio.wait_for(chain.abatch(QUESTIONS, return_exceptions=returned), SECONDS)

    try:
        if way == "abatch":
            return list(map(repr, asyncio.run(awaited())))
        return list(map(repr, chain.batch(QUESTIONS, return_exceptions=returned)))
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("way", ["batch", "abatch"])
@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_inputs_that_are_lost_are_not_waited_for(later: Make, way: str, returned: bool) -> None:
    def made() -> Runnable[Any, Any]:
        return RunnablePassthrough() | retried(ask) | later()

    expected = outcome(made(), way, returned=returned)
    for _ in range(4):  # who is where when it fails is a matter of time
        assert outcome(accelerate(made()), way, returned=returned) == expected


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("way", ["batch", "abatch"])
@pytest.mark.parametrize("within", WITHIN.values(), ids=WITHIN)
def test_a_retry_within_another_step(within: Make, way: str, returned: bool) -> None:
    def made() -> Runnable[Any, Any]:
        return RunnablePassthrough() | within() | RunnableLambda(lambda value: value)

    assert outcome(accelerate(made()), way, returned=returned) == outcome(made(), way, returned=returned)
