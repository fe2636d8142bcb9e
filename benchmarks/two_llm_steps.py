"""Two calls of a model one after the other, with a heavy tail: what waiting for the slowest after each step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.chat_completions import Completion, Latency
from benchmarks.harness import Benchmark, Case, Scale
from benchmarks.many_inputs import (
    ABATCH,
    GATHER,
    OURS,
    Job,
    chat_model,
    chat_serving,
    contenders,
    cost_note,
    floor_note,
)
from benchmarks.results import CaseResult

_DRAFT, _REVIEW = "Write a sentence about topic {topic}.", "Say this better: {draft}"
_WARM_UP = 20
_SIGMA = 1.0


def job(parameters: Mapping[str, Any]) -> Job:
    """The chain, and as many topics as the case has."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    chain = (
        ChatPromptTemplate.from_template(_DRAFT)
        | chat_model(parameters)
        | StrOutputParser()
        | ChatPromptTemplate.from_template(_REVIEW)
        | chat_model(parameters)
        | StrOutputParser()
    )
    topics = [{"topic": f"number {number}"} for number in range(parameters["inputs"] + _WARM_UP)]
    inputs = topics[_WARM_UP:]
    longest = max(two_latencies(topic["topic"], Latency(*parameters["llm"])) for topic in inputs)
    return Job(chain, inputs, topics[:_WARM_UP], lambda _: longest)


def two_latencies(topic: str, latency: Latency) -> float:
    """Seconds that the model takes for both steps of a topic."""
    draft = _completion(_DRAFT.format(topic=topic))
    return latency.seconds(draft.messages) + latency.seconds(_completion(_REVIEW.format(draft=draft.text)).messages)


def _completion(content: str) -> Completion:
    return Completion({"messages": [{"role": "user", "content": content}]}, tool_rounds=0)


def _cases(scale: Scale) -> list[Case]:
    cases = [(24, 20)] if scale.quick else [(200, 300), (200, 100), (1_000, 100)]
    return [
        Case(
            f"{inputs:,} inputs, LLM lognormal, median {median} ms",
            {"llm": ["lognormal", median, _SIGMA], "bound": None, "inputs": inputs},
            (ABATCH, GATHER, OURS),
        )
        for inputs, median in cases
    ]


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    return [cost_note(case), "LLM floor: the longest sum of an input's two latencies.", floor_note(case)]


BENCHMARK = Benchmark(
    name="two-llm-steps",
    home="benchmarks.two_llm_steps:BENCHMARK",
    title="Two LLM steps, latency with a heavy tail",
    protocol=(
        "`prompt | ChatOpenAI | StrOutputParser() | prompt | ChatOpenAI | StrOutputParser()`. Timed: all inputs, "
        f"unbounded. Before that: the chain, and a warm-up of {_WARM_UP} other inputs by the same contender. The model "
        "is the real client of a loopback server in a process of its own: each answer takes a time drawn from a "
        f"lognormal distribution (standard deviation of the logarithm {_SIGMA:g}), the same for the same messages "
        "whoever asks. CPU is the client process's alone."
    ),
    metric="wall",
    contenders=contenders(job),
    cases=_cases,
    service=chat_serving,
    notes=_notes,
)
