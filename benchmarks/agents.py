"""Agents that each make one call at a time, many of them at once: their queries embedded one by one, or together."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from benchmarks import knowledge
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.many_inputs import chat_model, chat_serving, cost_note
from benchmarks.measure import Work
from benchmarks.openai_server import Connection
from benchmarks.results import CaseResult
from benchmarks.table import seconds

_NATIVE, _OURS = "gather(ainvoke)", "ours, in a batching() block"
#: How often an agent looks something up before it answers.
_LOOKS = 2
_WARM_UP = 5


@dataclass(frozen=True)
class _Run:
    """What an agent said and was told, and how long its run took."""

    messages: list[Any]
    seconds: float


def _agent(parameters: Mapping[str, Any]) -> Any:
    from langchain.agents import create_agent
    from langchain_core.tools import create_retriever_tool

    retriever = knowledge.store(parameters).as_retriever(search_kwargs={"k": knowledge.K})
    tool = create_retriever_tool(retriever, "look_up", "Finds pieces of text about a query.")
    return create_agent(chat_model(parameters), [tool], system_prompt="Look things up before you answer.")


def _prepared(*, accelerated: bool) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        agent = _agent(parameters)
        joined: Callable[[], AbstractContextManager[Any]] = nullcontext
        if accelerated:
            from aaflow_plugins import batching
            from langchain_aaflow import accelerate

            agent, joined = accelerate(agent, batch_queries=True), batching
        server = Connection(parameters["url"])
        asked = knowledge.questions(parameters, parameters["runs"] + _WARM_UP)
        # LangChain's asynchronous client is one for the process and does not outlive its event loop.
        loop = asyncio.Runner()

        async def all_of_them(questions: Sequence[str]) -> list[_Run]:
            slots = asyncio.Semaphore(parameters["at_once"])

            async def one(question: str) -> _Run:
                async with slots:
                    start = time.perf_counter()
                    state = await agent.ainvoke({"messages": [("user", question)]})
                    return _Run(state["messages"], time.perf_counter() - start)

            with joined():
                return await asyncio.gather(*map(one, questions))

        def facts(runs: list[_Run]) -> dict[str, float]:
            stats = server.stats()
            return {
                "inputs": float(len(runs)),
                "embedding_requests": float(stats["requests"]),
                "calls": float(stats["chat"]["requests"]),
                "most_in_flight": float(stats["chat"]["max_in_flight"]),
                **{f"p{share}": percentile([run.seconds for run in runs], share) for share in (50, 99)},
            }

        return Work(
            run=lambda _: loop.run(all_of_them(asked[_WARM_UP:])),
            digest=_of_runs,
            warm_up=lambda: loop.run(all_of_them(asked[:_WARM_UP])),
            before=server.configure,
            facts=facts,
        )

    return prepare


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that is no less than `share` per cent of them (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]


def _of_runs(runs: list[_Run]) -> str:
    """All messages but for their random ids."""
    said = [
        [
            (each.type, each.content, getattr(each, "tool_calls", None), getattr(each, "tool_call_id", None))
            for each in run.messages
        ]
        for run in runs
    ]
    return hashlib.sha256(repr(said).encode("utf-8", "surrogatepass")).hexdigest()


def _cases(scale: Scale) -> list[Case]:
    rows, many, few = (500, 12, 2) if scale.quick else (20_000, 200, 20)
    cases = [(many, many, 50, 500), (many, many, 500, 2_000), (1, few, 50, 500)]
    return [
        Case(
            f"{at_once} agent{'s' if at_once > 1 else ''} at once, LLM {low:,}-{high:,} ms",
            {
                "llm": ["uniform", low, high],
                "at_once": at_once,
                "runs": runs,
                **knowledge.parameters_of(scale.corpora, rows),
            },
            (_NATIVE, _OURS),
        )
        for at_once, runs, low, high in cases
    ]


@contextmanager
def _serve(case: Case) -> Iterator[Mapping[str, Any]]:
    knowledge.write_vectors(case.parameters)
    with chat_serving(case, tool_rounds=_LOOKS) as shared:
        yield shared


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    runs = "; ".join(
        f"{each.name} {seconds(each.fact('p50') or 0)}, {seconds(each.fact('p99') or 0)}" for each in case.contenders
    )
    requests = "; ".join(f"{each.name} {each.fact('embedding_requests'):,.0f}" for each in case.contenders)
    return [
        f"Latency of a run, p50 and p99 (medians of the repeats): {runs}.",
        f"Requests for embeddings: {requests}.",
        cost_note(case),
    ]


BENCHMARK = Benchmark(
    name="agents",
    home="benchmarks.agents:BENCHMARK",
    title="LangGraph agents with a retriever tool",
    protocol=(
        f"`create_agent` with ChatOpenAI and a tool of `create_retriever_tool` (FAISS, k = {knowledge.K}, "
        f"OpenAIEmbeddings); each agent looks up {_LOOKS} things, one after the other, and answers. Timed: all runs, "
        "each a single `ainvoke`; one agent alone makes its runs one after the other. Before that: index, agent, and a "
        f"warm-up of {_WARM_UP} other runs by the same contender. Model and embeddings are the real clients of a "
        "loopback server in a process of its own: each answer takes a time drawn uniformly from the range of the case, "
        f"the same for the same messages whoever asks; embeddings {knowledge.BASE_MS:g} ms a request + "
        f"{knowledge.ITEM_MS:g} ms an item. Ours is `accelerate(agent, batch_queries=True)`. All messages, tool calls "
        "included, must be identical. CPU is the client process's alone."
    ),
    metric="wall",
    contenders=(
        Contender(_NATIVE, "native", _prepared(accelerated=False)),
        Contender(_OURS, "ours", _prepared(accelerated=True)),
    ),
    cases=_cases,
    service=_serve,
    notes=_notes,
)
