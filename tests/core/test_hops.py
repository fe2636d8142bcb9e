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

from aaflow_plugins.hops import Hops, Line


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


def test_an_executor_that_is_shut_down_is_the_calls_error() -> None:
    async def run() -> None:
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        asyncio.get_running_loop().set_default_executor(executor)
        found = await outcomes(int, str)
        assert [type(each) for each in found] == [RuntimeError, RuntimeError]

    asyncio.run(run())


@pytest.mark.parametrize("turns", [1, 30])
def test_many_calls(turns: int) -> None:
    async def run() -> None:
        hops = Hops(asyncio.get_running_loop())
        for turn in range(turns):
            calls = [hops.call(partial(mul, number, turn)) for number in range(100)]
            assert await asyncio.gather(*calls) == [number * turn for number in range(100)]

    asyncio.run(run())


# -- calls in line -----------------------------------------------------------------------------------------------


def test_calls_in_line_are_made_in_order_and_not_before_somebody_waits() -> None:
    async def main() -> None:
        made: list[int] = []
        line = Line(Hops(asyncio.get_running_loop()))
        for number in range(5):
            line.put(partial(made.append, number), pytest.fail)
        await asyncio.sleep(0.01)
        assert made == []
        await asyncio.gather(line.made(), line.made())
        assert made == [0, 1, 2, 3, 4]
        await line.made()  # there is nothing to wait for

    asyncio.run(main())


def test_a_call_put_in_line_while_others_are_made_comes_after_them() -> None:
    async def main() -> list[str]:
        made: list[str] = []
        line = Line(Hops(asyncio.get_running_loop()))
        line.put(lambda: (time.sleep(0.02), made.append("long")), pytest.fail)
        first = asyncio.create_task(line.made())
        await asyncio.sleep(0.005)
        await line.call(partial(made.append, "short"))
        await first
        assert line.is_slow
        return made

    assert asyncio.run(main()) == ["long", "short"]


def test_an_error_in_line_is_given_to_the_function_for_it_and_the_rest_is_made() -> None:
    async def main() -> None:
        made: list[Any] = []
        line = Line(Hops(asyncio.get_running_loop()))
        line.put(partial(int, "x"), made.append)
        line.put(partial(made.append, 1), pytest.fail)
        await line.made()
        assert made[0] == 1
        assert isinstance(made[1], ValueError)
        with pytest.raises(ValueError, match="'y'"):
            await line.call(partial(int, "y"))

        def raises(error: BaseException) -> None:
            raise KeyError("raised in turn") from error

        line.put(partial(int, "z"), raises)
        with pytest.raises(KeyError, match="raised in turn"):
            await line.made()

    asyncio.run(main())


def test_waiting_for_a_line_is_cancelled_when_its_calls_have_been_made() -> None:
    async def main() -> list[int]:
        made: list[int] = []
        line = Line(Hops(asyncio.get_running_loop()))
        for number in range(3):
            line.put(lambda number=number: (time.sleep(0.005), made.append(number)), pytest.fail)
        waiting = asyncio.create_task(line.made())
        await asyncio.sleep(0.002)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return made

    assert asyncio.run(main()) == [0, 1, 2]


def test_calls_in_line_fail_where_the_executor_takes_none() -> None:
    async def main() -> list[BaseException]:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, int)
        loop._default_executor.shutdown()  # type: ignore[attr-defined]
        errors: list[BaseException] = []
        line = Line(Hops(loop))
        line.put(int, errors.append)
        line.put(float, errors.append)
        await line.made()
        return errors

    assert [type(error) for error in asyncio.run(main())] == [RuntimeError, RuntimeError]
