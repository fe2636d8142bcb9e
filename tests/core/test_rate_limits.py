"""The bound that refusals teach, alone, and shared by threads and event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaflow_plugins import rate_limits
from aaflow_plugins.rate_limits import STALL, AdaptiveBound, Answer, RateLimiter, limiter_of


def refused(in_flight: int, retry_after: float = 0.0, now: float = 0.0) -> AdaptiveBound:
    """A bound that has just met a burst of `in_flight` calls, all refused at once."""
    bound = AdaptiveBound()
    for started in [bound.start(now) for _ in range(in_flight)]:
        bound.end(started, Answer.LIMITED, now, retry_after)
    return bound


# -- the bound -----------------------------------------------------------------------------------------------


def test_without_a_refusal_there_is_no_bound() -> None:
    """Whatever else happens to however many calls, the next one starts at once."""
    bound = AdaptiveBound()
    calls = [bound.start(0.0) for _ in range(10_000)]
    assert bound.wait(0.0) == 0
    for number, started in enumerate(calls):
        bound.end(started, (Answer.SUCCEEDED, Answer.FAILED)[number % 2], 1.0)
        assert bound.bound is None
        assert bound.wait(1.0) == 0


@pytest.mark.parametrize(("in_flight", "expected"), [(1, 1), (2, 1), (3, 1), (8, 4), (65, 32)])
def test_a_burst_of_refusals_halves_once(in_flight: int, expected: int) -> None:
    """The bound becomes half of what was in flight at the first refusal; the others of the burst were too late."""
    assert refused(in_flight).bound == expected


def test_each_later_refusal_halves_what_was_in_flight_then() -> None:
    """Successes of calls from before a decrease do not count, and its refusals neither."""
    bound = refused(64)
    early, *calls = [bound.start(0.0) for _ in range(32)]
    bound.end(calls.pop(), Answer.LIMITED, 0.0)
    assert bound.bound == 16
    bound.end(early, Answer.LIMITED, 0.0)
    for started in calls:
        bound.end(started, Answer.SUCCEEDED, 0.0)
    assert bound.bound == 16
    assert bound.in_flight == 0


def test_it_grows_by_one_after_as_many_successes_as_it_is_wide() -> None:
    """Failures of another kind neither count nor begin the count anew."""
    bound = refused(4)
    widths = []
    for _ in range(2 + 3 + 4 + 5):
        bound.end(bound.start(0.0), Answer.SUCCEEDED, 0.0)
        bound.end(bound.start(0.0), Answer.FAILED, 0.0)
        widths.append(bound.bound)
    assert widths == [2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 6]


def test_the_longest_wait_asked_for_counts() -> None:
    """A refusal that asks for less does not shorten it, and one from an earlier burst may still prolong it."""
    bound = AdaptiveBound()
    first, second, third, *others = (bound.start(0.0) for _ in range(8))
    bound.end(first, Answer.LIMITED, 1.0, 5.0)
    bound.end(second, Answer.LIMITED, 2.0, 1.0)
    for started in others:
        bound.end(started, Answer.FAILED, 2.0)
    assert bound.wait(2.0) == 4.0
    bound.end(third, Answer.LIMITED, 3.0, 7.0)
    assert bound.wait(3.0) == 7.0
    assert bound.wait(10.0) == 0


def test_a_stall_lets_one_more_call_start_but_not_before_its_time() -> None:
    """Nothing started or ended for a while: one more at a time, and never within the wait asked for."""
    bound = refused(2)
    bound.start(0.0)
    assert bound.wait(1.0) == STALL - 1
    assert bound.wait(STALL) == 0
    started = bound.start(STALL)
    assert bound.wait(STALL) == STALL
    bound.end(started, Answer.LIMITED, STALL, 100.0)
    assert bound.wait(2 * STALL) == 100.0 - STALL


@given(st.data(), st.lists(st.sampled_from(["start", *Answer]), max_size=200))
def test_no_sequence_breaks_the_bound(data: st.DataObject, steps: list[str | Answer]) -> None:
    """It is at least 1, nothing starts above it or too early, and the same sequence leads to the same state."""
    bound, replayed = AdaptiveBound(), AdaptiveBound()
    calls: list[tuple[int, int]] = []
    now = 0.0
    for step in steps:
        now += data.draw(st.floats(0, 2))
        if step == "start":
            if bound.wait(now):
                continue
            stalled = bound.bound is not None and bound.in_flight >= bound.bound
            calls.append((bound.start(now), replayed.start(now)))
            assert bound.bound is None or stalled or bound.in_flight <= bound.bound
            assert now >= bound.not_before
        elif calls and isinstance(step, Answer):
            ours, theirs = calls.pop(data.draw(st.integers(0, len(calls) - 1)))
            before = bound.bound
            bound.end(ours, step, now, 1.0)
            replayed.end(theirs, step, now, 1.0)
            grown = before is not None and bound.bound == before + 1
            assert bound.bound == before or (step is Answer.SUCCEEDED and grown) or step is Answer.LIMITED
        assert bound.bound is None or bound.bound >= 1
        assert bound.in_flight == len(calls)
        assert vars(bound) == vars(replayed)


# -- shared by threads and event loops ---------------------------------------------------------------------------


def bounded(bound: int, retry_after: float = 0.0) -> RateLimiter:
    """A limiter that a burst of refusals has taught this bound."""
    limiter = RateLimiter()
    for started in [limiter.acquire() for _ in range(2 * bound)]:
        limiter.release(started, Answer.LIMITED, retry_after)
    assert limiter.bound == bound
    return limiter


def assert_nothing_left(limiter: RateLimiter) -> None:
    assert limiter.in_flight == 0
    assert not limiter._lines


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting(limiter: RateLimiter) -> int:
    return sum(map(len, limiter._lines.values()))


async def test_before_a_refusal_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of calls, from threads and from a loop, without a single wait."""
    limiter = RateLimiter()
    monkeypatch.delattr(limiter.__class__, "_waiting")
    with ThreadPoolExecutor(32) as pool:
        calls = list(pool.map(lambda _: limiter.acquire(), range(500)))
    calls += await asyncio.gather(*(limiter.aacquire() for _ in range(500)))
    assert limiter.in_flight == 1000
    for started in calls:
        limiter.release(started, Answer.SUCCEEDED)
    assert limiter.bound is None
    assert_nothing_left(limiter)


