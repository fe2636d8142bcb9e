"""Accelerated embedding models: objects of the same native class that embed the same, sooner."""

from __future__ import annotations

from typing import Any

from aaflow_plugins.executor import Executor


def accelerate_embedding(embedding: Any, executor: Executor | None = None) -> Any:
    """An object of the native class whose batches are embedded side by side, in the blocking calls, too.

    Requests, vectors, errors, events and spans are those of the native calls. `get_text_embedding` and
    `get_query_embedding`, one text each, are native.

    Args:
        embedding: Any embedding model. It is not changed; the accelerated object shares its clients.
        executor: Its `max_concurrency` bounds the requests in flight. Without it the blocking calls have 16, the
            asynchronous ones as many as natively (`num_workers`).

    Returns:
        The accelerated object; `embedding` itself for classes not known: how a model's texts are grouped may
        change its vectors.
    """
    if not is_openai(embedding):
        return embedding
    from llama_index_aaflow.openai_embedding import accelerate_openai

    return accelerate_openai(embedding, executor)


def native_reason(embedding: Any) -> str | None:
    """Why an embedding model, accelerated or not, works natively; None if it takes the fast path."""
    if not is_openai(embedding):
        return f"{type(embedding).__name__} is not known"
    from llama_index_aaflow.openai_embedding import native_reason as openai_reason

    return openai_reason(embedding)


def is_openai(embedding: Any) -> bool:
    """Whether an object is an `OpenAIEmbedding`, or of a subclass."""
    # A known class is imported already when an object of it is handed over: looking at names imports nothing.
    return any(
        base.__name__ == "OpenAIEmbedding" and base.__module__ == "llama_index.embeddings.openai.base"
        for base in type(embedding).__mro__
    )
