"""Cancellation of a task put off to its next wait.

Work that natively keeps its event loop busy is never cancelled in the middle, but at what it waits for next. Where the
loop is let on meanwhile, a cancellation that comes then has to stay unseen until the work is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def uncancelled(awaitable: Awaitable[object]) -> bool:
    """Wait for something of this task's own; False if the task was cancelled meanwhile.

    The next wait is cancelled then, as if it had been under way. Until then nothing is to be waited for by this.
    """
    try:
        await awaitable
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        task.cancel(*error.args)
        return False
    return True
