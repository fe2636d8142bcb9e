"""Embeddings that are not known: their own calls, their own vectors, and clear words for bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings

from aaflow_plugins.embedding import Embedder
from langchain_aaflow.embedders import NativeEmbedder, embedder_for, native_reason
from langchain_aaflow.embeddings import accelerate_embeddings


class Recorded(Embeddings):
    """Returns what it is told to, and remembers what it was asked."""

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)
        self.calls: list[list[str]] = []

    def embed_documents(self, texts: list[str]) -> Any:
        self.calls.append(texts)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError


class Asynchronous(Recorded):
    async def aembed_documents(self, texts: list[str]) -> Any:
        await asyncio.sleep(0)
        return self.embed_documents(texts)


def through(embedder: Embedder, batches: Iterator[list[str]]) -> list[Any]:
    replies = ((request, embedder.send(request)) for request in embedder.compose(batches))
    return [row for vectors in embedder.assemble(replies) for row in vectors.tolist()]


@given(
    texts=st.lists(st.text(max_size=5), max_size=20),
    sizes=st.lists(st.integers(1, 6), min_size=1),
    batch_size=st.none() | st.integers(1, 7),
)
def test_any_batches_give_the_native_rows(texts: list[str], sizes: list[int], batch_size: int | None) -> None:
    """All texts in one call unless a batch size is given; the very rows come back in order."""
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    native = DeterministicFakeEmbedding(size=5)

    def batches() -> Iterator[list[str]]:
        start = 0
        for size in sizes * (len(texts) + 1):
            yield texts[start : start + size]
            start += size

    embedder = embedder_for(native, batch_size=batch_size)
    requests = list(embedder.compose(batches()))
    whole = batch_size or max(len(texts), 1)
    assert [request.payload for request in requests] == [
        texts[start : start + whole] for start in range(0, len(texts), whole)
    ]
    rows = through(embedder, batches())
    expected = native.embed_documents(texts)
    assert repr(rows) == repr(expected)


def test_the_very_rows_are_kept() -> None:
    """A store that keeps the lists it is given keeps the ones that the model returned, whatever they hold."""
    rows: list[Any] = [[1.5, 2.5], [1, 2], (0.1, 0.2), np.array([1e-300, 2.0]), [1e300, -0.0]]
    embedder = embedder_for(Recorded(rows))
    (request,) = embedder.compose([["a"] * 5])
    (vectors,) = embedder.assemble([(request, embedder.send(request))])
    assert all(given is kept for given, kept in zip(rows, vectors.tolist(), strict=True))
    with np.errstate(over="ignore"):
        assert np.array_equal(vectors.matrix, np.array(rows, dtype=np.float32))


def test_a_float32_matrix_is_taken_over_without_a_copy() -> None:
    """Embeddings that return an array, against the interface, cost nothing."""
    matrix = np.ones((3, 4), dtype=np.float32)
    embedder = embedder_for(Recorded(matrix))
    (request,) = embedder.compose([list("abc")])
    (vectors,) = embedder.assemble([(request, embedder.send(request))])
    assert vectors.matrix is matrix
    assert vectors.bytes_copied == 0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ([[1.0], [2.0]], "Recorded returned 2 vectors for 3 texts from text 3 on"),
        ([[1.0]] * 4, "Recorded returned 4 vectors for 3 texts from text 3 on"),
        ([], "Recorded returned 0 vectors for 3 texts from text 3 on"),
        ([[1.0], [2.0, 3.0], [1.0]], "different lengths: 1 floats for text 3, 2 for text 4"),
        ([[1.0, 2.0]] * 3, "different lengths: 1 floats before text 3, 2 from it on"),
        ([[1.0], [float("nan")], [1.0]], "Recorded returned NaN in the vector for text 4"),
        (np.full((3, 1), np.nan, np.float32), "Recorded returned NaN in the vector for text 3"),
        ([[1.0], [2.0], ["x"]], "Recorded returned no vector of numbers for text 5"),
        ([[1.0], [None], [2.0]], "Recorded returned NaN in the vector for text 4"),
        ([[[1.0]], [[1.0]], [[1.0]]], "Recorded returned no vector of numbers for text 3"),
        (None, "Recorded returned NoneType, not one vector for each text"),
        ([1.0, 2.0, 3.0], "Recorded returned list, not one vector for each text"),
    ],
)
def test_bad_vectors_are_named(reply: Any, message: str) -> None:
    """The class and the text, counted over the whole input; good vectors before it are handed on."""
    embedder = embedder_for(Recorded([[0.5], [0.5], [0.5]], reply), batch_size=3)
    requests = list(embedder.compose([list("abcdef")]))
    parts = embedder.assemble((request, embedder.send(request)) for request in requests)
    assert next(parts).tolist() == [[0.5]] * 3
    with pytest.raises(ValueError, match=message):
        next(parts)


def test_infinity_is_no_nan() -> None:
    """Native stores take it, and so it passes."""
    embedder = embedder_for(Recorded([[float("inf"), float("-inf")]]))
    assert through(embedder, iter([["a"]])) == [[float("inf"), float("-inf")]]


def test_the_natives_own_exception_comes_out() -> None:
    """Unchanged, at the call that it belongs to."""
    error = RuntimeError("model is gone")
    embedder = embedder_for(Recorded([[1.0]], error), batch_size=1)
    requests = list(embedder.compose([["a", "b"]]))
    embedder.send(requests[0])
    with pytest.raises(RuntimeError) as raised:
        embedder.send(requests[1])
    assert raised.value is error


def test_asynchronous_form() -> None:
    """Only classes with an asynchronous call of their own have one; the default would be a thread anyway."""
    assert not embedder_for(Recorded()).has_async
    embedder = embedder_for(Asynchronous([[1.0]]))
    assert embedder.has_async
    (request,) = embedder.compose([["a"]])
    assert asyncio.run(embedder.asend(request)) == [[1.0]]


def test_settings_and_descriptions() -> None:
    """One call at a time unless the user says otherwise; the reason is told; wrong numbers are refused."""
    native = Recorded()
    embedder = embedder_for(native)
    assert isinstance(embedder, NativeEmbedder)
    assert embedder.max_concurrency == 1
    assert embedder.describe() == "Recorded.embed_documents, all texts a call, native (Recorded is not known)"
    assert native_reason(native) == "Recorded is not known"
    assert embedder_for(native, batch_size=8, max_concurrency=3).max_concurrency == 3
    assert accelerate_embeddings(native) is native
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        embedder_for(native, batch_size=0)
    with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
        embedder_for(native, max_concurrency=0)
