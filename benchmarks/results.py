"""What was measured, and the statistics over it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

#: `native`: a user's own means, the first being the framework's default; `ours`: what is shown;
#: `part`: a share of the work, measured by itself to explain the others.
Role = Literal["native", "ours", "part"]
Metric = Literal["wall", "cpu"]

#: A difference of medians below this is not called one, however little the runs scatter.
NOTICEABLE = 0.05


@dataclass(frozen=True)
class Measurement:
    """One measured call (or the median of many, where a call is too short to be measured by itself).

    Attributes:
        wall: Seconds from start to end.
        cpu: CPU seconds of this process meanwhile, all its threads; no server, no child processes.
        peak_extra: Bytes by which the resident set's peak during the call exceeds what was resident just before it;
            None where that can't be known.
        digest: Checksum of the result; None for a part, which has none to compare.
        facts: Further numbers by name: chunks, requests.
    """

    wall: float
    cpu: float
    peak_extra: int | None = None
    digest: str | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Median and extremes of some repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value.

        Raises:
            ValueError: If there is no value.
        """
        ordered = sorted(values)
        if not ordered:
            raise ValueError("no values to take a median of")
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class ContenderResult:
    """All repeats of one contender on one case, in order of the repeats.

    Attributes:
        name: As it stands in the table.
        role: Whose way it is.
        runs: One measurement a repeat.
        against: Name of the native contender that is given the same; empty to go by the best of them.
    """

    name: str
    role: Role
    runs: tuple[Measurement, ...]
    against: str = ""

    def spread(self, metric: Metric) -> Spread:
        """Spread of wall or CPU seconds."""
        return Spread.of(getattr(run, metric) for run in self.runs)

    @property
    def peak_extra(self) -> Spread | None:
        """Spread of the extra peak memory in bytes; None where a run has none."""
        peaks = [run.peak_extra for run in self.runs if run.peak_extra is not None]
        return Spread.of(peaks) if len(peaks) == len(self.runs) else None

    def fact(self, name: str) -> float | None:
        """Median of a fact over the repeats; None if it was not noted."""
        values = [run.facts[name] for run in self.runs if name in run.facts]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class CaseResult:
    """One case: the same work by every contender.

    Attributes:
        name: What distinguishes the case.
        parameters: What its contenders were given.
        megabytes: Megabytes of text it went through, for a rate; None where a rate says nothing.
        digest: Checksum that all contenders' results had in every repeat.
        contenders: In the order of the table; the first native one is the framework's default.
    """

    name: str
    parameters: dict[str, Any]
    megabytes: float | None
    digest: str
    contenders: tuple[ContenderResult, ...]

    def of_role(self, role: Role) -> list[ContenderResult]:
        """Contenders of a role, in order."""
        return [contender for contender in self.contenders if contender.role == role]

    def named(self, name: str) -> ContenderResult | None:
        """The contender of a name, if it took part."""
        return next((contender for contender in self.contenders if contender.name == name), None)

    @property
    def default(self) -> ContenderResult:
        """The framework's default."""
        return self.of_role("native")[0]

    def rival(self, ours: ContenderResult, metric: Metric) -> ContenderResult:
        """Whom one of ours has to beat: the one it is set against, else the fastest native one, by median."""
        against = self.named(ours.against)
        return against or min(self.of_role("native"), key=lambda contender: contender.spread(metric).median)


@dataclass(frozen=True)
class Results:
    """One run of one benchmark.

    Attributes:
        benchmark: Its name.
        title: What it is about.
        protocol: What is timed and what is not.
        metric: What the comparisons go by.
        quick: Whether it was a smoke test: small inputs, few repeats, no numbers to quote.
        partial: Whether cases were left out.
        repeats: Processes a contender and case.
        machine: Processor, cores, memory, load when it began.
        versions: Distribution names and versions.
        cases: In order.
    """

    benchmark: str
    title: str
    protocol: str
    metric: Metric
    quick: bool
    partial: bool
    repeats: int
    machine: dict[str, Any]
    versions: dict[str, str]
    cases: tuple[CaseResult, ...]

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        cases = tuple(
            CaseResult(
                **{
                    **case,
                    "contenders": tuple(
                        ContenderResult(**{**each, "runs": tuple(Measurement(**run) for run in each["runs"])})
                        for each in case["contenders"]
                    ),
                }
            )
            for case in content.pop("cases")
        )
        return cls(**content, cases=cases)


def verdict(ours: Spread, other: Spread) -> str:
    """What may be said of us against another: a gain and a loss both need ranges that do not overlap.

    Returns:
        `faster`, `slower` or `no gain`.
    """
    if ours.high < other.low and ours.median < other.median * (1 - NOTICEABLE):
        return "faster"
    if ours.low > other.high and ours.median > other.median * (1 + NOTICEABLE):
        return "slower"
    return "no gain"
