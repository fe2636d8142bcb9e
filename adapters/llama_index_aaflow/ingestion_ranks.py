"""A pipeline in a job of several ranks: rank 0 runs it, and all of them cut texts and embed batches of texts.

What is asked of stores and caches, the nodes and their ids are rank 0's alone. The others answer with chunks and
vectors, of the very batches of texts that one process would embed. With `arun` what is the user's runs on each rank's
loop, as natively. Then models are shared whose coroutines are blocking calls: one that awaits a client makes its
requests at rank 0, as many at once as natively.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion.pipeline import remove_unstable_values
from llama_index.core.node_parser import NodeParser, SentenceSplitter, TokenTextSplitter
from llama_index.core.schema import MetadataMode

from aaflow_plugins.dataplane.vectors import exact_lists, exact_matrix
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.event_loop import OnLoop, called_on, in_thread
from aaflow_plugins.engines.tasks import TaskPool, digest_of, lead_or_serve
from aaflow_plugins.executor import Executor
from aaflow_plugins.remote import RemoteCall, sample_of
from llama_index_aaflow.embeddings import embeds_natively, is_blocking, is_openai
from llama_index_aaflow.fetched import Ahead, Fetched, lists
from llama_index_aaflow.incremental_keys import NoKeyError, transformation_key
from llama_index_aaflow.ingestion_overlap import (
    SETTINGS,
    are_apart,
    embedded_text,
    groups,
    parses_by_document,
    parses_when_awaited,
    run_overlapping,
)
from llama_index_aaflow.listening import nobody_listens
from llama_index_aaflow.native_classes import overridden, with_class
from llama_index_aaflow.transformations import sooner

T = TypeVar("T")

#: Texts of a task: batches are embedded one by one, but go together.
_TEXTS: Final = 256

_help: ContextVar[Helping | None] = ContextVar("_help", default=None)


def run_on(
    ranks: Communicator,
    pipeline: Any,
    executor: Executor | None,
    documents: Any,
    native: Callable[[], Any],
    on_loop: OnLoop | None = None,
) -> Any:
    """Run a pipeline with the help of all ranks.

    Args:
        ranks: The ranks, of which there are several.
        pipeline: The pipeline.
        executor: Its executor.
        documents: What it is given; rank 0's count.
        native: Runs it in this process.
        on_loop: As for `led`.

    Returns:
        At rank 0 what `native` returns; elsewhere an empty list.

    Raises:
        RankError: If another rank fails, or has other transformations or documents.
    """

    def lead(helped: Help) -> Any:
        with helping(helped):
            return native()

    nodes = led(ranks, pipeline.transformations, executor, documents, lead, on_loop)
    return [] if ranks.rank else nodes


def led(
    ranks: Communicator,
    transformations: Sequence[Any],
    executor: Executor | None,
    documents: Any,
    lead: Callable[[Help], T],
    on_loop: OnLoop | None = None,
) -> T | None:
    """Have rank 0 make something of documents with the help of all ranks, which make this call together.

    Args:
        ranks: The ranks, of which there are several.
        transformations: What is made of documents; alike on all ranks.
        executor: Bounds what rank 0 requests by itself.
        documents: Rank 0's count; the others have the same, or none.
        lead: What rank 0 does.
        on_loop: Runs coroutines of this process, where transformations are applied by their coroutines.

    Returns:
        At rank 0 what `lead` returns, None elsewhere.

    Raises:
        RankError: If another rank fails, or has other transformations or documents.
    """
    shares = {
        position: share
        for position, transformation in enumerate(transformations)
        if (share := _share_of(sooner(transformation, executor), asynchronous=on_loop is not None)) is not None
    }
    calls = {position: _called_on(on_loop, share.call) for position, share in shares.items()}
    call = "run" if on_loop is None else "arun"
    same = fingerprints(transformations)
    return lead_or_serve(ranks, call, same, _digest(documents), calls, lambda pool: lead(Help(pool, shares)))


class Helping(ABC):
    """What other ranks do for transformations that are applied here."""

    @abstractmethod
    def run(
        self,
        native: Callable[..., Any],
        nodes: Sequence[Any],
        steps: list[Any],
        settings: dict[str, Any],
        executor: Executor | None,
    ) -> Any:
        """Apply steps natively, with what of them concerns others.

        Args:
            native: Applies a list of steps to the nodes; further keyword arguments replace settings.
            nodes: The nodes.
            steps: Accelerated transformations.
            settings: Keyword arguments of the native function.
            executor: Bounds requests that are not shared.
        """

    @abstractmethod
    async def arun(
        self, native: Callable[..., Any], nodes: Sequence[Any], steps: list[Any], settings: dict[str, Any]
    ) -> Any:
        """As `run`, where `native` applies steps by their coroutines."""


@contextmanager
def helping(help_of_others: Helping) -> Iterator[None]:
    """Transformations within the block are applied with the help of other ranks."""
    token = _help.set(help_of_others)
    try:
        yield
    finally:
        _help.reset(token)


def help_of_ranks() -> Helping | None:
    """The ranks that help with the run that this is part of; None if there are none."""
    return _help.get()


@dataclass(frozen=True)
class Help(Helping):
    """The other ranks, and what they have been told they would do.

    Attributes:
        pool: Hands out tasks.
        shares: By the position of the transformation.
    """

    pool: TaskPool
    shares: dict[int, _Cutting | _Embedding]

    def run(
        self,
        native: Callable[..., Any],
        nodes: Sequence[Any],
        steps: list[Any],
        settings: dict[str, Any],
        executor: Executor | None,
    ) -> Any:
        """Apply steps natively, with what of them is shared done by all."""
        if not nobody_listens():
            return native(steps)
        shared = [self._shared(position, step) for position, step in enumerate(steps)]
        first = shared[0] if shared else None
        if (
            isinstance(first, _SharedParser)
            and len(steps) > 1
            and is_openai(steps[1])
            and SETTINGS.issuperset(settings)
        ):
            return run_overlapping(native, [steps[0], *shared[1:]], settings, executor, parse=first.parse)
        # A parser comes to its end first, as natively: all ranks are at work, and its tasks don't wait behind batches.
        return native(shared)

    async def arun(
        self, native: Callable[..., Any], nodes: Sequence[Any], steps: list[Any], settings: dict[str, Any]
    ) -> Any:
        """As `run`."""
        if not nobody_listens():
            return await native(steps)
        return await native([self._shared(position, step) for position, step in enumerate(steps)])

    def embedding(self, position: int, model: Any) -> Any:
        """What stands for an embedding model that is asked for lists of texts: all ranks are at work for it."""
        share = self.shares.get(position)
        if not isinstance(share, _Embedding):
            return model
        return _SharedEmbedding(model, self.pool, position, share).for_texts()

    def _shared(self, position: int, step: Any) -> Any:
        share = self.shares.get(position)
        if isinstance(share, _Cutting):
            return _SharedParser(step, self.pool, position, share.call)
        if isinstance(share, _Embedding):
            return _SharedEmbedding(step, self.pool, position, share)
        return step


def _share_of(step: Any, *, asynchronous: bool) -> _Cutting | _Embedding | None:
    """What other ranks can do of an accelerated transformation; None if it is rank 0's."""
    if isinstance(step, BaseEmbedding):
        if not _is_plain(step, asynchronous=asynchronous) or (asynchronous and not is_blocking(step)):
            return None
        return _Embedding(step, _one_by_one if asynchronous else _at_once)
    if not isinstance(step, SentenceSplitter | TokenTextSplitter) or not parses_by_document(step):
        return None
    if asynchronous and not parses_when_awaited(step):
        return None
    try:
        transformation_key(step)
    except NoKeyError:
        return None  # nobody can say that the other ranks have the same
    return None if step.callback_manager.handlers else _Cutting(step)


