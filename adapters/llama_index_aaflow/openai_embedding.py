"""`OpenAIEmbedding` whose requests go out several at a time, in the blocking call, too.

The native loop stays as it is, with its events, progress bar and cache: it asks for one batch of texts after the other,
and finds each fetched already. A batch is fetched by the native code as well, retries included, with a client before
it that posts what the object's own client posts and reads the reply's base64 at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import llama_index.embeddings.openai.base as native_module
from llama_index.core.base.embeddings import base as base_module
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import MetadataMode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index_instrumentation import get_dispatcher
from openai.resources.embeddings import AsyncEmbeddings, Embeddings

from aaflow_plugins.collector import rare_collector
from aaflow_plugins.concurrent_requests import send_each
from aaflow_plugins.embedding import Embedder, Request, Vectors
from aaflow_plugins.executor import Executor
from aaflow_plugins.known_code import is_from
from aaflow_plugins.loop_flow import LoopFlow
from llama_index_aaflow.fetched import Ahead, Begun, Fetched, lists
from llama_index_aaflow.known_code import plain
from llama_index_aaflow.native_classes import StandsFor, found, overridden, sharing, with_class
from llama_index_aaflow.storage.plain_nodes import give_vectors
from openai_aaflow.replies import decode
from openai_aaflow.requests import apost, post, resource_reason

T = TypeVar("T")

#: What the fast path stands for or calls, with the module that each is from.
_METHODS: Final = {
    "__call__": base_module,
    "acall": base_module,
    "get_text_embedding_batch": base_module,
    "aget_text_embedding_batch": base_module,
    "_get_text_embeddings_cached": base_module,
    "_get_text_embeddings": native_module,
    "_aget_text_embeddings": native_module,
}


def accelerate_openai(embedding: Any, executor: Executor | None) -> Any:
    """An accelerated object with the settings and clients of `embedding`; `embedding` itself where it stays native."""
    if isinstance(embedding, Sooner) or native_reason(embedding) is not None:
        return embedding
    return with_class(embedding, Sooner.aaflow_class(type(embedding), executor))


def seen_accelerated(embedding: Any, executor: Executor | None) -> Any:
    """The very object, with the clients that it makes, as an accelerated one; `embedding` where it stays native."""
    if isinstance(embedding, Sooner) or native_reason(embedding) is not None:
        return embedding
    return sharing(embedding, Sooner.aaflow_class(type(embedding), executor))


def native_reason(embedding: Any) -> str | None:
    """Why an object's calls are native; None if the fast path is exact for it."""
    native: Any = embedding.aaflow_native if isinstance(embedding, Sooner) else type(embedding)
    hidden = next((name for name in vars(embedding) if name not in native.model_fields), None)
    return _class_reason(native) or (hidden and f"the object has its own {hidden}")


def _class_reason(native: Any) -> str | None:
    # Not remembered: a method may be replaced on the class at any time.
    for name, module in _METHODS.items():
        if found(native, name) is not found(OpenAIEmbedding, name):
            return f"{native.__qualname__} overrides {name}"
        if not is_from(plain(found(native, name)), module):
            return f"{name} of {native.__qualname__} is not the one that was installed"
    return overridden(native, OpenAIEmbedding)


#: Spans go to the dispatcher of the module that the native methods are from.
_span: Final = get_dispatcher(base_module.__name__).span


