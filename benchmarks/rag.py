"""Retrieval-augmented answers to many questions: the chain of every tutorial, over a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks import knowledge
from benchmarks.harness import Benchmark, Case, Scale
from benchmarks.many_inputs import (
    ABATCH,
    BATCH,
    GATHER,
    OURS,
    OURS_SYNC,
    Job,
    chat_model,
    chat_serving,
    contenders,
    cost_note,
    floor_note,
    in_turn_note,
)
from benchmarks.results import CaseResult

if TYPE_CHECKING:
    from langchain_core.documents import Document

_WARM_UP = 20
_SLOW, _FAST = (50, 500), (1, 2)


def _format(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


def _job(parameters: Mapping[str, Any]) -> Job:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough

    retriever = knowledge.store(parameters).as_retriever(search_kwargs={"k": knowledge.K})
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from this context alone:\n\n{context}"), ("human", "{question}")]
    )
    chain = (
        {"context": retriever | _format, "question": RunnablePassthrough()}
        | prompt
        | chat_model(parameters)
        | StrOutputParser()
    )
    questions = knowledge.questions(parameters, parameters["questions"] + _WARM_UP)

    def floor(stats: Mapping[str, Any]) -> float:
        chat, bound = stats["chat"], parameters["bound"]
        longest: float = chat["longest"]
        return max(chat["latency"] / bound, longest) if bound else longest

    return Job(chain, questions[_WARM_UP:], questions[:_WARM_UP], floor)


def _cases(scale: Scale) -> list[Case]:
    small, large, questions = (500, 2_000, 48) if scale.quick else (20_000, 100_000, 1_000)
    cases = [
        # rows, milliseconds of the model, calls in flight, whether a handler listens
        (small, _SLOW, 64, False),
        (small, _SLOW, 64, True),
        (small, _SLOW, 16, False),
        (small, _SLOW, None, False),
        (small, _FAST, 64, False),
        (large, _SLOW, 64, False),
    ]
    return [
        Case(
            f"LLM {low}-{high} ms, {f'{bound} at once' if bound else 'unbounded'}, {rows:,} x {knowledge.DIMENSION}"
            + (", with a callback handler" if handler else ""),
            {
                "llm": ["uniform", low, high],
                "bound": bound,
                "handler": handler,
                "questions": questions,
                **knowledge.parameters_of(scale.corpora, rows),
            },
            # A sync batch is never unbounded: without a bound LangChain gives it a handful of threads.
            (ABATCH, BATCH, GATHER, OURS, OURS_SYNC) if bound else (ABATCH, GATHER, OURS),
        )
        for rows, (low, high), bound, handler in cases
    ]


@contextmanager
def _serve(case: Case) -> Iterator[Mapping[str, Any]]:
    knowledge.write_vectors(case.parameters)
    with chat_serving(case) as shared:
        yield shared


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    requests = "; ".join(f"{each.name} {each.fact('embedding_requests'):,.0f}" for each in case.contenders)
    notes = [cost_note(case), f"Requests for embeddings: {requests}."]
    if case.parameters["llm"][1:] == [*_FAST]:
        return notes  # next to nothing is the model's: its share is no yardstick
    bound, latency = case.parameters["bound"], case.default.fact("latency") or 0.0
    if not bound:
        return [*notes, "LLM floor: the model's longest latency.", floor_note(case)]
    floor = f"LLM floor: {latency:.1f} s of the model's latency / {bound} at once."
    return [*notes, floor, floor_note(case), in_turn_note(case)]


BENCHMARK = Benchmark(
    name="rag",
    home="benchmarks.rag:BENCHMARK",
    title="Retrieval-augmented answers to 1,000 questions",
    protocol=(
        '`{"context": retriever | format_docs, "question": RunnablePassthrough()} | prompt | ChatOpenAI | '
        "StrOutputParser()`, the retriever being FAISS's (a flat index of real text in pieces of 200 characters, k = "
        f"{knowledge.K}) with OpenAIEmbeddings. Timed: all questions. Before that: index, chain, and a warm-up of "
        f"{_WARM_UP} other questions by the same contender. Model and embeddings are the real clients of a loopback "
        "server in a process of its own: each answer takes a time drawn uniformly from the range of the case, the same "
        f"for the same messages whoever asks; embeddings {knowledge.BASE_MS:g} ms a request + {knowledge.ITEM_MS:g} ms "
        "an item. `max_concurrency` (by hand: a semaphore) is the bound of the case; more calls of the model in flight "
        "than that fail the run. Ours has `batch_queries=True`: several questions may be embedded in one request. With "
        "a callback handler, it records every event, and the run trees are part of what must be identical. CPU is the "
        "client process's alone."
    ),
    metric="wall",
    contenders=contenders(_job),
    cases=_cases,
    service=_serve,
    notes=_notes,
)
