"""Answer many questions from a store of texts, natively and accelerated.

    python examples/answer_questions.py --count 200

Needs `pip install 'aaflow-plugins[demo]'`. With OPENAI_API_KEY set (and `pip install langchain-openai`) the model is
yours, and each question is asked twice; without, a stand-in that quotes the texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from knowledge import joined, questions, retriever
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnablePassthrough
from langchain_core.vectorstores import VectorStoreRetriever
from stand_ins import DistantEmbeddings, chat_model

from langchain_aaflow import accelerate

PROMPT = ChatPromptTemplate.from_template(
    "Answer the question at the end with the one line that fits, and nothing else.\n\n{context}\n\n{question}"
)


def chain_of(found_by: VectorStoreRetriever, model: BaseChatModel) -> Runnable[str, str]:
    """The chain of every tutorial."""
    shown = {"context": found_by | joined, "question": RunnablePassthrough()}
    return shown | PROMPT | model | StrOutputParser()


def main(
    count: Annotated[int, typer.Option(help="Questions to answer.", min=1)] = 100,
    max_concurrency: Annotated[int, typer.Option(help="Calls in flight.", min=1)] = 16,
) -> None:
    """Answer many questions from a store of texts, natively and accelerated."""
    embeddings, model = DistantEmbeddings(), chat_model()
    native = chain_of(retriever(embeddings), model)
    # The user says that queries may be embedded in one call: nobody knows that of DistantEmbeddings.
    fast = accelerate(native, batch_queries=True)

    asked = [question for question, _ in questions(count)]
    config: RunnableConfig = {"max_concurrency": max_concurrency}
    expected = _timed("native", embeddings, lambda: native.batch(asked, config))
    answers = _timed("accelerated", embeddings, lambda: fast.batch(asked, config))

    print(f"\n{asked[0]}\n{answers[0]}\n")
    same = sum(one == other for one, other in zip(expected, answers, strict=True))
    print(f"{same} of {len(asked)} answers are the same; the model is {type(model).__name__}")


def _timed(name: str, embeddings: DistantEmbeddings, call: Callable[[], Any]) -> Any:
    calls, start = embeddings.calls, time.perf_counter()
    result = call()
    print(f"{name:12} {time.perf_counter() - start:5.2f} s, {embeddings.calls - calls} calls for embeddings")
    return result


if __name__ == "__main__":
    typer.run(main)
