"""Flows: the same steps on threads and on a loop, bounded calls, points where items meet."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aaflow_plugins.flow import Flow, Outcome, Point
from aaflow_plugins.loop_flow import LoopFlow
from aaflow_plugins.operators import StoppedError
from aaflow_plugins.thread_flow import ThreadFlow
from tests.observed import Gauge

Main = Callable[[Flow], Coroutine[Any, Any, Any]]


def on_threads(main: Main, limit: int | None = None) -> Any:
    """Run on a `ThreadFlow`."""
    flow = ThreadFlow(limit)
    return flow.run(main(flow))


def on_loop(main: Main, limit: int | None = None) -> Any:
    """Run on a `LoopFlow`."""

    async def run() -> Any:
        async with LoopFlow(limit) as flow:
            return await main(flow)

    return asyncio.run(run())


@pytest.fixture(params=[on_threads, on_loop])
def drive(request: pytest.FixtureRequest) -> Any:
    """Either way of running."""
    return request.param


def test_calls_stay_within_the_limit_and_reach_it(drive: Any) -> None:
    gauge = Gauge()

    async def main(flow: Flow) -> list[Outcome[int]]:
        return await flow.gather(flow.call(gauge, number) for number in range(40))

    outcomes = drive(main, 3)
    assert [outcome.value for outcome in outcomes] == list(range(40))
    assert gauge.peak == 3


def test_an_urgent_call_comes_before_those_that_wait(drive: Any) -> None:
    order: list[str] = []

    async def main(flow: Flow) -> None:
        calls = [flow.call(order.append, "first"), flow.call(order.append, "second")]
        await flow.gather([flow.call(time.sleep, 0.02), *calls, flow.call(order.append, "urgent", urgent=True)])

    drive(main, 1)
    assert order == ["urgent", "first", "second"]


def test_a_call_that_makes_several_takes_their_slots(drive: Any) -> None:
    gauge = Gauge()

    async def main(flow: Flow) -> None:
        def three() -> None:
            threads = [threading.Thread(target=gauge, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        single = [flow.call(gauge, number) for number in range(8)]
        await flow.gather([*single[:4], flow.call(three, slots=3), *single[4:], flow.call(three, slots=3)])

    drive(main, 4)
    assert gauge.calls == 14
    assert gauge.peak <= 4


def test_gather_waits_for_all_and_keeps_each_error(drive: Any) -> None:
    async def main(flow: Flow) -> list[Outcome[Any]]:
        return await flow.gather(flow.call(int, text) for text in ("1", "x", "3"))

    good, bad, last = drive(main)
    assert (good.value, last.value) == (1, 3)
    assert isinstance(bad.error, ValueError)


def test_a_stop_iteration_is_carried(drive: Any) -> None:
    def stop() -> None:
        raise StopIteration("user's")

    async def main(flow: Flow) -> None:
        await flow.call(stop)

    with pytest.raises(StoppedError) as caught:
        drive(main)
    assert caught.value.error.value == "user's"


def test_items_begin_in_order_and_within_the_window(drive: Any) -> None:
    begun: list[int] = []
    running = peak = 0

    async def main(flow: Flow) -> None:
        async def body(item: int) -> None:
            nonlocal running, peak
            begun.append(item)
            running += 1
            peak = max(peak, running)
            await flow.call(time.sleep, 0.001)
            running -= 1

        await flow.each(50, body, block=4, window=10)

    drive(main)
    assert begun == list(range(50))
    assert peak <= 10


def test_the_first_items_go_ahead(drive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their short calls do not stand in line behind those of items whose turn comes much later."""
    monkeypatch.setattr("aaflow_plugins.flow.HEAD_START", 60)
    happened: list[tuple[str, int]] = []

    async def main(flow: Flow) -> None:
        async def body(item: int) -> None:
            happened.append(("begun", item))
            for _ in range(5):
                await short_call(flow, int)
            happened.append(("ready", item))
            await flow.call(time.sleep, 0.2)

        await flow.each(100, body, block=32, window=64)

    drive(main)
    for begins, ready in ((16, 16), (32, 32)):
        before = happened[: happened.index(("begun", begins))]
        assert sum(what == "ready" for what, _ in before) == ready


def test_items_that_wait_for_later_ones_do_not_keep_them_from_beginning(drive: Any) -> None:
    everybody = threading.Barrier(4, timeout=60)

    async def main(flow: Flow) -> None:
        await flow.each(4, lambda _: short_call(flow, everybody.wait), block=2, window=4)

    drive(main, 4)
    assert not everybody.broken


async def short_call(flow: Flow, function: Callable[[], Any]) -> None:
    """A call that takes no slot."""
    await (flow.hops.call(function) if isinstance(flow, LoopFlow) else flow.call(function, slots=0))


def test_an_error_of_an_item_ends_it_all(drive: Any) -> None:
    async def main(flow: Flow) -> None:
        async def body(item: int) -> None:
            await flow.call(time.sleep, 0.001)
            if item == 3:
                raise LookupError(item)

        await flow.each(1000, body, block=1, window=2)

    with pytest.raises(LookupError):
        drive(main)


