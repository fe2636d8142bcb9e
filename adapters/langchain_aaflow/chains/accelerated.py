"""Chains whose batches run as a plan. All else about them is native: class, `invoke`, streams, events, graphs."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.runnables import (
    Runnable,
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableEach
from langchain_core.runnables.config import get_config_list
from langchain_core.vectorstores import VectorStoreRetriever
from pydantic import PrivateAttr

from aaflow_plugins.collector import spared_collector
from aaflow_plugins.divided_batches import Job, Outcome, aranks_for, batch_on, is_for_ranks, ranks_for
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.event_loop import in_thread
from aaflow_plugins.executor import Executor
from aaflow_plugins.flow import FIRST_BLOCK, Flow
from aaflow_plugins.interrupts import interrupts_put_off
from aaflow_plugins.loop_flow import LoopFlow
from aaflow_plugins.thread_flow import ThreadFlow
from aaflow_plugins.threads import await_end
from langchain_aaflow.batch_ranks import check_retrievers, shared_configs, told_of, undivided_reason
from langchain_aaflow.chains.as_completed import drive, each_as_completed, taken
from langchain_aaflow.chains.batches import batch
from langchain_aaflow.chains.composite_nodes import Bind, Retry
from langchain_aaflow.chains.execution import Execution, handlers_in, may_set_context
from langchain_aaflow.chains.nodes import Call, Kwargs, Node
from langchain_aaflow.chains.plans import plan_of
from langchain_aaflow.chains.translate import translate
from langchain_aaflow.chains.watching import Watch
from langchain_aaflow.plain_data import digest_of_data, from_json, to_json

R = TypeVar("R", bound=Runnable[Any, Any])

#: Queries that are embedded and searched together, unless the executor's `batch_size` says otherwise.
JOIN_SIZE = 64

#: The same at the beginning of a longer batch: what comes after the retriever need not wait for a full one.
FIRST_JOIN_SIZE = FIRST_BLOCK

#: Batches of so few inputs run natively: there is next to nothing to join or to overlap.
FEW = 2


#: What natively hands `batch_as_completed` on to the step within: a retry does not retry there.
_AS_COMPLETED: Final = (Bind, Retry)


class Batching:
    """Runs `batch`, `abatch` and their `as_completed` forms as a plan."""

    @property
    def _settings(self) -> tuple[Executor | None, bool]:
        """The executor, and `batch_queries`. A binding would look for a private attribute on what it binds."""
        private: dict[str, Any] = object.__getattribute__(self, "__pydantic_private__") or {}
        settings: tuple[Executor | None, bool] = private.get("_aaflow_settings", (None, False))
        return settings

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As natively, without waiting for all inputs after each step; on several ranks see `divided_batches`."""
        native: Any = super()
        if (ranks := ranks_for(self._settings[0])) is not None:
            return self._on(ranks, inputs, config, return_exceptions, kwargs, self._run)
        node = self._plan_for(inputs, config)
        if node is None:
            outputs: list[Any] = native.batch(inputs, config, return_exceptions=return_exceptions, **kwargs)
            return outputs
        node, config, kwargs = _bound(node, inputs, config, kwargs)
        configs = get_config_list(config, len(inputs))  # here, where its warning names the caller's line
        return self._run(node, inputs, configs, return_exceptions, kwargs)

    def _run(
        self,
        node: Node | None,
        inputs: Sequence[Any],
        configs: Sequence[RunnableConfig],
        return_exceptions: bool,
        kwargs: Kwargs,
        outcome: Outcome | None = None,
    ) -> list[Any]:
        """Run a batch in this process, natively if there is no step; note in `outcome` where it failed."""
        native: Any = super()
        limit = self._limit(configs)
        if node is None or (limit is not None and limit < 1):
            outputs: list[Any] = native.batch(
                list(inputs), list(configs), return_exceptions=return_exceptions, **kwargs
            )
            return outputs
        flow = ThreadFlow(limit)
        x = self._execution(flow, node, configs, return_exceptions)
        try:
            with self._watched(x, node, len(inputs)):
                return flow.run(batch(x, node, list(inputs), configs, kwargs))
        finally:
            if outcome is not None:
                outcome.position = x.failed_at
            x.close()

    def with_retry(self, **kwargs: Any) -> Any:
        """As natively; refused for a chain whose batch is for all ranks: what is tried again is one rank's affair."""
        self._check_outermost("with_retry")
        native: Any = super()
        return native.with_retry(**kwargs)

    def with_fallbacks(self, fallbacks: Sequence[Runnable[Any, Any]], **kwargs: Any) -> Any:
        """As natively; refused for a chain whose batch is for all ranks."""
        self._check_outermost("with_fallbacks")
        native: Any = super()
        return native.with_fallbacks(fallbacks, **kwargs)

    def map(self) -> Any:
        """As natively; refused for a chain whose batch is for all ranks."""
        self._check_outermost("map")
        native: Any = super()
        return native.map()

    def _check_outermost(self, method: str) -> None:
        if is_for_ranks(self._settings[0]):
            raise ValueError(
                f"{method}: this chain's batch is a call of all ranks, which nothing may wrap that calls it for some "
                f"inputs alone; wrap what is not accelerated, and accelerate the whole: `chain.{method}(...) | ...`"
            )

    def _on(
        self,
        ranks: Communicator,
        inputs: Sequence[Any],
        config: Any,
        return_exceptions: bool,
        kwargs: Kwargs,
        run_here: Callable[..., list[Any]],
    ) -> list[Any]:
        """Run a batch on several ranks, this one's part by `run_here`."""
        executor = self._settings[0]
        assert executor is not None
        whole = translate(self, batch_queries=self._settings[1])
        check_retrievers(whole)
        node, config, bound_kwargs = _bound(whole, inputs, config, kwargs)
        # Natively a configuration for nothing is not looked at.
        configs = get_config_list(config, len(inputs)) if inputs else []
        alone = undivided_reason(node, return_exceptions=return_exceptions)
        limit = self._limit(configs) if configs else None
        settings = [*told_of(whole), return_exceptions, limit, bound_kwargs]
        if alone is None:
            configs = shared_configs(configs, limit, ranks)

        def run(numbers: Sequence[int], outcome: Outcome | None) -> list[Any]:
            values, own = [inputs[number] for number in numbers], [configs[number].copy() for number in numbers]
            step = None if isinstance(whole, Call) else node
            return run_here(step, values, own, return_exceptions, bound_kwargs, outcome)

        told = digest_of_data(inputs), digest_of_data(["a chain's batch", *settings])
        return batch_on(ranks, executor, Job(len(inputs), *told, alone, run, to_json, from_json))

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """As natively, without waiting for all inputs after each step; on several ranks see `divided_batches`."""
        native: Any = super()
        if (ranks := await aranks_for(self._settings[0])) is not None:
            run = partial(self._on, ranks, inputs, config, return_exceptions, kwargs)
            return await in_thread(lambda on_loop: run(partial(on_loop, self._arun)))
        node = self._plan_for(inputs, config)
        if node is None:
            outputs: list[Any] = await native.abatch(inputs, config, return_exceptions=return_exceptions, **kwargs)
            return outputs
        node, config, kwargs = _bound(node, inputs, config, kwargs)
        configs = get_config_list(config, len(inputs))  # here, where its warning names the caller's line
        return await self._arun(node, inputs, configs, return_exceptions, kwargs)

    async def _arun(
        self,
        node: Node | None,
        inputs: Sequence[Any],
        configs: Sequence[RunnableConfig],
        return_exceptions: bool,
        kwargs: Kwargs,
        outcome: Outcome | None = None,
    ) -> list[Any]:
        """Like `_run`, on the running loop."""
        native: Any = super()
        if node is None:
            outputs: list[Any] = await native.abatch(
                list(inputs), list(configs), return_exceptions=return_exceptions, **kwargs
            )
            return outputs
        async with LoopFlow(self._limit(configs)) as flow:
            x = self._execution(flow, node, configs, return_exceptions)
            try:
                with self._watched(x, node, len(inputs)):
                    return await batch(x, node, list(inputs), configs, kwargs)
            finally:
                if outcome is not None:
                    outcome.position = x.failed_at
                x.close()

    def batch_as_completed(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Any]]:
        """As natively, with queries answered together."""
        native: Any = super()
        node = self._plan_for(inputs, config)
        if node is None or _is_ordered(node):
            yield from native.batch_as_completed(inputs, config, return_exceptions=return_exceptions, **kwargs)
            return
        node, config, kwargs = _bound(node, inputs, config, kwargs, _AS_COMPLETED)
        configs = get_config_list(config, len(inputs))  # here, where its warning names the caller's line
        flow = ThreadFlow(self._limit(configs))
        x = self._execution(flow, node, configs, False)
        done: SimpleQueue[Any] = SimpleQueue()
        every = each_as_completed(x, node, list(inputs), configs, kwargs, done.put)
        context = copy_context()
        driver = threading.Thread(target=context.run, args=(drive, flow, every, done), name="aaflow-chain", daemon=True)
        with self._watched(x, node, len(inputs)):
            try:
                with interrupts_put_off():
                    driver.start()
                while (ended := done.get()) is not None:
                    yield taken(ended, return_exceptions)
            finally:
                flow.interrupt(GeneratorExit())
                await_end(driver)

    async def abatch_as_completed(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncIterator[tuple[int, Any]]:
        """As natively, with queries answered together."""
        native: Any = super()
        node = self._plan_for(inputs, config)
        if node is None or _is_ordered(node):
            async for ended in native.abatch_as_completed(
                inputs, config, return_exceptions=return_exceptions, **kwargs
            ):
                yield ended
            return
        node, config, kwargs = _bound(node, inputs, config, kwargs, _AS_COMPLETED)
        configs = get_config_list(config, len(inputs))  # here, where its warning names the caller's line
        async with LoopFlow(self._limit(configs)) as flow:
            x = self._execution(flow, node, configs, False)
            done: asyncio.Queue[Any] = asyncio.Queue()
            with self._watched(x, node, len(inputs)):
                every = flow.spawn(each_as_completed(x, node, list(inputs), configs, kwargs, done.put_nowait))
                for _ in inputs:
                    yield taken(await done.get(), return_exceptions)
                await every

    def _plan_for(self, inputs: Sequence[Any], config: Any) -> Node | None:
        """The steps that inputs go through; None if the native code does as well."""
        first = config[0] if isinstance(config, Sequence) and config else config
        # Natively, a bound multiplies where a chain has steps side by side.
        if not inputs or (len(inputs) <= FEW and not (first or {}).get("max_concurrency")):
            return None
        native: Any = self
        node = translate(native, batch_queries=self._settings[1])
        check_retrievers(node)
        return None if isinstance(node, Call) else node

    def _limit(self, configs: Sequence[RunnableConfig]) -> int | None:
        limit = configs[0].get("max_concurrency")
        executor = self._settings[0]
        return executor.resources.max_concurrency if limit is None and executor else limit

    @contextmanager
    def _watched(self, x: Execution, node: Node, total: int) -> Iterator[None]:
        with ExitStack() as stack:
            if total > x.join_size:
                stack.enter_context(spared_collector())
            if executor := self._settings[0]:
                x.watch = Watch(executor, plan_of(node), total)
                stack.enter_context(x.watch.running())
            yield

    def _execution(
        self, flow: Flow, node: Node, configs: Sequence[RunnableConfig], return_exceptions: bool
    ) -> Execution:
        executor = self._settings[0]
        handlers = _handlers(configs)
        listening = bool(handlers) or any(step.sees_runs for step in node.walk())
        join_size = (executor and executor.batch_size) or JOIN_SIZE
        return Execution(
            flow,
            listening=listening,
            setting=any(may_set_context(handler, flow) for handler in handlers)
            or any(isinstance(step, Bind) and step.sees_runs for step in node.walk()),
            return_exceptions=return_exceptions,
            join_size=join_size,
            first_join_size=min(FIRST_JOIN_SIZE, join_size) if len(configs) > join_size else join_size,
        )


def _bound(
    node: Node, inputs: Sequence[Any], config: Any, kwargs: Kwargs, kinds: tuple[type[Node], ...] = (Bind,)
) -> tuple[Node, Any, Kwargs]:
    """The step within bindings (nodes of these kinds), and what the native `batch` of these gives it."""
    while isinstance(node, kinds):
        binding: Any = node.native
        merge = binding._merge_configs
        config = [merge(one) for one in config] if isinstance(config, Sequence) else [merge(config) for _ in inputs]
        node, kwargs = node.inner["bound"], {**binding.kwargs, **kwargs}
    return node, config, kwargs


def _is_ordered(node: Node) -> bool:
    return any(step.ordered for step in node.walk())


def _handlers(configs: Sequence[RunnableConfig]) -> list[BaseCallbackHandler]:
    distinct = {handlers_in(config): config.get("callbacks") for config in configs}
    managers = [CallbackManager.configure(inheritable_callbacks=callbacks) for callbacks in distinct.values()]
    # Who is told of what is below alone listens, too.
    return [handler for manager in managers for handler in (*manager.handlers, *manager.inheritable_handlers)]


class AcceleratedSequence(Batching, RunnableSequence[Any, Any]):
    """A RunnableSequence whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedParallel(Batching, RunnableParallel[Any]):
    """A RunnableParallel whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedAssign(Batching, RunnableAssign):
    """A RunnableAssign whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedBranch(Batching, RunnableBranch[Any, Any]):
    """A RunnableBranch whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedBinding(Batching, RunnableBinding[Any, Any]):
    """A RunnableBinding whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedEach(Batching, RunnableEach[Any, Any]):
    """A RunnableEach whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedFallbacks(Batching, RunnableWithFallbacks[Any, Any]):
    """A RunnableWithFallbacks whose batches run as a plan."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


class AcceleratedRetriever(Batching, VectorStoreRetriever):
    """A VectorStoreRetriever whose batches are searched together."""

    _aaflow_settings: Any = PrivateAttr(default=(None, False))


_ACCELERATED: dict[type, type] = {
    RunnableSequence: AcceleratedSequence,
    RunnableParallel: AcceleratedParallel,
    RunnableAssign: AcceleratedAssign,
    RunnableBranch: AcceleratedBranch,
    RunnableBinding: AcceleratedBinding,
    RunnableEach: AcceleratedEach,
    RunnableWithFallbacks: AcceleratedFallbacks,
    VectorStoreRetriever: AcceleratedRetriever,
}
for _native, _accelerated in _ACCELERATED.items():
    # Names of runs and of serialized objects are those of classes; pickle goes by `__qualname__`.
    _accelerated.__name__ = _native.__name__


def accelerate_chain(native: R, executor: Executor | None = None, *, batch_queries: bool = False) -> R:
    """Return a runnable of the same class whose batches run as a plan.

    Args:
        native: Any runnable. It is not changed; the steps are shared.
        executor: `max_concurrency` bounds a batch whose configuration does not, `batch_size` is the number of queries
            that are embedded and searched together. With `engine="mpi"` (or another that is named), or with a `gather`
            other than "root" in a job of several ranks, `batch` and `abatch` are calls that all ranks make together,
            with the same inputs; each takes a block of them through the chain: see `divided_batches`. All other calls,
            also `batch_as_completed`, stay in their process.
        batch_queries: Whether queries may be embedded in one call, whatever the embeddings' class.

    Returns:
        The accelerated runnable; one whose batches gain nothing is returned as it is.

    Raises:
        ValueError: If its batches are to be for all ranks, and it is of no class whose batches can be.
    """
    kind: Any = type(native)
    origin = getattr(kind, "__pydantic_generic_metadata__", {}).get("origin") or kind
    accelerated = _ACCELERATED.get(origin, kind if issubclass(kind, Batching) else None)
    if accelerated is None:
        if is_for_ranks(executor):
            known = ", ".join(each.__name__ for each in _ACCELERATED)
            raise ValueError(
                f"executor: ranks share the batches of {known}, not of {kind.__name__}: put it in a sequence, such as "
                "`RunnablePassthrough() | it`"
            )
        return native
    twin = copy.copy(native)
    object.__setattr__(twin, "__class__", accelerated)
    private = getattr(twin, "__pydantic_private__", None) or {}
    object.__setattr__(twin, "__pydantic_private__", {**private, "_aaflow_settings": (executor, batch_queries)})
    return twin