def _called_on(on_loop: OnLoop | None, call: RemoteCall) -> RemoteCall:
    sample = call.sample and called_on(on_loop, call.sample)
    return replace(call, function=called_on(on_loop, call.function), sample=sample)


def _at_once(embedding: Any, texts: list[str]) -> Any:
    return embedding._get_text_embeddings(texts)


def _one_by_one(embedding: Any, texts: list[str]) -> Any:
    """What `_aget_text_embeddings` gives where it is the inherited one."""
    return [embedding._get_text_embedding(text) for text in texts]


def _is_plain(embedding: BaseEmbedding, *, asynchronous: bool) -> bool:
    """Whether a model's batches of texts are those of the native loop, and nobody sees them but the model."""
    native = type(embedding)
    return (
        not is_openai(embedding)  # its requests are awaited, many at once, by one process
        and embeds_natively(embedding, asynchronous=asynchronous)
        and overridden(native, BaseEmbedding) is None
        and all(name in native.model_fields for name in vars(embedding))
        and not embedding.callback_manager.handlers
    )


# -- parsing ---------------------------------------------------------------------------------------------


class _Cutting:
    """Cuts the texts of documents into chunks.

    Attributes:
        call: For a group of documents, as pairs of text and written metadata: the chunks of each.
    """

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self.call = RemoteCall(self._pack, self._cut, self._unpack)

    def _pack(self, group: list[Any]) -> pa.RecordBatch:
        texts = [document.get_content(metadata_mode=MetadataMode.NONE) for document in group]
        written = [self._parser._get_metadata_str(document) for document in group]
        return pa.record_batch([pa.array(each, pa.large_utf8()) for each in (texts, written)], ["text", "metadata"])

    def _cut(self, record: pa.RecordBatch) -> pa.RecordBatch:
        texts, written = (column.to_pylist() for column in record.columns)
        chunks = list(map(self._parser.split_text_metadata_aware, texts, written))
        return pa.record_batch([pa.array(chunks, pa.large_list(pa.large_utf8()))], ["chunks"])

    def _unpack(self, group: list[Any], record: pa.RecordBatch) -> tuple[list[Any], list[list[str]]]:
        return group, record.column(0).to_pylist()


