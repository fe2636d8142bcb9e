"""WordLlama's static embedding model as LangChain embeddings, for the demo and for tests without a network.

The PyPI package `wordllama` carries the model in its wheel: 256 floats a text, thousands of texts a second on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa
from langchain_core.embeddings import Embeddings

from aaflow_plugins.dataplane.vectors import to_arrow, to_numpy
from aaflow_plugins.embedding import Embedder, Request, Vectors
from aaflow_plugins.remote import RemoteCall, sample_of


class WordLlamaEmbeddings(Embeddings):
    """Embeddings by the model inside the `wordllama` package; nothing is downloaded."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One list of 256 floats a text."""
        rows: list[list[float]] = _model().embed(texts).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """256 floats."""
        return self.embed_documents([text])[0]


class WordLlamaEmbedder(Embedder):
    """Hands WordLlama's matrix over as it is.

    The model takes texts in groups of 64 by itself; a request is a multiple of that, so that the groups are those of
    a single native call.
    """

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
        return RemoteCall(_texts, _vectors, _matrix, lambda: sample_of(lambda texts: _model().embed(texts).tolist()))

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
        return _model().embed(request.payload)

    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """The matrices, one by one."""
        for _, matrix in replies:
            yield Vectors(np.ascontiguousarray(matrix, dtype=np.float32))


def _texts(request: Request) -> pa.RecordBatch:
    return pa.record_batch([pa.array(request.payload, pa.large_utf8())], ["text"])


def _vectors(texts: pa.RecordBatch) -> pa.RecordBatch:
    matrix = np.ascontiguousarray(_model().embed(texts.column(0).to_pylist()), dtype=np.float32)
    return pa.record_batch([to_arrow(matrix)], ["vector"])


def _matrix(_: Request, vectors: pa.RecordBatch) -> Any:
    return to_numpy(vectors.column(0))


_loading: Final = Lock()


def _model() -> Any:
    with _loading:  # once, whichever threads ask first
        return _loaded()


@cache
def _loaded() -> Any:
    import wordllama

    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
