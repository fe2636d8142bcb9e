"""`OpenAIEmbedding` whose requests go out several at a time, in the blocking call, too.

A batch is fetched by the native code, retries included, with a client before it that posts what the object's own client
posts and reads the reply's base64 at once; `side_by_side.py` has several of them fetched ahead of the native loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import llama_index.embeddings.openai.base as native_module
from llama_index.core.base.embeddings import base as base_module
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import MetadataMode
from llama_index.embeddings.openai import OpenAIEmbedding
from openai.resources.embeddings import AsyncEmbeddings, Embeddings

from aaflow_plugins.collector import rare_collector
from aaflow_plugins.embedding import Vectors
from aaflow_plugins.executor import Executor
from aaflow_plugins.loop_flow import LoopFlow
from llama_index_aaflow.fetched import Begun, lists
from llama_index_aaflow.known_code import changed, plain
from llama_index_aaflow.native_classes import found
from llama_index_aaflow.side_by_side import SideBySide, span
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


def native_reason(embedding: Any) -> str | None:
    """Why an object's calls are native; None if the fast path is exact for it."""
    return changed(embedding, OpenAIEmbedding, _METHODS)


class Sooner(SideBySide):
    """What stands for the native methods of `OpenAIEmbedding`."""

    _native_reason = native_reason
    _at_once = 16

    def _prepare(self: Any) -> None:
        if self.reuse_client:
            self._get_client()  # made once, not by several threads

    async def acall(self: Any, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Asynchronously embed nodes, as the native method does."""
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        give_vectors(nodes, await self.aget_text_embedding_batch(texts, **kwargs))
        return nodes

    @span
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


_begun: ContextVar[Begun | None] = ContextVar("_begun", default=None)
_slots: ContextVar[AbstractAsyncContextManager[Any] | None] = ContextVar("_slots", default=None)


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
