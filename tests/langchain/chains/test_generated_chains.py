"""Accelerated chains do what native ones do: outputs, exceptions, runs seen by handlers, warnings.

`CHAIN_EXAMPLES` says how many chains are generated (`make test-chains`: 2,000).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from langchain_core.runnables import Runnable

from aaflow_plugins import accelerate
from tests.langchain.chains.generated import Spec, roots
from tests.langchain.chains.outcomes import Call, calls, differences, settled

EXAMPLES = int(os.environ.get("CHAIN_EXAMPLES", "100"))


#: Elements of one input that fail at different steps: which of them fails first is left to timing.
FAILING_ELEMENTS = Spec(
    "sequence",
    Spec(
        "each",
        Spec(
            "parallel",
            Spec("keywords"),
            Spec("sequence", Spec("untraced", error="value"), Spec("function", form="plain", error="value")),
        ),
    ),
    Spec("function", form="plain"),
)

#: Native inputs fail before a step in which LangChain hangs a binding's run from the run above its sequence.
BOUND_BEHIND_A_FAILURE = Spec(
    "sequence",
    Spec("function", form="plain", error="value"),
    Spec("each", Spec("chat", prompt="text", form="text", stop=True)),
)


#: Elements whose threads are at work while others of them have failed, and can't be stopped.
SLOW_BESIDE_A_FAILURE = Spec(
    "assign root",
    Spec("each", Spec("function", form="plain", error="value", attempts=3, every=1, slow=True)),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(roots, calls)
@example(SLOW_BESIDE_A_FAILURE, Call(method="abatch", count=8, max_concurrency=2, handler="async"))
@example(FAILING_ELEMENTS, Call(method="abatch", count=4, handler="sync"))
@example(BOUND_BEHIND_A_FAILURE, Call(method="batch", count=4, handler="sync"))
def test_generated_chains(spec: Spec, call: Call) -> None:
    assume(settled(spec, call))
    found = differences(spec, call, accelerate)
    assert not found, "\n".join(found)


class Fake:
    """Stands for an accelerated chain that does one thing otherwise."""

    def __init__(self, chain: Runnable[Any, Any]) -> None:
        self.chain = chain

    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return self.chain.batch(inputs, config, **keywords)

    async def abatch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return await self.chain.abatch(inputs, config, **keywords)


class SwapsOutputs(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        first, second, *others = super().batch(inputs, config, **keywords)
        return [second, first, *others]


class LosesTag(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return super().batch(inputs, [one | {"tags": one["tags"][1:]} for one in config], **keywords)


class TakesOneConfig(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return super().batch(inputs, [config[0] for _ in config], **keywords)


class IsSilent(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return super().batch(inputs, {**config, "callbacks": []}, **keywords)


class MakesSingleCalls(Fake):
    def batch(self, inputs: list[Any], config: Any, *, return_exceptions: bool, **keywords: Any) -> list[Any]:
        return [self.chain.invoke(text, config, **keywords) for text in inputs]


class RunsInALoop(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return asyncio.run(super().abatch(inputs, config, **keywords))


class ForgetsContext(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return Context().run(lambda: super(ForgetsContext, self).batch(inputs, config, **keywords))


class RaisesAnother(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        try:
            return super().batch(inputs, config, **keywords)
        except ValueError as error:
            raise ValueError("Something else") from error


class RaisesTheLast(Fake):
    """What the last failing input raises, not the first."""

    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return super().batch(inputs[::-1], config, **keywords)[::-1]


class RunsTwice(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        super().batch(inputs[:1], config, **keywords)
        return super().batch(inputs, config, **keywords)


class ExceedsBound(Fake):
    def batch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        return super().batch(inputs, {**config, "max_concurrency": None}, **keywords)


class LeavesRunsOpen(Fake):
    async def abatch(self, inputs: list[Any], config: Any, **keywords: Any) -> list[Any]:
        for one in config["callbacks"]:
            # What a handler without these methods sees: steps begin, and never end.
            one.on_chain_end = one.on_chain_error = _nothing
        return await super().abatch(inputs, config, **keywords)


async def _nothing(*args: Any, **kwargs: Any) -> None: ...


PLAIN = Spec("sequence", Spec("function"), Spec("chat"))
FAILING = Spec("sequence", Spec("function", error="value", every=1), Spec("function"))
SLOW = Spec("sequence", Spec("function", slow=True), Spec("function", slow=True))


@pytest.mark.parametrize(
    ("fake", "spec", "call"),
    [
        (SwapsOutputs, PLAIN, Call(handler="")),
        (LosesTag, PLAIN, Call(configs="each")),
        (TakesOneConfig, PLAIN, Call(configs="each")),
        (IsSilent, PLAIN, Call()),
        (MakesSingleCalls, Spec("sequence", Spec("batching"), Spec("function")), Call(handler="")),
        (RunsInALoop, Spec("function", form="pair"), Call(handler="")),
        (ForgetsContext, Spec("function", form="reads_context"), Call(handler="")),
        (RaisesAnother, FAILING, Call(handler="")),
        (RaisesTheLast, FAILING, Call(handler="")),
        (RunsTwice, PLAIN, Call()),
        (ExceedsBound, SLOW, Call(max_concurrency=1, count=8)),
        (LeavesRunsOpen, PLAIN, Call(method="abatch", handler="async")),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_difference_is_found(fake: Callable[[Any], Any], spec: Spec, call: Call) -> None:
    """The comparison sees each of these, and nothing in a fake that does all natively."""
    assert differences(spec, call, fake, reruns=3)
    if fake is not ExceedsBound:
        assert not differences(spec, call, Fake)
