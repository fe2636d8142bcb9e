"""Embedding models whose batches are embedded several at a time, by threads, in the blocking call.

The native loop stays as it is, with its events, progress bar and cache: it asks for one batch of texts after the other,
and finds each fetched already. That is for models whose vectors depend on nothing but the batch's texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Final, TypeVar

from llama_index.core.base.embeddings import base as base_module
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import MetadataMode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_instrumentation import get_dispatcher

from aaflow_plugins.collector import rare_collector
from aaflow_plugins.concurrent_requests import send_each
from aaflow_plugins.embedding import Embedder, Request, Vectors
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import load_for
from aaflow_plugins.threads import threads_can_start, threads_for_models
from llama_index_aaflow.fetched import Ahead, Fetched, lists
from llama_index_aaflow.known_code import changed, plain
from llama_index_aaflow.listening import nobody_listens
from llama_index_aaflow.native_classes import StandsFor, found, sharing
from llama_index_aaflow.storage.plain_nodes import give_vectors

T = TypeVar("T")

#: What stands for native methods, or is called by them.
METHODS: Final = ("__call__", "get_text_embedding_batch", "_get_text_embeddings_cached")

#: Spans go to the dispatcher of the module that the native methods are from.
span: Final = get_dispatcher(base_module.__name__).span


class SideBySide(StandsFor):
    """What stands for the blocking native methods of an embedding model."""

    #: Batches embedded at once without a bound of the user's; None for what suits a model of this process.
    _at_once: ClassVar[int | None] = None

    def _native_reason(self: Any) -> str | None:
        """Why the object's calls are native, as things are now; None if batches may be embedded ahead."""
        # What a class has of its own for one text is a span.
        return native_reason(self) or (None if nobody_listens() else "somebody listens to spans or events")

    @span
    def __call__(self: Any, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Embed nodes, as the native method does."""
        texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        give_vectors(nodes, self.get_text_embedding_batch(texts, **kwargs))
        return nodes

    @span
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
        if len(batches) < 2 or not threads_can_start():
            return embed()
        return fetching(self, lambda: batches, self._executor, lambda _: embed())

    def _get_text_embeddings(self: Any, texts: list[str]) -> list[list[float]]:
        """Embed the texts of one batch."""
        ahead = _ahead.get()
        rows = ahead.take(texts) if ahead is not None and ahead.embedding is self else None
        return lists(self._fetch(texts) if rows is None else rows)

    def _fetch(self: Any, texts: list[str]) -> list[Any]:
        """The vectors of a batch, by the native method; several threads may call it."""
        return self.aaflow_native._get_text_embeddings(self, texts)  # type: ignore[no-any-return]

    def _prepare(self: Any) -> None:
        """Do what is to be done once, and not by several threads."""


def native_reason(embedding: Any) -> str | None:
    """Why a model's batches can't be embedded by several threads; None if they can."""
    as_native = sharing(embedding, embedding.aaflow_native) if isinstance(embedding, SideBySide) else embedding
    if not load_for(as_native).aaflow_independent_answers(model=as_native):
        return f"{type(as_native).__name__} is not known"
    return changed(as_native, BaseEmbedding, dict.fromkeys(METHODS, base_module))


def waits_for_nothing(embedding: Any) -> bool:
    """Whether batches may be embedded before the native loop has come to them."""
    return getattr(embedding, "rate_limiter", None) is None and embedding._native_reason() is None


# -- batches embedded ahead of the native loop ------------------------------------------------------------


_ahead: ContextVar[Ahead | None] = ContextVar("_ahead", default=None)


class _Batches(Embedder):
    """The batches of one call, each a request."""

    def __init__(self, embedding: Any) -> None:
        self._embedding, self.max_concurrency = embedding, embedding._at_once or threads_for_models()
        self._first_failed = float("inf")

    def describe(self) -> str:
        """One line for `explain()`."""
        return f"{type(self._embedding).__name__}: the batches of its native loop, several at a time"

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
        executor: Bounds the batches at once; without a bound of its own it is the model's.
        use: Called in this thread.
    """
    embedder = _Batches(embedding)
    embedding._prepare()

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
