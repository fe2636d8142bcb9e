"""Measuring calls in this process: wall time, CPU time, and the memory a call needs on top of what is there."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.results import Measurement

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _nothing() -> None:
    return None


def _no_facts(_: Any) -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Work:
    """What a contender does, in pieces, so that only `run` is timed.

    Attributes:
        run: The work; takes what `before` returned and returns the result.
        digest: Checksum of the result; None for a part.
        warm_up: The same work on next to nothing: imports, caches, connections.
        before: Called right before `run`: makes the store that is filled, resets a server's counters.
        facts: Numbers about the result.
    """

    run: Callable[[Any], Any]
    digest: Callable[[Any], str] | None = None
    warm_up: Callable[[], object] = _nothing
    before: Callable[[], Any] = _nothing
    facts: Callable[[Any], Mapping[str, float]] = field(default=_no_facts)


def measure(work: Work) -> Measurement:
    """Warm up, then measure one call. The process must be fresh: what ran before shows in the memory."""
    work.warm_up()
    state = work.before()
    gc.collect()
    _give_back_free_memory()
    before = _restart_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    result = work.run(state)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = None if before is None else max(0, _status_bytes("VmHWM") - before)
    facts = dict(work.facts(result))
    return Measurement(wall, cpu, peak, work.digest(result) if work.digest else None, facts)


def alternate(works: Sequence[Work], iterations: int) -> list[Measurement]:
    """Measure calls of microseconds: all contenders in turn, `iterations` rounds, the order rotating.

    Returns:
        For each contender the medians over its calls; the digest is that of its first call.
    """
    digests = []
    for work in works:
        work.warm_up()
        result = work.run(work.before())
        digests.append(work.digest(result) if work.digest else None)
    del result
    gc.collect()
    walls: list[list[float]] = [[] for _ in works]
    cpus: list[list[float]] = [[] for _ in works]
    for iteration in range(iterations):
        for index in rotated(range(len(works)), iteration):
            work = works[index]
            state = work.before()
            cpu, wall = time.process_time(), time.perf_counter()
            result = work.run(state)
            walls[index].append(time.perf_counter() - wall)
            cpus[index].append(time.process_time() - cpu)
            # Taking the result apart belongs to nobody's call.
            del result, state
    return [
        Measurement(statistics.median(wall), statistics.median(cpu), None, digest, {"calls": float(iterations)})
        for wall, cpu, digest in zip(walls, cpus, digests, strict=True)
    ]


def rotated(items: Sequence[T], turns: int) -> list[T]:
    """The items, beginning with number `turns` (modulo their number)."""
    start = turns % len(items) if items else 0
    return [*items[start:], *items[:start]]


def _give_back_free_memory() -> None:
    """Without this the call would reuse, uncounted, what preparations have freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _restart_peak() -> int | None:
    """Set the resident set's peak to its present size, and return that in bytes; None where that can't be done."""
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
        return _status_bytes("VmRSS")
    except OSError:
        return None


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")