class _SharedParser:
    """A parser, as the native code applies it, whose texts are cut by all ranks."""

    def __init__(self, parser: Any, pool: TaskPool, position: int, call: RemoteCall) -> None:
        self._parser, self._pool, self._position, self._call = parser, pool, position, call

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the parser by."""
        return self._parser.to_dict(**kwargs)

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        """Make nodes of documents."""
        # An index tells its transformations of its model, if it was given one; parsers don't look at it.
        if (
            kwargs.get("show_progress")
            or not {"show_progress", "embed_model"}.issuperset(kwargs)
            or not are_apart(nodes)
        ):
            return self._parser(nodes, **kwargs)
        return list(chain.from_iterable(self.parse(nodes)))

    async def acall(self, nodes: Any, **kwargs: Any) -> Any:
        """Make nodes of documents, on the loop, as natively."""
        return self(nodes, **kwargs)

    def parse(self, documents: list[Any]) -> Iterator[list[Any]]:
        """The nodes of documents, group by group."""
        parser = with_class(self._parser, type(self._parser))
        chunks: deque[list[str]] = deque()
        parser.__dict__["split_text_metadata_aware"] = lambda text, metadata_str: chunks.popleft()
        for group, cut in self._pool.each(self._position, self._call, self._here, groups(documents)):
            chunks.extend(cut)
            yield parser(group)

    def _here(self, group: list[Any]) -> tuple[list[Any], list[list[str]]]:
        split = self._parser.split_text_metadata_aware
        return group, [
            split(
                document.get_content(metadata_mode=MetadataMode.NONE),
                metadata_str=self._parser._get_metadata_str(document),
            )
            for document in group
        ]


# -- embedding -------------------------------------------------------------------------------------------


class _Embedding:
    """Embeds batches of texts, each by itself.

    Attributes:
        call: For some batches: the vectors of each.
        rows_of: What a model gives for a batch of texts.
    """

    def __init__(self, embedding: Any, rows_of: Callable[[Any, list[str]], Any]) -> None:
        """Set up.

        Args:
            embedding: The model.
            rows_of: What the model gives for a batch of texts.
        """
        self._embedding, self.rows_of = embedding, rows_of
        self.call = RemoteCall(self._pack, self._embed, self._unpack, lambda: sample_of(embedding._get_text_embeddings))

    def _pack(self, batches: list[list[str]]) -> pa.RecordBatch:
        texts = pa.array(list(chain.from_iterable(batches)), pa.large_utf8())
        numbers = np.repeat(np.arange(len(batches)), list(map(len, batches)))
        return pa.record_batch([texts, pa.array(numbers)], ["text", "batch"])

    def _embed(self, record: pa.RecordBatch) -> pa.RecordBatch:
        texts, numbers = record.column(0).to_pylist(), record.column(1).to_numpy()
        ends = [*np.flatnonzero(np.diff(numbers)) + 1, len(texts)]
        rows: list[list[float]] = []
        for start, stop in zip([0, *ends], ends, strict=False):
            rows += self.rows_of(self._embedding, texts[start:stop])
        if len(rows) != len(texts):
            raise ValueError(f"{len(rows)} vectors for {len(texts)} texts")
        return pa.record_batch([exact_lists(rows)], ["vector"])

    def _unpack(self, batches: list[list[str]], record: pa.RecordBatch) -> list[Fetched]:
        rows = iter(exact_matrix(record.column(0)))
        return [Fetched(batch, [next(rows) for _ in batch]) for batch in batches]


class _SharedEmbedding:
    """An embedding model, as the native code applies it, whose batches are embedded by all ranks."""

    def __init__(self, embedding: Any, pool: TaskPool, position: int, share: _Embedding) -> None:
        self._embedding, self._pool, self._position, self._share = embedding, pool, position, share

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the model by."""
        return self._embedding.to_dict(**kwargs)

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        """Give nodes their vectors."""
        return self._ahead(nodes, embedded_text)(nodes, **kwargs)

    async def acall(self, nodes: Any, **kwargs: Any) -> Any:
        """Give nodes their vectors; between tasks the loop is free."""
        tasks = list(_together(self._batches(nodes, embedded_text)))

        def fetch(on_loop: OnLoop) -> list[Fetched]:
            return list(self._fetched(tasks, called_on(on_loop, self._here)))

        ahead = Ahead(self._embedding, iter(await in_thread(fetch)))
        embedding = with_class(self._embedding, type(self._embedding))

        async def rows_of(texts: list[str]) -> Any:
            rows = ahead.take(texts)
            return await self._embedding._aget_text_embeddings(texts) if rows is None else rows

        embedding.__dict__["_aget_text_embeddings"] = rows_of
        return await embedding.acall(nodes, **kwargs)

    def for_texts(self) -> Any:
        """A copy of the model, whose calls for a list of texts are shared."""
        copy = with_class(self._embedding, type(self._embedding))

        def embed(texts: list[str], **kwargs: Any) -> Any:
            model = self._ahead(texts, lambda text: text) if nobody_listens() else self._embedding
            return model.get_text_embedding_batch(texts, **kwargs)

        copy.__dict__["get_text_embedding_batch"] = embed
        return copy

    def _ahead(self, items: Sequence[Any], text_of: Callable[[Any], str]) -> Any:
        """A copy of the model, which finds the batches that it will ask for."""
        tasks = _together(self._batches(items, text_of))
        ahead = Ahead(self._embedding, self._fetched(tasks, self._here))
        embedding = with_class(self._embedding, type(self._embedding))

        def rows_of(texts: list[str]) -> Any:
            rows = ahead.take(texts)
            return self._embedding._get_text_embeddings(texts) if rows is None else lists(rows)

        embedding.__dict__["_get_text_embeddings"] = rows_of
        return embedding

    def _fetched(self, tasks: Iterable[list[list[str]]], here: Callable[[Any], Any]) -> Iterator[Fetched]:
        return chain.from_iterable(self._pool.each(self._position, self._share.call, here, tasks))

    def _here(self, batches: list[list[str]]) -> list[Fetched]:
        return [Fetched(batch, self._share.rows_of(self._embedding, batch)) for batch in batches]

    def _batches(self, items: Sequence[Any], text_of: Callable[[Any], str]) -> Iterator[list[str]]:
        size = self._embedding.embed_batch_size
        for start in range(0, len(items), size):
            yield list(map(text_of, items[start : start + size]))


