"""Many inputs through a step: what its native `batch` and `abatch` do, without waiting for each other."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from tenacity import AsyncRetrying, RetryError

from aaflow_plugins.operators import StoppedError
from langchain_aaflow.chains.composite_nodes import Bind, RankedError, Retry, Route, Steps
from langchain_aaflow.chains.execution import Execution, drop_own, raised
from langchain_aaflow.chains.nodes import Configs, Kwargs, Node

_UNWATCHED: AbstractContextManager[None] = nullcontext()
ConfigOf = Callable[[int, int], RunnableConfig]


async def batch(x: Execution, node: Node, values: list[Any], configs: Configs, kwargs: Kwargs) -> list[Any]:
    """The outputs for `values`, as the native `batch` (or `abatch`) of the step's runnable gives them.

    Args:
        x: The execution.
        node: The step.
        values: The inputs.
        configs: A configuration an input.
        kwargs: Keyword arguments for the step, or the first of its steps.

    Raises:
        BaseException: As natively: the error of the first step in which an input failed (in `batch` that of the first
            such input), after all runs that were begun have ended.
    """
    if not values:
        return []
    if isinstance(node, Bind):
        merged = [node.merged(x, config, {})[0] for config in configs]
        return await batch(x, node.inner["bound"], values, merged, {**node.native.kwargs, **kwargs})
    if isinstance(node, Steps):
        return await _batch_of_steps(x, node, values, configs, kwargs)
    if isinstance(node, Route) and not any(step.ordered for step in node.walk()):
        node.check(values)
    elif node.meets(x.listening, configs):
        return await _native_batch(x, node, values, configs, kwargs)
    configs = get_config_list(configs, len(values))
    return await Pipeline(x, [node], values, lambda index, _: configs[index], kwargs, meeting=False).run()


async def _batch_of_steps(x: Execution, node: Steps, values: list[Any], configs: Configs, kwargs: Kwargs) -> list[Any]:
    configs = get_config_list(configs, len(values))
    if not x.listening:
        for config in configs:
            drop_own(config)
    roots = _Roots(x, node, values, configs)
    await roots.begin_first()

    def child(index: int, step: int) -> RunnableConfig:
        return x.child(configs[index], roots.runs[index], f"seq:step:{step + 1}")

    try:
        outputs = await Pipeline(x, node.steps, values, child, kwargs, begin=roots.begin, configs=configs).run()
    except BaseException as error:
        await roots.begin_others()
        await x.all_of([x.fail(run, error) for run in roots.runs])
        if x.return_exceptions:
            return [raised(error) for _ in values]
        raise
    # As natively, no root ends well before it is known that none fails.
    await x.all_of(
        x.fail(run, output) if isinstance(output, Exception) else x.end(run, output)
        for run, output in zip(roots.runs, outputs, strict=True)
    )
    failed = [output for output in outputs if isinstance(output, Exception)]
    if failed and not x.return_exceptions:
        raise failed[0]
    return outputs


class _Roots:
    """The runs of a sequence for each of the inputs.

    Natively all of them begin before the first step of any. So they do here if a handler may see or stop that;
    otherwise each begins with its input, or when it is known that the batch fails.

    Attributes:
        runs: Their managers; None of those that have not begun, or if nothing listens.
    """

    def __init__(self, x: Execution, node: Steps, values: list[Any], configs: list[RunnableConfig]) -> None:
        self._x, self._node, self._values, self._configs = x, node, values, configs
        self.runs: list[Any] = [None] * len(values)

    async def begin_first(self) -> None:
        """Begin those that can't begin later; if that is cancelled, end those that have begun."""
        # What is given for several inputs, a handler may change at the beginning of each of them.
        changeable = [id(value) for value in self._values if not isinstance(value, str)]
        if len(set(changeable)) == len(changeable) and self._x.may_begin_later(self._configs):
            return
        try:
            await self.begin_others()
        except asyncio.CancelledError as error:
            await self._x.all_of([self._x.fail(run, error) for run in self.runs])
            raise

    async def begin(self, index: int) -> None:
        """Begin one, unless it has begun."""
        if self._x.listening and self.runs[index] is None:
            self.runs[index] = await self._x.start(
                self._configs[index], self._values[index], self._node.native, defaults=False, aside=False
            )

    async def begin_others(self) -> None:
        """Begin those that have not."""
        await self._x.all_of(map(self.begin, range(len(self.runs))))


