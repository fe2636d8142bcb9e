"""What few chains show: each case natively and accelerated, in all ways that take many inputs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough, RunnableSequence

from aaflow_plugins import accelerate

Chain = Runnable[Any, Any]
Run = Callable[..., Any]


def batch(chain: Chain, inputs: list[Any], config: Any = None, **keywords: Any) -> Any:
    return chain.batch(inputs, config, **keywords)


def abatch(chain: Chain, inputs: list[Any], config: Any = None, **keywords: Any) -> Any:
    return asyncio.run(chain.abatch(inputs, config, **keywords))


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


class Names(BaseCallbackHandler):
    """Notes runs by their names."""

    def __init__(self) -> None:
        self.names: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **details: Any) -> None:
        self.names.append(details.get("name"))


@pytest.mark.parametrize("run", [batch, abatch])
def test_a_handler_of_what_is_below_alone_is_told(run: Run) -> None:
    chain = RunnableLambda(lambda value: value) | (lambda value: value)

    def told(each: Chain) -> list[Any]:
        handler = Names()
        manager = CallbackManager if run is batch else AsyncCallbackManager
        run(each, [1, 2, 3], {"callbacks": manager([], inheritable_handlers=[handler])})
        return sorted(handler.names)

    assert told(accelerate(chain)) == told(chain) != []


@pytest.mark.parametrize("run", [batch, abatch])
def test_a_message_is_named_after_the_run_id_that_was_given(run: Run) -> None:
    model = FakeListChatModel(responses=["an answer"])
    configs = [{"run_id": uuid.UUID(int=number)} for number in range(3)]

    def ids(chain: Chain, which: Any = None) -> list[str]:
        return [message.id for message in run(chain, ["a", "b", "c"], which)]

    bound = model.with_config(tags=["a tag"])
    assert ids(accelerate(bound), configs) == ids(bound, configs)
    named = RunnablePassthrough() | model.with_config({"run_id": uuid.UUID(int=9)})  # type: ignore[arg-type]
    assert ids(accelerate(named)) == ids(named)
    # A sequence's id is its own.
    given, random = {f"lc_run--{each['run_id']}-0" for each in configs}, RunnablePassthrough() | model
    assert not given & {*ids(accelerate(random), configs)}
    assert not given & {*ids(random, configs)}


@pytest.mark.parametrize("run", [batch, abatch])
@pytest.mark.parametrize("return_exceptions", [False, True])
def test_an_exception_that_a_bound_sequence_returns_is_raised(run: Run, return_exceptions: bool) -> None:
    refusing: Any = RunnableLambda(lambda value: ValueError(value) if value == "b" else value)
    inner = RunnableSequence(RunnablePassthrough(), refusing).with_config(tags=["a tag"])
    chain = RunnablePassthrough() | inner | RunnableLambda(repr)

    def results(each: Chain) -> Any:
        return outcome(lambda: list(map(repr, run(each, list("abc"), return_exceptions=return_exceptions))))

    assert results(accelerate(chain)) == results(chain)


@pytest.mark.parametrize("run", [batch, abatch])
def test_each_of_an_iterator(run: Run) -> None:
    def numbers(count: int) -> Iterator[int]:
        yield from range(count)

    each = RunnableLambda(lambda value: value).map()
    chain = RunnableLambda(lambda count: numbers(count)) | each
    assert outcome(lambda: run(accelerate(chain), [1, 2, 3])) == outcome(lambda: run(chain, [1, 2, 3]))


class Slow:
    """Is written by what waits for an event loop of its own."""

    def __format__(self, spec: str) -> str:
        async def text() -> str:
            return "text"

        return asyncio.run(text())


async def test_prompts_of_a_blocking_batch_are_not_written_in_the_running_loop() -> None:
    chain = RunnablePassthrough() | PromptTemplate.from_template("{value}")
    inputs = [{"value": Slow()}] * 3
    assert accelerate(chain).batch(inputs) == chain.batch(inputs)


class Open(BaseCallbackHandler):
    """Knows the runs that have not ended, and whether one has ended before what is below it."""

    def __init__(self) -> None:
        self.parents: dict[uuid.UUID, uuid.UUID | None] = {}
        self.early = 0

    def on_chain_start(self, serialized: Any, inputs: Any, **details: Any) -> None:
        self.parents[details["run_id"]] = details["parent_run_id"]

    def on_chain_error(self, error: BaseException, **details: Any) -> None:
        del self.parents[details["run_id"]]
        self.early += details["run_id"] in self.parents.values()

    def on_chain_end(self, outputs: Any, **details: Any) -> None:
        del self.parents[details["run_id"]]


async def test_nothing_of_a_step_that_keeps_state_is_left_after_a_cancellation() -> None:
    seen: list[int] = []

    async def keeps(value: int) -> int:
        await asyncio.sleep(0.02 * value)
        seen.append(value)
        return value

    chain = accelerate(RunnablePassthrough() | RunnableLambda(keeps))
    left = 0
    for _ in range(5):
        handler = Open()
        config = {"max_concurrency": 2, "callbacks": [handler]}
        task = asyncio.create_task(chain.abatch([1, 2, 3, 4, 5, 6], config))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            left += 1
            await asyncio.wait(others, timeout=5)
        assert (handler.parents, handler.early) == ({}, 0)
    # On a busy machine the last turns of what has ended may be to come.
    assert left < 3