def _together(batches: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    task: list[list[str]] = []
    texts = 0
    for batch in batches:
        task.append(batch)
        texts += len(batch)
        if texts >= _TEXTS:
            yield task
            task, texts = [], 0
    if task:
        yield task


# -- what has to be alike --------------------------------------------------------------------------------


def fingerprints(transformations: Iterable[Any]) -> dict[str, str]:
    """The `fingerprint` of each transformation, by the name that a pipeline has for it."""
    return {f"transformations[{number}]": fingerprint(each) for number, each in enumerate(transformations)}


def fingerprint(transformation: Any) -> str:
    """What tells a transformation from others, a model by what the native cache knows it by."""
    digest = hashlib.blake2b(type(transformation).__qualname__.encode(), digest_size=16)
    if isinstance(transformation, BaseEmbedding):
        digest.update(remove_unstable_values(str(transformation.to_dict())).encode())
    elif isinstance(transformation, NodeParser):
        with suppress(NoKeyError):
            digest.update(transformation_key(transformation))
    return digest.hexdigest()


def _digest(documents: Any) -> bytes:
    """What tells documents from others by their texts; empty without any, or where looking would use them up."""
    once = documents is None or not isinstance(documents, Collection)
    return digest_of(document.get_content(metadata_mode=MetadataMode.NONE) for document in (() if once else documents))
