"""A chain over many inputs: the ways that LangChain has, what users write by hand, and us."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import knowledge
from benchmarks.chat_completions import Latency
from benchmarks.harness import Case, Contender
from benchmarks.measure import Work
from benchmarks.openai_server import Connection, serving
from benchmarks.results import CaseResult

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_openai import ChatOpenAI

#: LangChain's two ways, what users write instead, and ours.
ABATCH, BATCH, GATHER = "native abatch", "native batch", "gather(ainvoke), by hand"
OURS, OURS_SYNC = "ours, abatch", "ours, batch"

Way = Callable[["asyncio.Runner", "Runnable[Any, Any]", Sequence[Any], int | None, "RunnableConfig"], list[Any]]


@dataclass(frozen=True)
class Job:
    """A chain and its inputs.

    Attributes:
        chain: As a user builds it.
        inputs: What it is run over; the result for each is a string.
        warm_up: Other inputs.
        floor: Seconds below which nobody gets, from the server's statistics.
    """

    chain: Runnable[Any, str]
    inputs: Sequence[Any]
    warm_up: Sequence[Any]
    floor: Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True)
class Done:
    """Results in order, and what the callback handler saw, if there was one."""

    answers: list[Any]
    recorder: Any


def chat_model(parameters: Mapping[str, Any]) -> ChatOpenAI:
    """The real client of the loopback server."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(base_url=f"{parameters['url']}/v1", api_key=SecretStr("none"), model="gpt-4o-mini")


@contextmanager
def chat_serving(case: Case, tool_rounds: int = 0) -> Iterator[Mapping[str, Any]]:
    """A server with the latencies of the case; its parameter `llm` is a `Latency`'s first three values."""
    with serving(knowledge.BASE_MS, knowledge.ITEM_MS, knowledge.DIMENSION) as connection:
        connection.configure(chat_latency=Latency(*case.parameters["llm"]), tool_rounds=tool_rounds)
        yield {"url": connection.url}


# -- the contenders --------------------------------------------------------------------------------------


def _abatch(
    loop: asyncio.Runner, chain: Runnable[Any, Any], inputs: Sequence[Any], bound: int | None, config: RunnableConfig
) -> list[Any]:
    return loop.run(chain.abatch(list(inputs), {**config, "max_concurrency": bound}))


def _batch(
    loop: asyncio.Runner, chain: Runnable[Any, Any], inputs: Sequence[Any], bound: int | None, config: RunnableConfig
) -> list[Any]:
    return chain.batch(list(inputs), {**config, "max_concurrency": bound})


def _gather(
    loop: asyncio.Runner, chain: Runnable[Any, Any], inputs: Sequence[Any], bound: int | None, config: RunnableConfig
) -> list[Any]:
    async def all_of_them() -> list[Any]:
        slots = asyncio.Semaphore(bound) if bound else nullcontext()

        async def one(given: Any) -> Any:
            async with slots:
                return await chain.ainvoke(given, config)

        return await asyncio.gather(*map(one, inputs))

    return loop.run(all_of_them())


def contenders(job_for: Callable[[Mapping[str, Any]], Job]) -> tuple[Contender, ...]:
    """All ways to do a job, which is made in each contender's own process from the case's parameters."""
    return (
        Contender(ABATCH, "native", _prepared(job_for, _abatch, accelerated=False)),
        Contender(BATCH, "native", _prepared(job_for, _batch, accelerated=False)),
        Contender(GATHER, "native", _prepared(job_for, _gather, accelerated=False)),
        Contender(OURS, "ours", _prepared(job_for, _abatch, accelerated=True)),
        Contender(OURS_SYNC, "ours", _prepared(job_for, _batch, accelerated=True), against=BATCH),
    )


def _prepared(
    job_for: Callable[[Mapping[str, Any]], Job], way: Way, *, accelerated: bool
) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        job = job_for(parameters)
        chain = job.chain
        if accelerated:
            from langchain_aaflow import accelerate

            chain = accelerate(chain, batch_queries=True)
        bound, server = parameters["bound"], Connection(parameters["url"])
        # LangChain's asynchronous client is one for the process and does not outlive its event loop.
        loop = asyncio.Runner()

        def run(inputs: Sequence[Any], recorder: Any) -> Done:
            config: RunnableConfig = {"callbacks": [recorder]} if recorder is not None else {}
            return Done(way(loop, chain, inputs, bound, config), recorder)

        def recorder() -> Any:
            if not parameters.get("handler"):
                return None
            from benchmarks.run_trees import Recorder

            return Recorder()

        def before() -> Any:
            server.configure()
            return recorder()

        def facts(_: Done) -> dict[str, float]:
            stats = server.stats()
            chat = stats["chat"]
            if bound and chat["max_in_flight"] > bound:
                raise RuntimeError(f"{chat['max_in_flight']} calls of the model were in flight, {bound} allowed")
            return {
                "inputs": float(len(job.inputs)),
                "embedding_requests": float(stats["requests"]),
                "calls": float(chat["requests"]),
                "most_in_flight": float(chat["max_in_flight"]),
                "latency": chat["latency"],
                "floor": job.floor(stats),
            }

        return Work(
            run=lambda state: run(job.inputs, state),
            digest=_of_done,
            warm_up=lambda: run(job.warm_up, recorder()),
            before=before,
            facts=facts,
        )

    return prepare


def _of_done(done: Done) -> str:
    trees = done.recorder.trees() if done.recorder is not None else []
    return hashlib.sha256(repr((done.answers, trees)).encode("utf-8", "surrogatepass")).hexdigest()


# -- notes -----------------------------------------------------------------------------------------------


def cost_note(case: CaseResult) -> str:
    """CPU an input and the most calls in flight, by contender."""
    inputs = case.default.fact("inputs") or 1
    costs = "; ".join(
        f"{each.name} {each.spread('cpu').median / inputs * 1000:.2f} ms, {each.fact('most_in_flight'):,.0f}"
        for each in case.contenders
    )
    return f"{inputs:,.0f} inputs; CPU an input, and most calls of the model in flight: {costs}."


def floor_note(case: CaseResult) -> str:
    """Wall time over the floor, by contender."""
    floor = case.default.fact("floor") or 0.0
    ratios = "; ".join(f"{each.name} {each.spread('wall').median / floor:.2f}x" for each in case.contenders)
    return f"Wall time over the floor of {floor:.2f} s: {ratios}."


def in_turn(latencies: Sequence[float], bound: int) -> float:
    """Seconds that calls take which begin in this order, each as soon as one of `bound` slots is free."""
    free = [0.0] * bound
    for latency in latencies:
        heapq.heapreplace(free, free[0] + latency)
    return max(free)


def in_turn_note(case: CaseResult) -> str:
    """What in-order calls with the case's latencies take, over many draws: the last ones leave slots empty."""
    calls, bound = int(case.default.fact("calls") or 0), case.parameters["bound"]
    draws = [
        in_turn([Latency(*case.parameters["llm"], seed).seconds(str(call).encode()) for call in range(calls)], bound)
        for seed in range(200)
    ]
    expected = sum(draws) / len(draws)
    return f"Calls that begin in order, each as soon as a slot is free, take {expected:.2f} s of their own."
