"""What can happen to a batch.

An operator is a frozen description: its name, the Arrow schemas it reads and adds, what it needs to run, and how
ranks would talk if there were several. The work itself is in its stages, which the executor runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa

from aaflow_plugins.dataplane import vectors as vector_views
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.dataplane.schemas import native, text, vector
from aaflow_plugins.dedupe import content_key, new_rows
from aaflow_plugins.embedding import Embedder, Request, Vectors
from aaflow_plugins.remote import RemoteCall

#: Beside a vector column: the native list of floats of each row that float32 does not carry exactly, else None.
EXACT = native("exact", "list[float] | None")


class Pattern(Enum):
    """How ranks communicate for an operator (AAFLOW, arXiv 2605.02162)."""

    MAP = "map"
    SHUFFLE = "shuffle"
    GATHER = "gather"


class Resource(Enum):
    """What a stage occupies while it works."""

    #: The driving thread: work on Python objects, which holds the interpreter lock anyway.
    CPU = "cpu"
    #: A pool thread: a blocking client call, or native code that releases the interpreter lock.
    THREAD = "thread"
    #: The event loop: an asynchronous client call.
    LOOP = "loop"
    #: A worker process: pure-Python work on Arrow columns.
    PROCESS = "process"
    #: Any rank of the job, this one included.
    RANK = "rank"


class StoppedError(Exception):
    """Carries a StopIteration that user code raised out of the pipeline, whose iterators would take it for an end.

    Attributes:
        error: The exception as it was raised.
    """

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True)
class StreamStage:
    """A serial step over the ordered stream; it may regroup items and keep state between them."""

    run: Callable[[Iterator[Any]], Iterator[Any]]


@dataclass(frozen=True)
class MapStage:
    """A step that treats each item by itself, several at once; results keep the order of the input.

    Attributes:
        call: The blocking form.
        acall: The coroutine form, used instead of `call` when the run has an event loop to use.
        model: True if the call spends its time in a model and not in the framework.
    """

    call: Callable[[Any], Any]
    acall: Callable[[Any], Any] | None = None
    model: bool = False


Stage = StreamStage | MapStage

#: Makes a call for each item, in this process or in another, and gives the results in order.
Through = Callable[[Callable[[Any], Any], Iterator[Any]], Iterator[Any]]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One step of a plan.

    Attributes:
        name: What the operator works with, for example the native class it stands for.
        reads: Fields that must arrive.
        adds: Fields that leave in addition (or anew), if `keeps` is true; else all that leaves.
        keeps: Whether the fields that arrive leave as well.
        config: Plain values that decide the result; part of the plan's fingerprint.
        native: Why the native code runs in this step, or None if the fast path does.
        slots: Calls at once at the most, before the user's own bound.
        growth: Predicted bytes out for a byte in, for the memory bound.
        item_bytes: Predicted bytes of one item in flight, where growth does not tell (a request and its reply).
    """

    kind: ClassVar[str] = "operator"
    pattern: ClassVar[Pattern] = Pattern.MAP

    name: str
    reads: pa.Schema = field(default_factory=lambda: pa.schema([]))
    adds: pa.Schema = field(default_factory=lambda: pa.schema([]))
    keeps: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    native: str | None = None
    slots: int = 1
    growth: float = 1.0
    item_bytes: int | None = None

    @property
    def resource(self) -> Resource:
        """What the operator's main stage occupies."""
        return Resource.CPU

    @property
    def whole_input(self) -> bool:
        """Whether the operator waits for all of its input, so that its memory grows with it."""
        return False

    @property
    def elsewhere(self) -> RemoteCall | None:
        """How another process does the operator's work for an item; None where only this one can."""
        return None

    def output(self, incoming: pa.Schema) -> pa.Schema:
        """The schema that leaves, given the one that arrives."""
        if not self.keeps:
            return self.adds
        fields = {f.name: f for f in incoming} | {f.name: f for f in self.adds}
        return pa.schema(fields.values())

    def stages(self) -> Sequence[Stage]:
        """Fresh stages for one run, first to last."""
        raise TypeError(f"{type(self).__name__} does not say how it runs")


