"""Embedding on an event loop while documents are still parsed.

Natively `arun` keeps the loop busy until all documents are parsed, and then sends all requests. Here the loop is let on
whenever some documents are parsed, and whatever fills a batch is sent off. To all else on the loop it is as natively:
the documents are parsed as they were at the beginning, another run begins when they are, and a cancellation takes
effect when they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

from llama_index.core.schema import Document
from pydantic import BaseModel

from aaflow_plugins.cancellation import uncancelled
from aaflow_plugins.collector import rare_collector
from aaflow_plugins.executor import Executor
from llama_index_aaflow.ingestion_overlap import (
    Parsing,
    are_plain,
    batches_so_far,
    groups,
    may_overlap,
    parses_when_awaited,
)
from llama_index_aaflow.node_parsers import shows_no_document


async def arun_overlapping(
    native: Callable[[list[Any]], Awaitable[Any]],
    steps: list[Any],
    settings: dict[str, Any],
    executor: Executor | None,
    cache: Any = None,
) -> Any:
    """Apply steps, the embedding requests of the second going out during the first where that makes no difference.

    Args:
        native: Applies a list of steps natively, to the nodes that it knows of.
        steps: Accelerated transformations.
        settings: Keyword arguments of the native function.
        executor: Bounds the requests in flight.
        cache: What the native function is given for a cache.
    """
    async with Turn() as turn:
        if not (turn.has_come and may_overlap(steps, settings) and _may_parse_in_turns(steps[0])):
            turn.end()
            return await native(steps)
        from llama_index_aaflow.openai_embedding import beginning

        parser, embedding, *others = steps
        with rare_collector():
            async with beginning(embedding, executor) as begun:
                return await native([_Parsing(parser, embedding, cache, turn, begun), embedding, *others])


def _may_parse_in_turns(parser: Any) -> bool:
    """Whether the asynchronous call of an accelerated parser is its blocking one, and copies of documents do for it."""
    return parses_when_awaited(parser) and shows_no_document(parser)


class Turn:
    """What a run natively keeps its loop busy with: all that comes before its first request.

    Attributes:
        has_come: Whether no other run is at it, so that this one may let the loop on.
    """

    has_come = False

    async def __aenter__(self) -> Turn:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self  # where nothing is waited for, natively it does without
        self._lock = _locks.setdefault(loop, asyncio.Lock())
        self.has_come = await uncancelled(self._lock.acquire())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Let others begin."""
        if self.has_come:
            self.has_come = False
            self._lock.release()


_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class _Parsing(Parsing):
    """A parser, as the native code applies it, that sends requests off while it works."""

    def __init__(self, parser: Any, embedding: Any, cache: Any, turn: Turn, begun: Any) -> None:
        super().__init__(parser, embedding, lambda documents: map(parser, groups(documents)), cache)
        self._turn, self._begun = turn, begun

    async def acall(self, nodes: Any, **kwargs: Any) -> Any:
        """Make nodes of documents."""
        try:
            if not (self._may_take(nodes, kwargs) and are_plain(nodes)):
                return await self._parser.acall(nodes, **kwargs)
            self._take(list(map(_as_it_is, nodes)))
            goes_on = True
            for batch in batches_so_far(self._texts(), self._embedding):
                if not goes_on:
                    continue
                if batch:
                    self._begun.begin(batch)
                goes_on = await uncancelled(asyncio.sleep(0))
                if not goes_on:
                    self._begun.cancel()
            return self._ended()
        finally:
            self._turn.end()


def _as_it_is(document: Document) -> Document:
    """A plain document, whatever becomes of this one."""
    copied = document.model_copy()
    fields = vars(copied)
    for name, value in fields.items():
        if type(value) in (dict, list):
            fields[name] = value.copy()
        elif isinstance(value, BaseModel):
            fields[name] = value.model_copy()
    return copied
