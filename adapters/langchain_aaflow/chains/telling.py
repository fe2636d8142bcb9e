"""Telling handlers what happens to a run of an asynchronous chain, as the native code does, at less cost.

Natively each event of each plain handler (neither a coroutine function nor `run_inline`) is a task, a copy of the
context and a call in the loop's executor. Here such handlers are told in the same threads by `Hops`. What exactly they
are told is taken from the native code, which is run for a handler of ours that notes it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from functools import cache, partial
from typing import Any, NamedTuple

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks import manager as native

from aaflow_plugins.hops import Hops
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


def tell(hops: Hops, source: Any, event: partial[Coroutine[Any, Any, Any]]) -> Telling:
    """Begin to tell the handlers of `source` of `event`.

    Args:
        hops: Calls the handlers.
        source: A callback manager, or the manager of a run.
        event: A call of one of its methods.
    """
    noted = None if any(handler.run_inline for handler in source.handlers) else _noted(source, event)
    if noted is not None and not any(inspect.iscoroutinefunction(method) for method in noted.methods):
        calls = [hops.call(partial(copy_context().run, each, *noted.args, **noted.kwargs)) for each in noted.methods]
        return Telling(calls, partial(_result, noted, calls))
    native_call = asyncio.ensure_future(event())
    return Telling([native_call], native_call.result)


class _Noted(NamedTuple):
    """What a method of a manager tells which handlers, by which of their methods, and what it returns."""

    result: Any
    handlers: list[BaseCallbackHandler]
    methods: list[Any]
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def _result(noted: _Noted, calls: Sequence[asyncio.Future[Any]]) -> Any:
    errors = [call.exception() for call in calls]
    for handler, error in zip(noted.handlers, errors, strict=True):
        if error is not None:
            failing = _failing(handler, noted.name, error)
            _driven(native._ahandle_event_for_handler(failing, noted.name, None, *noted.args, **noted.kwargs))
    return noted.result


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


def _noted(source: Any, event: partial[Coroutine[Any, Any, Any]]) -> _Noted | None:
    """What the event is, with nobody told; None if its code is not known to tell each handler once, and at once."""
    method = event.func.__func__  # type: ignore[attr-defined]
    if not _is_known(method, native.ahandle_event, native._ahandle_event_for_handler):
        return None
    note, twin = _Note(), object.__new__(type(source))
    vars(twin).update(vars(source), handlers=[note])
    # Most ends of runs are shielded by a task of their own, for which there is no need here.
    method = getattr(method, "__wrapped__", method)
    try:
        result = _driven(method(twin, *event.args, **event.keywords))
    except _WaitsError:
        return None
    if result is not None:
        result.handlers = source.handlers
    try:
        handlers = [handler for handler in source.handlers if not getattr(handler, note.ignored)]
        methods = [getattr(handler, note.name) for handler in handlers]
    except Exception:
        return None  # natively it is logged, or raised
    return _Noted(result, handlers, methods, note.name, note.args, note.kwargs)


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
