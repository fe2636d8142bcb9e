"""Accelerated embeddings: objects of the same native class that embed the same, sooner."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from aaflow_plugins.executor import Executor

E = TypeVar("E", bound=Embeddings)


def accelerate_embeddings(embeddings: E, executor: Executor | None = None) -> E:
    """An object of the native class whose `embed_documents` and `aembed_documents` make their requests side by side.

    The vectors, the requests and the errors are those of the native call. `embed_query` and `aembed_query` are native.

    Args:
        embeddings: Any LangChain embeddings. It is not changed; the accelerated object shares its clients.
        executor: Its `max_concurrency` bounds the requests in flight (default 16).

    Returns:
        The accelerated object; `embeddings` itself where a list of lists of floats cannot be had sooner: for classes
        not known, subclasses, and local models.
    """
    if _is_openai(embeddings):
        from langchain_aaflow.openai_embeddings import accelerate_openai

        return accelerate_openai(embeddings, executor)  # type: ignore[return-value,arg-type]
    return embeddings


def limited_embeddings(embeddings: E) -> E:
    """Embeddings for one batch or run, whose requests share what their endpoint has refused.

    Args:
        embeddings: Any LangChain embeddings. It is not changed; what is set on it later is no part of the copy.

    Returns:
        A copy, as `openai_rate_limits.limited` makes it; `embeddings` itself for classes not known.
    """
    if _is_openai(embeddings):
        from langchain_aaflow.openai_rate_limits import limited

        return limited(embeddings)
    return embeddings


def _is_openai(embeddings: Embeddings) -> bool:
    # A known class is imported already when an object of it is handed over: looking at names imports nothing.
    return any(base.__module__.startswith("langchain_openai.embeddings.") for base in type(embeddings).__mro__)
