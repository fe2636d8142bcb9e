"""Sending requests that are all known beforehand, several at a time, with the replies in order.

For calls that return everything at once; what streams goes through the executor.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aaflow_plugins.embedding import Embedder, Request


def send_all(
    embedder: Embedder, requests: Sequence[Request], max_concurrency: int, progress: bool = False
) -> list[Any]:
    """Send with up to `max_concurrency` threads; one request is sent in the calling thread.

    Args:
        embedder: What the requests belong to.
        requests: The requests, in the order of the replies.
        max_concurrency: Requests in flight, at least 1.
        progress: Show a bar on standard error, where tqdm is installed.

    Raises:
        BaseException: What the earliest failing request raised. No request begins after a failure before it.
    """
    outcome = _Outcome()
    with _Bar(len(requests), progress) as done:

        def send(number: int) -> Any:
            if outcome.failed_before(number):
                return None
            try:
                reply = embedder.send(requests[number])
            except BaseException:
                outcome.fail(number)
                raise
            done()
            return reply

        if len(requests) < 2 or max_concurrency == 1:
            return [send(number) for number in range(len(requests))]
        pool = ThreadPoolExecutor(min(max_concurrency, len(requests)), thread_name_prefix="aaflow-embed")
        try:
            context = contextvars.copy_context
            futures = [pool.submit(context().run, send, number) for number in range(len(requests))]
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


async def asend_all(
    embedder: Embedder, requests: Sequence[Request], max_concurrency: int, progress: bool = False
) -> list[Any]:
    """Like `send_all`, with the asynchronous client on the running loop.

    Raises:
        BaseException: What the earliest failing request raised. No request begins after a failure before it.
            Cancellation cancels the requests in flight.
    """
    outcome = _Outcome()
    slots = asyncio.Semaphore(max_concurrency)
    with _Bar(len(requests), progress) as done:

        async def send(number: int) -> Any:
            async with slots:
                if outcome.failed_before(number):
                    return None
                try:
                    reply = await embedder.asend(requests[number])
                except BaseException:
                    outcome.fail(number)
                    raise
            done()
            return reply

        tasks = [asyncio.create_task(send(number)) for number in range(len(requests))]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Outcome:
    """The earliest failure so far: what comes after it would be thrown away."""

    def __init__(self) -> None:
        self._failed: float = math.inf

    def fail(self, number: int) -> None:
        self._failed = min(self._failed, number)

    def failed_before(self, number: int) -> bool:
        return number > self._failed


class _Bar:
    """A progress bar, or nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._bar: Any = None
        if shown:
            try:
                from tqdm.auto import tqdm  # type: ignore[import-untyped]
            except ImportError:
                return  # as the native call does
            self._bar = tqdm(total=total)

    def __enter__(self) -> Callable[[], None]:
        return self._bar.update if self._bar is not None else _nothing

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _nothing() -> None:
    pass
