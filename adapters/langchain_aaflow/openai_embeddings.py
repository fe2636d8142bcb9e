"""`OpenAIEmbeddings` and `AzureOpenAIEmbeddings` whose requests go out several at a time."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.runnables.config import run_in_executor
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from openai.resources.embeddings import Embeddings
from pydantic import PrivateAttr

from aaflow_plugins.concurrent_requests import asend_all, send_all
from aaflow_plugins.executor import Executor
from langchain_aaflow.joining import JoinedQueries
from langchain_aaflow.openai_conditions import native_reason
from langchain_aaflow.openai_embedder import OpenAIEmbedder, asks_for_empty

if TYPE_CHECKING:
    _Native = OpenAIEmbeddings
else:
    _Native = object  # a model among the bases would bring its own fields and validators along


class _Accelerated(JoinedQueries, _Native):
    """What the two classes below share. The native `embed_query` calls `embed_documents` with one text."""

    #: Marks classes whose methods stand in for the native ones.
    aaflow_accelerated: ClassVar[bool] = True

    _executor: Executor | None

    def embed_documents(self, texts: list[str], chunk_size: int | None = None, **kwargs: Any) -> list[list[float]]:
        """The native call: same requests, same vectors, same errors; up to `max_concurrency` requests at once."""
        embedder = self._embedder(texts, chunk_size, kwargs)
        if embedder is None:
            return super().embed_documents(texts, chunk_size=chunk_size, **kwargs)
        requests = list(embedder.compose([texts]))
        # The native call asks for the vector of the empty text last.
        order = sorted(requests, key=asks_for_empty)
        replies = dict(
            zip(map(id, order), send_all(embedder, order, self._runner, self.show_progress_bar), strict=True)
        )
        return embedder.rows([(request, replies[id(request)]) for request in requests], texts)

    async def aembed_documents(
        self, texts: list[str], chunk_size: int | None = None, **kwargs: Any
    ) -> list[list[float]]:
        """The native call: same requests, same vectors, same errors; up to `max_concurrency` requests at once."""
        embedder = self._embedder(texts, chunk_size, kwargs)
        if embedder is None:
            return await super().aembed_documents(texts, chunk_size=chunk_size, **kwargs)
        requests = await run_in_executor(None, list, embedder.compose([texts]))
        order = sorted(requests, key=asks_for_empty)
        answers = await asend_all(embedder, order, self._runner, self.show_progress_bar)
        replies = dict(zip(map(id, order), answers, strict=True))
        return await embedder.arows([(request, replies[id(request)]) for request in requests], texts)

    def _embedder(self, texts: list[str], chunk_size: int | None, kwargs: dict[str, Any]) -> OpenAIEmbedder | None:
        known = type(texts) is list and len(texts) > 1 and set(map(type, texts)) == {str}
        if not known or not _API_ARGUMENTS.issuperset(kwargs):
            return None
        if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 0):
            return None
        if native_reason(self):
            return None
        return OpenAIEmbedder(self, chunk_size, kwargs)

    def __eq__(self, other: object) -> bool:
        """As between native objects: the same settings and clients. How many requests are in flight is neither."""
        return _native_view(self) == (_native_view(other) if isinstance(other, _Accelerated) else other)

    __hash__ = None  # type: ignore[assignment]  # as natively

    @property
    def _runner(self) -> Executor:
        return self._executor or Executor()


#: What the API is asked for with; the native call has names of its own, and refuses all others.
_API_ARGUMENTS = frozenset(signature(Embeddings.create).parameters) - {"self", "input"}


class AcceleratedOpenAIEmbeddings(_Accelerated, OpenAIEmbeddings):
    """`OpenAIEmbeddings` whose requests go out several at a time."""

    _executor: Executor | None = PrivateAttr(default=None)


class AcceleratedAzureOpenAIEmbeddings(_Accelerated, AzureOpenAIEmbeddings):
    """`AzureOpenAIEmbeddings` whose requests go out several at a time."""

    _executor: Executor | None = PrivateAttr(default=None)


# Repr, messages and documentation go by `__name__`, and name the native class; pickling goes by `__qualname__`.
AcceleratedOpenAIEmbeddings.__name__ = OpenAIEmbeddings.__name__
AcceleratedAzureOpenAIEmbeddings.__name__ = AzureOpenAIEmbeddings.__name__

_ACCELERATED: dict[type, type[OpenAIEmbeddings]] = {
    OpenAIEmbeddings: AcceleratedOpenAIEmbeddings,
    AzureOpenAIEmbeddings: AcceleratedAzureOpenAIEmbeddings,
}


def accelerate_openai(embeddings: OpenAIEmbeddings, executor: Executor | None) -> OpenAIEmbeddings:
    """An accelerated object with the settings and clients of `embeddings`; `embeddings` itself for other classes."""
    owner: type = type(embeddings)
    accelerated = owner if owner in _ACCELERATED.values() else _ACCELERATED.get(owner)
    if accelerated is None:
        return embeddings
    # A changed setting of the one is none of the other's.
    result = _sharing(embeddings, accelerated, dict(vars(embeddings)))
    object.__setattr__(result, "__pydantic_private__", {"_executor": executor})
    return result


def _native_view(embeddings: OpenAIEmbeddings) -> OpenAIEmbeddings:
    native = next(base for base in type(embeddings).__mro__ if base in _ACCELERATED)
    return _sharing(embeddings, native, vars(embeddings))


def _sharing(embeddings: OpenAIEmbeddings, owner: type[OpenAIEmbeddings], values: dict[str, Any]) -> OpenAIEmbeddings:
    # As pydantic's own copy does it: the native validators would make new clients.
    result = object.__new__(owner)
    object.__setattr__(result, "__dict__", values)
    object.__setattr__(result, "__pydantic_fields_set__", set(embeddings.__pydantic_fields_set__))
    object.__setattr__(result, "__pydantic_extra__", embeddings.__pydantic_extra__)
    object.__setattr__(result, "__pydantic_private__", None)
    return result