@dataclass(frozen=True, kw_only=True)
class Load(Operator):
    """Brings the source's items in, in batches that the schedule bounds by rows and bytes.

    Attributes:
        size_of: Bytes of one item.
        batch_of: Makes a batch of consecutive items.
        rows: Items a batch; None leaves it to the schedule.
    """

    kind: ClassVar[str] = "load"
    size_of: Callable[[Any], int]
    batch_of: Callable[[list[Any]], Batch]
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Split(Operator):
    """Cuts documents into chunks.

    Attributes:
        call: The split of one batch.
        whole: Whether `call` needs everything at once: a barrier, for splits that look beyond a batch.
        remote: A picklable function over Arrow columns for worker processes, or None where there is none.
    """

    kind: ClassVar[str] = "split"
    call: Callable[[Batch], Batch]
    whole: bool = False
    remote: RemoteCall | None = None

    @property
    def whole_input(self) -> bool:
        """As `whole` says."""
        return self.whole

    @property
    def elsewhere(self) -> RemoteCall | None:
        """As `remote` says, for splits of one batch at a time."""
        return None if self.whole else self.remote

    def stages(self, through: Through | None = None) -> Sequence[Stage]:
        """One stage; each batch is split by itself, or all together.

        Args:
            through: Makes the calls, several at once; None makes one after the other.
        """
        call = self.call
        if through is not None:
            return [StreamStage(partial(through, call))]

        def each(batches: Iterator[Batch]) -> Iterator[Batch]:
            for batch in _joined(batches) if self.whole else batches:
                try:
                    chunks = call(batch)
                except StopIteration as error:
                    raise StoppedError(error) from error
                yield chunks

        return [StreamStage(each)]


@dataclass(frozen=True, kw_only=True)
class Dedupe(Operator):
    """Lets go on what has a text that none before it had."""

    kind: ClassVar[str] = "dedupe"
    pattern: ClassVar[Pattern] = Pattern.SHUFFLE
    name: str = "by text"
    reads: pa.Schema = field(default_factory=lambda: pa.schema([text("text")]))
    keeps: bool = True

    def stages(self) -> Sequence[Stage]:
        """One stage; of the texts that have gone by it keeps 16 bytes each."""

        def each(batches: Iterator[Batch]) -> Iterator[Batch]:
            seen: set[Hashable] = set()
            for batch in batches:
                rows = new_rows(map(content_key, batch.native("text")), seen)
                if len(rows) == batch.num_rows:
                    yield batch
                elif rows:
                    yield _taken(batch, rows)

        return [StreamStage(each)]


@dataclass(frozen=True, kw_only=True)
class Embed(Operator):
    """Adds one vector a row, by the embedder's own grouping of texts into requests.

    Attributes:
        embedder: How texts become vectors.
        dimension: Floats a vector, where that is known beforehand.
        asynchronous: Whether requests go through the embedder's asynchronous client.
        exact: Whether native rows that float32 does not carry go along. Where nobody looks at them it is best that the
            thread which has them lets go of them at once: for Python, a million floats are a million objects.
    """

    kind: ClassVar[str] = "embed"
    reads: pa.Schema = field(default_factory=lambda: pa.schema([text("text")]))
    embedder: Embedder
    dimension: int | None = None
    asynchronous: bool = False
    exact: bool = True

    @property
    def resource(self) -> Resource:
        """A thread a request, or the loop for an asynchronous client."""
        return Resource.LOOP if self.asynchronous else Resource.THREAD

    @property
    def whole_input(self) -> bool:
        """As the embedder says."""
        return self.embedder.whole_input

    @property
    def elsewhere(self) -> RemoteCall | None:
        """As the embedder says, for a blocking client."""
        return None if self.asynchronous else self.embedder.remote

    def output(self, incoming: pa.Schema) -> pa.Schema:
        """What arrives, with a vector a row."""
        return pa.schema([*incoming, vector("vector", self.dimension), *([EXACT] if self.exact else [])])

    def stages(self, through: Through | None = None) -> Sequence[Stage]:
        """Compose requests, send them side by side, assemble the vectors and join them to their rows.

        Args:
            through: Makes the calls, several at once; None makes them here.
        """
        waiting: deque[Batch] = deque()
        embedder = self.embedder

        def compose(batches: Iterator[Batch]) -> Iterator[Request]:
            def texts() -> Iterator[Sequence[str]]:
                for batch in batches:
                    if batch.num_rows:
                        waiting.append(batch)
                        yield batch.native("text")

            return embedder.compose(texts())

        def send(request: Request) -> tuple[Request, Any]:
            return request, embedder.send(request)

        def sent(requests: Iterator[Request]) -> Iterator[tuple[Request, Any]]:
            assert through is not None
            under_way: deque[Request] = deque()

            def noted() -> Iterator[Request]:
                for request in requests:
                    under_way.append(request)
                    yield request

            for reply in through(embedder.send, noted()):
                yield under_way.popleft(), reply

        async def asend(request: Request) -> tuple[Request, Any]:
            return request, await embedder.asend(request)

        def assemble(replies: Iterator[tuple[Request, Any]]) -> Iterator[Batch]:
            for vectors in embedder.assemble(replies):
                yield from self._join(waiting, vectors)

        acall = asend if self.asynchronous else None
        sending = StreamStage(sent) if through else MapStage(send, acall, model=True)
        return [StreamStage(compose), sending, StreamStage(assemble)]

    def _join(self, waiting: deque[Batch], vectors: Vectors) -> Iterator[Batch]:
        """Give the next `len(vectors)` waiting rows their vectors, one batch for each waiting batch touched."""
        start = 0
        while start < len(vectors):
            batch = waiting.popleft()
            rows = min(batch.num_rows, len(vectors) - start)
            if rows < batch.num_rows:
                waiting.appendleft(slice_batch(batch, rows, batch.num_rows))
                batch = slice_batch(batch, 0, rows)
            matrix = vectors.matrix[start : start + rows]
            copied = vectors.bytes_copied if start == 0 else 0
            fields = [*batch.schema, vector("vector", matrix.shape[1])]
            columns = {**batch.columns, "vector": vector_views.to_arrow(matrix)}
            if self.exact:
                fields.append(EXACT)
                columns[EXACT.name] = [vectors.exact.get(row) for row in range(start, start + rows)]
            yield Batch(pa.schema(fields), columns, rows, copied)
            start += rows