async def _native_batch(x: Execution, node: Node, values: list[Any], configs: Configs, kwargs: Kwargs) -> list[Any]:
    from langchain_aaflow.chains.accelerated import Batching

    native: Any = super(Batching, node.native) if isinstance(node.native, Batching) else node.native
    settings = {"return_exceptions": x.return_exceptions, **kwargs}
    if any(step.one_by_one for step in node.walk()):
        configs = [{**config, "max_concurrency": 1} for config in configs]
    # Its calls are its own: as many at once as the bound allows.
    slots = min(x.flow.limit or 1, len(values))
    if x.asynchronous:
        native, under_way = _followed(native)
        begin = partial(native.abatch, values, list(configs), **settings)
        try:
            outputs: list[Any] = await x.awaited(begin, copy_context(), slots=slots)
        except asyncio.CancelledError:
            # The native call ends with the first of its tasks that is cancelled.
            await x.flow.abandon([task for task in under_way if not task.done()])
            raise
        return outputs
    run = partial(copy_context().run, native.batch, values, list(configs), **settings)
    return await x.flow.call(run, slots=slots)


def _followed(native: Any) -> tuple[Any, set[Any]]:
    """A copy of a runnable, and the tasks in which its `abatch` invokes it; itself where those are its own affair."""
    under_way: set[Any] = set()
    if getattr(type(native), "abatch", None) is not Runnable.abatch:
        return native, under_way
    followed = copy.copy(native)

    async def ainvoke(*args: Any, **kwargs: Any) -> Any:
        under_way.add(asyncio.current_task())
        return await native.ainvoke(*args, **kwargs)

    object.__setattr__(followed, "ainvoke", ainvoke)
    return followed, under_way


class _DroppedError(BaseException):
    """Ends an input whose output nobody will ask for."""


