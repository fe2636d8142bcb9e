"""A chain for one input and for two: where there is nothing to gain, nothing may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work

_NATIVE, _OURS = "native", "ours"

Call = Callable[[asyncio.Runner, Any], Any]

_CALLS: dict[str, Call] = {
    "invoke": lambda _, chain: chain.invoke("one"),
    "ainvoke": lambda loop, chain: loop.run(chain.ainvoke("one")),
    "stream": lambda _, chain: list(chain.stream("one")),
    "batch of 1": lambda _, chain: chain.batch(["one"]),
    "batch of 2": lambda _, chain: chain.batch(["one", "two"]),
    "abatch of 1": lambda loop, chain: loop.run(chain.abatch(["one"])),
    "abatch of 2": lambda loop, chain: loop.run(chain.abatch(["one", "two"])),
}


def _chain() -> Any:
    """The chain of `rag`, with a model and embeddings that answer at once."""
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough
    from langchain_core.vectorstores import InMemoryVectorStore

    texts = [f"text number {number}" for number in range(50)]
    retriever = InMemoryVectorStore.from_texts(texts, DeterministicFakeEmbedding(size=64)).as_retriever()
    prompt = ChatPromptTemplate.from_template("{context}\n\n{question}")

    def joined(documents: list[Any]) -> str:
        return "\n".join(document.page_content for document in documents)

    return (
        {"context": retriever | joined, "question": RunnablePassthrough()}
        | prompt
        | FakeListChatModel(responses=["an answer"])
        | StrOutputParser()
    )


def _prepared(*, accelerated: bool) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        chain, call, loop = _chain(), _CALLS[parameters["call"]], asyncio.Runner()
        if accelerated:
            from langchain_aaflow import accelerate

            chain = accelerate(chain)
        return Work(run=lambda _: call(loop, chain), digest=repr)

    return prepare


def _cases(scale: Scale) -> list[Case]:
    iterations = 20 if scale.quick else 300
    return [Case(name, {"call": name, "iterations": iterations}, (_NATIVE, _OURS)) for name in _CALLS]


BENCHMARK = Benchmark(
    name="single-calls",
    home="benchmarks.single_calls:BENCHMARK",
    title="A chain for one input, and for two",
    protocol=(
        "The chain of `rag`, its retriever an InMemoryVectorStore's, with a fake model and fake embeddings that answer "
        "at once. Timed: single calls. Native and ours take turns in one process, 300 calls each after one to warm up; "
        "a repeat counts with its median. Memory is not measured."
    ),
    metric="cpu",
    contenders=(
        Contender(_NATIVE, "native", _prepared(accelerated=False)),
        Contender(_OURS, "ours", _prepared(accelerated=True)),
    ),
    cases=_cases,
    together=True,
)