@dataclass(frozen=True, kw_only=True)
class Call(Operator):
    """Calls a model with each batch, several at once.

    Attributes:
        call: The blocking call.
        acall: The coroutine form, or None where there is no asynchronous client.
    """

    kind: ClassVar[str] = "call"
    call: Callable[[Batch], Batch]
    acall: Callable[[Batch], Any] | None = None

    @property
    def resource(self) -> Resource:
        """A thread a call, or the loop for an asynchronous client."""
        return Resource.LOOP if self.acall else Resource.THREAD

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return [MapStage(self.call, self.acall, model=True)]


@dataclass(frozen=True, kw_only=True)
class Upsert(Operator):
    """Puts rows into a store, in order, one batch at a time."""

    kind: ClassVar[str] = "upsert"
    pattern: ClassVar[Pattern] = Pattern.GATHER
    call: Callable[[Batch], Batch]
    acall: Callable[[Batch], Any] | None = None

    @property
    def resource(self) -> Resource:
        """A thread of its own, so that an interrupt never lands between two halves of a write.

        A store's own calls are made where they natively are: it may be bound to its thread, as a database is.
        """
        if self.acall:
            return Resource.LOOP
        return Resource.CPU if self.native else Resource.THREAD

    def stages(self) -> Sequence[Stage]:
        """One stage with one slot."""
        return [MapStage(self.call, self.acall)]


@dataclass(frozen=True, kw_only=True)
class Apply(Operator):
    """Takes each item by itself through a step of a chain, as soon as it arrives.

    Attributes:
        inner: The operators of the steps within, by what they are there for.
        meets: Whether all items have to be there before the step begins.
    """

    kind: ClassVar[str] = "apply"
    reads: pa.Schema = field(default_factory=lambda: pa.schema([native("item", "object")]))
    adds: pa.Schema = field(default_factory=lambda: pa.schema([native("item", "object")]))
    inner: Mapping[str, Operator] = field(default_factory=dict)
    meets: bool = False

    @property
    def whole_input(self) -> bool:
        """As `meets` says."""
        return self.meets


def vectors_of(batch: Batch) -> Vectors:
    """The vectors that `Embed` added to a batch, as a view of its Arrow column."""
    rows = batch.native(EXACT.name) if EXACT.name in batch.columns else ()
    exact = {row: values for row, values in enumerate(rows) if values is not None}
    return Vectors(vector_views.to_numpy(batch.arrow("vector")), exact)


def slice_batch(batch: Batch, start: int, stop: int) -> Batch:
    """Rows `start` to `stop` of a batch; Arrow columns share their buffers."""
    columns = {
        name: column.slice(start, stop - start) if isinstance(column, pa.Array) else column[start:stop]
        for name, column in batch.columns.items()
    }
    return Batch(batch.schema, columns, stop - start)


def _taken(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch."""
    columns = {
        name: column.take(pa.array(rows)) if isinstance(column, pa.Array) else [column[row] for row in rows]
        for name, column in batch.columns.items()
    }
    return Batch(batch.schema, columns, len(rows))


def _joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """All batches as one; nothing if there are none."""
    parts = list(batches)
    if parts:
        columns = {name: [value for part in parts for value in part.native(name)] for name in parts[0].schema.names}
        yield Batch(parts[0].schema, columns, sum(part.num_rows for part in parts))
