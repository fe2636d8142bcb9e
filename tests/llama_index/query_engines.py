"""Query engines with models that answer the same each time, and everything that can be seen of their work."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from pydantic import Field, PrivateAttr

from aaflow_plugins.hookspecs import hookimpl
from aaflow_plugins.plugins import plugin_manager

DIMENSION = 24


class ModelError(Exception):
    """What the model raises."""


def vector(text: str) -> list[float]:
    """A vector that depends on the text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return [byte / 255 - 0.5 for byte in digest[:DIMENSION]]


class HashedEmbedding(BaseEmbedding):
    """Vectors of texts' digests; remembers each call's texts."""

    seconds: float = 0.0
    _calls: list[list[str]] = PrivateAttr(default_factory=list)

    @property
    def calls(self) -> list[list[str]]:
        return self._calls

    def _of(self, texts: Sequence[str]) -> list[list[float]]:
        self._calls.append(list(texts))
        if any("unembeddable" in text for text in texts):
            raise ModelError(f"refused among {len(texts)}")
        return list(map(vector, texts))

    def _get_query_embedding(self, query: str) -> list[float]:
        time.sleep(self.seconds)
        return self._of([query])[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        await asyncio.sleep(self.seconds)
        return self._of([query])[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._of([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        time.sleep(self.seconds)
        return self._of(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(self.seconds)
        return self._of(texts)


class KnownEmbedding(HashedEmbedding):
    """The same, of which a plug-in says that queries may be embedded in one call."""


class EchoLLM(CustomLLM):
    """Answers with a digest of the prompt after some time; knows how many calls are in flight."""

    seconds: float = 0.0
    window: int = 3900
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _in_flight: int = PrivateAttr(default=0)
    _most: int = PrivateAttr(default=0)
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.window, num_output=16)

    @property
    def most(self) -> int:
        """Most calls in flight so far."""
        return self._most

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @contextmanager
    def _call(self, prompt: str) -> Iterator[None]:
        with self._lock:
            self._in_flight += 1
            self._most = max(self._most, self._in_flight)
            self._prompts.append(prompt)
        try:
            yield
            if "fails in the model" in prompt:
                raise ModelError(prompt[-60:])
        finally:
            with self._lock:
                self._in_flight -= 1

    def _answer(self, prompt: str) -> CompletionResponse:
        return CompletionResponse(text=f"answer {hashlib.sha256(prompt.encode()).hexdigest()[:8]}")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with self._call(prompt):
            time.sleep(self.seconds)
        return self._answer(prompt)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        with self._call(prompt):
            await asyncio.sleep(self.seconds)
        return self._answer(prompt)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def parts() -> CompletionResponseGen:
            text = ""
            for part in self._answer(prompt).text.split():
                text += part
                yield CompletionResponse(text=text, delta=part)

        return parts()


class SaysKnown:
    """A plug-in that knows `KnownEmbedding`."""

    @hookimpl
    def aaflow_query_batching(self, embeddings: Any) -> bool | None:
        return True if type(embeddings) is KnownEmbedding else None


@contextmanager
def known_embedding() -> Iterator[None]:
    """Have the plug-in inside the block."""
    plugin = SaysKnown()
    plugin_manager().register(plugin)
    try:
        yield
    finally:
        plugin_manager().unregister(plugin)


def nodes(count: int) -> list[TextNode]:
    """Nodes with metadata and vectors."""
    texts = [f"Passage {number}: " + f"word{number % 7} " * (5 + number % 11) for number in range(count)]
    return [
        TextNode(text=text, id_=f"node {number}", metadata={"part": number % 5}, embedding=vector(text))
        for number, text in enumerate(texts)
    ]


def index(count: int = 60, embed_model: Any = None, **settings: Any) -> VectorStoreIndex:
    """An index over nodes, in a SimpleVectorStore unless a storage context says otherwise."""
    return VectorStoreIndex(nodes(count), embed_model=embed_model or KnownEmbedding(), **settings)


def questions(count: int) -> list[str]:
    return [f"What is said of word{number % 7}, number {number}?" for number in range(count)]


def shown(value: Any) -> Any:
    """A value as it can be compared: everything of responses, nodes, scores and bundles."""
    if isinstance(value, NodeWithScore):
        return ("node", value.node.node_id, value.node.get_content(), value.node.metadata, value.score)
    if isinstance(value, QueryBundle):
        return ("bundle", value.query_str, value.embedding, value.custom_embedding_strs)
    if isinstance(value, BaseException):
        return type(value), str(value)
    if isinstance(value, dict):
        return [(str(key), shown(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [shown(item) for item in value]
    if hasattr(value, "source_nodes"):
        return (type(value), str(value), shown(value.source_nodes), shown(value.metadata))
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return type(value).__name__


def outcomes(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call returns or raises."""
    made = []
    for call in calls:
        try:
            made.append(shown(call()))
        except Exception as error:
            made.append(shown(error))
    return made


class _Entries:
    """What handlers were told, as trees: children by the entry they belong to."""

    def __init__(self) -> None:
        self.entries: dict[str, list[Any]] = {}
        self.children: dict[str, list[str]] = {}
        self.loose: list[Any] = []
        self._lock = threading.Lock()

    def add(self, id_: str, parent: str | None, entry: list[Any]) -> None:
        with self._lock:
            self.entries[id_] = entry
            self.children.setdefault(parent or "", []).append(id_)

    def trees(self, root: str = "") -> list[Any]:
        """The trees below an entry, in an order of their own: that of concurrent calls is nobody's."""
        below = [(*self.entries[id_], self.trees(id_)) for id_ in self.children.get(root, [])]
        return sorted(below, key=repr)


class _Spans(BaseSpanHandler[BaseSpan]):
    seen: Any = Field(default_factory=_Entries)

    def new_span(self, id_: str, bound_args: Any, parent_span_id: str | None = None, **kwargs: Any) -> BaseSpan:
        given = {name: shown(value) for name, value in bound_args.arguments.items()}
        self.seen.add(id_, parent_span_id, ["span", id_[:-37], given])
        return BaseSpan(id_=id_, parent_id=parent_span_id)

    def prepare_to_exit_span(self, id_: str, bound_args: Any, result: Any = None, **kwargs: Any) -> Any:
        self.seen.entries[id_] += ["exit", shown(result)]
        return self.open_spans.get(id_)

    def prepare_to_drop_span(self, id_: str, bound_args: Any, err: Any = None, **kwargs: Any) -> Any:
        self.seen.entries[id_] += ["drop", shown(err)]
        return self.open_spans.get(id_)


class _Events(BaseEventHandler):
    seen: Any = Field(default_factory=_Entries)

    def handle(self, event: Any, **kwargs: Any) -> None:
        fields = {
            name: shown(value)
            for name, value in vars(event).items()
            if name not in ("id_", "timestamp", "span_id", "tags")
        }
        if "span_id" in fields:
            fields["span_id"] = fields["span_id"][:-37]
        self.seen.entries[event.span_id] += [("event", type(event).__name__, sorted(fields.items()))]


class _Callbacks(BaseCallbackHandler):
    def __init__(self) -> None:
        super().__init__([], [])
        self.seen = _Entries()

    def on_event_start(
        self, event_type: Any, payload: Any = None, event_id: str = "", parent_id: str = "", **kwargs: Any
    ) -> str:
        self.seen.add(event_id, parent_id, ["callback", event_type.value, shown(payload)])
        return event_id

    def on_event_end(self, event_type: Any, payload: Any = None, event_id: str = "", **kwargs: Any) -> None:
        self.seen.entries[event_id] += ["end", shown(payload)]

    def start_trace(self, trace_id: str | None = None) -> None:
        self.seen.loose.append(("trace", trace_id))

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        self.seen.loose.append(("trace ended", trace_id))


class Watched:
    """Everything that is told to handlers inside the block."""

    def __init__(self) -> None:
        self._callbacks = _Callbacks()
        self.manager = CallbackManager([self._callbacks])

    def __enter__(self) -> Watched:
        self._callbacks.seen = _Entries()
        self._handlers = _Spans(), _Events()
        self._handlers[1].seen = self._handlers[0].seen
        root = get_dispatcher()
        root.span_handlers.append(self._handlers[0])
        root.event_handlers.append(self._handlers[1])
        return self

    def __exit__(self, *_: object) -> None:
        root = get_dispatcher()
        root.span_handlers.remove(self._handlers[0])
        root.event_handlers.remove(self._handlers[1])

    def trees(self) -> Any:
        """Spans with their events, callbacks with theirs, and traces."""
        callbacks = self._callbacks.seen
        return self._handlers[0].seen.trees(), callbacks.trees("root"), sorted(callbacks.loose)
