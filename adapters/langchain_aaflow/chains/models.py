"""How a chain's model is called in a batch."""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any, Protocol

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig

from langchain_aaflow.chains.execution import Execution


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


class _Told:
    """What the native `agenerate` takes for `AsyncCallbackManager`: its runs are told of as those of other steps."""

    def __init__(self, native: Any, x: Execution) -> None:
        self._native, self._x = native, x

    def configure(self, *args: Any, **kwargs: Any) -> AsyncCallbackManager:
        """What the native one gives."""
        manager: AsyncCallbackManager = self._native.configure(*args, **kwargs)
        begin = manager.on_chat_model_start

        async def on_chat_model_start(*args: Any, **kwargs: Any) -> Any:
            runs = await self._x.begin(manager, partial(begin, *args, **kwargs))
            for run in runs:
                for event in ("on_llm_end", "on_llm_error"):
                    vars(run)[event] = partial(self._end, run, getattr(run, event))
            return runs

        vars(manager)["on_chat_model_start"] = on_chat_model_start
        return manager

    async def _end(self, run: Any, event: Any, *args: Any, **kwargs: Any) -> None:
        await self._x.told(run, partial(event, *args, **kwargs))


def _telling(model: Any, x: Execution) -> None:
    """Have a model's native `agenerate` tell handlers of its runs as other steps of the batch do.

    Args:
        model: Of a class that inherits `agenerate`; it is changed.
        x: The batch.
    """
    native: Any = BaseChatModel.agenerate
    if type(native) is not FunctionType:
        return  # a wrapper, which has the function's code for an attribute
    names = {**native.__globals__, "AsyncCallbackManager": _Told(native.__globals__["AsyncCallbackManager"], x)}
    told = FunctionType(native.__code__, names, native.__name__, native.__defaults__, native.__closure__)
    told.__kwdefaults__ = native.__kwdefaults__
    vars(model)["agenerate"] = MethodType(told, model)


def caller_of(model: BaseChatModel, x: Execution) -> Caller:
    """The way to call `model` in a batch.

    Args:
        model: Any chat model. It is not changed.
        x: The batch.
    """
    # A known class is imported already when an object of it is handed over: looking at names imports nothing.
    if any(base.__module__.startswith("langchain_openai.chat_models.") for base in type(model).__mro__):
        from langchain_aaflow.openai_chat import lean_chat, with_lean_results
        from langchain_aaflow.openai_connections import borrowing
        from langchain_aaflow.openai_rate_limits import limited

        model = limited(borrowing(model))
        lean = None if x.listening else lean_chat(model)
        if lean is not None and not isinstance(lean, str):
            return lean
        with_results = with_lean_results(model)
        if x.asynchronous and with_results is not model:
            _telling(with_results, x)
        return Native(with_results)
    return Native(model)
