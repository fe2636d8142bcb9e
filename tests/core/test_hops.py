"""Short blocking calls from an event loop: their results, and none that holds up another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import mul
from typing import Any

import pytest

from aaflow_plugins.hops import Hops


async def outcomes(*functions: Callable[[], Any]) -> list[Any]:
    """What calls of one turn of the loop return or raise."""
    hops = Hops(asyncio.get_running_loop())
    return await asyncio.gather(*map(hops.call, functions), return_exceptions=True)


def test_each_call_gets_its_own_outcome_in_a_thread() -> None:
    def fail() -> None:
        raise KeyError("one")

    def stop() -> None:
        raise StopIteration

    found = asyncio.run(outcomes(lambda: 1, fail, threading.get_ident, stop))
    assert found[0] == 1
    assert isinstance(found[1], KeyError)
    assert found[2] != threading.get_ident()
    assert isinstance(found[3], RuntimeError)
    assert isinstance(found[3].__cause__, StopIteration)


def test_calls_that_wait_for_one_another_end() -> None:
    """Natively each of them may have a thread of its own."""
    barrier = threading.Barrier(4, timeout=60)
    assert sorted(asyncio.run(outcomes(*[barrier.wait] * 4))) == [0, 1, 2, 3]


def test_a_long_call_holds_up_neither_what_came_before_it_nor_what_comes_after() -> None:
    release = threading.Event()

    async def run() -> None:
        hops = Hops(asyncio.get_running_loop())
        calls = [hops.call(each) for each in (int, lambda: release.wait(10), float)]
        assert await asyncio.wait_for(calls[0], 5) == 0
        assert await asyncio.wait_for(calls[2], 5) == 0.0
        assert await asyncio.wait_for(hops.call(str), 5) == ""
        assert not calls[1].done()
        release.set()
        assert await calls[1]

    asyncio.run(run())


def test_a_call_that_nobody_waits_for_any_more_is_made_all_the_same() -> None:
    made = threading.Event()

    async def run() -> None:
        hops = Hops(asyncio.get_running_loop())
        hops.call(lambda: time.sleep(0.01) or made.set()).cancel()
        assert await hops.call(lambda: made.wait(10))

    asyncio.run(run())


def test_a_task_that_is_cancelled_while_it_waits_ends_after_the_call() -> None:
    ended: list[str] = []

    async def waiting(hops: Hops) -> None:
        await hops.call(lambda: time.sleep(0.02) or ended.append("the call"))

    async def run() -> None:
        task = asyncio.create_task(waiting(Hops(asyncio.get_running_loop())))
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended.append("the task")

    asyncio.run(run())
    assert ended == ["the call", "the task"]


def test_an_executor_that_is_shut_down_is_the_calls_error() -> None:
    async def run() -> None:
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        asyncio.get_running_loop().set_default_executor(executor)
        found = await outcomes(int, str)
        assert [type(each) for each in found] == [RuntimeError, RuntimeError]

    asyncio.run(run())


def test_no_more_workers_stand_in_line_than_there_are_calls() -> None:
    """However long all threads are busy."""
    asked: list[object] = []

    class Counting(ThreadPoolExecutor):
        def submit(self, *call: Any, **settings: Any) -> Any:
            asked.append(call)
            return super().submit(*call, **settings)

    async def run() -> None:
        asyncio.get_running_loop().set_default_executor(Counting(1))
        await outcomes(*[partial(time.sleep, 0.05)] * 4)

    asyncio.run(run())
    assert len(asked) <= 4


@pytest.mark.parametrize("turns", [1, 30])
def test_many_calls(turns: int) -> None:
    async def run() -> None:
        hops = Hops(asyncio.get_running_loop())
        for turn in range(turns):
            calls = [hops.call(partial(mul, number, turn)) for number in range(100)]
            assert await asyncio.gather(*calls) == [number * turn for number in range(100)]

    asyncio.run(run())
