"""What ran, how long it took, what was copied, and how much of the time was the framework's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Span:
    """Work without interruption, for the timeline; times in seconds since the run began."""

    operator: str
    lane: str
    start: float
    end: float
    model: bool = False


@dataclass(frozen=True)
class Calls:
    """Model calls of a run.

    Attributes:
        count: How many.
        items: Items of all of them.
        seconds: Their times, added up.
    """

    count: int = 0
    items: int = 0
    seconds: float = 0.0


@dataclass
class OperatorReport:
    """What one operator did.

    Attributes:
        kind: Kind of operator.
        name: What it works with.
        native: Why the native code ran, or None.
        rows: Rows handed on.
        batches: Batches handed on.
        busy_seconds: Time at work, added up over its slots; waiting for the interpreter's lock is in it.
        cpu_seconds: CPU time of that, of the threads that did it; not of calls on an event loop, nor of threads that
            native code has of its own.
        waiting_seconds: Time the driver waited for it.
        bytes_copied: Bytes copied to make its batches.
        peak_in_flight: Most items begun and not yet handed on.
        alone: Whether no other process could have done it.
        calls: Its model calls; `Report.calls_of` gives them where a run has left them to be counted.
    """

    kind: str
    name: str
    native: str | None = None
    rows: int = 0
    batches: int = 0
    busy_seconds: float = 0.0
    cpu_seconds: float = 0.0
    waiting_seconds: float = 0.0
    bytes_copied: int = 0
    peak_in_flight: int = 0
    alone: bool = False
    calls: Calls = Calls()


@dataclass
class Report:
    """One run.

    Attributes:
        operators: One entry an operator, in the plan's order.
        fingerprint: The plan's fingerprint.
        wall_seconds: From start to end.
        cpu_seconds: CPU time of this process meanwhile, all threads.
        model_seconds: Time in which at least one model call was under way; 0 where that is not timed.
        in_flight_bytes: The schedule's memory bound.
        resident_bytes: Resident memory of this process when the run began; 0 where that is not known.
        grown_bytes: What that had grown by when the report was written as JSON.
        notes: What did not go as planned (a fall-back taken, for example).
        spans: Work by lane, for the timeline.
    """

    operators: list[OperatorReport]
    fingerprint: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    model_seconds: float = 0.0
    in_flight_bytes: int = 0
    resident_bytes: int = field(default_factory=lambda: resident_bytes())
    grown_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    @property
    def framework_share(self) -> float | None:
        """Share of the wall time in which no model call was under way (Ω over T), from 0 to 1; None if not timed."""
        return 1.0 - self.model_seconds / self.wall_seconds if self.model_seconds else None

    @property
    def bytes_copied(self) -> int:
        """Bytes copied by all operators."""
        return sum(operator.bytes_copied for operator in self.operators)

    def calls_of(self, position: int) -> Calls:
        """The model calls of an operator.

        Args:
            position: Of the operator in the plan.
        """
        operator = self.operators[position]
        if operator.calls.count or [each.kind for each in self.operators].count(operator.kind) > 1:
            return operator.calls
        times = [span.end - span.start for span in self.spans if span.model and span.operator == operator.kind]
        return Calls(len(times), operator.rows if times else 0, sum(times))

    def to_json(self) -> str:
        """The report as a JSON object, without the spans; written while what the run has made is still there."""
        content = asdict(self)
        del content["spans"]
        for position, operator in enumerate(content["operators"]):
            operator["calls"] = asdict(self.calls_of(position))
        if not self.grown_bytes and self.resident_bytes:
            content["grown_bytes"] = max(0, resident_bytes() - self.resident_bytes)
        content["framework_share"] = self.framework_share
        content["bytes_copied"] = self.bytes_copied
        return json.dumps(content, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that `to_json` wrote, without the spans.

        Raises:
            ValueError: If it is none.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            operators = [
                OperatorReport(**{**each, "calls": Calls(**each.get("calls", {}))}) for each in content.pop("operators")
            ]
            for derived in ("framework_share", "bytes_copied"):
                content.pop(derived, None)
            return cls(operators, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no report as `Report.to_json` writes it: {error!r}") from error

    def table(self) -> Table:
        """The report as a table for `rich`."""
        table = Table(title=self.summary())
        table.add_column("operator")
        for title in ("rows", "batches", "busy s", "waiting s", "MiB copied"):
            table.add_column(title, justify="right")
        table.add_column("runs")
        for row in self.operators:
            table.add_row(
                f"{row.kind} {row.name}",
                f"{row.rows:,}",
                f"{row.batches:,}",
                f"{row.busy_seconds:.3f}",
                f"{row.waiting_seconds:.3f}",
                f"{row.bytes_copied / 2**20:.1f}",
                f"natively: {row.native}" if row.native else "fast path",
            )
        return table

    def summary(self) -> str:
        """One line: times and, if it is known, the framework's share."""
        times = f"{self.wall_seconds:.2f} s wall, {self.cpu_seconds:.2f} s CPU"
        share = self.framework_share
        return times if share is None else f"{times}, framework-owned share {share:.0%}"

    def __str__(self) -> str:
        console = Console(width=120)
        with console.capture() as capture:
            console.print(self.table())
            for note in self.notes:
                console.print(f"note: {note}")
        return capture.get()

    def timeline(self, path: str | Path) -> None:
        """Write the spans in the Chrome trace event format, which Perfetto and chrome://tracing open.

        Args:
            path: The JSON file to write.
        """
        lanes = {lane: number for number, lane in enumerate(dict.fromkeys(span.lane for span in self.spans))}
        events: list[dict[str, object]] = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": lane}}
            for lane, number in lanes.items()
        ]
        events += [
            {
                "name": span.operator,
                "cat": "model" if span.model else "framework",
                "ph": "X",
                "ts": round(span.start * 1e6, 1),
                "dur": round((span.end - span.start) * 1e6, 1),
                "pid": 0,
                "tid": lanes[span.lane],
            }
            for span in self.spans
        ]
        Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), encoding="utf-8")


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system doesn't say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def covered_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total = 0.0
    reached = float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
