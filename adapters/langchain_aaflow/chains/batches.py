"""Many inputs through a step: what its native `batch` and `abatch` do, without waiting for each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list

from aaflow_plugins.operators import StoppedError
from langchain_aaflow.chains.execution import Execution, raised
from langchain_aaflow.chains.nodes import Bind, Kwargs, Node, Steps

Configs = Sequence[RunnableConfig]


async def batch(
    x: Execution,
    node: Node,
    values: list[Any],
    configs: Sequence[RunnableConfig],
    return_exceptions: bool,
    kwargs: Kwargs,
) -> list[Any]:
    """The outputs for `values`, as the native `batch` (or `abatch`) of the step's runnable gives them.

    Args:
        x: The execution.
        node: The step.
        values: The inputs.
        configs: A configuration an input.
        return_exceptions: Whether an input's exception is its output, instead of being raised.
        kwargs: Keyword arguments for the step, or the first of its steps.

    Raises:
        BaseException: As natively: the error of the first step in which an input failed (in `batch` that of the first
            such input), after all runs that were begun have ended.
    """
    if not values:
        return []
    if isinstance(node, Bind):
        merged = [node.merged(x, config, {})[0] for config in configs]
        return await batch(x, node.inner["bound"], values, merged, return_exceptions, {**node.native.kwargs, **kwargs})
    if isinstance(node, Steps):
        return await _batch_of_steps(x, node, values, configs, return_exceptions, kwargs)
    if node.together:
        return await _native_batch(x, node, values, configs, return_exceptions, kwargs)
    configs = get_config_list(configs, len(values))
    return await Pipeline(x, [node], values, lambda index, _: configs[index], return_exceptions, kwargs).run()


async def _batch_of_steps(
    x: Execution,
    node: Steps,
    values: list[Any],
    configs: Sequence[RunnableConfig],
    return_exceptions: bool,
    kwargs: Kwargs,
) -> list[Any]:
    configs = get_config_list(configs, len(values))
    runs = [
        await x.start(config, value, node.native, defaults=False) for config, value in zip(configs, values, strict=True)
    ]

    def child(index: int, step: int) -> RunnableConfig:
        return x.child(configs[index], runs[index], f"seq:step:{step + 1}")

    try:
        outputs = await Pipeline(x, node.steps, values, child, return_exceptions, kwargs).run()
    except BaseException as error:
        for run in runs:
            await x.fail(run, error)
        if return_exceptions:
            return [raised(error) for _ in values]
        raise
    # As natively, no root ends well before it is known that none fails.
    first: Exception | None = None
    for run, output in zip(runs, outputs, strict=True):
        if isinstance(output, Exception):
            first = first or output
            await x.fail(run, output)
        else:
            await x.end(run, output)
    if first is not None and not return_exceptions:
        raise first
    return outputs


async def _native_batch(
    x: Execution,
    node: Node,
    values: list[Any],
    configs: Sequence[RunnableConfig],
    return_exceptions: bool,
    kwargs: Kwargs,
) -> list[Any]:
    from langchain_aaflow.chains.accelerated import Batching

    native: Any = super(Batching, node.native) if isinstance(node.native, Batching) else node.native
    settings = {"return_exceptions": return_exceptions, **kwargs}
    if x.asynchronous:
        outputs: list[Any] = await native.abatch(values, list(configs), **settings)
        return outputs
    # Its calls are its own: the slot is that of one, the bound is in each configuration.
    return await x.flow.call(partial(copy_context().run, native.batch, values, list(configs), **settings))


class _DroppedError(BaseException):
    """Ends an input whose output nobody will ask for."""


class Pipeline:
    """Inputs on their way through steps, each at its own pace.

    Where all of them have to be there before a step begins, they meet.
    """

    def __init__(
        self,
        x: Execution,
        steps: list[Node],
        values: list[Any],
        config_of: Callable[[int, int], RunnableConfig],
        return_exceptions: bool,
        kwargs: Kwargs,
    ) -> None:
        """Set up.

        Args:
            x: The execution.
            steps: First to last.
            values: The inputs.
            config_of: The configuration of an input at a step, by their numbers.
            return_exceptions: Whether an input's exception is its output.
            kwargs: Keyword arguments for the first step.
        """
        self._x, self._steps, self._values = x, steps, values
        self._config_of, self._return_exceptions, self._kwargs = config_of, return_exceptions, kwargs
        self._outputs: list[Any] = [None] * len(values)
        self._meetings: dict[int, dict[int, tuple[Any, Any]]] = {
            number: {} for number, step in enumerate(steps) if step.together
        }
        self._gone = 0
        #: The failure that will be raised: its step and input, and the error.
        self._failure: tuple[int, int, BaseException] | None = None
        self._positions = [0] * len(values)
        self._tasks: dict[int, asyncio.Task[Any]] = {}

    async def run(self) -> list[Any]:
        """The outputs, in order."""
        x, count = self._x, len(self._values)
        limit, own = x.flow.limit, self._config_of(0, 0).get("max_concurrency")
        block = x.join_size
        window = None if limit is None else limit + 2 * block
        if own is not None and (limit is None or own < limit):
            # A batch within the batch, with a bound of its own.
            block, window = 1, own
        if self._meetings:
            window = None
        await x.flow.each(count, self._input, block=block, window=window)
        if self._failure is not None:
            error = self._failure[2]
            if isinstance(error, StoppedError):
                raise RuntimeError("generator raised StopIteration") from error.error
            raise error
        return self._outputs

    async def _input(self, index: int) -> None:
        """Take one input through the steps."""
        if self._x.asynchronous and (task := asyncio.current_task()):
            self._tasks[index] = task
        value, step = self._values[index], 0
        try:
            for step in range(len(self._steps)):
                if self._is_dropped(index, step):
                    return
                self._positions[index] = step
                value = await self._take(index, step, value)
                if self._return_exceptions and isinstance(value, Exception):
                    raise value
            self._outputs[index] = value
            self._positions[index] = len(self._steps)
        except _DroppedError:
            return
        except asyncio.CancelledError:
            if self._failure is None:
                raise
        except Exception as error:
            if self._return_exceptions:
                self._outputs[index] = raised(error)
                self._leave()
            else:
                self._fail(index, step, error)
        finally:
            self._tasks.pop(index, None)

    async def _take(self, index: int, step: int, value: Any) -> Any:
        node = self._steps[step]
        if step in self._meetings:
            return await self._meet(index, step, value)
        return await node.run(self._x, value, self._config_of(index, step), {} if step else self._kwargs)

    def _is_dropped(self, index: int, step: int) -> bool:
        """Whether nothing that happens to the input from this step on can change what is raised."""
        if self._failure is None:
            return False
        if self._x.asynchronous:
            return step >= self._failure[0]
        return (step, index) > self._failure[:2]

    def _fail(self, index: int, step: int, error: BaseException) -> None:
        """Note an input's failure, and let go of what can't matter any more.

        The native code finishes a step for all inputs before the next, so an earlier step's failure is the one it
        raises, whenever it happens.
        """
        if self._is_dropped(index, step):
            return
        self._failure = (step, index, error)
        for number, met in self._meetings.items():
            if number > step:
                for _, promise in met.values():
                    self._x.flow.settle(promise, error=_DroppedError())
        for other, task in list(self._tasks.items()):
            if other != index and self._positions[other] >= step:
                task.cancel()

    # -- steps that need all inputs ------------------------------------------------------------------------

    async def _meet(self, index: int, step: int, value: Any) -> Any:
        promise = self._x.flow.promise()
        self._meetings[step][index] = (value, promise)
        self._begin_if_complete(step)
        return await promise

    def _leave(self) -> None:
        self._gone += 1
        for step, met in self._meetings.items():
            if met:
                self._begin_if_complete(step)

    def _begin_if_complete(self, step: int) -> None:
        met = self._meetings[step]
        if len(met) == len(self._values) - self._gone:
            self._meetings[step] = {}
            self._x.flow.spawn(self._hold(step, met))

    async def _hold(self, step: int, met: dict[int, tuple[Any, Any]]) -> None:
        settle = self._x.flow.settle
        present = sorted(met)
        try:
            outputs = await batch(
                self._x,
                self._steps[step],
                [met[index][0] for index in present],
                [self._config_of(index, step) for index in present],
                self._return_exceptions,
                {} if step else self._kwargs,
            )
        except BaseException as error:
            # A `batch` that raises in spite of `return_exceptions` fails every input, wherever it is.
            if self._return_exceptions:
                self._failure = (-1, -1, error)
            else:
                self._fail(present[0], step, error)
            for _, promise in met.values():
                settle(promise, error=_DroppedError())
            return
        for index, output in zip(present, outputs, strict=True):
            settle(met[index][1], output)
