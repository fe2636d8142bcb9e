"""Calls of all ranks from an event loop: what runs where, and what is left of a task that is cancelled."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aaflow_plugins.engines.event_loop import OnLoop, called_on, in_thread
from aaflow_plugins.engines.waiting import check_cancelled, wait_for


def never() -> None:
    """What does not come."""


def test_coroutines_run_on_the_loop_and_the_call_in_a_thread() -> None:
    async def of_the_loop(value: int) -> tuple[int, int]:
        await asyncio.sleep(0)
        return value, threading.get_ident()

    def call(on_loop: OnLoop) -> Any:
        return threading.get_ident(), on_loop(of_the_loop, 7), called_on(on_loop, threading.get_ident)()

    thread, (value, loop), blocking = asyncio.run(in_thread(call))
    assert (value, loop, blocking) == (7, threading.get_ident(), threading.get_ident())
    assert thread != loop
    assert called_on(None, never) is never


def test_errors_are_those_of_the_call() -> None:
    async def fails() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        asyncio.run(in_thread(lambda on_loop: on_loop(fails)))


async def cancelled(call: Any, begun: threading.Event) -> None:
    task = asyncio.create_task(in_thread(call))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_wait_ends_when_its_task_is_cancelled() -> None:
    begun = threading.Event()
    left: list[str] = []

    def call(_: OnLoop) -> None:
        begun.set()
        try:
            wait_for(never, check=check_cancelled)
        finally:
            left.append("call")

    asyncio.run(cancelled(call, begun))
    assert left == ["call"]


def test_what_runs_on_the_loop_has_ended_by_then() -> None:
    """It is cancelled, and may take its time to clean up; so may what it has called in a thread of its own."""
    begun = threading.Event()
    left: list[str] = []

    def inner(_: OnLoop) -> None:
        begun.set()
        try:
            wait_for(never, check=check_cancelled)
        finally:
            left.append("inner")

    async def of_the_loop() -> None:
        try:
            await in_thread(inner)
        finally:
            await asyncio.sleep(0.05)
            left.append("loop")

    def call(on_loop: OnLoop) -> None:
        try:
            on_loop(of_the_loop)
        finally:
            left.append("call")

    asyncio.run(cancelled(call, begun))
    assert left == ["inner", "loop", "call"]


def test_a_task_that_is_cancelled_twice_waits_for_its_thread() -> None:
    """Even if the second time comes before the thread has begun: the other ranks would never hear of it."""
    left: list[str] = []

    def call(_: OnLoop) -> None:
        try:
            wait_for(never, check=check_cancelled)
        finally:
            left.append("call")

    async def main() -> None:
        task = asyncio.create_task(in_thread(call))
        for _ in range(2):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 2
        assert left == ["call"]

    asyncio.run(main())


def test_a_default_executor_with_one_thread_is_enough() -> None:
    """That of the loop may be busy as well."""

    async def of_the_loop() -> int:
        return await in_thread(lambda _: 7)

    async def main() -> int:
        busy = threading.Event()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        waiting = loop.run_in_executor(None, busy.wait, 60)
        try:
            found: int = await asyncio.wait_for(in_thread(lambda on_loop: on_loop(of_the_loop)), 10)
        finally:
            busy.set()
            await waiting
        return found

    assert asyncio.run(main()) == 7
