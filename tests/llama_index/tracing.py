"""Recording what LlamaIndex tells its handlers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from pydantic import Field

from tests.llama_index.parsing_outcomes import visible


class Callbacks(BaseCallbackHandler):
    """A handler of callbacks that writes down all of them."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.seen: list[Any] = []

    def on_event_start(self, event_type: Any, payload: Any = None, **kwargs: Any) -> str:
        self.seen.append(("start", event_type, visible(payload)))
        return ""

    def on_event_end(self, event_type: Any, payload: Any = None, **kwargs: Any) -> None:
        self.seen.append(("end", event_type, visible(payload)))

    def start_trace(self, trace_id: str | None = None) -> None:
        self.seen.append(("trace", trace_id))

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None:
        self.seen.append(("trace ended", trace_id))


def watched() -> tuple[CallbackManager, list[Any]]:
    """A callback manager, and what it will have been told."""
    handler = Callbacks()
    return CallbackManager([handler]), handler.seen


class Spans(BaseSpanHandler[BaseSpan]):
    """A handler of spans that writes down all of them."""

    seen: list[Any] = Field(default_factory=list)

    def new_span(self, id_: str, bound_args: Any, parent_span_id: str | None = None, **kwargs: Any) -> BaseSpan:
        # Ids end in a random uuid.
        given = {name: visible(value) for name, value in bound_args.arguments.items()}
        self.seen.append(("enter", id_[:-37], (parent_span_id or "")[:-37], given))
        return BaseSpan(id_=id_, parent_id=parent_span_id)

    def prepare_to_exit_span(self, id_: str, bound_args: Any, result: Any = None, **kwargs: Any) -> Any:
        self.seen.append(("exit", id_[:-37], visible(result)))
        return self.open_spans.get(id_)

    def prepare_to_drop_span(self, id_: str, bound_args: Any, err: Any = None, **kwargs: Any) -> Any:
        self.seen.append(("drop", id_[:-37], type(err), str(err)))
        return self.open_spans.get(id_)


@contextmanager
def spans(dispatcher: str = "root") -> Iterator[list[Any]]:
    """What a dispatcher's handlers are told inside the block."""
    handler = Spans()
    handlers = get_dispatcher(dispatcher).span_handlers
    handlers.append(handler)
    try:
        yield handler.seen
    finally:
        handlers.remove(handler)


class Events(BaseEventHandler):
    """A handler of events that writes down all of them."""

    seen: list[Any] = Field(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        # Ids end in a random uuid, as spans' do.
        told = {name: value for name, value in event.model_dump().items() if name not in ("timestamp", "id_")}
        told["span_id"] = (told["span_id"] or "")[:-37]
        self.seen.append((type(event), told))


@contextmanager
def events(dispatcher: str = "root") -> Iterator[list[Any]]:
    """The events that a dispatcher's handlers are told inside the block."""
    handler = Events()
    handlers = get_dispatcher(dispatcher).event_handlers
    handlers.append(handler)
    try:
        yield handler.seen
    finally:
        handlers.remove(handler)