def test_threads_and_loops_share_one_bound() -> None:
    """Never more in flight than the bound, wherever the calls come from; and everybody gets through."""
    limiter = bounded(3)
    most: list[int] = []

    def call() -> None:
        started = limiter.acquire()
        most.append(limiter.in_flight)
        time.sleep(0.001)
        limiter.release(started, Answer.FAILED)

    async def acall() -> None:
        started = await limiter.aacquire()
        most.append(limiter.in_flight)
        await asyncio.sleep(0.001)
        limiter.release(started, Answer.FAILED)

    async def many() -> None:
        await asyncio.gather(*(acall() for _ in range(100)))

    with ThreadPoolExecutor(18) as pool:
        loops = [pool.submit(asyncio.run, many()) for _ in range(2)]
        for future in [*loops, *(pool.submit(call) for _ in range(100))]:
            future.result()
    assert len(most) == 300
    assert max(most) <= 3
    assert_nothing_left(limiter)


def test_those_who_wait_are_served_in_turn() -> None:
    """First come, first served, on a loop; who comes just when there is room waits in line too."""

    async def run() -> list[int]:
        limiter = bounded(1)
        served = []
        held = await limiter.aacquire()

        async def call(number: int) -> None:
            started = await limiter.aacquire()
            served.append(number)
            limiter.release(started, Answer.FAILED)

        tasks = [asyncio.create_task(call(number)) for number in range(50)]
        await asyncio.sleep(0)
        limiter.release(held, Answer.FAILED)
        tasks.append(asyncio.create_task(call(50)))
        await asyncio.gather(*tasks)
        assert_nothing_left(limiter)
        return served

    assert asyncio.run(run()) == list(range(51))


