"""The parts that generated chains are built from: real runnables whose results follow from their input alone.

Every text names the input it comes from ("#3.", and "#3.1." for the second element split off it), and every message of
an error names the text: so a run, and an error, can be told apart from its siblings'. What does depend on more than the
input (attempts, counters, delays) is kept in a `World`, fresh for each chain.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.callbacks.manager import adispatch_custom_event, dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import LLM, BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, Generation, LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator, RunnableLambda, RunnableSerializable
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from pydantic import Field

#: What a caller's context holds while a batch runs.
REQUEST: ContextVar[str] = ContextVar("request", default="nobody's")

_ORIGIN = re.compile(r"#[\d.]+")


class Temporary(Exception):
    """A failure that may go away."""


class Odd(Exception):
    """A failure with arguments of its own."""

    def __init__(self, label: str, text: str) -> None:
        super().__init__(label, {"text": text})


ERRORS: dict[str, Callable[[str, str], Exception]] = {
    "value": lambda label, text: ValueError(f"{label} refuses {text}"),
    "key": lambda label, text: KeyError(f"{label} lacks {text}"),
    "temporary": lambda label, text: Temporary(f"{label} rests before {text}"),
    "odd": Odd,
}
ERROR_TYPES: dict[str, type[Exception]] = {"value": ValueError, "key": KeyError, "temporary": Temporary, "odd": Odd}


def origin(value: Any) -> str:
    """The input that a text, or anything that holds one, comes from; '' if it names none."""
    found = _ORIGIN.search(str(value))
    return found[0] if found else ""


@dataclass
class World:
    """What the parts of one chain share, apart from the values that pass through it."""

    #: Delays follow from the seed: another seed is another day on another machine. All but 0 slow every part down.
    seed: int
    #: The origin of an input, or of one of its elements, that has a head start wherever parts are slowed down.
    leading: str = ""
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    #: How many delayed parts were at work, at most, at the same time.
    peak: int = 0
    _working: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self) -> None:
        with self._lock:
            self._working += 1
            self.peak = max(self.peak, self._working)

    def leave(self) -> None:
        with self._lock:
            self._working -= 1

    def attempt(self, label: str, text: str) -> int:
        with self._lock:
            self.attempts[label, text] += 1
            return self.attempts[label, text]

    def call(self, label: str) -> int:
        with self._lock:
            self.calls[label] += 1
            return self.calls[label]


@dataclass(frozen=True)
class Conduct:
    """How a part behaves besides computing: for which texts it fails, and how long it takes.

    Args:
        error: One of `ERRORS`, or '' if it never fails.
        every: It fails for about one text in so many.
        attempts: Failing goes away after so many attempts; 0 means never.
        slow: Whether it takes a few milliseconds, as a remote call does.
    """

    world: World
    label: str
    error: str = ""
    every: int = 3
    attempts: int = 0
    slow: bool = False

    def _delay(self, text: str) -> float:
        seed, label = self.world.seed, self.label
        pace = (0, 1, 8)[crc32(f"{seed}|{label}".encode()) % 3] if seed else 1
        milliseconds = pace * (crc32(f"{seed}|{label}|{text}".encode()) % 4)
        if leading := self.world.leading:
            own = origin(text) or "none"
            if not own.startswith(leading) and not leading.startswith(own):
                milliseconds += 20 * (1 + seed // 4)  # the later, the more: a busy machine needs more of a start
            elif seed % 2:
                milliseconds = 0
        return milliseconds / 1000

    def _fail(self, text: str) -> None:
        if self.error and crc32(f"{self.label}|{origin(text)}".encode()) % self.every == 0:
            attempt = self.world.attempt(self.label, text)
            if not self.attempts or attempt <= self.attempts:
                raise ERRORS[self.error](self.label, text)

    def work(self, text: str) -> None:
        """Take the time, and fail where it is due."""
        if self.slow or self.world.seed:
            self.world.enter()
            time.sleep(self._delay(text))
            self.world.leave()
        self._fail(text)

    async def awork(self, text: str) -> None:
        """The same for a coroutine."""
        if self.slow or self.world.seed:
            self.world.enter()
            try:
                await asyncio.sleep(self._delay(text))
            finally:
                self.world.leave()
        self._fail(text)


def shortened(text: str) -> str:
    """A text that does not grow without end on its way, and still follows from all that was done to it."""
    return text if len(text) < 160 else f"{text[:40]}~{crc32(text.encode()):08x}"


def split(text: str) -> list[str]:
    """Up to three texts out of one, each with an origin of its own."""
    start = origin(text)
    return [f"{start}{number}. {text[len(start) :]}" for number in range(1 + crc32(text.encode()) % 3)]


def rejoined(texts: list[str]) -> str:
    """What was split off one text, as one again: with the origin of the whole, not of its first element."""
    whole = origin(texts[0]).rstrip(".").rpartition(".")[0]
    return shortened(f"{whole}. {' | '.join(texts)}")


def function(form: str, conduct: Conduct) -> Runnable[str, str]:
    """A RunnableLambda of one of the forms that LangChain tells apart."""
    label = conduct.label

    def done(text: str, note: str = "") -> str:
        return shortened(f"{text}>{label}{note}")

    def plain(text: str) -> str:
        conduct.work(text)
        return done(text)

    async def aplain(text: str) -> str:
        await conduct.awork(text)
        return done(text, "a")

    def with_config(text: str, config: RunnableConfig) -> str:
        conduct.work(text)
        seen = (sorted(config["tags"]), sorted(config["metadata"]), config.get("run_name"), config["recursion_limit"])
        configurable = sorted(key for key in config["configurable"] if not key.startswith("__"))
        return done(text, f"{seen}{configurable}")

    def with_run_manager(text: str, run_manager: Any) -> str:
        conduct.work(text)
        return done(text, f"{sorted(run_manager.tags)}{sorted(run_manager.metadata)}{type(run_manager).__name__}")

    async def awith_both(text: str, run_manager: Any, config: RunnableConfig) -> str:
        await conduct.awork(text)
        return done(text, f"a{sorted(config['tags'])}{type(run_manager).__name__}")

    def with_keywords(text: str, *, suffix: str = "") -> str:
        conduct.work(text)
        return done(text, suffix)

    def reads_context(text: str) -> str:
        conduct.work(text)
        return done(text, REQUEST.get())

    def sets_context(text: str) -> str:
        conduct.work(text)
        before = REQUEST.get()
        REQUEST.set(f"{label}'s {origin(text)}")
        return done(text, before)

    def dispatches(text: str) -> str:
        conduct.work(text)
        dispatch_custom_event("noted", {"text": text})
        return done(text)

    async def adispatches(text: str, config: RunnableConfig) -> str:
        await conduct.awork(text)
        await adispatch_custom_event("noted", {"text": text}, config=config)
        return done(text, "a")

    def yields(text: str) -> Iterator[str]:
        conduct.work(text)
        yield text
        yield f">{label}"

    def counts(text: str) -> str:
        conduct.work(text)
        return done(text, f"[{conduct.world.call(label)}]")

    forms: dict[str, Callable[[], Runnable[Any, Any]]] = {
        "plain": lambda: RunnableLambda(plain),
        "named": lambda: RunnableLambda(plain, name="a name"),
        "pair": lambda: RunnableLambda(plain, afunc=aplain),
        "async": lambda: RunnableLambda(aplain),
        "config": lambda: RunnableLambda(with_config),
        "run_manager": lambda: RunnableLambda(with_run_manager),
        "both": lambda: RunnableLambda(with_config, afunc=awith_both),
        "keywords": lambda: RunnableLambda(with_keywords),
        "reads_context": lambda: RunnableLambda(reads_context),
        "sets_context": lambda: RunnableLambda(sets_context),
        "dispatches": lambda: RunnableLambda(dispatches, afunc=adispatches),
        "yields": lambda: RunnableLambda(yields),
        "counts": lambda: RunnableLambda(counts),
    }
    return forms[form]()


FUNCTION_FORMS = (
    *("plain", "named", "pair", "config", "run_manager", "both", "keywords"),
    *("reads_context", "sets_context", "dispatches", "yields", "async"),
)


def calling(child: Runnable[str, str], form: str) -> Runnable[str, str]:
    """A RunnableLambda that runs another runnable: by returning it, or by invoking it."""

    def returns(text: str) -> Any:
        return child

    def invokes(text: str) -> str:
        return child.invoke(text)

    async def ainvokes(text: str) -> str:
        return await child.ainvoke(text)

    def passes_config(text: str, config: RunnableConfig) -> str:
        return child.invoke(text, config)

    async def apasses_config(text: str, config: RunnableConfig) -> str:
        return await child.ainvoke(text, config)

    def batches(text: str) -> str:
        return rejoined(child.batch(split(text)))

    async def abatches(text: str) -> str:
        return rejoined(await child.abatch(split(text)))

    forms: dict[str, Callable[[], Runnable[Any, Any]]] = {
        "returns": lambda: RunnableLambda(returns),
        "invokes": lambda: RunnableLambda(invokes, afunc=ainvokes),
        "passes_config": lambda: RunnableLambda(passes_config, afunc=apasses_config),
        "batches": lambda: RunnableLambda(batches, afunc=abatches),
    }
    return forms[form]()


CALLING_FORMS = ("returns", "invokes", "passes_config", "batches")


def generator(conduct: Conduct) -> Runnable[str, str]:
    def transform(chunks: Iterator[str]) -> Iterator[str]:
        for chunk in chunks:
            conduct.work(chunk)
            yield chunk
            yield f">{conduct.label}"

    async def atransform(chunks: AsyncIterator[str]) -> AsyncIterator[str]:
        async for chunk in chunks:
            await conduct.awork(chunk)
            yield chunk
            yield f">{conduct.label}a"

    return RunnableGenerator(transform, atransform)


class Suffixing(RunnableSerializable[str, str]):
    """A user's runnable, with a field that can be made configurable."""

    conduct: Any = Field(repr=False, exclude=True)
    suffix: str = ""

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        return self._call_with_config(self._suffixed, input, config, **kwargs)

    def _suffixed(self, text: str) -> str:
        self.conduct.work(text)
        return shortened(f"{text}>{self.conduct.label}{self.suffix}")