def test_full_batches_and_what_is_left(drive: Any) -> None:
    batches: list[list[int]] = []

    async def main(flow: Flow) -> list[int]:
        async def answer(values: list[int]) -> list[Outcome[int]]:
            batches.append(values)
            await flow.call(time.sleep, 0.001)
            return [Outcome(value * 2, None, 0) for value in values]

        point = Point(flow, answer, 4)
        return [outcome.value for outcome in await flow.gather(point.ask(number) for number in range(10))]

    assert drive(main) == [number * 2 for number in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_first_batches_may_be_smaller(drive: Any) -> None:
    batches: list[list[int]] = []

    async def main(flow: Flow) -> None:
        async def answer(values: list[int]) -> list[Outcome[int]]:
            batches.append(values)
            return [Outcome(value, None, 0) for value in values]

        point = Point(flow, answer, 6, first=2)
        await flow.gather(point.ask(number) for number in range(14))

    drive(main)
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7, 8, 9, 10, 11], [12, 13]]


def test_one_batch_at_a_time(drive: Any) -> None:
    batches: list[list[int]] = []
    under_way: list[int] = []

    async def main(flow: Flow) -> list[int]:
        async def answer(values: list[int]) -> list[Outcome[int]]:
            batches.append(values)
            under_way.append(1)
            assert len(under_way) == 1
            await flow.call(time.sleep, 0.002)
            under_way.pop()
            return [Outcome(value, None, 0) for value in values]

        point = Point(flow, answer, 4, one_at_a_time=True)
        return [outcome.value for outcome in await flow.gather(point.ask(number) for number in range(10))]

    assert drive(main) == list(range(10))
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_each_value_has_its_own_error(drive: Any) -> None:
    async def main(flow: Flow) -> list[Outcome[int]]:
        async def answer(values: list[int]) -> list[Outcome[int]]:
            return [Outcome(value, ValueError(value) if value % 2 else None, 0) for value in values]

        point = Point(flow, answer, 3)
        return await flow.gather(point.ask(number) for number in range(3))

    assert [str(outcome.error) for outcome in drive(main)] == ["None", "1", "None"]


def test_an_answer_that_fails_reaches_all_who_asked(drive: Any) -> None:
    async def main(flow: Flow) -> list[Outcome[int]]:
        async def answer(values: list[int]) -> list[Outcome[int]]:
            raise OSError("down")

        point = Point(flow, answer, 8)
        return await flow.gather(point.ask(number) for number in range(3))

    assert [str(outcome.error) for outcome in drive(main)] == ["down"] * 3


def test_tasks_have_contexts_of_their_own(drive: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outer")

    async def main(flow: Flow) -> tuple[list[str], str]:
        async def change(name: str) -> str:
            variable.set(name)
            await flow.call(time.sleep, 0.001)
            return variable.get()

        seen = [outcome.value for outcome in await flow.gather(map(change, "ab"))]
        return seen, variable.get()

    assert drive(main) == (["a", "b"], "outer")


def test_a_thread_flow_works_inside_a_running_loop() -> None:
    async def outer() -> int:
        async def main(flow: Flow) -> int:
            return await flow.call(lambda: 7)

        return int(on_threads(main))

    assert asyncio.run(outer()) == 7


def test_an_interrupt_awaits_calls_and_shows_in_every_coroutine() -> None:
    ended: list[str] = []
    seen: list[str] = []

    async def main(flow: Flow) -> None:
        def interrupt() -> None:
            time.sleep(0.01)
            raise KeyboardInterrupt

        def work() -> None:
            time.sleep(0.05)
            ended.append("work")

        async def body(function: Callable[[], None]) -> None:
            try:
                await flow.call(function)
            except KeyboardInterrupt:
                seen.append("interrupted")
                raise

        await flow.gather(body(function) for function in (interrupt, work, work, work))

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        on_threads(main, 2)
    assert ended == ["work"]
    assert "interrupted" in seen
    assert threading.active_count() == before


def test_steps_that_wait_for_each_other_are_a_clear_error() -> None:
    async def main(flow: Flow) -> None:
        await flow.promise()

    with pytest.raises(RuntimeError, match="waits for another"):
        on_threads(main)


def test_cancelling_leaves_no_task() -> None:
    async def run() -> set[asyncio.Task[Any]]:
        async def work() -> None:
            async with LoopFlow(2) as flow:

                async def body(item: int) -> None:
                    async with flow.slot():
                        await asyncio.sleep(60)

                await flow.each(10, body, block=1, window=None)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(run()) == set()


def test_a_slot_given_to_a_cancelled_waiter_goes_to_the_next() -> None:
    async def run() -> str:
        async with LoopFlow(1) as flow:

            async def hold(seconds: float) -> str:
                async with flow.slot():
                    await asyncio.sleep(seconds)
                    return "done"

            first = asyncio.create_task(hold(0.01))
            await asyncio.sleep(0)
            second, third = asyncio.create_task(hold(60)), asyncio.create_task(hold(0))
            await asyncio.sleep(0)
            second.cancel()
            await first
            return await asyncio.wait_for(third, 5)

    assert asyncio.run(run()) == "done"


def test_slots_are_held_until_the_call_of_a_cancelled_task_has_ended() -> None:
    at_work: list[int] = []
    most = 0

    def work(seconds: float) -> None:
        nonlocal most
        at_work.append(0)
        most = max(most, len(at_work))
        time.sleep(seconds)
        at_work.pop()

    async def run() -> None:
        async with LoopFlow(1) as flow:
            first = asyncio.create_task(flow.call(work, 0.05))
            await asyncio.sleep(0.02)
            second = asyncio.create_task(flow.call(work, 0.01))
            third = asyncio.create_task(flow.call(work, 0.01))
            await asyncio.sleep(0)
            began = time.perf_counter()
            for task in (first, second):
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert time.perf_counter() - began < 0.02
            await asyncio.wait_for(third, 5)

    asyncio.run(run())
    assert (most, at_work) == (1, [])
