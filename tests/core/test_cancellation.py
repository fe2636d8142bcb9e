"""Cancellation that is put off to a task's next wait."""

from __future__ import annotations

import asyncio

import pytest

from aaflow_plugins.cancellation import uncancelled


def test_it_comes_with_the_next_wait_and_its_message() -> None:
    told: list[object] = []

    async def work() -> None:
        told.append(await uncancelled(asyncio.sleep(10)))
        told.append("done")
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            told.append(error.args)
            raise

    async def cancel() -> int:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel("why")
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelling()

    assert asyncio.run(cancel()) == 1
    assert told == [False, "done", ("why",)]


def test_a_time_limit_sees_its_own_cancellation() -> None:
    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), 0.01)
        assert await uncancelled(asyncio.sleep(0))

    async def work() -> None:
        await uncancelled(asyncio.sleep(10))
        await asyncio.sleep(10)

    asyncio.run(run())
