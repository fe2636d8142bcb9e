"""Concurrent single calls of threads are joined, also where loops make calls at the same time."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aaflow_plugins.batching import Batching
from tests.core.callees import FOREVER, KEY, idle, told, turns
from tests.generated import examples

# --- threads --------------------------------------------------------------------------------------------------


class Threads:
    """Calls from as many threads; single calls wait for `gate`."""

    def __init__(self, scope: Batching) -> None:
        self.scope = scope
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.singles: list[tuple[int, int]] = []
        self.joint: list[tuple[int, list[int]]] = []
        self.pool = ThreadPoolExecutor(64)
        self.error: BaseException | None = None

    def one(self, item: int) -> int:
        with self.lock:
            self.singles.append((threading.get_ident(), item))
        assert self.gate.wait(FOREVER)
        if item < 0:
            raise ValueError(f"no {item}")
        return item * 2

    def many(self, items: list[int]) -> list[int]:
        with self.lock:
            self.joint.append((threading.get_ident(), items))
        if self.error is not None:
            raise self.error
        return [item * 2 for item in items]

    def start(self, *items: int, **options: Any) -> list[Future[int]]:
        """Start calls, and wait until each has found its place."""
        futures = []
        for item in items:
            before = self.placed()
            futures.append(self.pool.submit(self.scope.call, KEY, item, self.one, self.many, **options))
            wait_until(lambda before=before: self.placed() > before)
        return futures

    def placed(self) -> int:
        with self.scope._lock:
            groups = list(self.scope._groups.values())
            waiting = sum(len(call.answers) for group in groups for call in _calls(group))
        with self.lock:
            return waiting + len(self.singles) + sum(len(items) for _, items in self.joint)


def _calls(group: Any) -> list[Any]:
    calls = list(group.open.calls) if group.open else []
    return calls + [call for call in group.shared.values() if call not in calls]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + FOREVER
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.0005)


def test_threads_join() -> None:
    calls = Threads(Batching(FOREVER))
    futures = calls.start(*range(10))
    calls.gate.set()
    assert [future.result(FOREVER) for future in futures] == [item * 2 for item in range(10)]
    assert [item for _, item in calls.singles] == [0]
    assert [items for _, items in calls.joint] == [list(range(1, 10))]
    assert idle(calls.scope)


def test_threads_close_a_full_batch_and_one_whose_window_ends() -> None:
    calls = Threads(Batching(FOREVER, max_batch=3))
    futures = calls.start(0, 1, 2)
    futures += [calls.pool.submit(calls.scope.call, KEY, 3, calls.one, calls.many)]
    assert [future.result(FOREVER) for future in futures[1:]] == [2, 4, 6]
    calls.scope.window = 0.0
    late = [calls.pool.submit(calls.scope.call, KEY, item, calls.one, calls.many) for item in (4, 5)]
    calls.gate.set()
    assert [future.result(FOREVER) for future in (*late, futures[0])] == [8, 10, 0]
    assert idle(calls.scope)


@pytest.mark.parametrize("error", [ValueError("joint"), KeyboardInterrupt()])
def test_threads_make_their_own_calls_when_the_joint_call_fails(error: BaseException) -> None:
    calls = Threads(Batching(FOREVER))
    calls.error = error
    futures = calls.start(0, 1, -2, 3)
    calls.gate.set()
    raised = [future.exception(FOREVER) for future in futures]
    # An interrupt is that of the thread in which it falls, the one that makes the joint call.
    interrupted = isinstance(error, KeyboardInterrupt)
    assert [repr(each) for each in raised] == [
        "None",
        "KeyboardInterrupt()" if interrupted else "None",
        "ValueError('no -2')",
        "None",
    ]
    assert futures[3].result() == 6
    assert idle(calls.scope)


def test_threads_share_identical_calls() -> None:
    calls = Threads(Batching(FOREVER))
    futures = calls.start(0, 0, 1, 1, share=True)
    calls.gate.set()
    assert [future.result(FOREVER) for future in futures] == [0, 0, 2, 2]
    assert sorted(item for _, item in calls.singles) == [0, 1]
    assert not calls.joint
    assert idle(calls.scope)


async def test_a_blocking_call_in_a_loop_waits_for_nobody() -> None:
    calls = Threads(Batching(FOREVER))
    [held] = calls.start(0)
    assert calls.scope.call(KEY, 4, lambda item: item + 1, calls.many) == 5
    calls.gate.set()
    assert await asyncio.wrap_future(held) == 0


# --- loops and threads at once, in whatever order ---------------------------------------------------------------


def test_loops_and_threads_at_once() -> None:
    """Every caller gets its own; joint calls are made in the loop, or outside of all loops, of their callers."""
    scope = Batching(0.001, max_batch=8)
    homes: dict[int, set[Any]] = {}
    lock = threading.Lock()

    def note(items: Sequence[int], home: Any) -> None:
        with lock:
            for item in items:
                homes.setdefault(item // 1000, set()).add(home)

    async def one(item: int) -> int:
        note([item], id(asyncio.get_running_loop()))
        await asyncio.sleep(0.0005)
        return -item

    async def many(items: list[int]) -> list[int]:
        note(items, id(asyncio.get_running_loop()))
        await asyncio.sleep(0.0005)
        return [-item for item in items]

    async def in_a_loop(first: int) -> list[int]:
        numbers = range(first, first + 100)
        return await asyncio.gather(*(scope.acall(KEY, number, one, many, share=True) for number in numbers))

    def blocking_one(item: int) -> int:
        note([item], None)
        return -item

    def blocking_many(items: list[int]) -> list[int]:
        note(items, None)
        return [-item for item in items]

    with ThreadPoolExecutor(20) as pool:
        loops = [pool.submit(asyncio.run, in_a_loop(1000 * number)) for number in range(4)]
        threads = [pool.submit(scope.call, KEY, 9000 + n, blocking_one, blocking_many, share=True) for n in range(100)]
        for number, future in enumerate(loops):
            assert future.result() == [-item for item in range(1000 * number, 1000 * number + 100)]
        assert [future.result() for future in threads] == [-item for item in range(9000, 9100)]
    assert homes.pop(9) == {None}
    assert [len(found) for found in homes.values()] == [1] * 4
    assert idle(scope)


@settings(max_examples=examples(150), deadline=None)
@given(
    callers=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 12), st.none() | st.integers(0, 25)), min_size=1, max_size=25
    ),
    max_batch=st.integers(1, 8),
    share=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_whatever_comes_fails_and_is_cancelled_when(
    callers: list[tuple[int, int, int | None]], max_batch: int, share: bool, seed: int
) -> None:
    """A caller is (item, turn at which it comes, turn at which it is cancelled). Items 3 and 6 fail."""
    generator = random.Random(seed)

    async def pause() -> None:
        for _ in range(generator.randrange(6)):
            await asyncio.sleep(0)

    async def one(item: int) -> int:
        await pause()
        if item % 3 == 0 and item:
            raise ValueError(f"no {item}")
        return item * 2

    async def many(items: list[int]) -> list[int]:
        assert 1 < len(items) <= max_batch
        assert not share or len(set(items)) == len(items)
        await pause()
        if any(item and item % 3 == 0 for item in items):
            raise ValueError("one of them")
        return [item * 2 for item in items]

    async def run() -> None:
        scope = Batching(generator.choice([0.0, FOREVER]), max_batch)
        tasks: dict[int, asyncio.Task[int]] = {}
        for turn in range(30):
            for number, (item, comes, leaves) in enumerate(callers):
                if comes == turn:
                    tasks[number] = asyncio.create_task(scope.acall(KEY, item, one, many, share=share))
                elif leaves == turn and number in tasks:
                    tasks[number].cancel()
            await asyncio.sleep(0)
        results = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 20)
        for (item, _, leaves), result in zip([callers[number] for number in tasks], results, strict=True):
            expected = f"ValueError('no {item}')" if item and item % 3 == 0 else repr(item * 2)
            allowed = {expected} if leaves is None else {expected, "cancelled"}
            assert told(result) in allowed
        await turns()
        assert idle(scope)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
