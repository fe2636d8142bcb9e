"""What handlers set of the context, where a run begins or ends, is seen by whom it is seen natively."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
)
from langchain_core.vectorstores import InMemoryVectorStore

from aaflow_plugins import accelerate
from tests.langchain.chains.outcomes import METHODS
from tests.langchain.chains.parts import origin

pytestmark = pytest.mark.slow

RUN: ContextVar[str] = ContextVar("run of which a handler was told last", default="none")


def reads(name: str, failing: str = "never") -> Runnable[Any, str]:
    """Adds what it reads to its input; fails for inputs that come from `failing`."""

    def read(value: Any) -> str:
        text = f"{value} {name}({RUN.get()})"
        if origin(value) == failing:
            raise ValueError(text)
        return text

    return RunnableLambda(read, name=name)


class ReadsItsConfig(Runnable[Any, str]):
    """Sets the variable where it is invoked, without a run; it is not known, so it is invoked natively."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        text = f"{input} own({RUN.get()})"
        RUN.set("its own")
        return text

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        return self.invoke(input)


def asks() -> Runnable[str, Any]:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(["a", "b"], ids=["1", "2"])
    return store.as_retriever()


def is_first(value: Any) -> bool:
    return origin(value) == "#1." and RUN.get() != "never"


#: Each is a chain, and whether its runs begin all in the thread of a blocking batch: there inputs see each other's.
CHAINS: dict[str, tuple[Callable[[], Any], bool]] = {
    "functions": (lambda: reads("a") | reads("b") | reads("c"), False),
    "parallel": (lambda: reads("a") | RunnableParallel(x=reads("x") | reads("y"), z=reads("z")) | reads("b"), False),
    "parallel alone": (lambda: RunnableParallel(x=reads("x"), y=reads("y")), False),
    "assign": (
        lambda: RunnableParallel(k=RunnablePassthrough()) | RunnablePassthrough.assign(x=reads("x")) | reads("b"),
        False,
    ),
    "branch": (
        lambda: reads("a") | RunnableBranch((RunnableLambda(is_first), reads("yes")), reads("no")) | reads("b"),
        False,
    ),
    "branch alone": (lambda: RunnableBranch((ReadsItsConfig() | is_first, ReadsItsConfig()), reads("no")), False),
    "unknown": (lambda: ReadsItsConfig() | RunnableBranch((ReadsItsConfig(), reads("yes")), reads("no")), False),
    "each": (lambda: RunnableLambda(lambda value: [value, value]) | reads("each").map() | reads("b"), False),
    "each of steps": (
        lambda: RunnableLambda(lambda value: [value, value]) | (reads("x") | reads("y")).map() | reads("b"),
        True,
    ),
    "prompt and parser": (
        lambda: (
            RunnableParallel(word=reads("a"))
            | ChatPromptTemplate.from_template("{word}")
            | (lambda prompt: prompt.to_messages()[0])
            | StrOutputParser()
            | reads("b")
        ),
        False,
    ),
    "retriever": (lambda: reads("a") | asks() | reads("b"), False),
    "route": (
        lambda: (
            RunnableParallel(key=RunnableLambda(origin), input=reads("a"))
            | RouterRunnable({f"#{number}.": reads(f"for {number}") for number in range(4)})
            | reads("b")
        ),
        False,
    ),
    "alternatives": (
        lambda: (
            RunnableParallel(word=reads("a"))
            | PromptTemplate.from_template("{word}").configurable_alternatives(
                ConfigurableField(id="which"), other=reads("other")
            )
            | reads("b")
        ),
        False,
    ),
    "returned": (lambda: reads("a") | RunnableLambda(lambda _: reads("x") | reads("y")) | reads("b"), False),
    "failure": (lambda: reads("a") | reads("x", failing="#1.") | reads("b"), False),
    "steps within": (lambda: reads("a") | (reads("x") | reads("y")).with_config(run_name="within") | reads("b"), True),
    "fallbacks": (
        lambda: reads("a") | (reads("x") | reads("y", "#1.")).with_fallbacks([reads("z")]) | reads("b"),
        True,
    ),
    "fallbacks alone": (lambda: reads("x", "#1.").with_fallbacks([reads("y")]), True),
    "retry": (
        lambda: (
            reads("a") | reads("x", "#1.").with_retry(stop_after_attempt=2, wait_exponential_jitter=False) | reads("b")
        ),
        True,
    ),
}