class Pipeline:
    """Inputs on their way through steps, each at its own pace.

    Where all of them have to be there before a step begins, they meet. Where a step is tried again, those that failed
    wait until all others have been through it.
    """

    def __init__(
        self,
        x: Execution,
        steps: list[Node],
        values: list[Any],
        config_of: ConfigOf,
        kwargs: Kwargs,
        *,
        begin: Callable[[int], Awaitable[None]] | None = None,
        meeting: bool = True,
        configs: Configs = (),
    ) -> None:
        """Set up.

        Args:
            x: The execution.
            steps: First to last.
            values: The inputs.
            config_of: The configuration of an input at a step, by their numbers.
            kwargs: Keyword arguments for the first step.
            begin: What comes before the first step of an input.
            meeting: Whether inputs have yet to meet where a step asks for it.
            configs: What the configurations are made of.
        """
        self._x, self._steps, self._values = x, steps, values
        self._config_of, self._kwargs, self._begin = config_of, kwargs, begin
        self._outputs: list[Any] = [None] * len(values)
        self._positions = [0] * len(values)
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._meetings: dict[int, _Meeting] = {}
        #: Inputs on their way through a step together.
        self._held: list[Any] = []
        for number, step in enumerate(steps):
            meets = step.meets(x.listening, configs)
            if isinstance(step, Retry) and not meets:
                self._meetings[number] = _Retrial(len(values))
            elif meeting and meets:
                self._meetings[number] = _Meeting(len(values))
        #: A step that gives all inputs that came to it one exception, and the exception.
        self._lost: tuple[int, BaseException] | None = None
        #: The failure that will be raised: its step, its rank and input, and the error.
        self._failure: tuple[int, int, int, BaseException] | None = None
        self._watch, x.watch = x.watch, None

    async def run(self) -> list[Any]:
        """The outputs, in order."""
        x = self._x
        limit, own = x.flow.limit, self._config_of(0, 0).get("max_concurrency")
        block = x.join_size
        window = None if limit is None else limit + 2 * block
        if own is not None and (limit is None or own < limit):
            # A batch within the batch, with a bound of its own.
            block, window = 1, own
        if self._meetings:
            window = None
        try:
            await x.flow.each(len(self._values), self._input, block=block, window=window)
        except BaseException:
            # What is within ends before what it is within.
            await x.flow.abandon(self._held)
            raise
        try:
            if self._failure is not None:
                x.failed_at = self._failure[:3]
                if isinstance(self._failure[3], StoppedError):
                    raise RuntimeError("generator raised StopIteration") from self._failure[3].error
                raise self._failure[3]
            if self._lost is not None:
                step, error = self._lost
                self._outputs = [error if i in self._meetings[step].arrived else o for i, o in enumerate(self._outputs)]
            return self._outputs
        finally:
            # Errors are let go of: their tracebacks hold this pipeline, and inputs would live until a collection.
            self._failure, self._lost, self._outputs = None, None, []

    async def _input(self, index: int) -> None:
        """Take one input through the steps."""
        x = self._x
        if x.asynchronous and (task := asyncio.current_task()):
            self._tasks[index] = task
        try:
            self._outputs[index] = await self._through(index)
            self._positions[index] = len(self._steps)
        except _DroppedError:
            return
        except asyncio.CancelledError:
            if self._failure is None:
                raise
        except Exception as error:
            step = self._positions[index]
            if x.return_exceptions:
                self._outputs[index] = raised(error)
                self._leave(index)
            elif isinstance(error, RankedError):
                self._fail(index, step, error.error, error.rank)
            else:
                self._fail(index, step, error)
        finally:
            self._tasks.pop(index, None)
            if self._watch:
                self._watch.ended()

    async def _through(self, index: int) -> Any:
        x, value = self._x, self._values[index]
        if self._begin is not None:
            await self._begin(index)
        for step in range(len(self._steps)):
            if self._is_dropped(index, step):
                raise _DroppedError
            self._positions[index] = step
            with self._watch.at(step) if self._watch else _UNWATCHED:
                value = await self._take(index, step, value)
            if x.return_exceptions and isinstance(value, Exception):
                raise value
        return value

    async def _take(self, index: int, step: int, value: Any) -> Any:
        x, node, met = self._x, self._steps[step], self._meetings.get(step)
        if isinstance(met, _Retrial):
            return await self._try(index, step, value, met)
        if met is not None:
            promise = met.promises[index] = x.flow.promise()
            met.arrive(index, value)
            self._begin_if_complete(step)
            return await promise
        return await node.batched(x, value, self._config_of(index, step), self._kwargs_of(step))

    def _kwargs_of(self, step: int) -> Kwargs:
        return {} if step else self._kwargs

    def _is_dropped(self, index: int, step: int) -> bool:
        """Whether nothing that happens to the input from this step on can change what is raised, or returned."""
        if self._failure is None:
            return self._lost is not None and step > self._lost[0]
        failed, rank, first, _ = self._failure
        return (step, 0, index) > (failed, rank, first)

    def _fail(self, index: int, step: int, error: BaseException, rank: int = 0) -> None:
        """Note an input's failure, and let go of what can't matter any more.

        The native code finishes a step for all inputs before the next, so an earlier step's failure is the one it
        raises, whenever it happens. Of one step's failures `batch` raises the first input's; so does `abatch` here,
        where the native one raises what fails first in time.
        """
        if self._failure is not None and self._failure[:3] < (step, rank, index):
            return
        self._failure = (step, rank, index, error)
        self._drop_after(step)
        for other, task in list(self._tasks.items()):
            if other != index and self._is_dropped(other, self._positions[other]) and not task.cancelling():
                task.cancel()

    def _drop_after(self, step: int) -> None:
        for number, met in self._meetings.items():
            if number > step:
                self._drop(met)

    def _drop(self, met: _Meeting) -> None:
        for promise in met.promises.values():
            self._x.flow.settle(promise, error=_DroppedError())

    # -- steps that need all inputs ------------------------------------------------------------------------

    def _leave(self, index: int) -> None:
        for step, met in self._meetings.items():
            met.leave(index)
            self._begin_if_complete(step)

    def _begin_if_complete(self, step: int) -> None:
        met = self._meetings[step]
        if met.missing == 0 and met.promises and not met.begun:
            met.begun = True
            hold = self._again(step, met) if isinstance(met, _Retrial) else self._hold(step, met)
            self._held.append(self._x.flow.spawn(hold))

    async def _hold(self, step: int, met: _Meeting) -> None:
        """Take all inputs that have met through a step together."""
        present = sorted(met.arrived)
        values, met.arrived = [met.arrived[index] for index in present], dict.fromkeys(present)
        configs = [self._config_of(index, step) for index in present]
        try:
            outputs = await batch(self._x, self._steps[step], values, configs, self._kwargs_of(step))
        except BaseException as error:
            self._fail_all(step, met, error)
            return
        for index, output in zip(present, outputs, strict=True):
            self._x.flow.settle(met.promises[index], output)

    def _fail_all(self, step: int, met: _Meeting, error: BaseException) -> None:
        """A `batch` that raises fails every input that came to the step, wherever it is by now."""
        if not self._x.return_exceptions:
            self._fail(min(met.arrived), step, error)
        elif isinstance(met, _Retrial):
            self._lost = step, raised(error)
            self._drop_after(step)
        else:
            self._failure = (-1, 0, -1, error)
        self._drop(met)

    async def _try(self, index: int, step: int, value: Any, met: _Retrial) -> Any:
        x, bound = self._x, self._steps[step].inner["bound"]
        config = self._config_of(index, step)
        met.inputs[index] = value
        try:
            output = await bound.batched(x.returning(True), value, config, self._kwargs_of(step))
        except Exception as error:
            output = raised(error)
        if not isinstance(output, Exception):
            met.arrive(index, output)
            self._begin_if_complete(step)
            return output
        if self._is_dropped(index, step):
            raise _DroppedError  # the others do not come any more
        promise = met.promises[index] = x.flow.promise()
        met.arrive(index, output)
        self._begin_if_complete(step)
        return await promise

    async def _again(self, step: int, met: _Retrial) -> None:
        """Try the inputs that failed again, as `RunnableRetry._batch` does once all have been tried."""
        x, node = self._x, self._steps[step]
        assert isinstance(node, Retry)
        bound, present = node.inner["bound"], sorted(met.arrived)
        succeeded: dict[int, Any] = {}
        result: list[Any] = []

        async def attempt_one(index: int) -> Any:
            config = self._config_of(index, step)
            return await bound.batched(x.returning(True), met.inputs[index], config, self._kwargs_of(step))

        try:
            async for attempt in AsyncRetrying(**node.native._kwargs_retrying, sleep=x.sleep):
                with attempt:
                    remaining = [index for index in present if index not in succeeded]
                    if not remaining:
                        break
                    if attempt.retry_state.attempt_number == 1:
                        result = [met.arrived[index] for index in present]
                    else:
                        outcomes = await x.flow.gather(map(attempt_one, remaining))
                        result = [raised(o.error) if o.error else o.value for o in outcomes]
                    failed = [output for output in result if isinstance(output, Exception)]
                    succeeded |= {
                        index: output
                        for index, output in zip(remaining, result, strict=True)
                        if not isinstance(output, Exception)
                    }
                    if failed:
                        raise failed[0]
                if attempt.retry_state.outcome and not attempt.retry_state.outcome.failed:
                    attempt.retry_state.set_result(result)
        except RetryError:
            pass
        except BaseException as error:
            self._fail_all(step, met, error)
            return
        for index in present:
            # As natively: what the last attempt gave, in order, whoever it was for.
            output = succeeded[index] if index in succeeded else result.pop(0)
            if (promise := met.promises.get(index)) is None:
                continue
            if isinstance(output, Exception):
                x.flow.settle(promise, error=output)
            else:
                x.flow.settle(promise, output)


class _Meeting:
    """Inputs that wait for each other before a step."""

    def __init__(self, count: int) -> None:
        self.missing = count
        self.arrived: dict[int, Any] = {}
        self.promises: dict[int, Any] = {}
        self.begun = False

    def arrive(self, index: int, value: Any) -> None:
        self.arrived[index] = value
        self.missing -= 1

    def leave(self, index: int) -> None:
        """Note that the input will not come; nothing if it has."""
        if index not in self.arrived:
            self.missing -= 1


class _Retrial(_Meeting):
    """Outputs of a step's first try, and the inputs that wait for another."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.inputs: dict[int, Any] = {}
