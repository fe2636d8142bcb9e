"""Concurrent single calls are joined; each caller gets its own result, error or cancellation; a call alone never waits.

Nothing here sleeps for luck: calls are held in flight by gates, and a window of a minute stands for one that does not
end by itself.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aaflow_plugins
from aaflow_plugins.batching import Batching, active

KEY = ("callee",)
FOREVER = 60.0

who: ContextVar[str] = ContextVar("who", default="nobody")


class Callee:
    """Doubles numbers and remembers its calls. `gate` holds single calls, `joint_gate` joint ones."""

    def __init__(self) -> None:
        self.singles: list[int] = []
        self.joint: list[list[int]] = []
        self.gate: asyncio.Event | None = None
        self.joint_gate: asyncio.Event | None = None
        self.fails: set[int] = set()
        self.cancelled = 0

    async def one(self, item: int) -> int:
        self.singles.append(item)
        if self.gate is not None:
            await self.gate.wait()
        if item in self.fails:
            raise ValueError(f"no {item}")
        return item * 2

    async def many(self, items: list[int]) -> list[int]:
        self.joint.append(items)
        try:
            if self.joint_gate is not None:
                await self.joint_gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails & set(items):
            raise ValueError("one of them fails")
        return [item * 2 for item in items]


def start(scope: Batching, callee: Callee, *items: int, **options: Any) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(scope.acall(KEY, item, callee.one, callee.many, **options)) for item in items]


async def turns(count: int = 5) -> None:
    """Let everything that can run, run."""
    for _ in range(count):
        await asyncio.sleep(0)


def told(result: Any) -> str:
    """An outcome, comparable."""
    return "cancelled" if isinstance(result, asyncio.CancelledError) else repr(result)


def idle(scope: Batching) -> bool:
    """Nothing is kept, and no task of ours is left."""
    return not scope._groups


# --- tasks ----------------------------------------------------------------------------------------------------


async def test_a_call_alone_is_made_at_once_in_its_own_task_and_context() -> None:
    scope, seen = Batching(FOREVER), []

    async def one(item: int) -> int:
        seen.append((asyncio.current_task(), who.get()))
        return item

    who.set("me")
    assert [await scope.acall(KEY, 1, one, None), await scope.acall(KEY, 2, one, _never)] == [1, 2]
    assert seen == [(asyncio.current_task(), "me")] * 2
    assert idle(scope)


async def _never(items: list[int]) -> list[int]:
    raise AssertionError("a call alone was made as a joint call")


async def test_calls_join_until_none_is_in_flight() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, *range(10))
    await turns()
    assert (callee.singles, callee.joint) == ([0], [])
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [item * 2 for item in range(10)]
    assert (callee.singles, callee.joint) == ([0], [list(range(1, 10))])
    assert idle(scope)


async def test_a_full_batch_does_not_wait() -> None:
    scope, callee = Batching(FOREVER, max_batch=4), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, *range(9))
    await turns()
    assert callee.joint == [[1, 2, 3, 4], [5, 6, 7, 8]]
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [item * 2 for item in range(9)]


async def test_the_window_ends_though_others_are_in_flight() -> None:
    scope, callee = Batching(window=0.0), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, 0, 1, 2)
    assert await asyncio.gather(*tasks[1:]) == [2, 4]
    assert callee.joint == [[1, 2]]
    callee.gate.set()
    assert await tasks[0] == 0


async def test_two_hundred_tasks_make_five_calls() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, *range(200))
    await turns()
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [item * 2 for item in range(200)]
    assert [len(items) for items in callee.joint] == [64, 64, 64, 7]


async def test_other_keys_are_other_calls() -> None:
    scope, callee = Batching(FOREVER), Callee()
    tasks = [asyncio.create_task(scope.acall((key,), key, callee.one, callee.many)) for key in range(5)]
    assert await asyncio.gather(*tasks) == [0, 2, 4, 6, 8]
    assert sorted(callee.singles) == list(range(5))


async def test_a_joint_calls_failure_is_only_that_of_the_caller_whose_call_fails() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate, callee.fails = asyncio.Event(), {3}
    tasks = start(scope, callee, *range(5))
    await turns()
    callee.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["0", "2", "4", "no 3", "8"]
    assert callee.joint == [[1, 2, 3, 4]]
    assert callee.singles == [0, 1, 2, 3, 4]
    assert idle(scope)


async def test_too_few_results_are_a_failure() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()

    async def short(items: list[int]) -> list[int]:
        return [0] * (len(items) - 1)

    tasks = [asyncio.create_task(scope.acall(KEY, item, callee.one, short)) for item in range(3)]
    await turns()
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 4]


async def test_who_is_cancelled_while_waiting_leaves_the_others_alone() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, 0, 1, 2, 3)
    await turns()
    tasks[2].cancel()
    await turns()
    callee.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [int, int, asyncio.CancelledError, int]
    assert callee.joint == [[1, 3]]
    assert idle(scope)


async def test_who_is_cancelled_during_the_joint_call_leaves_the_others_alone() -> None:
    scope, callee = Batching(window=0.0), Callee()
    callee.gate = callee.joint_gate = asyncio.Event()
    tasks = start(scope, callee, 0, 1, 2, 3)
    while not callee.joint:
        await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[0].cancel()
    await turns()
    callee.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, asyncio.CancelledError, int, int]
    assert callee.cancelled == 0
    assert idle(scope)


@pytest.mark.parametrize("begun", [False, True])
async def test_when_all_callers_are_cancelled_so_is_the_joint_call(begun: bool) -> None:
    scope, callee = Batching(window=0.0 if begun else FOREVER), Callee()
    callee.gate = callee.joint_gate = asyncio.Event()
    tasks = start(scope, callee, 0, 1, 2)
    await turns()
    while begun and not callee.joint:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await turns()
    assert callee.cancelled == begun
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert idle(scope)


async def test_calls_go_on_after_a_batch_that_everybody_left_at_once() -> None:
    """The task of the batch is cancelled before it has begun."""
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    [first] = start(scope, callee, 0)
    await turns()
    [second] = start(scope, callee, 1)
    await asyncio.sleep(0)
    second.cancel()
    await turns()
    third = start(scope, callee, 2, 3)
    await turns()
    callee.gate.set()
    assert await asyncio.wait_for(asyncio.gather(first, *third), 10) == [0, 4, 6]
    assert callee.joint == [[2, 3]]
    assert idle(scope)


async def test_a_batch_of_one_is_a_single_call_of_its_caller() -> None:
    scope, seen = Batching(window=0.0), []
    gate = asyncio.Event()

    async def one(item: int) -> int:
        seen.append((item, asyncio.current_task()))
        if item == 0:
            await gate.wait()
        return item

    first = asyncio.create_task(scope.acall(KEY, 0, one, _never))
    second = asyncio.create_task(scope.acall(KEY, 1, one, _never))
    assert await second == 1
    gate.set()
    assert await first == 0
    assert seen == [(0, first), (1, second)]


async def test_a_joint_call_runs_in_no_callers_context() -> None:
    scope, callee, seen = Batching(FOREVER), Callee(), []
    callee.gate = asyncio.Event()

    async def many(items: list[int]) -> list[int]:
        seen.append(who.get())
        return items

    async def request(name: str, item: int) -> int:
        who.set(name)
        return await scope.acall(KEY, item, callee.one, many)

    tasks = [asyncio.create_task(request(name, item)) for item, name in enumerate("abc")]
    await turns()
    callee.gate.set()
    await asyncio.gather(*tasks)
    assert seen == ["nobody"]


async def test_a_call_inside_a_call_of_the_same_key_is_not_joined_with_it() -> None:
    """It would wait for itself."""
    scope = Batching(FOREVER)

    async def one(item: int) -> int:
        return await scope.acall(KEY, item, _leaf, _never, share=True) + 1

    async def many(items: list[int]) -> list[int]:
        return [await one(item) for item in items]

    tasks = [asyncio.create_task(scope.acall(KEY, item, one, many, share=True)) for item in range(4)]
    assert await asyncio.wait_for(asyncio.gather(*tasks), 10) == [1, 2, 3, 4]


async def _leaf(item: int) -> int:
    await asyncio.sleep(0)
    return item


# --- identical calls ------------------------------------------------------------------------------------------


async def test_identical_calls_are_made_once_if_they_may_be_shared() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, 7, 7, 8, 7, 8, 9, share=True)
    await turns()
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [14, 14, 16, 14, 16, 18]
    assert (callee.singles, callee.joint) == ([7], [[8, 9]])
    assert await scope.acall(KEY, 7, callee.one, callee.many, share=True) == 14
    assert callee.singles == [7, 7]
    assert idle(scope)


async def test_identical_calls_are_each_made_if_they_may_not() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, 7, 7, 7)
    await turns()
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [14, 14, 14]
    assert (callee.singles, callee.joint) == ([7], [[7, 7]])


async def test_a_batch_of_one_item_is_one_call_for_all_who_share_it() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, 0, 1, 1, 1, share=True)
    await turns()
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [0, 2, 2, 2]
    assert (callee.singles, callee.joint) == ([0, 1], [])


async def test_sharing_without_a_joint_call() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = [asyncio.create_task(scope.acall(KEY, item, callee.one, share=True)) for item in (1, 2, 1, 2, 3)]
    await turns()
    callee.gate.set()
    assert await asyncio.gather(*tasks) == [2, 4, 2, 4, 6]
    assert callee.singles == [1, 2, 3]
    assert idle(scope)


async def test_a_shared_call_that_fails_is_made_by_each() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate, callee.fails = asyncio.Event(), {1}
    tasks = start(scope, callee, 1, 1, 1, share=True)
    await turns()
    callee.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [*map(told, results)] == ["ValueError('no 1')"] * 3
    assert callee.singles == [1, 1, 1]
    assert idle(scope)


async def test_a_shared_call_whose_caller_is_cancelled_is_made_by_the_next() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    tasks = start(scope, callee, 5, 5, 5, 5, share=True)
    await turns()
    tasks[0].cancel()
    tasks[1].cancel()
    await turns()
    callee.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [*map(told, results)] == ["cancelled", "cancelled", "10", "10"]
    assert callee.singles == [5, 5]
    assert idle(scope)


async def test_who_is_to_make_the_call_for_others_and_is_cancelled_leaves_it_to_them() -> None:
    scope, callee = Batching(FOREVER), Callee()
    callee.gate = asyncio.Event()
    first, second, third = start(scope, callee, 0, 1, 1, share=True)
    await turns()
    callee.gate.set()
    while not second.done() and len(callee.singles) == 1:
        # In one of these turns the second has been told to make the call and has not begun.
        second.cancel()
        await asyncio.sleep(0)
    assert await asyncio.wait_for(asyncio.gather(first, third), 10) == [0, 2]
    assert second.cancelled()
    assert idle(scope)


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


@settings(max_examples=150, deadline=None)
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


# --- scopes ---------------------------------------------------------------------------------------------------


def test_a_block_counts_in_the_whole_process_and_the_last_entered_first() -> None:
    assert active() is None
    with aaflow_plugins.batching(window=0.1) as outer:
        assert active() is outer
        with aaflow_plugins.batching(max_batch=3, deduplicate=True) as inner, ThreadPoolExecutor(1) as pool:
            assert pool.submit(active).result() is inner
            assert (inner.max_batch, inner.deduplicate, outer.deduplicate) == (3, True, False)
        assert active() is outer
    assert active() is None


def test_blocks_of_several_threads_may_end_in_any_order() -> None:
    first, second = aaflow_plugins.batching(), aaflow_plugins.batching()
    one, other = first.__enter__(), second.__enter__()
    assert active() is other
    first.__exit__(None, None, None)
    assert active() is other
    second.__exit__(None, None, None)
    assert active() is None
    assert one is not other


@pytest.mark.parametrize(("options", "message"), [({"window": -1}, "window"), ({"max_batch": 0}, "max_batch")])
def test_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), aaflow_plugins.batching(**options):
        pass
    assert active() is None
