"""How a chain's model is called in a batch."""

from __future__ import annotations

from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig


class Caller(Protocol):
    """Calls a model for one batch."""

    def invoke(self, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> AIMessage:
        """What the model's `invoke` returns."""

    async def ainvoke(self, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> AIMessage:
        """What the model's `ainvoke` returns."""


class Native:
    """Calls a model by its own methods."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model

    def invoke(self, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> AIMessage:
        """What the model's `invoke` returns."""
        return self._model.invoke(value, config, **kwargs)

    async def ainvoke(self, value: Any, config: RunnableConfig | None, kwargs: dict[str, Any]) -> AIMessage:
        """What the model's `ainvoke` returns."""
        return await self._model.ainvoke(value, config, **kwargs)


def caller_of(model: BaseChatModel, *, listening: bool) -> Caller:
    """The way to call `model` in a batch.

    Args:
        model: Any chat model. It is not changed.
        listening: Whether anything sees its runs.
    """
    # A known class is imported already when an object of it is handed over: looking at names imports nothing.
    if any(base.__module__.startswith("langchain_openai.chat_models.") for base in type(model).__mro__):
        from langchain_aaflow.openai_chat import lean_chat, with_lean_results
        from langchain_aaflow.openai_connections import borrowing
        from langchain_aaflow.openai_rate_limits import limited

        model = limited(borrowing(model))
        lean = None if listening else lean_chat(model)
        return Native(with_lean_results(model)) if lean is None or isinstance(lean, str) else lean
    return Native(model)