class Untraced(Runnable[str, str]):
    """A user's runnable that starts no run."""

    def __init__(self, conduct: Conduct) -> None:
        self.conduct = conduct

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        self.conduct.work(input)
        return shortened(f"{input}>{self.conduct.label}")


class Batching(Untraced):
    """A user's runnable with a batch call of its own, that can be told from single calls."""

    def batch(
        self,
        inputs: list[str],
        config: Any = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        outputs: list[Any] = []
        for text in inputs:
            try:
                outputs.append(f"{self.invoke(text)}[{len(inputs)} at once]")
            except Exception as error:
                if not return_exceptions:
                    raise
                outputs.append(error)
        return outputs

    async def abatch(self, inputs: list[str], config: Any = None, **kwargs: Any) -> list[str]:
        return self.batch(inputs, config, **kwargs)


def _reply(label: str, prompt: str, form: str) -> str:
    if form == "json" and crc32(f"{label}|{origin(prompt)}".encode()) % 5:
        return json.dumps({"text": shortened(f"{prompt}>{label}"), "label": label})
    if form == "list":
        return f"{prompt.replace(',', ';')}, {label}, {origin(prompt)}"
    return shortened(f"{prompt}>{label}")


class Replying(BaseChatModel):
    """A chat model without an asynchronous client."""

    conduct: Any = Field(repr=False, exclude=True)
    form: str = "text"
    temperature: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "replying"

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.conduct.work(messages[-1].text)
        if run_manager:
            run_manager.on_llm_new_token("token")
        return self._result(messages, stop, kwargs)

    def _result(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]) -> ChatResult:
        settings = "".join(f"|{key}={value}" for key, value in sorted({"stop": stop, **kwargs}.items()) if value)
        warmth = f"|{self.temperature}" if self.temperature else ""
        reply = _reply(self.conduct.label, messages[-1].text, self.form) + settings + warmth
        usage = {"input_tokens": len(messages), "output_tokens": 1, "total_tokens": len(messages) + 1}
        message = AIMessage(content=reply, usage_metadata=usage, response_metadata={"label": self.conduct.label})
        return ChatResult(generations=[ChatGeneration(message=message)], llm_output={"model": "replying"})


