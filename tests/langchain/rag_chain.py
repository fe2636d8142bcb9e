"""A chain of the kind that every tutorial has, and handlers that know which of its runs are open."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

QUESTIONS = [f"What of subject {number % 17}, asked {number} times?" for number in range(150)]


class Echo(BaseChatModel):
    """Answers with the end of the last message; knows how many calls there were at once."""

    seconds: float = 0.002
    now: int = 0
    peak: int = 0
    calls: int = 0
    fails_on: str = "nothing"

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _answer(self, messages: list[BaseMessage]) -> ChatResult:
        text = str(messages[-1].content)
        if self.fails_on in text:
            raise LookupError(text[-20:])
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=f"echo {text[-60:]}", id="one"))])

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        with _counting(self):
            time.sleep(self.seconds)
            return self._answer(messages)

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        with _counting(self):
            await asyncio.sleep(self.seconds)
            return self._answer(messages)


_lock = threading.Lock()


class _counting:
    def __init__(self, model: Echo) -> None:
        self.model = model

    def __enter__(self) -> None:
        with _lock:
            self.model.now, self.model.calls = self.model.now + 1, self.model.calls + 1
            self.model.peak = max(self.model.peak, self.model.now)

    def __exit__(self, *_: object) -> None:
        with _lock:
            self.model.now -= 1


class Counting(Embeddings):
    """Counts calls; the vectors are those of another."""

    def __init__(self) -> None:
        self.inner, self.sizes = DeterministicFakeEmbedding(size=16), list[int]()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.sizes.append(len(texts))
        return self.inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        self.sizes.append(1)
        return self.inner.embed_query(text)


def join(documents: list[Any]) -> str:
    return "\n".join(document.page_content for document in documents)


def rag(model: Echo, embeddings: Embeddings | None = None) -> Runnable[Any, Any]:
    """The chain of every tutorial."""
    store = InMemoryVectorStore(embeddings or DeterministicFakeEmbedding(size=16))
    store.add_texts([f"A text about subject {number}" for number in range(120)])
    prompt = ChatPromptTemplate.from_template("Given {context}, answer {question}")
    found = {"context": store.as_retriever() | join, "question": RunnablePassthrough()}
    return found | prompt | model | StrOutputParser()


class Chains(BaseCallbackHandler):
    """Knows which runs of chains are open."""

    def __init__(self) -> None:
        self.open: set[Any] = set()
        self.started = 0
        self.errors: list[str] = []

    def _begin(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.started += 1
        self.open.add(run_id)

    def _end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.open.remove(run_id)

    def _fail(self, error: BaseException, *, run_id: Any, **__: Any) -> None:
        self.errors.append(type(error).__name__)
        self.open.remove(run_id)

    on_chain_start, on_chain_end, on_chain_error = _begin, _end, _fail


class Roots(Chains):
    """Those of the inputs alone: a native step that is cancelled may leave its run open."""

    def on_chain_start(self, *_: Any, run_id: Any, parent_run_id: Any = None, **__: Any) -> None:
        if parent_run_id is None:
            self._begin(run_id=run_id)

    def _end(self, *_: Any, run_id: Any, **__: Any) -> None:
        self.open.discard(run_id)

    def _fail(self, error: BaseException, *, run_id: Any, **__: Any) -> None:
        self.errors.append(type(error).__name__)
        self.open.discard(run_id)

    on_chain_end, on_chain_error = _end, _fail


class Runs(Chains):
    """All, with models and retrievers."""

    on_chat_model_start = on_retriever_start = Chains._begin
    on_llm_end = on_retriever_end = Chains._end
    on_llm_error = on_retriever_error = Chains._fail
