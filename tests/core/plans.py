"""Small plans over numbers and texts for the tests of the core."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aaflow_plugins.dataplane import schemas
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.embedding import Embedder, Request, Vectors
from aaflow_plugins.operators import Embed, Load, Split, Upsert, vectors_of
from aaflow_plugins.plan import Plan
from aaflow_plugins.remote import RemoteCall

TEXT = pa.schema([schemas.text("text")])


def text_batch(texts: Sequence[str]) -> Batch:
    return Batch(TEXT, {"text": list(texts)}, len(texts))


def split_words(record: pa.RecordBatch) -> pa.RecordBatch:
    words = [word for text in record.column(0).to_pylist() for word in text.split()]
    return pa.record_batch([pa.array(words, pa.large_utf8())], names=["text"])


def split_batch(batch: Batch) -> Batch:
    return text_batch([word for text in batch.native("text") for word in text.split()])


class HashEmbedder(Embedder):
    """Three floats a text, from its characters; five texts a request; each request waits as it is told."""

    def __init__(self, concurrency: int = 4, delay: Callable[[], float] = lambda: 0.0, fail_at: int = -1) -> None:
        self.max_concurrency = concurrency
        self.delay = delay
        self.fail_at = fail_at
        self.sent: list[int] = []
        self.has_async = True

    def compose(self, batches: Iterable[Sequence[str]]) -> Iterator[Request]:
        held: list[str] = []
        number = 0
        for batch in batches:
            held += batch
            while len(held) >= 5:
                yield Request((number, held[:5]), 5)
                held, number = held[5:], number + 1
        if held:
            yield Request((number, held), len(held))

    def _answer(self, request: Request) -> list[list[float]]:
        number, texts = request.payload
        self.sent.append(number)
        if number == self.fail_at:
            raise ConnectionError(f"request {number}")
        return [[float(len(t)), float(sum(map(ord, t)) % 97), float(ord(t[0]))] for t in texts]

    def send(self, request: Request) -> Any:
        time.sleep(self.delay())
        return self._answer(request)

    async def asend(self, request: Request) -> Any:
        await asyncio.sleep(self.delay())
        return self._answer(request)

    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        for _, rows in replies:
            yield Vectors(np.array(rows, dtype=np.float32))


def word_plan(
    embedder: Embedder,
    stored: list[tuple[str, bytes]],
    *,
    asynchronous: bool = False,
    jitter: Callable[[], float] = lambda: 0.0,
    slots: int | None = None,
) -> Plan:
    """Load texts, split them into words, embed the words, append (word, vector) to `stored`."""

    def load(items: list[str]) -> Batch:
        time.sleep(jitter())
        return text_batch(items)

    def split(batch: Batch) -> Batch:
        time.sleep(jitter())
        return split_batch(batch)

    def store(batch: Batch) -> Batch:
        time.sleep(jitter())
        rows = vectors_of(batch).matrix
        stored.extend((text, row.tobytes()) for text, row in zip(batch.native("text"), rows, strict=True))
        return batch

    remote = RemoteCall(
        pack=lambda batch: pa.record_batch([batch.arrow("text")], names=["text"]),
        function=split_words,
        unpack=lambda _, record: text_batch(record.column(0).to_pylist()),
    )
    return Plan(
        [
            Load(name="texts", adds=TEXT, size_of=len, batch_of=load),
            Split(name="words", reads=TEXT, adds=TEXT, call=split, remote=remote),
            Embed(
                name="hash",
                dimension=3,
                embedder=embedder,
                asynchronous=asynchronous,
                slots=slots or embedder.max_concurrency,
            ),
            Upsert(name="list", reads=pa.schema([schemas.vector("vector")]), keeps=True, call=store),
        ]
    )


def jitter(seed: int) -> Callable[[], float]:
    """Delays of up to two milliseconds."""
    generator = random.Random(seed)
    return lambda: generator.random() * 0.002