class AsyncReplying(Replying):
    """A chat model with an asynchronous client."""

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        await self.conduct.awork(messages[-1].text)
        if run_manager:
            await run_manager.on_llm_new_token("token")
        return self._result(messages, stop, kwargs)


class Completing(LLM):
    """A text model that takes prompts one by one."""

    conduct: Any = Field(repr=False, exclude=True)

    @property
    def _llm_type(self) -> str:
        return "completing"

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        self.conduct.work(prompt)
        return _reply(self.conduct.label, prompt, "text")


class CompletingTogether(BaseLLM):
    """A text model that takes a list of prompts in one call, and says of how many."""

    conduct: Any = Field(repr=False, exclude=True)

    @property
    def _llm_type(self) -> str:
        return "completing together"

    def _generate(
        self, prompts: list[str], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> LLMResult:
        for prompt in prompts:
            self.conduct.work(prompt)
        replies = [f"{_reply(self.conduct.label, prompt, 'text')}[{len(prompts)} together]" for prompt in prompts]
        return LLMResult(generations=[[Generation(text=reply)] for reply in replies])


class Finding(BaseRetriever):
    """A user's retriever."""

    conduct: Any = Field(repr=False, exclude=True)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        self.conduct.work(query)
        return [Document(page_content=f"{query}>{self.conduct.label}", metadata={"origin": origin(query)})]


class AsyncFinding(Finding):
    """A user's retriever with an asynchronous form."""

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        await self.conduct.awork(query)
        return [Document(page_content=f"{query}>{self.conduct.label}a", metadata={"origin": origin(query)})]


_TEXTS = [f"A text about subject {number}" for number in range(12)]
_METADATAS = [{"number": number} for number in range(12)]


def vector_store(name: str) -> VectorStore:
    """A small store, 'memory' or 'faiss'; built anew, as a store may keep something of a search."""
    embedding = DeterministicFakeEmbedding(size=6)
    if name == "faiss":
        from langchain_community.vectorstores import FAISS

        return FAISS.from_texts(_TEXTS, embedding, metadatas=_METADATAS)
    return InMemoryVectorStore.from_texts(_TEXTS, embedding, metadatas=_METADATAS)


def formatted(documents: Sequence[Document]) -> str:
    """Documents as a prompt shows them."""
    return "/".join(f"{document.page_content[-24:]}{document.metadata}" for document in documents)


def tool(conduct: Conduct, handles_errors: bool) -> BaseTool:
    """A tool with a synchronous and an asynchronous function."""

    def look(text: str) -> str:
        """Look a text up."""
        try:
            conduct.work(text)
        except Temporary as error:
            raise ToolException(*error.args) from error
        return shortened(f"{text}>{conduct.label}")

    async def alook(text: str) -> str:
        try:
            await conduct.awork(text)
        except Temporary as error:
            raise ToolException(*error.args) from error
        return shortened(f"{text}>{conduct.label}a")

    return StructuredTool.from_function(look, alook, name="look", handle_tool_error=handles_errors, tags=["a tool"])
