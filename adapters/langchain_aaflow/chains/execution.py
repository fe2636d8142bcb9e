"""What the steps of one batch share: the flow they run on, and the callbacks of their runs."""

from __future__ import annotations

import asyncio
import copy
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    CallbackManager,
    UsageMetadataCallbackHandler,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    _set_config_context,
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    patch_config,
    var_child_runnable_config,
)
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from aaflow_plugins.flow import Flow
from aaflow_plugins.loop_flow import LoopFlow
from aaflow_plugins.operators import StoppedError
from aaflow_plugins.thread_flow import ThreadFlow
from langchain_aaflow.chains.telling import tell
from langchain_aaflow.chains.watching import Watch

T = TypeVar("T")

#: Handlers that only note what they are told.
QUICK = {LangChainTracer, RunCollectorCallbackHandler, UsageMetadataCallbackHandler}

#: What `run_type` is given as where the native code names none.
_NOT_GIVEN: Any = object()


class Execution:
    """One batch under way.

    Attributes:
        flow: Runs the steps.
        listening: Whether anything sees the runs: handlers, a tracer, a function that is given its run's config. If
            not, runs are not begun, and configurations are handed down as they are.
        setting: Whether a handler may set context variables where the run goes on that it is told of.
        asynchronous: Whether steps are invoked by `ainvoke`.
        on_loop: Whether a blocking batch was called where an event loop runs, in which nothing of it may wait.
        return_exceptions: Whether an input's exception is its output.
        join_size: Queries answered together at the most.
        first_join_size: The same for the first of many.
        watch: Who is told how the inputs get on; the outermost batch takes it.
        failed_at: Where a batch failed that has ended: the number of the step, of what was tried there, and of the
            input. The outermost ends last.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        listening: bool,
        setting: bool,
        return_exceptions: bool,
        join_size: int,
        first_join_size: int,
    ) -> None:
        self.flow = flow
        self.watch: Watch | None = None
        self.failed_at: tuple[int, int, int] | None = None
        self.listening = listening
        self.setting = setting
        self.return_exceptions = return_exceptions
        self.asynchronous = isinstance(flow, LoopFlow)
        self.on_loop = not self.asynchronous and asyncio._get_running_loop() is not None
        self.join_size = join_size
        self.first_join_size = first_join_size
        self._shared: dict[int, Any] = {}

    def returning(self, exceptions: bool) -> Execution:
        """The same for a batch within, with another `return_exceptions`."""
        if self.return_exceptions == exceptions:
            return self
        inner = copy.copy(self)
        inner.return_exceptions = exceptions
        return inner

    def shared(self, owner: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, once for this batch and this owner."""
        found = self._shared.get(id(owner))
        if found is None:
            # Held, so that nothing else can come to have its id.
            found = self._shared[id(owner)] = owner, make()
        return found[1]

    # -- runs --------------------------------------------------------------------------------------------

    async def start(
        self,
        config: RunnableConfig,
        value: Any,
        native: Runnable[Any, Any],
        *,
        defaults: bool = True,
        run_type: Any = _NOT_GIVEN,
        serialized: dict[str, Any] | None = None,
        aside: bool = True,
        context: Context | None = None,
    ) -> Any:
        """Begin the run of a chain, as the native code does; its run manager, or None if nothing listens.

        Args:
            config: The run's configuration; its `run_id` is taken out.
            value: The input.
            native: The runnable whose run it is.
            defaults: Whether the native code hands LangSmith's defaults on.
            run_type: What the native code gives for it, if it does.
            serialized: The same, for what the runnable is.
            aside: Whether blocking chains have it told in a thread.
            context: Where an asynchronous chain begins it; None for the current context.
        """
        if not self.listening:
            drop_own(config)
            return None
        kwargs: dict[str, Any] = {} if run_type is _NOT_GIVEN else {"run_type": run_type}
        kwargs["name"] = config.get("run_name") or native.get_name()
        kwargs["run_id"] = config.pop("run_id", None)
        if self.asynchronous:
            configure = get_async_callback_manager_for_config if defaults else _configure_async
            manager: Any = within(context, configure, config)
            event = partial(manager.on_chain_start, serialized, value, **kwargs)
            if not _sets_context(manager):
                return await self.told(manager, event, context)
            return await (event() if context is None else self.flow.spawn(event(), context))
        manager = get_callback_manager_for_config(config) if defaults else _configure(CallbackManager, config)
        event = partial(manager.on_chain_start, serialized, value, **kwargs)
        return await self.begin(manager, event) if aside else await self.told(manager, event)

    async def begin(self, manager: Any, event: partial[Any]) -> Any:
        """Have the handlers told of the beginning of a run of an input's own, whose run manager `event` gives."""
        flow = self.flow
        if isinstance(flow, LoopFlow):
            if _sets_context(manager):
                return await event()
            telling = tell(flow.hops, manager, event)
            if telling is None:
                return await event()
            for call in telling.calls:
                with suppress(Exception):  # which the result tells of
                    await call
            return await telling.result()
        assert isinstance(flow, ThreadFlow)
        return await flow.call_here(event) if _may_wait(manager) else event()

    async def end(self, run: Any, output: Any, *, aside: bool = False, context: Context | None = None) -> None:
        """End a run with its output."""
        if run is not None:
            await self.tell(run, partial(run.on_chain_end, output), aside, context)

    async def fail(
        self, run: Any, error: BaseException, *, aside: bool = False, context: Context | None = None
    ) -> None:
        """End a run with an error."""
        if run is not None:
            await self.tell(run, partial(run.on_chain_error, raised(error)), aside, context)

    async def tell(self, run: Any, event: partial[Any], aside: bool = True, context: Context | None = None) -> None:
        """Have the handlers of a run told of its end, `aside` in a thread: see `_may_wait`."""
        flow = self.flow
        if not aside or not isinstance(flow, ThreadFlow) or not _may_wait(run):
            await self.told(run, event, context)
            return
        begun = False

        def tell() -> None:
            nonlocal begun
            begun = True
            event()

        try:
            await flow.call_here(tell)
        except BaseException:
            if begun:
                raise
            event()  # after an interrupt no call is made any more; the run is ended all the same

    def may_begin_later(self, configs: Sequence[RunnableConfig]) -> bool:
        """Whether handlers may be told of the beginning of an input's run when another's is under way already.

        So they may if none of them can stop the batch by failing, or is told in the loop's own thread.
        """
        if not (self.listening and self.asynchronous):
            return False
        distinct = {handlers_in(config): config for config in configs}
        try:
            return all(
                not (handler.raise_error or handler.run_inline or inspect.iscoroutinefunction(handler.on_chain_start))
                for config in distinct.values()
                for handler in _configure(AsyncCallbackManager, config).handlers
            )
        except Exception:
            return False  # natively it is logged, or raised, when the handler is to be told

    async def told(self, source: Any, event: partial[Any], context: Context | None = None) -> Any:
        """Have the handlers of `source` told what happens to a run, even if the step is cancelled meanwhile."""
        flow = self.flow
        if isinstance(flow, ThreadFlow):
            return flow.here(event)
        assert isinstance(flow, LoopFlow)
        telling, cancelled = tell(flow.hops, source, event, context), False
        if telling is None:
            native_call = asyncio.get_running_loop().create_task(event(), context=context)
            while not native_call.done():
                try:
                    await asyncio.wait([native_call])
                except asyncio.CancelledError:
                    cancelled = True
            begun = native_call.result()
        else:
            for call in telling.calls:
                try:
                    with suppress(Exception):  # which the result tells of
                        await call
                except asyncio.CancelledError:
                    cancelled = True
            begun = await telling.result()
        if cancelled:
            if begun is not None:
                await self.fail(begun, asyncio.CancelledError(), context=context)  # a run that has just begun
            raise asyncio.CancelledError
        return begun

    async def within(self, run: Any, work: Awaitable[Any], context: Context | None = None) -> Any:
        """Await `work`, and end its run with what comes of it."""
        try:
            output = await work
        except BaseException as error:
            await self.fail(run, error, aside=True, context=context)
            raise
        await self.end(run, output, aside=True, context=context)
        return output

    def child(self, config: RunnableConfig, run: Any, tag: str | None = None) -> RunnableConfig:
        """The configuration of a step below a run."""
        if run is None:
            return config
        if not _is_complete(config):
            return patch_config(config, callbacks=run.get_child(tag))
        below = _copied(config)
        below["callbacks"] = run.get_child(tag)
        below.pop("run_name", None)
        below.pop("run_id", None)
        return below

    def unseen(self, config: RunnableConfig) -> RunnableConfig:
        """The configuration of what a function calls, where nothing listens: below a run, as natively."""
        manager: Any = AsyncCallbackManager if self.asynchronous else CallbackManager
        below: RunnableConfig = {**config, "callbacks": manager(handlers=[], parent_run_id=uuid4())}
        drop_own(below)
        return below

    async def all_of(self, events: Iterable[Awaitable[Any]]) -> list[Any]:
        """Await what happens to several runs, as natively: one after the other, or all at once.

        Raises:
            BaseException: The first event's that failed, or CancelledError, when all have ended.
        """
        if not (self.asynchronous and self.listening):
            return [await event for event in events]
        outcomes = await asyncio.gather(*events, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    def close(self) -> None:
        """Let go of what was shared, which holds the execution."""
        self._shared.clear()

    def inherits(self, config: RunnableConfig) -> bool:
        """Whether `config` is the one that runnables inherit here already, and nobody would see a new context."""
        return not self.listening and var_child_runnable_config.get() is config

    def ensured(self, config: RunnableConfig) -> RunnableConfig:
        """`ensure_config(config)`, but the very object where that would make an equal one and nobody sees it."""
        if self.inherits(config):
            return config
        return _copied(config) if _is_complete(config) else ensure_config(config)

    def context(self, config: RunnableConfig, above: Context | None = None) -> Context:
        """A copy of a context, or of the current one, in which `config` is the one that runnables inherit."""
        context = copy_context() if above is None else above.copy()
        context.run(_set_config_context if self.listening else var_child_runnable_config.set, config)
        return context

    def apart_context(self) -> Context | None:
        """Where a run begins that nothing after it is to see the context of: None if no handler changes that."""
        return copy_context() if self.setting else None

    def apart(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Work in a context that nothing after it is to see."""
        return self.flow.spawn(work) if self.setting else work

    async def sleep(self, seconds: float) -> None:
        """Wait, as a retry does."""
        if self.asynchronous:
            await asyncio.sleep(seconds)
        else:
            await self.flow.call(time.sleep, seconds)

    # -- calls -------------------------------------------------------------------------------------------

    async def invoke(
        self,
        native: Runnable[Any, Any],
        value: Any,
        config: RunnableConfig,
        kwargs: dict[str, Any],
        context: Context | None,
        *,
        is_short: bool = False,
    ) -> Any:
        """Invoke a runnable natively, in `context` or the current one; in a slot, or in none if it is a short call."""
        if self.asynchronous:
            return await self.awaited(partial(native.ainvoke, value, config, **kwargs), context)
        return await self.called(partial(native.invoke, value, config, **kwargs), context, slots=0 if is_short else 1)

    async def called(self, call: Callable[[], Any], context: Context | None, *, slots: int = 1) -> Any:
        """What a blocking call returns, made in `context` or in the current one, and in its slots."""
        flow = self.flow
        assert isinstance(flow, ThreadFlow)
        if context is None:
            return await flow.call_here(call, slots=slots)
        return await flow.call(context.run, call, slots=slots)

    async def awaited(
        self,
        begin: Callable[[], Coroutine[Any, Any, Any]],
        context: Context | None,
        *,
        slots: int = 1,
        urgent: bool = False,
    ) -> Any:
        """Await what an asynchronous call begins, in `context` or in the current one, and in its slots."""
        flow = self.flow
        assert isinstance(flow, LoopFlow)

        def work() -> Awaitable[Any]:
            return begin() if context is None else flow.spawn(context.run(begin), context)

        if flow.limit is None:
            return await work()
        async with flow.slot(slots, urgent=urgent):
            return await work()


def drop_own(config: RunnableConfig) -> None:
    """Take out of a configuration what is its run's alone, which nobody sees: what is below has its own, or none."""
    config.pop("run_name", None)
    config.pop("run_id", None)


def handlers_in(config: RunnableConfig) -> Any:
    """What tells the handlers of two configurations apart."""
    callbacks = config.get("callbacks")
    return tuple(map(id, callbacks)) if isinstance(callbacks, list) else id(callbacks)


#: The keys that `ensure_config` gives every configuration.
_ENSURED = frozenset(Context().run(ensure_config))


def _is_complete(config: RunnableConfig) -> bool:
    """Whether `ensure_config` would add nothing to it: it has been through it, in this context or one above."""
    inherited = var_child_runnable_config.get() or {}
    return config.keys() >= _ENSURED and config.keys() >= inherited.keys()


def _copied(config: RunnableConfig) -> RunnableConfig:
    """What `ensure_config` makes of a complete configuration, but with the same callback manager: nobody changes it."""
    return {
        **config,
        "tags": config["tags"].copy(),
        "metadata": config["metadata"].copy(),
        "configurable": config["configurable"].copy(),
    }


def _may_wait(manager: Any) -> bool:
    """Whether an event might take long: natively the handlers of one input do not hold up the other inputs."""
    return any(type(handler) not in QUICK for handler in manager.handlers)


def _sets_context(manager: Any) -> bool:
    """Whether what a handler sets at the beginning of a run is seen by what runs, as natively."""
    return any(handler.run_inline for handler in manager.handlers)


def may_set_context(handler: BaseCallbackHandler, flow: Flow) -> bool:
    """Whether a handler is told of a run's events where the run goes on, and may set variables there."""
    return type(handler) not in QUICK and (isinstance(flow, ThreadFlow) or handler.run_inline)


def within(context: Context | None, function: Callable[..., T], *args: Any) -> T:
    """What a function returns in `context`, or in the current one."""
    return function(*args) if context is None else context.run(function, *args)


def raised(error: BaseException) -> BaseException:
    """The error as user code raised it."""
    return error.error if isinstance(error, StoppedError) else error


def _configure(manager_class: Any, config: RunnableConfig) -> Any:
    return manager_class.configure(
        inheritable_callbacks=config.get("callbacks"),
        local_callbacks=None,
        verbose=False,
        inheritable_tags=config.get("tags"),
        local_tags=None,
        inheritable_metadata=config.get("metadata"),
        local_metadata=None,
    )


def _configure_async(config: RunnableConfig) -> Any:
    return _configure(AsyncCallbackManager, config)
