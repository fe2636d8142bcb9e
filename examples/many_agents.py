"""Run many LangGraph agents at once, each with a tool that searches, natively and accelerated.

    python examples/many_agents.py --agents 200

Needs `pip install 'aaflow-plugins[demo]' langchain`. With OPENAI_API_KEY set (and `pip install langchain-openai`) the
model is yours, and each agent runs twice; without, a stand-in that looks up its question and quotes what it finds.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import typer
from knowledge import questions, retriever
from langchain.agents import create_agent
from langchain_core.tools import create_retriever_tool
from stand_ins import DistantEmbeddings, chat_model

from langchain_aaflow import accelerate


def main(agents: Annotated[int, typer.Option(help="Agents at once.", min=1)] = 100) -> None:
    """Run many LangGraph agents at once, each with a tool that searches, natively and accelerated."""
    asyncio.run(_both(agents))


async def _both(agents: int) -> None:
    embeddings, model = DistantEmbeddings(), chat_model()
    tool = create_retriever_tool(retriever(embeddings), "look_up", "Finds functions of Python's library.")
    native = create_agent(model, [tool], system_prompt="Look it up, then answer with the one line that fits.")
    # Runs natively; what its tools look up at the same time goes into one call.
    fast = accelerate(native, batch_queries=True)

    asked = [question for question, _ in questions(agents)]
    expected = await _timed("native", native, asked, embeddings)
    answers = await _timed("accelerated", fast, asked, embeddings)

    print(f"\n{asked[0]}\n{answers[0]}\n")
    same = sum(one == other for one, other in zip(expected, answers, strict=True))
    print(f"{same} of {len(asked)} answers are the same; the model is {type(model).__name__}")


async def _timed(name: str, graph: Any, asked: list[str], embeddings: DistantEmbeddings) -> list[str]:
    calls, start = embeddings.calls, time.perf_counter()
    states = await asyncio.gather(*(graph.ainvoke({"messages": [("user", question)]}) for question in asked))
    print(f"{name:12} {time.perf_counter() - start:5.2f} s, {embeddings.calls - calls} calls for embeddings")
    return [state["messages"][-1].text for state in states]


if __name__ == "__main__":
    typer.run(main)
