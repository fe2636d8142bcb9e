"""What calls of tests join: a callee that keeps what it is asked, and ways to look at a scope."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from aaflow_plugins.batching import Batching

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
