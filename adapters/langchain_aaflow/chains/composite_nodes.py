"""The steps of a chain that are made of others: sequences, parallels, branches, bindings, retries, fallbacks."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

from langchain_core.runnables import (
    RouterRunnable,
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableConfig,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableEach
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.retry import RunnableRetry
from typing_extensions import override

from langchain_aaflow.chains.execution import Execution, raised
from langchain_aaflow.chains.leaf_nodes import Quick
from langchain_aaflow.chains.nodes import Call, Configs, Kwargs, Node


class Steps(Node):
    """A sequence."""

    kind = "sequence"
    native: RunnableSequence[Any, Any]

    @property
    def steps(self) -> list[Node]:
        """The steps, first to last."""
        return list(self.inner.values())

    @override
    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        return any(step.meets_within(listening, configs) for step in self.steps)

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        for number, step in enumerate(self.steps, 1):
            config = x.child(config, run, f"seq:step:{number}")
            value = await step.below(x, value, config, {} if number > 1 else kwargs)
        return value

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, defaults=False, context=x.apart_context())
        return await x.within(run, self._through_batched(x, value, config, run, kwargs))

    async def _through_batched(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        for number, step in enumerate(self.steps, 1):
            child = x.child(config, run, f"seq:step:{number}")
            value = await step.batched(x, value, child, {} if number > 1 else kwargs)
            if x.return_exceptions and isinstance(value, Exception):
                raise value
        if isinstance(value, Exception):
            raise value
        return value


class Parallel(Node):
    """A dict of steps for one input."""

    kind = "parallel"
    native: RunnableParallel[Any]

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, defaults=x.asynchronous)
        return await x.within(run, self._through(x, value, config, run))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any) -> dict[str, Any]:
        configs = {key: x.child(config, run, f"map:key:{key}") for key in self.inner}
        if x.asynchronous:
            # As natively: the first error in time is raised at once, the other steps go on.
            quick = [key for key, step in self.inner.items() if isinstance(step, Quick) and not x.listening]
            begun = {
                key: x.flow.spawn(step.run(x, value, configs[key], {}), x.context(configs[key]))
                for key, step in self.inner.items()
                if key not in quick
            }
            outputs = {key: await self.inner[key].run(x, value, configs[key], {}) for key in quick}
            outputs |= zip(begun, await asyncio.gather(*begun.values()), strict=True)
            return {key: outputs[key] for key in self.inner}
        outcomes = await x.flow.gather(step.below(x, value, configs[key], {}) for key, step in self.inner.items())
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return {key: outcome.value for key, outcome in zip(self.inner, outcomes, strict=True)}


class Assign(Node):
    """A dict and what a mapper adds to it."""

    kind = "assign"
    native: RunnableAssign

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native, run_type=None)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        if not isinstance(value, dict):
            raise ValueError("The input to RunnablePassthrough.assign() must be a dict.")
        added = await self.inner["mapper"].below(x, value, x.child(config, run), kwargs)
        return {**value, **added}


class Branch(Node):
    """The first branch whose condition holds."""

    kind = "branch"
    native: RunnableBranch[Any, Any]

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        run = await x.start(config, value, self.native)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        for number in range(1, len(self.native.branches) + 1):
            tag = f"condition:{number}"
            if await self.inner[tag].run(x, value, x.child(config, run, tag), {}):
                tag = f"branch:{number}"
                return await self.inner[tag].run(x, value, x.child(config, run, tag), kwargs)
        return await self.inner["branch:default"].run(x, value, x.child(config, run, "branch:default"), kwargs)


class Bind(Node):
    """A step with arguments or configuration bound to it."""

    kind = "bind"
    native: RunnableBinding[Any, Any]

    @override
    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        if chosen := self.native.config.get("configurable"):
            configs = [
                {**config, "configurable": {**chosen, **(config.get("configurable") or {})}} for config in configs
            ]
        own_bound = self.native.config.get("max_concurrency") is not None
        return own_bound or self.inner["bound"].meets_within(listening, configs)

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        merged, bound_kwargs = self.merged(x, config, kwargs)
        return await self.inner["bound"].run(x, value, merged, bound_kwargs)

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        merged, bound_kwargs = self.merged(x, config, kwargs)
        return await self.inner["bound"].batched(x, value, merged, bound_kwargs)

    def merged(self, x: Execution, config: RunnableConfig, kwargs: Kwargs) -> tuple[RunnableConfig, Kwargs]:
        """What the native code gives to the bound step."""
        return self.native._merge_configs(config), {**self.native.kwargs, **kwargs}


class Each(Node):
    """A step for each element of a list."""

    kind = "each"
    native: RunnableEach[Any, Any]

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if not hasattr(value, "__len__"):
            # Natively an iterator is used up before its elements are looked at.
            return await x.invoke(self.native, value, config, kwargs, None)
        config = x.ensured(config)
        run = await x.start(config, value, self.native, run_type=None)
        work = x.flow.spawn(self._through(x, value, config, run, kwargs), x.context(x.child(config, run)))
        return await x.within(run, work)

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        from langchain_aaflow.chains.batches import batch

        values = list(value)
        config = x.child(config, run)
        configs = [x.child(config, run) for _ in values]
        return await batch(x.returning(False), self.inner["bound"], values, configs, kwargs)


class Fallbacks(Node):
    """A step, and others for when it fails."""

    kind = "fallbacks"
    native: RunnableWithFallbacks[Any, Any]

    @override
    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        # With a key for the exception, a batch looks at all inputs before it begins.
        tried = self.inner.values()
        return self.native.exception_key is not None or any(node.meets_within(listening, configs) for node in tried)

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        if self.native.exception_key is not None and not isinstance(value, dict):
            raise ValueError(
                "If 'exception_key' is specified then input must be a dictionary."
                f"However found a type of {type(value)} for input"
            )
        config = x.ensured(config)
        run = await x.start(config, value, self.native)
        return await x.within(run, self._through(x, value, config, run, kwargs))

    async def _through(self, x: Execution, value: Any, config: RunnableConfig, run: Any, kwargs: Kwargs) -> Any:
        key, handled = self.native.exception_key, self.native.exceptions_to_handle
        first: BaseException | None = None
        last: BaseException | None = None
        for node in self.inner.values():
            if key and last is not None:
                value[key] = last
            try:
                # As natively: in the context of a child, with the configuration of the run itself.
                return await x.flow.spawn(node.run(x, value, config, kwargs), x.context(x.child(config, run)))
            except BaseException as error:
                last = raised(error)
                if not isinstance(last, handled):
                    raise
                first = first or last
        if first is None:
            raise ValueError("No error stored at end of fallbacks.")
        raise first

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        config = x.ensured(config)
        shown = value if x.asynchronous or isinstance(value, dict) else {"input": value}
        run = await x.start(config, shown, self.native, defaults=False, context=x.apart_context())
        failure: Any = None
        for number, node in enumerate(self.inner.values()):
            try:
                output = await node.batched(x.returning(True), value, x.child(config, run), kwargs)
            except Exception as error:
                output = raised(error)
            if isinstance(output, self.native.exceptions_to_handle):
                failure = output
            elif not isinstance(output, BaseException):
                await x.end(run, output)
                return output
            elif x.return_exceptions:
                failure = output
                break
            else:
                # As natively, its run is left open.
                raise RankedError(number, output)
        await x.fail(run, failure)
        if x.return_exceptions:
            raise failure
        raise RankedError(len(self.inner), failure)


class RankedError(Exception):
    """An input's error in a step that tries several things in turn, all inputs with one before the next.

    Attributes:
        rank: The number of the thing tried: of two inputs' errors, the native code raises that of the lower.
        error: What is to be raised.
    """

    def __init__(self, rank: int, error: BaseException) -> None:
        super().__init__(rank, error)
        self.rank, self.error = rank, error


class Retry(Call):
    """A step that is tried again.

    By itself it runs natively. In a batch, inputs that fail meet and are tried again together; see `batches`.
    """

    kind = "retry"
    native: RunnableRetry[Any, Any]

    def __init__(self, native: RunnableRetry[Any, Any], bound: Node) -> None:
        super().__init__(native, None, batches=True, sees_runs=False)
        self.inner = {"bound": bound}

    @override
    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        # An error that is not retried fails all inputs: no run may have ended well before that is known.
        return listening or self.inner["bound"].meets_within(listening, configs)

    @override
    def meets_within(self, listening: bool, configs: Configs = ()) -> bool:
        # An input's error that is not retried is every input's.
        return True


class Route(Node):
    """The step that an input names."""

    kind = "route"
    native: RouterRunnable[Any]

    @override
    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        # A batch looks at the keys of all inputs before it begins.
        return True

    def check(self, values: list[Any]) -> None:
        """Raise for inputs that no batch can be made of, as the native `batch` does."""
        keys = [value["key"] for value in values]
        for value in values:
            value["input"]
        if any(key not in self.native.runnables for key in keys):
            raise ValueError("One or more keys do not have a corresponding runnable")

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        key, actual = value["key"], value["input"]
        if key not in self.native.runnables:
            raise ValueError(f"No runnable associated with key '{key}'")
        return await self.inner[key].run(x, actual, config, {})

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await x.apart(self.inner[value["key"]].run(x, value["input"], config, kwargs))


class Configure(Node):
    """A step that each input's configuration may change."""

    kind = "configure"
    native: DynamicRunnable[Any, Any]

    async def _run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs, *, batched: bool) -> Any:
        runnable, prepared = self.native.prepare(config)
        for role, node in self.inner.items():
            if node.native is runnable:
                if batched and role == "default":
                    return await node.batched(x, value, prepared, kwargs)
                work = node.run(x, value, prepared, kwargs)
                return await (x.apart(work) if batched else work)
        return await x.invoke(runnable, value, prepared, kwargs, copy_context() if batched else None)

    @override
    def meets(self, listening: bool, configs: Configs = ()) -> bool:
        return not self._is_alike(configs) or any(node.meets_within(listening, configs) for node in self.inner.values())

    def _is_alike(self, configs: Configs) -> bool:
        """Whether a batch takes all inputs as it takes one: each to its default, or each to something else."""
        if not any(config.get("configurable") for config in configs):
            return True
        try:
            to_default = {self.native.prepare(config)[0] is self.native.default for config in configs}
        except Exception:
            return False  # what one of them refuses ends the batch before it begins
        return len(to_default) == 1

    @override
    async def run(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._run(x, value, config, kwargs, batched=False)

    @override
    async def batched(self, x: Execution, value: Any, config: RunnableConfig, kwargs: Kwargs) -> Any:
        return await self._run(x, value, config, kwargs, batched=True)