async def test_no_call_starts_before_the_wait_is_over() -> None:
    """Neither in a thread nor on a loop, though there would be room."""
    refused_at = time.monotonic()
    limiter = bounded(4, retry_after=0.3)

    def call() -> float:
        limiter.release(limiter.acquire(), Answer.FAILED)
        return time.monotonic()

    async def acall() -> float:
        limiter.release(await limiter.aacquire(), Answer.FAILED)
        return time.monotonic()

    times = await asyncio.gather(*(asyncio.to_thread(call) for _ in range(4)), *(acall() for _ in range(4)))
    assert min(times) >= refused_at + 0.3
    assert_nothing_left(limiter)


async def test_a_wait_prolonged_meanwhile_counts() -> None:
    """Who waits already waits for the later time."""
    limiter = RateLimiter()
    first, second = limiter.acquire(), limiter.acquire()
    limiter.release(first, Answer.LIMITED, 0.1)
    task = asyncio.create_task(limiter.aacquire())
    await asyncio.sleep(0)
    prolonged_at = time.monotonic()
    limiter.release(second, Answer.LIMITED, 0.4)
    await task
    assert time.monotonic() >= prolonged_at + 0.4


@pytest.mark.parametrize("cancelled", [0, 1, 2], ids=["first in line", "between", "last"])
async def test_who_is_cancelled_leaves_the_line(cancelled: int) -> None:
    """The others are served, and no call is lost, also when the cancellation falls together with the turn."""
    limiter = bounded(1)
    held = limiter.acquire()
    tasks = [asyncio.create_task(limiter.aacquire()) for _ in range(3)]
    await asyncio.sleep(0)
    limiter.release(held, Answer.FAILED)
    tasks[cancelled].cancel()
    for number, task in enumerate(tasks):
        if number == cancelled:
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            limiter.release(await task, Answer.FAILED)
    assert_nothing_left(limiter)


def test_a_loop_that_is_gone_holds_nobody_up() -> None:
    """A loop closed with a caller first in line: the others go on."""
    limiter = bounded(1)
    held = limiter.acquire()
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(limiter.aacquire())
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert waiting(limiter) == 1
    loop.close()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(limiter.acquire)
        wait_until(lambda: waiting(limiter) == 2)
        limiter.release(held, Answer.FAILED)
        limiter.release(future.result(), Answer.FAILED)
    assert_nothing_left(limiter)
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]
    del abandoned, loop
    gc.collect()
    assert_nothing_left(limiter)


def test_a_blocked_loop_holds_nobody_up() -> None:
    """A loop that is busy while the first of its line would have its turn: a thread takes it."""
    limiter = bounded(1)
    held = limiter.acquire()

    async def run() -> None:
        task = asyncio.create_task(limiter.aacquire())
        await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: limiter.release(limiter.acquire(), Answer.FAILED))
        thread.start()
        wait_until(lambda: waiting(limiter) == 2)
        limiter.release(held, Answer.FAILED)
        thread.join(10)
        assert not thread.is_alive()
        limiter.release(await task, Answer.FAILED)

    asyncio.run(run())
    assert_nothing_left(limiter)


async def test_a_synchronous_call_on_a_loop_does_not_wait_for_that_loop() -> None:
    """Its wait would be without end: the call in flight is of the same loop."""
    limiter = bounded(1)
    held = await limiter.aacquire()
    began = time.monotonic()
    limiter.release(limiter.acquire(), Answer.FAILED)
    assert time.monotonic() - began < STALL / 2
    limiter.release(held, Answer.FAILED)
    assert_nothing_left(limiter)


def test_a_loop_that_waits_for_a_thread_that_waits_for_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stall the thread's call starts all the same."""
    monkeypatch.setattr(rate_limits, "STALL", 0.05)
    limiter = bounded(1)

    async def run() -> None:
        held = await limiter.aacquire()
        thread = threading.Thread(target=lambda: limiter.release(limiter.acquire(), Answer.FAILED))
        thread.start()
        thread.join(10)  # blocks the loop
        assert not thread.is_alive()
        limiter.release(held, Answer.FAILED)

    asyncio.run(run())
    assert_nothing_left(limiter)


def test_an_endpoint_has_one_limiter() -> None:
    """The same from every thread, another for another endpoint."""
    with ThreadPoolExecutor(8) as pool:
        limiters = set(pool.map(lambda _: limiter_of(("test", 1)), range(100)))
    assert limiters == {limiter_of(("test", 1))}
    assert limiter_of(("test", 2)) not in limiters
