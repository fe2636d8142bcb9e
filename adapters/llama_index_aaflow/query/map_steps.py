"""The calls that one query makes side by side, kept within the bound of a batch."""

from __future__ import annotations

import asyncio
import copy
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final

from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import Accumulate, TreeSummarize
from llama_index.core.response_synthesizers.compact_and_accumulate import CompactAndAccumulate

from llama_index_aaflow.native_classes import sharing
from llama_index_aaflow.query.views import ModelView, is_viewable, model_view_class

#: Synthesizers that make calls side by side, exactly these.
_MAPPING: Final = (TreeSummarize, Accumulate, CompactAndAccumulate)


class CallSlots:
    """Calls in flight at the most, for tasks of one event loop at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def of_this_loop(self) -> asyncio.Semaphore:
        """The semaphore for the running loop: a synchronous query starts one for each of its steps."""
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._semaphore = asyncio.get_running_loop(), asyncio.Semaphore(self._limit)
        return self._semaphore


#: Where calls are made within a bound.
slots: ContextVar[CallSlots | None] = ContextVar("aaflow_call_slots", default=None)


class BoundedCalls(ModelView):
    """Mixed into a language model's class: its calls keep to the bound of the batch."""

    async def apredict(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The native call, when there is a slot for it."""
        native: Any = super()
        bound = slots.get()
        if bound is None:
            return await native.apredict(*args, **kwargs)
        async with bound.of_this_loop:
            return await native.apredict(*args, **kwargs)

    async def astructured_predict(self: Any, *args: Any, **kwargs: Any) -> Any:
        """The native call, when there is a slot for it."""
        native: Any = super()
        bound = slots.get()
        if bound is None:
            return await native.astructured_predict(*args, **kwargs)
        async with bound.of_this_loop:
            return await native.astructured_predict(*args, **kwargs)


def bounded(engine: Any) -> Any:
    """A copy of a query engine, for one batch, whose calls made side by side keep to `slots`.

    Args:
        engine: An accelerated one. It is not changed.

    Returns:
        The copy; the engine itself if it makes one call at a time, or its synthesizer is not known.
    """
    views = engine._aaflow
    if not isinstance(engine, RetrieverQueryEngine):
        return engine
    twin: Any
    synthesizer: Any = engine._response_synthesizer
    if type(synthesizer) not in _MAPPING or not is_viewable(synthesizer._llm):
        return engine
    twin, synthesizer = copy.copy(engine), copy.copy(synthesizer)
    twin._aaflow = views  # of its retriever, and what they keep
    below: Any = type(synthesizer._llm)
    synthesizer._llm = sharing(synthesizer._llm, _bounded_class(below))
    twin._response_synthesizer = synthesizer
    return twin


@lru_cache(maxsize=256)
def _bounded_class(below: Any) -> Any:
    return model_view_class(below, BoundedCalls, {}, {})
