"""Telling handlers what happens to a run of an asynchronous chain, as the native code does, at less cost.

Natively each event of each plain handler (neither a coroutine function nor `run_inline`) is a task, a copy of the
context and a call in the loop's executor. Here such handlers are told the same in the same threads by `Hops`. That is
for releases of langchain-core whose code is known; others tell their handlers themselves.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from functools import partial
from types import MethodType
from typing import Any, Final, NamedTuple

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.callbacks import manager as native

from aaflow_plugins.hops import Hops, outcome
from aaflow_plugins.known_code import is_from, is_one_of

#: The code that has one handler after the other told, or all at once.
_TELLS: Final = frozenset({"3d62abfecd53885b"})
_TELLS_ONE: Final = frozenset({"fde117a76d016e54", "bb189b1afc5ed9ae"})

#: The code that tells of an event, by the handler's method; which handlers ignore it; what manager a run gets by it.
_EVENTS: Final[dict[str, tuple[frozenset[str], str, str | None]]] = {
    "on_chain_start": (
        frozenset({"465288fafcc23257", "41aa0a549df672d8"}),
        "ignore_chain",
        "AsyncCallbackManagerForChainRun",
    ),
    "on_chain_end": (frozenset({"c836883791a457b2"}), "ignore_chain", None),
    "on_chain_error": (frozenset({"f294f5ea23b52989"}), "ignore_chain", None),
    "on_retriever_start": (
        frozenset({"b8d1d3ee01ba5432", "c8875b76f5d54001"}),
        "ignore_retriever",
        "AsyncCallbackManagerForRetrieverRun",
    ),
    "on_retriever_end": (frozenset({"e25eb248295ef7c7"}), "ignore_retriever", None),
    "on_retriever_error": (frozenset({"c1e4836b4887a376"}), "ignore_retriever", None),
    "on_chat_model_start": (
        frozenset({"97612a9ff9af195b", "8ca435701df8761b"}),
        "ignore_chat_model",
        "AsyncCallbackManagerForLLMRun",
    ),
    "on_llm_end": (frozenset({"f701455d29a1dd56"}), "ignore_llm", None),
    "on_llm_error": (frozenset({"3560b544db8f9f76"}), "ignore_llm", None),
}


class Telling(NamedTuple):
    """An event that handlers are being told of.

    Attributes:
        source: Whose handlers they are: a callback manager, or the manager of a run.
        handlers: Who is told.
        calls: A call for each of them, which gives the error it raised or None; or raises what kept it from being made.
        event: What is told: the name of the handlers' method.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    source: Any
    handlers: list[BaseCallbackHandler]
    calls: Sequence[asyncio.Future[Any]]
    event: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    async def result(self) -> Any:
        """What the native method returns or raises, once all have been told: the manager of a run that begins."""
        failing = [
            _failing(handler, self.event, error)
            for handler, call in zip(self.handlers, self.calls, strict=True)
            if (error := call.exception() or call.result()) is not None  # an exception, where no thread takes calls
        ]
        if failing:
            await native.ahandle_event(failing, self.event, None, *self.args, **self.kwargs)
        source, manager = self.source, _EVENTS[self.event][2]
        if manager is None:
            return None
        begun = getattr(native, manager)(
            run_id=self.kwargs["run_id"],
            handlers=source.handlers,
            inheritable_handlers=source.inheritable_handlers,
            parent_run_id=source.parent_run_id,
            tags=source.tags,
            inheritable_tags=source.inheritable_tags,
            metadata=source.metadata,
            inheritable_metadata=source.inheritable_metadata,
        )
        return [begun] if self.event == "on_chat_model_start" else begun


def tell(
    hops: Hops, source: Any, event: partial[Coroutine[Any, Any, Any]], context: Context | None = None
) -> Telling | None:
    """Begin to tell the handlers of `source` of `event`; None if that is for its own code to do.

    Args:
        hops: Calls the handlers.
        source: A callback manager, or the manager of a run.
        event: A call of one of its methods.
        context: Where the method would be called; None for the current context.
    """
    name, args, details = _known_name(event.func), event.args, event.keywords
    if name is None:
        return None
    _, ignoring, manager = _EVENTS[name]
    try:
        if any(handler.run_inline for handler in source.handlers):
            return None
        handlers = [handler for handler in source.handlers if not getattr(handler, ignoring)]
        methods = [getattr(handler, name) for handler in handlers]
    except Exception:
        return None  # natively it is logged, or raised
    if any(map(inspect.iscoroutinefunction, methods)):
        return None
    shown = [args] * len(methods)
    if name == "on_chat_model_start":
        if len(args) != 2 or len(args[1]) != 1:
            return None  # a run for each
        shown = [(args[0], [*args[1]]) for _ in methods]
    kwargs = {"run_id": None, "parent_run_id": source.parent_run_id, "tags": source.tags}
    if manager is None:
        kwargs |= {"run_id": source.run_id, **details}
    else:
        kwargs |= {"metadata": source.metadata, **details}
        if kwargs["run_id"] is None:
            kwargs["run_id"] = _new_run_id()
    copied = copy_context if context is None else context.copy
    calls = [
        hops.call(partial(copied().run, _error, method, its, kwargs))
        for method, its in zip(methods, shown, strict=True)
    ]
    return Telling(source, handlers, calls, name, args, kwargs)


def _known_name(method: Any) -> str | None:
    """Which event a method of a manager tells of, if that is known of its code; not with anything put around it."""
    if type(method) is not MethodType or not is_one_of(native.ahandle_event, _TELLS):
        return None
    if not is_one_of(native._ahandle_event_for_handler, _TELLS_ONE):
        return None
    # Most ends of runs are shielded by a task of their own, for which there is no need here.
    function: Any = method.__func__
    plain = function.__wrapped__ if is_from(function, native) and hasattr(function, "__wrapped__") else function
    name: str = getattr(plain, "__name__", "")
    return name if name in _EVENTS and is_one_of(plain, _EVENTS[name][0]) else None


def _new_run_id() -> uuid.UUID:
    """The id of a run, as the installed langchain-core makes it."""
    make: Callable[[], uuid.UUID] = vars(native).get("uuid7") or uuid.uuid4
    return make()


def _error(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> BaseException | None:
    """What a handler's method raises; what it returns is nobody's concern."""
    return outcome(partial(method, *args, **kwargs))[1]


def _failing(handler: BaseCallbackHandler, name: str, error: BaseException) -> Any:
    """A handler like another whose method for an event has failed."""

    async def event(*_: Any, **__: Any) -> None:
        raise error

    def other(_: Any, attribute: str) -> Any:
        return getattr(handler, attribute)

    return type(type(handler).__name__, (), {name: staticmethod(event), "__getattr__": other})()
