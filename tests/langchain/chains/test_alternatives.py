"""Steps that an input's configuration changes, natively and accelerated: a batch looks at all configurations first."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda, RunnablePassthrough

from langchain_aaflow import accelerate, any_order

Chain = Runnable[Any, Any]
_calls: Counter[str] = Counter()


@any_order
def billed(value: int) -> int:
    _calls["model"] += 1
    return value


def soft(value: int) -> Any:
    """An error handed on as a value."""
    return ValueError(f"soft {value}") if value == 3 else value


def step(function: Callable[[Any], Any] = billed) -> Any:
    return (RunnablePassthrough() | RunnableLambda(function)).configurable_alternatives(
        ConfigurableField(id="llm"), default_key="a", b=RunnableLambda(lambda value: value * 10)
    )


AROUND: dict[str, Callable[[], Chain]] = {
    "nothing": step,
    "fallbacks": lambda: step().with_fallbacks([RunnableLambda(lambda value: "instead")]),
    "retry": lambda: step().with_retry(stop_after_attempt=2, wait_exponential_jitter=False),
    "binding": lambda: step().with_config(tags=["bound"]),
    "binding that chooses": lambda: step().with_config(configurable={"llm": "b"}),
    "sequence": lambda: (step() | RunnableLambda(str)).with_config(run_name="inner"),
    "an error as a value": lambda: step(soft).with_config(tags=["bound"]),
}

#: What the inputs choose; None for nothing.
CHOICES: dict[str, list[Any]] = {
    "a typo": ["a", "b", "typo", "a"],
    "both": ["a", "b", "a", "b"],
    "others": ["b", "b", "b", "b"],
    "the default": ["a", None, "a", None],
    "a typo of all": ["typo"] * 4,
}


class Begun(BaseCallbackHandler):
    """What chains begin with."""

    def __init__(self) -> None:
        self.inputs: list[str] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **details: Any) -> None:
        self.inputs.append(f"{details.get('name')} {inputs!r}")


def outcome(chain: Chain, way: str, choices: list[Any], *, returned: bool, heard: bool) -> Any:
    _calls.clear()
    begun = Begun()
    configs: Any = [{"configurable": {"llm": each} if each is not None else {}} for each in choices]
    for config in configs if heard else ():
        config["callbacks"] = [begun]
    inputs = list(range(1, 1 + len(choices)))
    try:
        if way == "batch":
            found = chain.batch(inputs, configs, return_exceptions=returned)
        else:
            found = asyncio.run(chain.abatch(inputs, configs, return_exceptions=returned))
    except Exception as error:
        # How far the others have got by then is a matter of time.
        return shown(error), _calls["model"]
    return list(map(shown, found)), _calls["model"], sorted(begun.inputs)


def shown(value: Any) -> str:
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize("way", ["batch", "abatch"])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_a_batch_looks_at_all_configurations_first(
    around: Callable[[], Chain], way: str, returned: bool, heard: bool
) -> None:
    def made() -> Chain:
        return RunnablePassthrough() | around() | RunnableLambda(lambda value: value)

    for choices in CHOICES.values():
        settings: dict[str, Any] = {"returned": returned, "heard": heard}
        expected = outcome(made(), way, choices, **settings)
        assert outcome(accelerate(made()), way, choices, **settings) == expected, choices
