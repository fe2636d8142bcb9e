"""Runs many queries, each natively and at its own pace, within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from aaflow_plugins.batching import Batching
from aaflow_plugins.collector import spared_collector
from aaflow_plugins.divided_batches import Outcome
from aaflow_plugins.flow import Flow
from aaflow_plugins.loop_flow import LoopFlow
from aaflow_plugins.thread_flow import ThreadFlow
from llama_index_aaflow.query.ahead import Ahead, looks_ahead
from llama_index_aaflow.query.answers import run_with
from llama_index_aaflow.query.map_steps import CallSlots, slots

#: Queries embedded and searched for together, unless the executor's `batch_size` says otherwise.
JOIN_SIZE = 64

#: Queries in flight, unless somebody says otherwise.
MAX_CONCURRENCY = 16


@dataclass(frozen=True)
class Batch:
    """Queries to run.

    Attributes:
        queries: Strings or query bundles.
        retriever: What answers them, for a look ahead; any object.
        limit: Queries in flight at the most.
        join_size: Queries answered together at the most.
        return_exceptions: Whether errors are results.
        outcome: Notes which query failed, if there is one.
    """

    queries: Sequence[Any]
    retriever: Any
    limit: int
    join_size: int
    return_exceptions: bool
    outcome: Outcome | None = None

    def run(self, one: Callable[[Any], Any]) -> list[Any]:
        """The results of `one` for the queries, in order; it is called in pool threads.

        Raises:
            BaseException: What the first of the queries that failed raised, after those under way have ended.
        """
        flow = ThreadFlow(self.limit)
        within = max(1, self.limit // max(1, min(self.limit, len(self.queries))))

        async def ask(query: Any, context: Context, is_dropped: Callable[[], bool]) -> _Ended:
            def attempt() -> _Ended:
                # Its calls side by side are in a loop of its own: it has its share of the bound.
                slots.set(CallSlots(within))
                try:
                    return None, None if is_dropped() else one(query)
                except Exception as error:
                    return error, None

            return await flow.call(context.run, attempt)

        with spared_collector() if len(self.queries) > self.join_size else nullcontext():
            running = _Running(self, flow, ask)
            flow.run(running.all())
        return running.results()

    async def arun(self, one: Callable[[Any], Awaitable[Any]]) -> list[Any]:
        """The results of `one` for the queries, in order; each is a task of the running loop.

        Raises:
            BaseException: What the first of the queries that failed raised, after those behind it were cancelled.
        """
        async with LoopFlow(self.limit) as flow:
            shared = CallSlots(self.limit)

            async def attempt(query: Any) -> _Ended:
                slots.set(shared)
                try:
                    return None, await one(query)
                except Exception as error:
                    return error, None

            async def ask(query: Any, context: Context, is_dropped: Callable[[], bool]) -> _Ended:
                async with flow.slot():
                    return await flow.spawn(attempt(query), context)

            with spared_collector() if len(self.queries) > self.join_size else nullcontext():
                running = _Running(self, flow, ask)
                await running.all()
        return running.results()


#: An error, or None and the result.
_Ended = tuple[Exception | None, Any]


class _Running:
    """The queries of a batch on their way."""

    def __init__(self, batch: Batch, flow: Flow, ask: Callable[..., Awaitable[_Ended]]) -> None:
        self._batch, self._flow, self._ask = batch, flow, ask
        total = len(batch.queries)
        self._ahead = Ahead(flow, batch.retriever, batch.join_size, total) if looks_ahead(batch.retriever) else None
        self._scope = Batching(max_batch=batch.join_size)
        self._results: list[Any] = [None] * total
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        #: The failure that will be raised: the first of the queries' that failed, whichever fails first in time.
        self._failure: tuple[int, Exception] | None = None

    async def all(self) -> None:
        """Run them."""
        block, limit = (self._batch.join_size, self._batch.limit) if self._ahead else (1, self._batch.limit)
        # Enough are answered ahead of those in flight that no slot ever waits for an answer.
        window = limit + 2 * block if self._ahead else limit
        await self._flow.each(len(self._batch.queries), self._one, block=block, window=window)

    def results(self) -> list[Any]:
        """Their results, in order.

        Raises:
            Exception: What a query raised.
        """
        if self._failure is None:
            return self._results
        (index, error), self._failure = self._failure, None
        if self._batch.outcome is not None:
            self._batch.outcome.position = (0, 0, index)
        try:
            raise error
        finally:
            del error

    async def _one(self, index: int) -> None:
        def is_dropped() -> bool:
            return self._failure is not None and self._failure[0] < index

        if is_dropped():
            return
        if isinstance(self._flow, LoopFlow) and (task := asyncio.current_task()):
            self._tasks[index] = task
        query, context = self._batch.queries[index], copy_context()
        try:
            answers = await self._ahead.answers(query) if self._ahead else None
            context.run(run_with, answers, self._scope)
            error, result = await self._ask(query, context, is_dropped)
        except asyncio.CancelledError:
            if not is_dropped():
                raise
            return
        finally:
            self._tasks.pop(index, None)
        if error is None or self._batch.return_exceptions:
            self._results[index] = result if error is None else error
        elif not is_dropped():
            self._failure = index, error
            for other, task in list(self._tasks.items()):
                if other > index and not task.cancelling():
                    task.cancel()
