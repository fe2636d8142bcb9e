"""Models for the examples: your own, or stand-ins that need no network and no key.

The stand-ins are as far away as hosted models: each call waits for the time stated here, natively and accelerated
alike. What they say is poor, and follows from what they are asked.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
import zlib
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool

from langchain_aaflow.wordllama import WordLlamaEmbeddings

#: Seconds that a call for embeddings waits.
EMBEDDING_LATENCY = 0.03

#: Seconds that an answer takes, shortest and longest. The same question takes the same time.
ANSWER_LATENCY = 0.02, 0.2


def chat_model() -> BaseChatModel:
    """`ChatOpenAI` where `OPENAI_API_KEY` is set (and `OPENAI_MODEL`, if you like), else `Quoting`."""
    if "OPENAI_API_KEY" not in os.environ:
        return Quoting()
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), temperature=0)


class DistantEmbeddings(WordLlamaEmbeddings):
    """WordLlama, as far away as a hosted model. Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors, after the latency."""
        self.calls += 1
        time.sleep(EMBEDDING_LATENCY)
        return super().embed_documents(texts)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors, after the latency."""
        self.calls += 1
        await asyncio.sleep(EMBEDDING_LATENCY)
        return super().embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """The vector, after the latency."""
        return (await self.aembed_documents([text]))[0]


class Quoting(BaseChatModel):
    """Quotes the line it was given that has most words in common with the last one, the question.

    With a tool it first looks up what it was asked.
    """

    tool: str | None = None

    @property
    def _llm_type(self) -> str:
        return "quoting"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Quoting:
        """The same with the first of the tools."""
        tool: BaseTool = tools[0]
        return self.model_copy(update={"tool": tool.name})

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        time.sleep(_latency(messages))
        return self._answer(messages)

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        await asyncio.sleep(_latency(messages))
        return self._answer(messages)

    def _answer(self, messages: list[BaseMessage]) -> ChatResult:
        asked = next(str(message.content) for message in reversed(messages) if message.type == "human")
        found = [str(message.content) for message in messages if isinstance(message, ToolMessage)]
        *lines, question = "\n".join([*found, asked]).strip().splitlines()
        if self.tool and not found:
            call = {"name": self.tool, "args": {"query": question}, "id": "1"}
            answer = AIMessage("", tool_calls=[call])
        else:
            words = _words(question)
            answer = AIMessage(max(lines, key=lambda line: len(words & _words(line)), default="I don't know."))
        return ChatResult(generations=[ChatGeneration(message=answer)])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _latency(messages: list[BaseMessage]) -> float:
    low, high = ANSWER_LATENCY
    share = zlib.crc32(repr([message.content for message in messages]).encode()) / 2**32
    return low + (high - low) * share
