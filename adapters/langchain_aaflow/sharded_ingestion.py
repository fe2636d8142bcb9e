"""Ingestion of which each rank does its block of the documents: it splits, embeds and stores them by itself.

The chunks, their vectors and their order over the ranks are those of one process. Batches of texts are composed as
there, across blocks, where a batch is a number of texts; where a class composes requests by something else (the tokens
of OpenAI's), each rank composes those of its own block.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import Any, TypeVar

import pyarrow as pa
from langchain_core.documents import Document

from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.dedupe import content_key, firsts
from aaflow_plugins.embedding import vectors_from_rows
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.event_loop import OnLoop
from aaflow_plugins.engines.tasks import compare_samples, digest_of
from aaflow_plugins.executor import Executor
from aaflow_plugins.operators import Dedupe, Embed, Load
from aaflow_plugins.plan import Plan
from aaflow_plugins.progress import Progress, ProgressCallback
from aaflow_plugins.report import OperatorReport, Report
from aaflow_plugins.scheduler import Sizes
from aaflow_plugins.shards import Edges, all_counts, blocks, check_same_texts, embed_edges, share_of
from langchain_aaflow import plans
from langchain_aaflow.sharded_parts import Part, Place, empty_part, gathered, packed, part_of, refusal
from langchain_aaflow.sharded_store import ShardedVectorStore
from langchain_aaflow.targets import Target

#: A chunk and the id that it is stored under, None for one of the store's own making.
Row = tuple[Document, str | None]

T = TypeVar("T")


@dataclass(frozen=True)
class Sharded:
    """One ingestion in shards.

    Attributes:
        ranks: All ranks.
        executor: The caller's; gets the report.
        vectorstore: What was handed over, a store or a class.
        target: Where this rank's rows end.
        splitter: The splitter, or None.
        ids: As `ingest` takes them.
        deduplicate: As `ingest` takes it.
        batch_size: Texts a call, where embeddings have no grouping of their own.
        progress: Called with what this rank has done.
        on_loop: Runs coroutines of this process, those of an asynchronous client; None to make blocking calls.
    """

    ranks: Communicator
    executor: Executor
    vectorstore: Any
    target: Target[Any]
    splitter: Any
    ids: Any
    deduplicate: bool
    batch_size: int | None
    progress: ProgressCallback | None
    on_loop: OnLoop | None = None

    def run(self, operators: Mapping[str, str], documents: Callable[[], Iterable[Document]]) -> Any:
        """Do this rank's part.

        Args:
            operators: The fingerprints of the plan's.
            documents: Reads the source.

        Returns:
            A `ShardedVectorStore`, or the native store with all rows.

        Raises:
            RankError: If another rank fails, or has been given something else.
            TypeError: If each rank is to have all rows, and some can't go there.
            ValueError: If the same result can't be had from shards.
        """
        gather, partitioned = self.executor.gather, self.executor.partitioned
        same = {
            **operators,
            "gather": gather,
            "partitioned": partitioned,
            "vectorstore": "a class" if isinstance(self.vectorstore, type) else "a store",
            "ids": self._ids_digest(),
        }
        with self.ranks.together("ingest", **same):
            embed = self._checked_embed()
            source = list(documents())
            if not partitioned:
                check_same_texts(self.ranks, [document.page_content for document in source])
                block = blocks(list(map(plans.size_of, source)), self.ranks.size)[self.ranks.rank]
                source = source[block.start : block.stop]
            chunks, split_report = self._split(source)
            rows = list(zip(chunks, self._ids_of(chunks), strict=True))
            if self.deduplicate:
                rows = self._firsts(rows, split_report)
            if gather == "all":
                for chunk, _ in rows:
                    packed(chunk)  # what can't go to the others is known before anything is embedded
            counts = all_counts(self.ranks, len(rows))
            self._check_ids([id_ for _, id_ in rows], counts)
            self._store(rows, embed, split_report)
            part = self._part(len(rows), sum(counts))
            place = Place.of(self.ranks, part.rows)
            if gather == "all":
                part.refill(*gathered(place, part))
                return part.store
            return ShardedVectorStore(part, place)

    def _checked_embed(self) -> Embed:
        """The operator that embeds, once it is clear that shards give the same as one process."""
        reason = refusal(self.vectorstore)
        if reason is not None or self.target.embedding is None:
            why = reason or "it has no embeddings"
            raise ValueError(f"vectorstore: a {self.target.name} can't be kept in shards: {why}")
        if not plans.splits_one_by_one(self.splitter):
            raise ValueError(
                f"splitter: {type(self.splitter).__name__} may look at several documents at once, and each rank has "
                "its own only; give Executor(gather='root')"
            )
        exact, on_loop = not self.target.takes_buffer, self.on_loop is not None
        embed = plans.embed(self.target.embedding, self.batch_size, exact=exact, asynchronous=on_loop)
        if embed.embedder.whole_input:
            raise ValueError(
                f"executor: natively all texts are one call ({embed.embedder.describe()}), and each rank has its own "
                "only; give Executor(batch_size=...), or gather='root'"
            )
        elsewhere = embed.embedder.remote
        if elsewhere is not None and elsewhere.sample is not None:
            compare_samples(self.ranks, elsewhere.sample())
        return replace(embed, slots=share_of(embed.slots, self.ranks))

    def _split(self, documents: list[Document]) -> tuple[list[Document], Report | None]:
        """The chunks of this rank's documents, and what is to be reported of it."""

        def collect(batches: Iterator[Batch]) -> list[Document]:
            return [chunk for batch in batches for chunk in batch.native("document")]

        own = self.executor.of_rank(self.ranks)
        sizes = Sizes(tuple(map(plans.size_of, documents)))
        plan = Plan([plans.load(), plans.split(self.splitter)])
        return self._run(own, plan, documents, collect, sizes), own.report

    def _firsts(self, rows: list[Row], report: Report | None) -> list[Row]:
        """Those whose text no row before them has, of all ranks' rows."""
        began, at_work = time.perf_counter(), time.thread_time()
        kept = list(compress(rows, firsts([content_key(chunk.page_content) for chunk, _ in rows], self.ranks)))
        if report is not None:
            wall, cpu = time.perf_counter() - began, time.thread_time() - at_work
            made = OperatorReport(Dedupe.kind, Dedupe.name, None, len(kept), 1, wall, cpu)
            report.operators.append(made)
            report.wall_seconds += wall
            report.cpu_seconds += cpu
        return kept

    def _run(
        self, own: Executor, plan: Plan, source: list[Any], consume: Callable[[Iterator[Batch]], T], sizes: Sizes
    ) -> T:
        run: Callable[..., T] = own.run if self.on_loop is None else partial(self.on_loop, own.arun)
        return run(plan, source, consume, sizes=sizes, total=len(source), progress=self._step)

    def _step(self, progress: Progress) -> None:
        """After each batch of this rank's own: another's failure is heard of before all of the block is done."""
        self.ranks.check()
        if self.progress:
            self.progress(progress)

    def _store(self, rows: list[Row], embed: Embed, split_report: Report | None) -> None:
        """Embed and store rows: those whose batch is another rank's or ends on another first and last."""
        texts = [chunk.page_content for chunk, _ in rows]
        batch_size = embed.embedder.texts_a_request
        edges = Edges([], [])
        if batch_size is not None:
            edges = embed_edges(self.ranks, texts, batch_size, partial(self._rows_of, embed))
        first, last = len(edges.first), len(rows) - len(edges.last)
        own = self.executor.of_rank(self.ranks)
        self._add(rows[:first], edges.first)
        between = rows[first:last]
        plan = Plan([_load(), embed, self.target.upsert(given_ids=self.ids is not None)])
        self._run(own, plan, between, lambda batches: sum(1 for _ in batches), Sizes(tuple(map(_size_of, between))))
        self._add(rows[last:], edges.last)
        self.executor.report = _joined(split_report, own.report, first + len(edges.last))

    def _rows_of(self, embed: Embed, texts: list[str]) -> list[Any]:
        """The vectors of texts that are one batch, in the native form."""
        embedder = embed.embedder
        send = embedder.send
        if embed.asynchronous:
            assert self.on_loop is not None
            send = partial(self.on_loop, embedder.asend)
        replies = ((request, send(request)) for request in embedder.compose([texts]))
        return [row for vectors in embedder.assemble(replies) for row in vectors.tolist()]

    def _add(self, rows: list[Row], vectors: list[Any]) -> None:
        if rows:
            made = vectors_from_rows(vectors, type(self.target.embedding).__name__)
            self.target.add_vectors([chunk for chunk, _ in rows], [id_ for _, id_ in rows], made)

    def _part(self, own: int, total: int) -> Part:
        """This rank's filled store, of `own` of the `total` rows."""
        # Of no rows at all some classes make a store and some don't; of none of this rank's, one that fits the others.
        made = part_of(self.target.finished()) if own or not total or not isinstance(self.vectorstore, type) else None
        width = pa.array([made and made.width], pa.int64())
        widths = self.ranks.all_gather(pa.table({"width": width}))["width"].drop_null().to_pylist()
        if len(set(widths)) > 1:
            name = type(self.target.embedding).__name__
            raise ValueError(f"{name} returned vectors of different lengths: {widths} floats on the ranks")
        assert self.target.embedding is not None
        return made or empty_part(self.vectorstore, self.target.embedding, widths[0])

    # -- ids ---------------------------------------------------------------------------------------------

    def _ids_digest(self) -> str:
        """What tells given ids from others; those of documents that are spread are each rank's own."""
        if isinstance(self.ids, Sequence) and not self.executor.partitioned:
            return digest_of(self.ids).hex()
        return type(self.ids).__name__

    def _ids_of(self, chunks: list[Document]) -> list[str | None]:
        """The id of each chunk.

        Raises:
            ValueError: If there are too few or too many.
        """
        if self.ids is None:
            return [chunk.id for chunk in chunks]
        if callable(self.ids) or self.executor.partitioned:
            return list(plans.ids_of(chunks, self.ids) or [])
        counts = all_counts(self.ranks, len(chunks))
        if len(self.ids) != sum(counts):
            raise ValueError(f"ids: {len(self.ids)} ids for {sum(counts)} chunks")
        start = sum(counts[: self.ranks.rank])
        return list(self.ids[start : start + len(chunks)])

    def _check_ids(self, ids: list[str | None], counts: list[int]) -> None:
        """Refuse ids that only the one store of one process could make sense of.

        Raises:
            ValueError: On all ranks, if one is used twice on whatever rank, or if some chunks have one and some none:
                what becomes of those the store says only of all rows at once.
        """
        with_id = all_counts(self.ranks, sum(map(bool, ids)))
        if not any(with_id):
            return
        if with_id != counts:
            raise ValueError("ids: some chunks have an id and some have none; in shards all have one, or none has")
        given = [id_ for id_ in ids if id_]
        start = sum(counts[: self.ranks.rank])
        first = firsts(list(map(content_key, given)), self.ranks)
        twice = [json.dumps([start + row, id_]) for row, id_ in enumerate(given) if not first[row]][:1]
        said = sorted(json.loads(value) for value in self.ranks.agree("".join(twice).encode()) if value)
        if said:
            raise ValueError(f"ids: duplicate ids, {said[0][1]!r} for one; shards hold each id once")


