"""Whether anybody is told of LlamaIndex's events and spans."""

from __future__ import annotations

from llama_index_instrumentation import root_manager
from llama_index_instrumentation.event_handlers import NullEventHandler
from llama_index_instrumentation.span_handlers import NullSpanHandler


def nobody_listens() -> bool:
    """Whether no dispatcher has a handler that does something."""
    return all(
        all(type(handler) is NullEventHandler for handler in dispatcher.event_handlers)
        and all(type(handler) is NullSpanHandler for handler in dispatcher.span_handlers)
        for dispatcher in list(root_manager.dispatchers.values())
    )