INPUTS = [f"#{number}. what?" for number in range(4)]


class Sets(BaseCallbackHandler):
    """Notes what it finds in the context at each event, and leaves there which run that was of."""

    def __init__(self, at: str) -> None:
        self.at = at
        self.names: dict[UUID, str] = {}
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def note(self, event: str, run_id: UUID) -> None:
        self.seen[event, self.names[run_id], RUN.get()] += 1
        if event == self.at:
            RUN.set(f"{event} of {self.names[run_id]}")

    def on_chain_start(self, _: Any, inputs: Any, *, run_id: UUID, name: str, **__: Any) -> None:
        self.names[run_id] = f"{name} {origin(inputs)}"
        self.note("start", run_id)

    def on_retriever_start(self, _: Any, query: str, *, run_id: UUID, name: str, **__: Any) -> None:
        self.on_chain_start(_, query, run_id=run_id, name=name)

    def on_chain_end(self, _: Any, *, run_id: UUID, **__: Any) -> None:
        self.note("end", run_id)

    def on_chain_error(self, _: Any, *, run_id: UUID, **__: Any) -> None:
        self.note("end", run_id)

    on_retriever_end = on_retriever_error = on_chain_end


class SetsInline(Sets):
    run_inline = True


class SetsLater(Sets, AsyncCallbackHandler):
    run_inline = True

    async def on_chain_start(self, _: Any, inputs: Any, *, run_id: UUID, name: str, **__: Any) -> None:
        super().on_chain_start(_, inputs, run_id=run_id, name=name)

    async def on_retriever_start(self, _: Any, query: str, *, run_id: UUID, name: str, **__: Any) -> None:
        super().on_chain_start(_, query, run_id=run_id, name=name)

    async def on_chain_end(self, _: Any, *, run_id: UUID, **__: Any) -> None:
        super().on_chain_end(_, run_id=run_id)

    async def on_chain_error(self, _: Any, *, run_id: UUID, **__: Any) -> None:
        super().on_chain_end(_, run_id=run_id)

    on_retriever_end = on_retriever_error = on_chain_end


def found(chain: Any, method: str, handler: Sets, limit: int | None) -> Any:
    """The outputs, what the handler saw at each event, and what it left in the context of the caller."""
    config: RunnableConfig = {"callbacks": [handler], "max_concurrency": limit}

    async def acall() -> tuple[list[Any], str]:
        if method == "abatch":
            outputs = await chain.abatch(INPUTS, config, return_exceptions=True)
        else:
            outputs = [one async for one in chain.abatch_as_completed(INPUTS, config, return_exceptions=True)]
        return outputs, RUN.get()

    def call() -> tuple[list[Any], str]:
        return list(getattr(chain, method)(INPUTS, config, return_exceptions=True)), RUN.get()

    outputs, left = asyncio.run(acall()) if method.startswith("a") else copy_context().run(call)
    return sorted(map(repr, outputs)), handler.seen, left


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("make", [Sets, SetsInline, SetsLater])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CHAINS)
def test_what_handlers_set_is_seen_as_natively(name: str, method: str, make: type[Sets], at: str) -> None:
    chain, begins_together = CHAINS[name][0](), CHAINS[name][1]
    if begins_together and method == "batch":
        pytest.skip("natively an input sees what was set for the last one")
    if make is SetsLater and not method.startswith("a"):
        pytest.skip("its coroutines run in a loop of their own")
    for limit in (None, 2):
        natively = found(chain, method, make(at), limit)
        assert found(accelerate(chain), method, make(at), limit) == natively
        assert natively[1]


@pytest.mark.parametrize("method", METHODS)
def test_what_handlers_bound_to_a_step_set_is_seen_as_natively(method: str) -> None:
    results = []
    for wrap in (lambda chain: chain, accelerate):
        handler = SetsInline("start")
        bound = RunnableParallel(x=reads("x")).with_config(callbacks=[handler])
        results.append(found(wrap(reads("a") | bound | reads("b")), method, handler, None))
    assert results[1] == results[0]
    assert results[0][1]
