"""Calls of all ranks that are made from an event loop: a thread waits for the others, and the loop stays free.

What is the user's (a coroutine of a model, of a store) runs on the loop, as it does natively. A task that is cancelled
is left once its thread has ended: what waits there, for other ranks or for the loop, stops waiting, and what computes
comes to its end first. The other ranks hear of it as of any failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from threading import Event
from typing import Any, TypeVar

from aaflow_plugins.engines.waiting import cancellable

T = TypeVar("T")

#: Runs a coroutine function with arguments on the loop, and waits for what it returns.
OnLoop = Callable[..., Any]


def called_on(on_loop: OnLoop | None, function: Callable[..., T]) -> Callable[..., T]:
    """A blocking function as a thread calls it that is to leave it to the loop; itself where there is no loop."""
    if on_loop is None:
        return function

    async def call(*arguments: Any, **keywords: Any) -> T:
        return function(*arguments, **keywords)

    return partial(on_loop, call)


async def in_thread(call: Callable[[OnLoop], T]) -> T:
    """Make a call of all ranks in a thread.

    Args:
        call: Is given what runs coroutines on the running loop. What it raises, as what they raise, is raised here.

    Raises:
        asyncio.CancelledError: If the caller is cancelled; the thread has ended by then.
    """
    loop = asyncio.get_running_loop()
    parts: set[asyncio.Task[Any]] = set()
    cancelled = Event()

    def on_loop(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        async def part() -> Any:
            task = asyncio.current_task()
            assert task is not None
            if cancelled.is_set():
                raise asyncio.CancelledError
            parts.add(task)
            try:
                return await function(*arguments, **keywords)
            finally:
                parts.discard(task)

        try:
            return asyncio.run_coroutine_threadsafe(part(), loop).result()
        except CancelledError:
            raise asyncio.CancelledError from None  # no error of an input

    def run() -> T:
        with cancellable(cancelled):
            return call(on_loop)

    # Of its own: the loop's default executor may have one thread, and what this waits for may need that.
    executor = ThreadPoolExecutor(1, thread_name_prefix="aaflow")
    ended = asyncio.wrap_future(executor.submit(copy_context().run, run))
    try:
        await asyncio.wait([ended])
    except asyncio.CancelledError:
        cancelled.set()
        for part in list(parts):
            part.cancel()
        # Though it may be cancelled once more: a thread that is left is still at work with the other ranks.
        while not ended.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([ended])
        if not ended.cancelled():
            ended.exception()  # retrieved: the cancellation is what the caller hears of
        raise
    finally:
        executor.shutdown(wait=ended.done())
    return ended.result()
