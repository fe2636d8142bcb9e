"""WordLlama's static embedding model as LangChain embeddings, for the demo and for tests without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from langchain_core.embeddings import Embeddings

from aaflow_plugins.dataplane.vectors import to_arrow, to_numpy
from aaflow_plugins.embedding import Embedder, Request, Vectors
from aaflow_plugins.remote import RemoteCall, sample_of
from wordllama_aaflow import embed


class WordLlamaEmbeddings(Embeddings):
    """Embeddings by the model inside the `wordllama` package; nothing is downloaded."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One list of 256 floats a text."""
        rows: list[list[float]] = embed(texts).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """256 floats."""
        return self.embed_documents([text])[0]


class WordLlamaEmbedder(Embedder):
    """Hands WordLlama's matrix over as it is."""

    _TEXTS = 512

    def describe(self) -> str:
        """One line for `explain()`."""
        return f"WordLlama, {self._TEXTS} texts a call, float32 matrix as it is"

    @property
    def texts_a_request(self) -> int | None:
        """512."""
        return self._TEXTS

    @property
    def remote(self) -> RemoteCall | None:
        """Each rank asks the model of its own."""
        return RemoteCall(_texts, _vectors, _matrix, lambda: sample_of(lambda texts: embed(texts).tolist()))

    def compose(self, batches: Iterable[Sequence[str]]) -> Iterator[Request]:
        """Group texts by 512."""
        held: list[str] = []
        for batch in batches:
            held += batch
            while len(held) >= self._TEXTS:
                yield Request(held[: self._TEXTS], self._TEXTS)
                held = held[self._TEXTS :]
        if held:
            yield Request(held, len(held))

    def send(self, request: Request) -> Any:
        """An `(n, 256)` float32 matrix."""
        return embed(request.payload)

    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """The matrices, one by one."""
        for _, matrix in replies:
            yield Vectors(np.ascontiguousarray(matrix, dtype=np.float32))


def _texts(request: Request) -> pa.RecordBatch:
    return pa.record_batch([pa.array(request.payload, pa.large_utf8())], ["text"])


def _vectors(texts: pa.RecordBatch) -> pa.RecordBatch:
    matrix = np.ascontiguousarray(embed(texts.column(0).to_pylist()), dtype=np.float32)
    return pa.record_batch([to_arrow(matrix)], ["vector"])


def _matrix(_: Request, vectors: pa.RecordBatch) -> Any:
    return to_numpy(vectors.column(0))
