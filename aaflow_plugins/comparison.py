"""Native against accelerated on the user's own objects: the same result, or the first difference; and the time."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from aaflow_plugins.report import Report

#: Below this gain the honest answer is that there is none.
WORTH_IT = 1.1

#: Seconds. Of less, calls that cost the same each time are most: a gain says nothing of more data, nor does its lack.
LONG_ENOUGH = 0.1


@dataclass(frozen=True)
class Run:
    """What one contender made.

    Attributes:
        result: To be compared; an exception if it raised one.
        model_seconds: Time in which a model call was under way.
        report: The accelerated run's report, if it ran as a plan.
    """

    result: Any
    model_seconds: float = 0.0
    report: Report | None = None


@dataclass(frozen=True)
class Comparison:
    """Two ways to do the same.

    Attributes:
        title: What is done.
        native: Does it natively, from fresh objects.
        accelerated: Does it the accelerated way, from fresh objects.
        difference: The first difference between two results in words, or None.
        notes: What runs natively, and why.
        basis: What was compared, as the verdict says it.
    """

    title: str
    native: Callable[[], Run]
    accelerated: Callable[[], Run]
    difference: Callable[[Any, Any], str | None]
    notes: tuple[str, ...] = ()
    basis: str = "results"


@dataclass
class Measured:
    """Times of one contender, in seconds; memory in bytes, None where the system does not tell."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)
    memory: list[int | None] = field(default_factory=list)
    last: Run | None = None

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return statistics.median(self.wall)


@dataclass
class Outcome:
    """A comparison's result.

    Attributes:
        comparison: What was compared.
        native: Times of the native way.
        accelerated: Times of ours.
        difference: The first difference between the results, or None if they are identical.
    """

    comparison: Comparison
    native: Measured
    accelerated: Measured
    difference: str | None

    @property
    def failure(self) -> BaseException | None:
        """What both ways raise, if neither has a result."""
        result = self.native.last.result if self.native.last else None
        return result if isinstance(result, BaseException) and not self.difference else None

    @property
    def speedup(self) -> float:
        """Median native time over median accelerated time."""
        return self.native.seconds / self.accelerated.seconds

    @property
    def is_long_enough(self) -> bool:
        """Whether the native way takes long enough for the gain to mean something."""
        return self.native.seconds >= LONG_ENOUGH

    def table(self) -> Table:
        """Median times, the framework-owned share of the wall time and extra peak memory, side by side."""
        table = Table(title=self.comparison.title, caption=self.verdict())
        table.add_column("")
        for column in ("wall s", "range", "CPU s", "framework", "memory"):
            table.add_column(column, justify="right")
        for name, measured in (("native", self.native), ("accelerated", self.accelerated)):
            share = 1 - statistics.median(measured.model) / measured.seconds
            memory = [m for m in measured.memory if m is not None]
            table.add_row(
                name,
                f"{measured.seconds:.3f}",
                f"{min(measured.wall):.3f}-{max(measured.wall):.3f}",
                f"{statistics.median(measured.cpu):.3f}",
                f"{max(0.0, share):.0%}",
                f"{statistics.median(memory) / 2**20:.0f} MiB" if memory else "not known",
            )
        return table

    def verdict(self) -> str:
        """The honest answer in one line."""
        if self.difference:
            return f"NOT identical: {self.difference}"
        if self.failure is not None:
            return f"both fail with {type(self.failure).__name__}: {self.failure}"
        same = f"identical {self.comparison.basis}"
        if not self.is_long_enough:
            return f"{same}, too quick to tell ({self.speedup:.2f}x of {self.native.seconds:.3f} s): give more data"
        if self.speedup >= WORTH_IT:
            return f"{same}, {self.speedup:.2f}x"
        answer = "nothing to gain here" if self.speedup > 1 / WORTH_IT else "slower here"
        share = 1 - statistics.median(self.native.model) / self.native.seconds
        why = f": the framework owns {max(0.0, share):.0%} of the native time" if self.native.model[0] else ""
        return f"{same}, {answer} ({self.speedup:.2f}x){why}"


def compare(comparison: Comparison, repeats: int, step: Callable[[str], None] = lambda _: None) -> Outcome:
    """Run both contenders in turns and compare every pair of results.

    Args:
        comparison: What to compare.
        repeats: Turns, at least 1. Who goes first changes from turn to turn.
        step: Called with a line before each run.

    Raises:
        ValueError: If `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    native, accelerated = Measured(), Measured()
    difference: str | None = None
    for turn in range(repeats):
        order = [("native", native, comparison.native), ("accelerated", accelerated, comparison.accelerated)]
        for name, measured, call in order if turn % 2 == 0 else reversed(order):
            step(f"{name}, run {turn + 1} of {repeats}")
            _measure(measured, call)
        assert native.last
        assert accelerated.last
        difference = difference or comparison.difference(native.last.result, accelerated.last.result)
    return Outcome(comparison, native, accelerated, difference)


def summary(outcomes: Sequence[Outcome]) -> Table:
    """Several outcomes, one line each."""
    table = Table(title="native against accelerated")
    table.add_column("part")
    for column in ("native s", "accelerated s", "gain"):
        table.add_column(column, justify="right")
    table.add_column("results")
    for outcome in outcomes:
        table.add_row(
            outcome.comparison.title,
            f"{outcome.native.seconds:.3f}",
            f"{outcome.accelerated.seconds:.3f}",
            f"{outcome.speedup:.2f}x",
            outcome.verdict().partition(",")[0] if not outcome.difference else outcome.verdict(),
        )
    notes = []
    if not all(outcome.is_long_enough for outcome in outcomes):
        notes.append(f"Parts of less than {LONG_ENOUGH} s are too short to tell: give more text.")
    last = outcomes[-1].native
    if any(last.model):
        share = max(0.0, 1 - statistics.median(last.model) / last.seconds)
        notes.append(f"In the last line the framework owns {share:.0%} of the native time, the model the rest.")
    table.caption = "\n".join(notes) or None
    return table


def _measure(measured: Measured, call: Callable[[], Run]) -> None:
    measured.last = None
    gc.collect()
    before = _resident(reset_peak=True)
    cpu, start = time.process_time(), time.perf_counter()
    run = call()
    measured.wall.append(time.perf_counter() - start)
    measured.cpu.append(time.process_time() - cpu)
    measured.model.append(run.model_seconds)
    after = _resident(peak=True)
    measured.memory.append(None if before is None or after is None else max(0, after - before))
    measured.last = run


def _resident(*, peak: bool = False, reset_peak: bool = False) -> int | None:
    """Bytes of resident memory now, or at the highest since the last reset; None where Linux's /proc is missing."""
    try:
        if reset_peak:
            Path("/proc/self/clear_refs").write_text("5")
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM" if peak else "VmRSS"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
