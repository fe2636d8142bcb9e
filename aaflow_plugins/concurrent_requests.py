"""Sending an embedder's requests that are all known beforehand, several at a time, as a plan of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, TypeVar

import pyarrow as pa

from aaflow_plugins.dataplane import schemas
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.embedding import REQUEST_BYTES, Embedder, Request
from aaflow_plugins.executor import Executor
from aaflow_plugins.operators import Call, Load
from aaflow_plugins.plan import Plan
from aaflow_plugins.progress import Progress, ProgressCallback

T = TypeVar("T")
_REQUESTS: Final = pa.schema([schemas.native("request", "Request")])
_REPLIES: Final = pa.schema([schemas.native("reply", "reply")])


def send_all(embedder: Embedder, requests: Sequence[Request], executor: Executor, progress: bool = False) -> list[Any]:
    """Send requests from threads; a single request is sent in the calling thread.

    Args:
        embedder: What the requests belong to.
        requests: The requests, in the order of the replies.
        executor: Bounds the requests in flight; the embedder's own bound without one of its own.
        progress: Show a bar on standard error, where tqdm is installed.

    Raises:
        BaseException: What the earliest failing request raised.
    """
    with _bar(len(requests), progress) as step:
        if len(requests) < 2:
            return [embedder.send(request) for request in requests]
        return executor.run(_plan(embedder), requests, _replies, progress=step)


def send_each(
    embedder: Embedder, requests: Iterable[Request], executor: Executor, use: Callable[[Iterator[Any]], T]
) -> T:
    """Send requests from threads and give `use` the replies as they come, in order.

    Args:
        embedder: What the requests belong to.
        requests: The requests, read as far as there are slots, from when the first reply is asked for.
        executor: Bounds the requests in flight; the embedder's own bound without one of its own.
        use: Called in this thread; its result is returned. What it leaves is not sent.

    Raises:
        BaseException: What `use` raised. It is told what the earliest failing request raised.
    """
    return executor.run(_plan(embedder), requests, lambda batches: use(_each(batches)))


async def asend_all(
    embedder: Embedder, requests: Sequence[Request], executor: Executor, progress: bool = False
) -> list[Any]:
    """Like `send_all`, with the asynchronous client on the running loop. Cancellation cancels what is in flight."""
    with _bar(len(requests), progress) as step:
        if len(requests) < 2:
            return [await embedder.asend(request) for request in requests]
        return await executor.arun(_plan(embedder, asynchronous=True), requests, _replies, progress=step)


def _plan(embedder: Embedder, *, asynchronous: bool = False) -> Plan:
    def call(batch: Batch) -> Batch:
        (request,) = batch.native("request")
        return Batch(_REPLIES, {"reply": [embedder.send(request)]}, 1)

    async def acall(batch: Batch) -> Batch:
        (request,) = batch.native("request")
        return Batch(_REPLIES, {"reply": [await embedder.asend(request)]}, 1)

    load = Load(
        name="requests",
        adds=_REQUESTS,
        size_of=lambda request: request.size,
        batch_of=lambda requests: Batch(_REQUESTS, {"request": requests}, len(requests)),
        rows=1,
    )
    send = Call(
        name=embedder.describe(),
        reads=_REQUESTS,
        adds=_REPLIES,
        call=call,
        acall=acall if asynchronous else None,
        slots=embedder.max_concurrency,
        item_bytes=REQUEST_BYTES,
    )
    return Plan([load, send])


def _replies(batches: Iterator[Batch]) -> list[Any]:
    return list(_each(batches))


def _each(batches: Iterator[Batch]) -> Iterator[Any]:
    for batch in batches:
        yield from batch.native("reply")


def _bar(total: int, shown: bool) -> AbstractContextManager[ProgressCallback | None]:
    if shown:
        try:
            from tqdm.auto import tqdm  # type: ignore[import-untyped]
        except ImportError:
            return nullcontext()  # as the native call does
        return _tqdm(tqdm(total=total))
    return nullcontext()


@contextmanager
def _tqdm(bar: Any) -> Iterator[ProgressCallback]:
    def step(progress: Progress) -> None:
        if progress.operator == Call.kind:
            bar.update()

    with bar:
        yield step
