"""Accelerated embedding models: objects of the same native class that embed the same, sooner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from llama_index.core.base.embeddings import base as base_module
from llama_index.core.base.embeddings.base import BaseEmbedding

from aaflow_plugins.executor import Executor
from aaflow_plugins.known_code import is_from
from llama_index_aaflow import side_by_side
from llama_index_aaflow.known_code import plain
from llama_index_aaflow.native_classes import found, sharing, with_class
from llama_index_aaflow.side_by_side import METHODS, SideBySide

#: The coroutines of an embedding model that take a list of texts to the batches, as `METHODS` do.
_COROUTINES: Final = ("acall", "aget_text_embedding_batch", "_aget_text_embeddings_cached")
#: Coroutines that a model has of its own if it awaits a client.
_AWAITING: Final = ("_aget_text_embeddings_rate_limited", "_aget_text_embeddings", "_aget_text_embedding")


def accelerate_embedding(embedding: Any, executor: Executor | None = None) -> Any:
    """An object of the native class whose batches are embedded side by side, in the blocking calls, too.

    Requests, vectors, errors, events and spans are those of the native calls. `get_text_embedding` and
    `get_query_embedding`, one text each, are native.

    Args:
        embedding: Any embedding model. It is not changed; the accelerated object shares its clients.
        executor: Its `max_concurrency` bounds the requests in flight. Without it `OpenAIEmbedding` has 16 in blocking
            calls, and other models as many as there are cores; asynchronous ones are as natively (`num_workers`).

    Returns:
        The accelerated object; `embedding` itself for classes of which no plug-in says that threads may call them.
    """
    return _stood_for(embedding, executor, with_class)


def seen_accelerated(embedding: Any, executor: Executor | None = None) -> Any:
    """The very object, with the clients that it makes, as an accelerated one; `embedding` where it stays native."""
    return _stood_for(embedding, executor, sharing)


def _stood_for(embedding: Any, executor: Executor | None, made: Callable[[Any, Any], Any]) -> Any:
    if isinstance(embedding, SideBySide) or native_reason(embedding) is not None:
        return embedding
    family: Any = SideBySide
    if is_openai(embedding):
        from llama_index_aaflow.openai_embedding import Sooner

        family = Sooner
    return made(embedding, family.aaflow_class(type(embedding), executor))


def native_reason(embedding: Any) -> str | None:
    """Why an embedding model, accelerated or not, works natively; None if it takes the fast path."""
    if not is_openai(embedding):
        return side_by_side.native_reason(embedding)
    from llama_index_aaflow.openai_embedding import native_reason as openai_reason

    return openai_reason(embedding)


def is_openai(embedding: Any) -> bool:
    """Whether an object is an `OpenAIEmbedding`, or of a subclass."""
    # A known class is imported already when an object of it is handed over: looking at names imports nothing.
    return any(
        base.__name__ == "OpenAIEmbedding" and base.__module__ == "llama_index.embeddings.openai.base"
        for base in type(embedding).__mro__
    )


def is_blocking(embedding: BaseEmbedding) -> bool:
    """Whether a model's coroutines make its blocking calls, one text after the other."""
    return has_native(embedding, _AWAITING)


def embeds_natively(embedding: Any, *, asynchronous: bool = False) -> bool:
    """Whether a model, accelerated or not, is given batches of a fixed number of texts by the native loop.

    Args:
        embedding: The model.
        asynchronous: Whether it is asked by its coroutines.
    """
    return (
        has_native(embedding, _COROUTINES if asynchronous else METHODS)
        and type(embedding.embed_batch_size) is int
        and embedding.embed_batch_size > 0
        and not embedding.embeddings_cache
        and getattr(embedding, "rate_limiter", None) is None
    )


def has_native(embedding: Any, names: Sequence[str]) -> bool:
    """Whether a model, accelerated or not, has inherited these methods, as far as the installed version has them."""
    native = getattr(type(embedding), "aaflow_native", type(embedding))
    methods = [(found(native, name), found(BaseEmbedding, name)) for name in names]
    return (
        all(own is known for own, known in methods)
        and all(is_from(plain(known), base_module) for _, known in methods if known is not None)
        and not set(names).intersection(vars(embedding))
    )
