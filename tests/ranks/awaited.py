"""Calls that are awaited on all ranks: what they give, what threads they leave, how cancelling one ends them all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aaflow_plugins.engines.communicator import Communicator, RankError

Call = Callable[[], Coroutine[Any, Any, Any]]


def finished(call: Call) -> Any:
    """What a coroutine gives; no thread is left by then but those of the loop's executor."""

    async def main() -> Any:
        before = set(threading.enumerate())
        try:
            return await call()
        finally:
            await asyncio.sleep(0.1)  # one that has given its result may still be on its way out
            left = set(threading.enumerate()) - before
            assert not [thread.name for thread in left if not thread.name.startswith("asyncio_")]

    return asyncio.run(main())


def ends_everywhere(ranks: Communicator, call: Call, *, cancelled: int) -> None:
    """A call that goes on for long ends on all ranks soon after one of them has cancelled it."""

    async def run() -> None:
        task = asyncio.create_task(call())
        if ranks.rank == cancelled:
            await asyncio.sleep(0.5)
            task.cancel()
        await task

    began = time.monotonic()
    expected: Any = asyncio.CancelledError if ranks.rank == cancelled else RankError
    with pytest.raises(expected, match=None if ranks.rank == cancelled else f"rank {cancelled} was cancelled"):
        finished(run)
    assert time.monotonic() - began < 6
