"""Evaluate a chain over a set of questions whose right answers are known, with a progress bar.

    python examples/evaluate.py --count 300

Needs `pip install 'aaflow-plugins[demo]'`. With OPENAI_API_KEY set (and `pip install langchain-openai`) the model is
yours, and each question is asked twice; without, a stand-in that quotes the texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from answer_questions import chain_of
from knowledge import questions, retriever
from langchain_core.runnables import RunnableConfig
from stand_ins import DistantEmbeddings, chat_model

from aaflow_plugins import Executor
from aaflow_plugins.progress import progress_bar
from langchain_aaflow import accelerate


def main(
    count: Annotated[int, typer.Option(help="Questions to ask.", min=1)] = 100,
    max_concurrency: Annotated[int, typer.Option(help="Calls in flight.", min=1)] = 16,
) -> None:
    """Evaluate a chain over a set of questions whose right answers are known, natively and accelerated."""
    asked, names = zip(*questions(count), strict=True)
    config: RunnableConfig = {"max_concurrency": max_concurrency}
    native = chain_of(retriever(DistantEmbeddings()), chat_model())
    with progress_bar("evaluation") as show:
        executor = Executor(progress=show)
        fast = accelerate(native, executor=executor, batch_queries=True)
        # A question that fails takes nothing from the others.
        answers = fast.batch(list(asked), config, return_exceptions=True)
    marks = _marks(answers, names)
    print(executor.report)

    print(f"accelerated: {_score(marks)}")
    expected = _marks(native.batch(list(asked), config, return_exceptions=True), names)
    print(f"native:      {_score(expected)}")
    print(f"{sum(map(str.__eq__, marks, expected))} of {len(asked)} marks are the same")


def _marks(answers: Sequence[Any], names: Sequence[str]) -> list[str]:
    return [
        "failed" if isinstance(answer, Exception) else "right" if name in answer else "wrong"
        for answer, name in zip(answers, names, strict=True)
    ]


def _score(marks: list[str]) -> str:
    counts = Counter(marks)
    return ", ".join(f"{counts[mark]} {mark}" for mark in ("right", "wrong", "failed"))


if __name__ == "__main__":
    typer.run(main)
