"""Inputs through a step, each output handed on as soon as it is there: what `batch_as_completed` is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from langchain_core.runnables import RunnableConfig

from aaflow_plugins.thread_flow import ThreadFlow
from langchain_aaflow.chains.execution import Execution, raised
from langchain_aaflow.chains.nodes import Kwargs, Node


async def each_as_completed(
    x: Execution,
    node: Node,
    values: list[Any],
    configs: Sequence[RunnableConfig],
    kwargs: Kwargs,
    put: Callable[[Any], Any],
) -> None:
    """Run each input by itself, and `put` its number with its output or its error."""
    watch, x.watch = x.watch, None

    async def one(index: int) -> None:
        try:
            put((index, await node.run(x, values[index], configs[index], dict(kwargs)), None))
        except BaseException as error:
            put((index, None, error))
            if not isinstance(error, Exception):
                raise
        if watch:
            watch.ended()

    limit = x.flow.limit
    window = None if limit is None else limit + 2 * x.join_size
    await x.flow.each(len(values), one, block=x.join_size, window=window)


def drive(flow: ThreadFlow, every: Any, done: SimpleQueue[Any]) -> None:
    """Run `each_as_completed` in a thread; None in the queue says that all is over."""
    try:
        flow.run(every)
    except GeneratorExit:
        pass  # nobody asks for the rest
    except BaseException as error:
        done.put((None, None, error))
    finally:
        done.put(None)


def taken(ended: tuple[int, Any, BaseException | None], return_exceptions: bool) -> tuple[int, Any]:
    """What was put, as what the caller gets, or raised."""
    index, output, error = ended
    if error is None:
        return index, output
    if return_exceptions and isinstance(error, Exception):
        return index, raised(error)
    raise raised(error)