class Sooner(StandsFor):
    """What stands for the native methods of `OpenAIEmbedding`."""

    @_span
    def __call__(self: Any, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Embed nodes, as the native method does."""
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        give_vectors(nodes, self.get_text_embedding_batch(texts, **kwargs))
        return nodes

    async def acall(self: Any, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Asynchronously embed nodes, as the native method does."""
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        give_vectors(nodes, await self.aget_text_embedding_batch(texts, **kwargs))
        return nodes

    @_span
    def get_text_embedding_batch(self: Any, texts: list[str], show_progress: bool = False, **kwargs: Any) -> Any:
        """Get a list of text embeddings, with batching."""
        native = plain(found(BaseEmbedding, "get_text_embedding_batch"))

        def embed() -> Any:
            with rare_collector():
                return native(self, texts, show_progress=show_progress, **kwargs)

        ahead = _ahead.get()
        if ahead is not None and ahead.embedding is self and ahead.complete:
            ahead.complete = False
            return embed()
        batches = _batches(self, texts)
        if len(batches) < 2:
            return embed()
        return fetching(self, lambda: batches, self._executor, lambda _: embed())

    @_span
    async def aget_text_embedding_batch(self: Any, texts: list[str], show_progress: bool = False, **kwargs: Any) -> Any:
        """Asynchronously get a list of text embeddings, with batching."""
        native = plain(found(BaseEmbedding, "aget_text_embedding_batch"))
        bound = self._executor and self._executor.resources.max_concurrency
        # Without a bound of the user's it is the native one: `num_workers`, or none at all.
        token = _slots.set(asyncio.Semaphore(bound) if bound else None)
        try:
            with rare_collector():
                return await native(self, texts, show_progress=show_progress, **kwargs)
        finally:
            _slots.reset(token)

    def _get_text_embeddings(self: Any, texts: list[str]) -> list[list[float]]:
        """Embed the texts of one request."""
        ahead = _ahead.get()
        rows = ahead.take(texts) if ahead is not None and ahead.embedding is self else None
        return lists(self._fetch(texts) if rows is None else rows)

    async def _aget_text_embeddings(self: Any, texts: list[str]) -> list[list[float]]:
        """Embed the texts of one request."""
        begun = _begun.get()
        reply = begun.take(texts) if begun is not None and begun.embedding is self else None
        return await (self._afetch(texts) if reply is None else reply)

    async def _afetch(self: Any, texts: list[str]) -> list[list[float]]:
        stand_in = _StandIn(self, _AsyncClient)
        async with _slots.get() or nullcontext():
            native: Any = OpenAIEmbedding._aget_text_embeddings
            with _lent(self, texts) as given:
                return lists(await native(stand_in, given))

    def _fetch(self: Any, texts: list[str]) -> list[Any]:
        native: Any = OpenAIEmbedding._get_text_embeddings
        with _lent(self, texts) as given:
            return native(_StandIn(self, _Client), given)  # type: ignore[no-any-return]


# -- requests made ahead of the native loop ---------------------------------------------------------------


_ahead: ContextVar[Ahead | None] = ContextVar("_ahead", default=None)
_begun: ContextVar[Begun | None] = ContextVar("_begun", default=None)
_slots: ContextVar[AbstractAsyncContextManager[Any] | None] = ContextVar("_slots", default=None)


class _Batches(Embedder):
    """The batches of one call, each a request."""

    max_concurrency = 16

    def __init__(self, embedding: Any) -> None:
        self._embedding = embedding
        self._first_failed = float("inf")

    def describe(self) -> str:
        """One line for `explain()`."""
        return f"{type(self._embedding).__name__}: own requests, base64 decoded to float32"

    def compose(self, batches: Iterable[Sequence[str]]) -> Iterator[Request]:
        """A request for each batch."""
        for number, batch in enumerate(batches):
            yield Request((number, batch), len(batch), sum(len(text) for text in batch if type(text) is str))

    def send(self, request: Request) -> Fetched:
        """Fetch one batch. An error waits until the native loop has come to it."""
        number, texts = request.payload
        if number > self._first_failed:
            return Fetched(texts)
        try:
            return Fetched(texts, self._embedding._fetch(texts))
        except Exception as error:
            self._first_failed = min(self._first_failed, number)
            return Fetched(texts, error=error)

    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """Not asked for: rows go to the native loop."""
        raise NotImplementedError


def fetching(
    embedding: Any, batches: Callable[[], Iterable[list[str]]], executor: Executor | None, use: Callable[[Ahead], T]
) -> T:
    """Call `use` while batches are fetched ahead of the native loop, which `use` comes to.

    Args:
        embedding: An accelerated object.
        batches: Gives the batches, in the order of the native loop; called when the first reply is waited for.
        executor: Bounds the requests in flight; 16 without a bound of its own.
        use: Called in this thread.
    """
    embedder = _Batches(embedding)
    if embedding.reuse_client:
        embedding._get_client()  # made once, not by several threads

    def requests() -> Iterator[Request]:
        yield from embedder.compose(batches())

    def consume(replies: Iterator[Any]) -> T:
        with _set_ahead(Ahead(embedding, replies)) as ahead:
            return use(ahead)

    return send_each(embedder, requests(), executor or Executor(), consume)


@contextmanager
def _set_ahead(ahead: Ahead) -> Iterator[Ahead]:
    token = _ahead.set(ahead)
    try:
        yield ahead
    finally:
        _ahead.reset(token)


@asynccontextmanager
async def beginning(embedding: Any, executor: Executor | None) -> AsyncIterator[Begun]:
    """Let requests begin before the native asynchronous call comes to them, as many at once as that has.

    Args:
        embedding: An accelerated object.
        executor: Bounds the requests in flight; without a bound of its own the native one holds.
    """
    workers = embedding.num_workers or 1
    bounds = [executor and executor.resources.max_concurrency, workers if workers > 1 else None]
    bound = min(filter(None, bounds), default=None)
    async with LoopFlow() as flow:
        slots = _slots.set(asyncio.Semaphore(bound) if bound else None)
        begun = Begun(embedding, lambda texts: flow.spawn(embedding._afetch(texts)))
        token = _begun.set(begun)
        try:
            yield begun
        finally:
            _begun.reset(token)
            _slots.reset(slots)


def waits_for_nothing(embedding: Any) -> bool:
    """Whether requests may go out before the native loop has come to them."""
    return getattr(embedding, "rate_limiter", None) is None and native_reason(embedding) is None


def _batches(embedding: Any, texts: Any) -> list[list[str]]:
    """The batches that the native loop will ask for; none where they can't be told, or may not be fetched ahead."""
    size, cache = embedding.embed_batch_size, embedding.embeddings_cache
    if type(texts) is not list or type(size) is not int or size < 1 or not waits_for_nothing(embedding):
        return []
    batches = [texts[start : start + size] for start in range(0, len(texts), size)]
    if not cache:
        return batches
    if type(cache) is not SimpleKVStore or not all(type(text) is str for text in texts):
        return []  # looking into it could be seen
    seen: set[str] = set()
    missing = []
    for batch in batches:
        missing.append([t for t in batch if t not in seen and cache.get(key=t, collection="embeddings") is None])
        seen.update(batch)
    return [batch for batch in missing if batch]


# -- one request -----------------------------------------------------------------------------------------


@contextmanager
def _lent(embedding: Any, texts: Any) -> Iterator[Any]:
    """A copy of a list, empty in the end: the native retries leave a cycle, which keeps what they were given."""
    is_known = type(texts) is list and native_reason(embedding) is None
    given = texts.copy() if is_known else texts
    try:
        yield given
    finally:
        if given is not texts:
            given.clear()


class _StandIn:
    """Passes for an embedding model in its own methods, with another client before its own."""

    def __init__(self, embedding: Any, client: Any) -> None:
        self._embedding, self._client_class = embedding, client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedding, name)

    def _get_client(self) -> Any:
        return self._before(self._embedding._get_client(), Embeddings)

    def _get_aclient(self) -> Any:
        return self._before(self._embedding._get_aclient(), AsyncEmbeddings)

    def _before(self, client: Any, known: type) -> Any:
        return client if resource_reason(client.embeddings, known) else self._client_class(client.embeddings)


class _Client:
    """What the native code needs of a client, whose replies are lists of floats sooner."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource
        self.embeddings = self

    def create(self, *, input: list[str], **parameters: Any) -> Any:
        """The native reply, as far as it is looked at."""
        reply = post(self._resource, input, parameters)
        vectors = decode(reply.http, "encoding_format" in parameters)
        return reply.parse() if vectors is None else _Response(vectors)


class _AsyncClient(_Client):
    async def create(self, *, input: list[str], **parameters: Any) -> Any:
        reply = await apost(self._resource, input, parameters)
        vectors = decode(reply.http, "encoding_format" in parameters)
        return await reply.parse() if vectors is None else _Response(vectors)


class _Response:
    def __init__(self, vectors: Vectors) -> None:
        self.data = [_Row(vectors.exact.get(number, row)) for number, row in enumerate(vectors.matrix)]


class _Row:
    __slots__ = ("embedding",)

    def __init__(self, embedding: Any) -> None:
        self.embedding = embedding
