"""Concurrent single calls are joined; each caller gets its own result, error or cancellation; a call alone never waits.

Nothing here sleeps for luck: calls are held in flight by gates, and a window of a minute stands for one that does not
end by itself.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import aaflow_plugins
from aaflow_plugins.batching import Batching, active
from tests.core.callees import FOREVER, KEY, Callee, idle, start, told, turns, who

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
