"""Telling handlers what happens to a run of an asynchronous chain, as the native code does, at less cost.

Natively each event of each plain handler (neither a coroutine function nor `run_inline`) is a task, a copy of the
context and a call in the loop's executor. Here such handlers are told in the same threads by `Hops`. What exactly they
are told is taken from the native code, which is run for a handler of ours that notes it.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from functools import cache, lru_cache, partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler
from langchain_core.callbacks import manager as native
from langchain_core.tracers import context

from aaflow_plugins.hops import Hops, Line
from aaflow_plugins.known_code import is_from


class Telling:
    """An event that handlers are being told of.

    Attributes:
        calls: Done when the handlers have been told.
    """

    def __init__(self, calls: Sequence[asyncio.Future[Any]], result: Callable[[], Any]) -> None:
        self.calls, self._result = calls, result

    def result(self) -> Any:
        """What the native method returns or raises, after the last call: the manager of a run that begins, or None."""
        return self._result()


class Noted(NamedTuple):
    """What a method of a manager tells which plain handlers, by which of their methods.

    Attributes:
        result: What it returns, if no handler raises.
    """

    result: Any
    handlers: list[BaseCallbackHandler]
    methods: list[Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def may_wait(self) -> bool:
        """Whether the run may go on before they have been told: there is none that may stop it, or wait for another."""
        return len(self.handlers) <= 1 and not any(handler.raise_error for handler in self.handlers)

    def put(self, line: Line) -> None:
        """Put the calls of the handlers in line."""
        for handler, call in zip(self.handlers, self.calls(), strict=True):
            line.put(call, partial(self.failed, handler))

    def calls(self) -> list[partial[Any]]:
        """The calls of the handlers."""
        return [partial(copy_context().run, method, *self.args, **self.kwargs) for method in self.methods]

    def failed(self, handler: BaseCallbackHandler, error: BaseException) -> None:
        """Do what the native code does when a handler raises: log it, and raise it if the handler asks for that."""
        failing = _failing(handler, self.name, error)
        _driven(native._ahandle_event_for_handler(failing, self.name, None, *self.args, **self.kwargs))


def tell(hops: Hops, event: partial[Coroutine[Any, Any, Any]], noted: Noted | None) -> Telling:
    """Begin to tell handlers of an event, all of them at once.

    Args:
        hops: Calls plain handlers.
        event: A call of a method of a callback manager, or of a run's.
        noted: What `note` gives for it.
    """
    if noted is None:
        native_call = asyncio.ensure_future(event())
        return Telling([native_call], native_call.result)
    calls = [hops.call(call) for call in noted.calls()]

    def result() -> Any:
        errors = [call.exception() for call in calls]
        for handler, error in zip(noted.handlers, errors, strict=True):
            if error is not None:
                noted.failed(handler, error)
        return noted.result

    return Telling(calls, result)


def in_line(manager: AsyncCallbackManager, line: Line) -> AsyncCallbackManager:
    """A copy of a manager for a native call, the plain handlers of which are told in line.

    Args:
        manager: What the call inherits.
        line: Where what happened before the call may wait still.
    """
    # The native code looks for these, and adds those that it doesn't find.
    expected = [var.get() for var, *_ in context._configure_hooks]

    def of(handlers: list[BaseCallbackHandler]) -> list[Any]:
        return [
            handler if handler.run_inline or any(handler is each for each in expected) else _InLine(handler, line)
            for handler in handlers
        ]

    copied = copy.copy(manager)
    copied.handlers, copied.inheritable_handlers = of(manager.handlers), of(manager.inheritable_handlers)
    return copied


class _InLine:
    """Stands for a handler: the native code takes its methods for coroutine functions, and calls them in the loop."""

    def __init__(self, handler: BaseCallbackHandler, line: Line) -> None:
        self._handler, self._line = handler, line

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._handler.__class__

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._handler, name)
        if not name.startswith("on_") or inspect.iscoroutinefunction(value):
            return value

        async def told(*args: Any, **kwargs: Any) -> None:
            await self._line.call(partial(copy_context().run, value, *args, **kwargs))

        return told


def _is_coroutine_function(method: Any) -> bool:
    if isinstance(method, MethodType) and isinstance(method.__func__, FunctionType):
        return _defines_coroutine(method.__func__)
    return inspect.iscoroutinefunction(method)


#: As it is asked of each handler's functions at each event.
_defines_coroutine = lru_cache(maxsize=256)(inspect.iscoroutinefunction)


@cache
def _is_known(*functions: Any) -> bool:
    return all(is_from(function, native) for function in functions)


class _Note:
    """A handler that notes the one event it is told of, on the spot."""

    run_inline = True

    def __init__(self) -> None:
        self.ignored, self.name = "", ""
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("ignore_"):
            self.ignored = name
            return False
        self.name = name
        return self._take

    def _take(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


def note(source: Any, event: partial[Coroutine[Any, Any, Any]]) -> Noted | None:
    """What an event is, with nobody told; None if telling its handlers is left to the native code.

    That is so unless all of them are plain, and the code is known to tell each of them once, and at once.

    Args:
        source: A callback manager, or the manager of a run.
        event: A call of one of its methods.
    """
    if any(handler.run_inline for handler in source.handlers):
        return None
    method = event.func.__func__  # type: ignore[attr-defined]
    if not _is_known(method, native.ahandle_event, native._ahandle_event_for_handler):
        return None
    noting, twin = _Note(), object.__new__(type(source))
    vars(twin).update(vars(source), handlers=[noting])
    # Most ends of runs are shielded by a task of their own, for which there is no need here.
    method = getattr(method, "__wrapped__", method)
    try:
        result = _driven(method(twin, *event.args, **event.keywords))
    except _WaitsError:
        return None
    if result is not None:
        result.handlers = source.handlers
    try:
        handlers = [handler for handler in source.handlers if not getattr(handler, noting.ignored)]
        methods = [getattr(handler, noting.name) for handler in handlers]
    except Exception:
        return None  # natively it is logged, or raised
    if any(map(_is_coroutine_function, methods)):
        return None
    return Noted(result, handlers, methods, noting.name, noting.args, noting.kwargs)


def _driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise _WaitsError


class _WaitsError(Exception):
    """A coroutine waits."""


def _failing(handler: BaseCallbackHandler, name: str, error: BaseException) -> Any:
    """A handler that does nothing but fail as another did."""

    def event(*_: Any, **__: Any) -> None:
        raise error

    settings = {"run_inline": True, "raise_error": handler.raise_error, name: staticmethod(event)}
    return type(type(handler).__name__, (), settings)()
