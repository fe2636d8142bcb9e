"""`OpenAIEmbeddings` and `AzureOpenAIEmbeddings` whose requests go out several at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.runnables.config import run_in_executor
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from pydantic import PrivateAttr

from aaflow_plugins.executor import Executor
from langchain_aaflow.concurrent_requests import asend_all, send_all
from langchain_aaflow.openai_conditions import native_reason
from langchain_aaflow.openai_embedder import OpenAIEmbedder, asks_for_empty

if TYPE_CHECKING:
    _Native = OpenAIEmbeddings
else:
    _Native = object  # a model among the bases would bring its own fields and validators along


class _Accelerated(_Native):
    """What the two classes below share. `embed_query` is native, and calls `embed_documents` with one text."""

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
        pairs = [(request, replies[id(request)]) for request in requests]
        return await run_in_executor(None, embedder.rows, pairs, texts)

    def _embedder(self, texts: list[str], chunk_size: int | None, kwargs: dict[str, Any]) -> OpenAIEmbedder | None:
        known = type(texts) is list and len(texts) > 1 and set(map(type, texts)) == {str}
        if not known or (chunk_size or 1) < 1 or native_reason(self):
            return None
        return OpenAIEmbedder(self, chunk_size, kwargs)

    @property
    def _runner(self) -> Executor:
        return self._executor or Executor()


class AcceleratedOpenAIEmbeddings(_Accelerated, OpenAIEmbeddings):
    """`OpenAIEmbeddings` whose requests go out several at a time."""

    _executor: Executor | None = PrivateAttr(default=None)


class AcceleratedAzureOpenAIEmbeddings(_Accelerated, AzureOpenAIEmbeddings):
    """`AzureOpenAIEmbeddings` whose requests go out several at a time."""

    _executor: Executor | None = PrivateAttr(default=None)


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
    # As pydantic's own copy does it: the native validators would make new clients.
    result: OpenAIEmbeddings = object.__new__(accelerated)
    object.__setattr__(result, "__dict__", dict(vars(embeddings)))
    object.__setattr__(result, "__pydantic_fields_set__", set(embeddings.__pydantic_fields_set__))
    object.__setattr__(result, "__pydantic_extra__", embeddings.__pydantic_extra__)
    object.__setattr__(result, "__pydantic_private__", {"_executor": executor})
    return result
