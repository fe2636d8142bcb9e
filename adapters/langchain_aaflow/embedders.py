"""Which way an embeddings object's texts take: the fast path where its class is known exactly, else its own calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from langchain_core.embeddings import Embeddings

from aaflow_plugins.dataplane.vectors import exact_lists, exact_matrix
from aaflow_plugins.embedding import (
    Embedder,
    Request,
    Vectors,
    reject_nan,
    same_width,
    vectors_from_lists,
    vectors_from_rows,
)
from aaflow_plugins.remote import RemoteCall, sample_of


class NativeEmbedder(Embedder):
    """Any embeddings object, through its own `embed_documents` and `aembed_documents`.

    All texts go into one call, as natively: what a model returns for a text may depend on the texts beside it
    (padding, hosted batches), and the object may count, cache or group calls. A user who knows better says so.

    Attributes:
        embeddings: The native object.
        batch_size: Texts a call; None for all in one.
        reason: Why there is no fast path, or None.
    """

    def __init__(self, embeddings: Embeddings, batch_size: int | None = None, reason: str | None = None) -> None:
        """Set up.

        Raises:
            ValueError: If `batch_size` is less than 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 (or None), not {batch_size}")
        self.embeddings = embeddings
        self.batch_size = batch_size
        self.reason = reason
        self.has_async = type(embeddings).aembed_documents is not Embeddings.aembed_documents

    @property
    def whole_input(self) -> bool:
        """Without a batch size, all texts are one call."""
        return self.batch_size is None

    @property
    def texts_a_request(self) -> int | None:
        """As `batch_size` says."""
        return self.batch_size

    def describe(self) -> str:
        """One line for `explain()`."""
        size = "all texts" if self.batch_size is None else f"{self.batch_size} texts"
        why = f" ({self.reason})" if self.reason else ""
        return f"{self._name}.embed_documents, {size} a call, native{why}"

    @property
    def remote(self) -> RemoteCall | None:
        """Each rank asks its own embeddings, a batch at a time; all texts in one call are one rank's work."""
        return RemoteCall(_texts, self._rows, _native_rows, lambda: sample_of(self.embeddings.embed_documents))

    def _rows(self, texts: pa.RecordBatch) -> pa.RecordBatch:
        """What the native call returns for a column of texts, if Arrow carries it."""
        return pa.record_batch([exact_lists(self.embeddings.embed_documents(texts.column(0).to_pylist()))], ["vector"])

    def compose(self, batches: Iterable[Sequence[str]]) -> Iterator[Request]:
        """Group texts by `batch_size`; without one, wait for them all."""
        pending: list[str] = []
        for batch in batches:
            pending += batch
            if self.batch_size is not None:
                while len(pending) >= self.batch_size:
                    yield _request(pending[: self.batch_size])
                    del pending[: self.batch_size]
        if pending:
            yield _request(pending)

    def send(self, request: Request) -> Any:
        """Call `embed_documents`; raises what it raises."""
        return self.embeddings.embed_documents(request.payload)

    async def asend(self, request: Request) -> Any:
        """Call `aembed_documents`; raises what it raises."""
        return await self.embeddings.aembed_documents(request.payload)

    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """Check and convert replies.

        Raises:
            ValueError: If a reply has too few or too many vectors, vectors that are not numbers, of different
                lengths, or with NaN; the message names the class and the text.
        """
        first, width = 0, None
        for request, reply in replies:
            vectors = self.vectors(reply, first)
            if len(vectors) != request.items:
                raise ValueError(
                    f"{self._name} returned {len(vectors)} vectors for {request.items} texts from text {first} on"
                )
            width = same_width(vectors, width, self._name, first)
            reject_nan(vectors, self._name, first)
            first += len(vectors)
            yield vectors

    def vectors(self, reply: Any, first: int) -> Vectors:
        """Convert one reply, whose first text is the `first` of the whole input."""
        return reply if isinstance(reply, Vectors) else vectors_from_rows(reply, self._name, first)

    @property
    def _name(self) -> str:
        return type(self.embeddings).__name__


def embedder_for(
    embeddings: Embeddings, *, batch_size: int | None = None, max_concurrency: int | None = None
) -> Embedder:
    """The way from texts to vectors for an embeddings object.

    Args:
        embeddings: Any LangChain embeddings. It is not changed.
        batch_size: Texts a call, where the object's class is not known to group texts itself. None: all in one call,
            as natively.
        max_concurrency: Calls in flight. None: 16 for hosted clients known to be safe, else 1.

    Raises:
        ValueError: If a number is less than 1.
    """
    if max_concurrency is not None and max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1 (or None), not {max_concurrency}")
    embedder, reason = fast_path(embeddings)
    if embedder is None:
        embedder = NativeEmbedder(embeddings, batch_size, reason)
    if max_concurrency is not None:
        embedder.max_concurrency = max_concurrency
    return embedder


def native_reason(embeddings: Embeddings) -> str | None:
    """Why `embeddings` has no fast path; None if it has one."""
    return fast_path(embeddings)[1]


def fast_path(embeddings: Embeddings) -> tuple[Embedder | None, str | None]:
    """The embedder of a known class, or why there is none."""
    # A known class is imported already when an object of it is handed over: looking at names imports nothing.
    for base in type(embeddings).__mro__:
        module = base.__module__
        if module.startswith("langchain_openai.embeddings."):
            from langchain_aaflow.openai_conditions import native_reason as openai_reason
            from langchain_aaflow.openai_embedder import OpenAIEmbedder

            reason = openai_reason(embeddings)  # type: ignore[arg-type]
            return (None, reason) if reason else (OpenAIEmbedder(embeddings), None)  # type: ignore[arg-type]
        if base.__name__ == "HuggingFaceEmbeddings" and module in _HUGGINGFACE:
            from langchain_aaflow.huggingface_embedder import HuggingFaceEmbedder
            from langchain_aaflow.huggingface_embedder import native_reason as huggingface_reason

            reason = huggingface_reason(embeddings, base)
            return (None, reason) if reason else (HuggingFaceEmbedder(embeddings), None)
    return None, f"{type(embeddings).__name__} is not known"


_HUGGINGFACE = ("langchain_huggingface.embeddings.huggingface", "langchain_community.embeddings.huggingface")


def _texts(request: Request) -> pa.RecordBatch:
    return pa.record_batch([pa.array(request.payload, pa.large_utf8())], ["text"])


def _native_rows(_: Request, vectors: pa.RecordBatch) -> Vectors:
    return vectors_from_lists(exact_matrix(vectors.column(0)))


def _request(texts: list[str]) -> Request:
    return Request(texts, len(texts), sum(map(len, texts)))