def _load() -> Load:
    """Chunks that are made already."""

    def batch_of(rows: list[Row]) -> Batch:
        batch = plans.chunk_batch([chunk for chunk, _ in rows], None)
        return replace(batch, columns={**batch.columns, "id": [id_ for _, id_ in rows]})

    return Load(name="chunks", adds=plans.CHUNKS, size_of=_size_of, batch_of=batch_of)


def _size_of(row: Row) -> int:
    return plans.size_of(row[0])


def _joined(split: Report | None, stored: Report | None, edges: int) -> Report | None:
    """Two reports as that of one run; `edges` rows were embedded and stored beside it."""
    if split is None or stored is None:
        return stored
    for operator in stored.operators[1:]:
        operator.rows += edges
    return replace(
        stored,
        operators=[*split.operators, *stored.operators[1:]],
        wall_seconds=split.wall_seconds + stored.wall_seconds,
        model_seconds=split.model_seconds + stored.model_seconds,
        cpu_seconds=split.cpu_seconds + stored.cpu_seconds,
        in_flight_bytes=max(split.in_flight_bytes, stored.in_flight_bytes),
        notes=[*split.notes, *stored.notes],
        spans=[
            *split.spans,
            *(
                replace(span, start=span.start + split.wall_seconds, end=span.end + split.wall_seconds)
                for span in stored.spans
            ),
        ],
    )
