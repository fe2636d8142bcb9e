"""Ingestion: documents in, the filled native vector store out; splitting, embedding and storing overlap.

`ingest(source, splitter=s, embedding=e, vectorstore=v)` leaves in the store what
`v.add_documents(s.split_documents(list(source)))` leaves there (for a class: what `v.from_documents(chunks, e)` makes),
row by row, vector by vector. Ids of the store's own making are random, as they are natively.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import VectorStore

from aaflow_plugins.collector import rare_collector
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.dedupe import new_rows
from aaflow_plugins.embedding import Embedder, Request
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.event_loop import OnLoop, in_thread
from aaflow_plugins.engines.tasks import TaskPool, digest_of, lead_or_serve
from aaflow_plugins.executor import Executor
from aaflow_plugins.operators import Dedupe, Operator
from aaflow_plugins.plan import Plan
from aaflow_plugins.plugins import engine_of, ranks_of
from aaflow_plugins.progress import ProgressCallback, progress_bar
from aaflow_plugins.scheduler import Sizes
from langchain_aaflow import plans
from langchain_aaflow.sharded_ingestion import Sharded
from langchain_aaflow.targets import Target

S = TypeVar("S", bound=VectorStore)
Source = Iterable[Document] | AsyncIterable[Document] | BaseLoader
Ids = Sequence[str] | Callable[[Document], str]

#: Characters below which a plan costs more than it saves; such a source takes one step after the other.
TINY_SOURCE = 20_000


def ingest(
    source: Iterable[Document] | BaseLoader,
    *,
    splitter: Any,
    embedding: Embeddings | None = None,
    vectorstore: S | type[S],
    ids: Ids | None = None,
    deduplicate: bool = False,
    executor: Executor | None = None,
    progress: bool | ProgressCallback = False,
) -> S:
    """Split, embed and store documents, each step beginning before the one before it has ended.

    Args:
        source: Documents, a loader, or an iterator, which is read once and lazily.
        splitter: Any LangChain text splitter, or None to store the documents as they are. The chunks of a
            `MarkdownHeaderTextSplitter` carry their document's metadata, with the headers added.
        embedding: The embeddings. May be left out where `vectorstore` is a store that has its own.
        vectorstore: The store to fill, or a class whose `from_documents` would make one.
        ids: One id a chunk, in order, or a function from a chunk to its id. None: as natively.
        deduplicate: Whether of chunks with the same text only the first is embedded and stored, with its id and
            metadata. Chunks of this call are compared, on all ranks, and not those that the store has already.
        executor: Concurrency, batch sizes and memory; its `report` tells afterwards what happened. In a job of several
            ranks (see `Executor`'s `engine`) rank 0 has its documents split, and batches of texts embedded, by all.
            With `gather="shards"` or `"all"` each rank splits and embeds its own block, of the same documents, or
            with `partitioned=True` all those that it is given; a loader or an iterator is read by each rank, and
            listed.
        progress: True for a progress bar on standard error, or a callback.

    Returns:
        The store: `vectorstore` itself, or a new one of exactly that class. In a job of several ranks it is rank 0 that
        has it: the others get None, and their `vectorstore` is not touched. With `gather="all"` every rank has it,
        with `gather="shards"` all get a `ShardedVectorStore`, whose parts FAISS and InMemoryVectorStore can be.

    Raises:
        RankError: If another rank of the job fails, or has been given something else.
        TypeError: If an argument, or something in `source`, is of the wrong kind.
        ValueError: If `source` is empty where a new store has to be made, if ids are too few, too many or
            taken, or if a vector has NaN or a dimension the store does not take. The batch concerned is
            not stored; what was stored before it stays, once. Before any work if shards can't give the same: of
            other stores, of one that is not empty, or with embeddings that natively take all texts in one call
            where there is no `Executor(batch_size=...)`.
        Exception: What the loader, splitter, embeddings or store raise, as they raise it.
    """
    job = _Job(source, splitter, embedding, vectorstore, ids, deduplicate, executor, asynchronous=False)
    if isinstance(source, AsyncIterable):
        raise TypeError("source is asynchronous: use `await aingest(...)`")
    ranks = ranks_of(job.executor)
    with job.progress(progress) as callback, rare_collector():
        return job.run_on(ranks, callback)


async def aingest(
    source: Source,
    *,
    splitter: Any,
    embedding: Embeddings | None = None,
    vectorstore: S | type[S],
    ids: Ids | None = None,
    deduplicate: bool = False,
    executor: Executor | None = None,
    progress: bool | ProgressCallback = False,
) -> S:
    """Like `ingest`, without blocking the running loop, and with the embeddings' own asynchronous client.

    `source` may also be asynchronous. In a job of several ranks embeddings with an asynchronous client are asked by
    rank 0 alone, or with `gather="shards"` or `"all"` by each rank for its own block. Cancelling the task cancels the
    calls in flight, and on several ranks the other ranks' part, which raise a `RankError`; what is stored stays, once.
    """
    job = _Job(source, splitter, embedding, vectorstore, ids, deduplicate, executor, asynchronous=True)
    with job.progress(progress) as callback, rare_collector():
        if engine_of(job.executor) == "local" and job.executor.gather != "shards":
            return await job.arun(callback)

        def together(on_loop: OnLoop) -> S:
            return job.run_on(ranks_of(job.executor), callback, on_loop)

        return await in_thread(together)


class _Job(Generic[S]):
    """One ingestion: its arguments, checked, and the plan made from them."""

    def __init__(
        self,
        source: Any,
        splitter: Any,
        embedding: Embeddings | None,
        vectorstore: S | type[S],
        ids: Ids | None,
        deduplicate: bool,
        executor: Executor | None,
        *,
        asynchronous: bool,
    ) -> None:
        if executor is not None and not isinstance(executor, Executor):
            raise TypeError(f"executor must be an aaflow_plugins.Executor or None, not a {type(executor).__name__}")
        plans.check_splitter(splitter)
        _check_source(source)
        _check_ids(ids)
        self._source, self._splitter, self._ids, self._vectorstore = source, splitter, ids, vectorstore
        self._deduplicate, self._asynchronous = deduplicate, asynchronous
        self._default = executor is None
        self.executor = executor or Executor()
        self.target: Target[S] = Target(vectorstore, embedding, asynchronous=asynchronous)
        self._listed = list(source) if isinstance(source, list | tuple) else None
        for position, document in enumerate(self._listed or ()):
            plans.check_document(document, position)

    @property
    def _total(self) -> int | None:
        return None if self._listed is None else len(self._listed)

    @property
    def _sizes(self) -> Sizes | None:
        return None if self._listed is None else Sizes(tuple(map(plans.size_of, self._listed)))

    @property
    def _tiny(self) -> bool:
        """Whether a plan would cost more than it saves, or could not do the same.

        An executor of the caller's always runs a plan: its settings and its report are wanted.
        """
        if not self._listed:
            return False
        return self._mixed_ids or (self._default and sum(map(plans.size_of, self._listed)) < TINY_SOURCE)

    @property
    def _mixed_ids(self) -> bool:
        """Whether some documents bring an id and some none: what becomes of those only the whole native call says."""
        return self._splitter is None and len({bool(document.id) for document in self._listed or ()}) > 1

    def _plan(self) -> Plan:
        """The plan. Split first, as a whole, where the number of chunks must be known or the store embeds."""
        counted = isinstance(self._ids, Sequence)
        one_call = not self.target.takes_vectors and self._listed is not None
        operators: list[Operator] = [
            plans.load(),
            plans.split(self._splitter, whole=counted or one_call, ids=self._ids),
        ]
        if self._deduplicate:
            operators.append(Dedupe())
        embedding = self.target.embedding
        if self.target.takes_vectors and embedding is not None:
            exact = not self.target.takes_buffer
            operators.append(plans.embed(embedding, self._batch_size(), exact=exact, asynchronous=self._asynchronous))
        operators.append(self.target.upsert(given_ids=self._ids is not None))
        return Plan(operators)

    def _documents(self) -> Iterable[Document] | AsyncIterable[Document]:
        """The source's documents; a listed source's have been checked."""
        if self._listed is not None:
            return self._listed
        source = self._source
        if isinstance(source, BaseLoader):
            lazy = type(source).alazy_load is not BaseLoader.alazy_load
            source = source.alazy_load() if self._asynchronous and lazy else source.lazy_load()
        return _achecked(source) if isinstance(source, AsyncIterable) else _checked(source)

    def progress(self, progress: bool | ProgressCallback) -> AbstractContextManager[ProgressCallback | None]:
        if progress is True:
            return progress_bar("ingest")
        return nullcontext(progress or None)

    def run_on(self, ranks: Communicator, progress: ProgressCallback | None, on_loop: OnLoop | None = None) -> S:
        """On all ranks, as the executor's gather mode says."""
        if self.executor.gather == "shards" or (self.executor.gather == "all" and ranks.size > 1):
            return self._run_in_shards(ranks, progress, on_loop)
        if ranks.size > 1:
            return self._run_at_root(ranks, progress, on_loop)
        if on_loop is not None:
            store: S = on_loop(self.arun, progress)
            return store
        return self._run(progress)

    def _run(self, progress: ProgressCallback | None, pool: TaskPool | None = None) -> S:
        """In this process, with the help of other ranks if there are any."""
        if self._mixed_ids or (self._tiny and pool is None):
            return self._run_at_once()
        plan, documents = self._plan(), self._documents()
        assert isinstance(documents, Iterable)
        self.executor.run(plan, documents, _exhaust, sizes=self._sizes, total=self._total, progress=progress, pool=pool)
        return self.target.finished()

    async def arun(self, progress: ProgressCallback | None, pool: TaskPool | None = None) -> S:
        """Like `_run`, on the running loop."""
        if self._mixed_ids or (self._tiny and pool is None):
            return await self._arun_at_once()
        plan, documents = self._plan(), self._documents()
        await self.executor.arun(
            plan, documents, _exhaust, sizes=self._sizes, total=self._total, progress=progress, pool=pool
        )
        return self.target.finished()

    def _run_at_root(self, ranks: Communicator, progress: ProgressCallback | None, on_loop: OnLoop | None) -> S:
        """With the help of other ranks; None at those, which nobody's annotations should have to care for."""
        plan = self._plan()

        def lead(pool: TaskPool) -> S:
            if on_loop is None:
                return self._run(progress, pool)
            store: S = on_loop(self.arun, progress, pool)
            return store

        same = plan.fingerprints()
        return lead_or_serve(ranks, "ingest", same, self._digest(), plan.elsewhere, lead)  # type: ignore[return-value]

    def _run_in_shards(self, ranks: Communicator, progress: ProgressCallback | None, on_loop: OnLoop | None) -> S:
        """Each rank its own block; of a class of their own where shards stay, which nobody's annotations care for."""
        job = Sharded(
            ranks,
            self.executor,
            self._vectorstore,
            self.target,
            self._splitter,
            self._ids,
            self._deduplicate,
            self._batch_size(),
            progress,
            on_loop,
        )

        def documents() -> Iterable[Document]:
            found = self._documents()
            if isinstance(found, AsyncIterable):
                assert on_loop is not None
                listed: list[Document] = on_loop(_all_of, found)
                return listed
            return found

        return job.run(self._plan().fingerprints(), documents)  # type: ignore[no-any-return]

    def _digest(self) -> bytes:
        """What tells this rank's texts from others; empty without any, or where only reading would tell."""
        return digest_of(document.page_content for document in self._listed or ())

    def _run_at_once(self) -> S:
        """Without a plan: one step after the other."""
        chunks, ids = self._chunks()
        if self._mixed_ids or not self.target.takes_vectors or self.target.embedding is None:
            return self.target.add_natively(chunks, ids)
        embedder = plans.embedder(self.target.embedding, self.executor.batch_size)
        requests = embedder.compose([_texts(chunks)] if chunks else [])
        self._add(embedder, [(request, embedder.send(request)) for request in requests], chunks, ids)
        return self.target.finished()

    async def _arun_at_once(self) -> S:
        """Like `_run_at_once`, with the asynchronous clients."""
        chunks, ids = self._chunks()
        if self._mixed_ids or not self.target.takes_vectors or self.target.embedding is None:
            return await self.target.aadd_natively(chunks, ids)
        embedder = plans.embedder(self.target.embedding, self.executor.batch_size)
        replies = []
        for request in embedder.compose([_texts(chunks)] if chunks else []):
            if embedder.has_async:
                replies.append((request, await embedder.asend(request)))
            else:
                replies.append((request, await run_in_executor(None, embedder.send, request)))
        self._add(embedder, replies, chunks, ids)
        return self.target.finished()

    def _add(
        self,
        embedder: Embedder,
        replies: Iterable[tuple[Request, Any]],
        chunks: list[Document],
        ids: list[str] | None,
    ) -> None:
        start = 0
        for vectors in embedder.assemble(replies):
            part = chunks[start : start + len(vectors)]
            given = [chunk.id for chunk in part] if ids is None else ids[start : start + len(vectors)]
            self.target.add_vectors(part, given, vectors)
            start += len(vectors)

    def _chunks(self) -> tuple[list[Document], list[str] | None]:
        chunks = plans.split_documents(self._splitter, self._listed or [])
        ids = plans.ids_of(chunks, self._ids)
        if self._deduplicate:
            rows = new_rows(_texts(chunks), set())
            chunks, ids = [chunks[row] for row in rows], ids and [ids[row] for row in rows]
        return chunks, ids

    def _batch_size(self) -> int | None:
        """Texts a call for embeddings that are not known: natively all of a list; of an iterator, what fits."""
        if self.executor.batch_size is not None or self._listed is not None:
            return self.executor.batch_size
        return plans.STREAMED_TEXTS_A_CALL


def _texts(chunks: list[Document]) -> list[str]:
    return [chunk.page_content for chunk in chunks]


async def _all_of(source: AsyncIterable[Document]) -> list[Document]:
    return [document async for document in source]


def _exhaust(batches: Iterator[Batch]) -> None:
    deque(batches, maxlen=0)


def _checked(source: Iterable[Any]) -> Iterator[Document]:
    for position, document in enumerate(source):
        plans.check_document(document, position)
        yield document


async def _achecked(source: AsyncIterable[Any]) -> AsyncIterator[Document]:
    position = 0
    async for document in source:
        plans.check_document(document, position)
        position += 1
        yield document


def _check_source(source: Any) -> None:
    if isinstance(source, str | bytes | Document | dict) or not isinstance(
        source, BaseLoader | Iterable | AsyncIterable
    ):
        raise TypeError(
            f"source must be documents, a loader or an iterator of documents, not a {type(source).__name__}"
            + (": put it in a list" if isinstance(source, Document) else "")
        )
    if inspect.isclass(source):
        raise TypeError(f"source is the class {source.__name__}: give an object of it")


def _check_ids(ids: Any) -> None:
    if ids is None or callable(ids):
        return
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
        raise TypeError(f"ids must be a sequence of strings or a function of a chunk, not a {type(ids).__name__}")
    for position, id_ in enumerate(ids):
        if not isinstance(id_, str):
            raise TypeError(f"ids[{position}] is a {type(id_).__name__}, not a string")


__all__ = ["aingest", "ingest"]
