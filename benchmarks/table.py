"""Results as tables: for a terminal and as Markdown, from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.harness import Benchmark
from benchmarks.results import CaseResult, ContenderResult, Metric, Results, Spread, verdict

_PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6}


@dataclass(frozen=True)
class Table:
    """Rows of text under a title, with notes below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def tables(results: Results, benchmark: Benchmark) -> list[Table]:
    """An overview, one row a case and contender of ours, and a table for each case."""
    overview = Table(
        f"{results.title}: overview ({_metric_name(results.metric)})",
        ("case", "native default", "best native", "ours", "times", "vs default", "vs best native", "extra peak", ""),
        tuple(row for case in results.cases for row in _overview_rows(case, results.metric)),
    )
    details = [
        Table(
            case.name,
            ("contender", "wall", "CPU", *(["MB/s CPU"] if case.megabytes else []), "extra peak", "vs default", ""),
            tuple(_contender_row(contender, case, results.metric) for contender in case.contenders),
            (*_text_note(case), *benchmark.notes(case, results.cases)),
        )
        for case in results.cases
    ]
    return [overview, *details]


def markdown(results: Results, benchmark: Benchmark) -> str:
    """Everything a reader needs to judge the numbers: where, what, how often, and the tables."""
    lines = [f"### {results.title} (`python -m benchmarks {results.benchmark}`)", ""]
    lines += [warning + "\n" for warning in warnings(results)]
    lines += [results.protocol, "", _repeats(results), "", _surroundings(results), ""]
    for table in tables(results, benchmark):
        lines += [f"**{table.title}**", ""]
        lines += ["| " + " | ".join(table.columns) + " |"]
        lines += ["| --- |" + " ---: |" * (len(table.columns) - 2) + " --- |"]
        lines += ["| " + " | ".join(row) + " |" for row in table.rows]
        lines += ["", *(f"- {note}" for note in table.notes), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def show(results: Results, benchmark: Benchmark, console: Console) -> None:
    """Print the tables."""
    for table in tables(results, benchmark):
        shown = RichTable(title=table.title, title_justify="left")
        for position, column in enumerate(table.columns):
            outer = position in (0, len(table.columns) - 1)
            shown.add_column(column, justify="left" if outer else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(f"  {note}", highlight=False, markup=False)
    for warning in warnings(results):
        console.print(warning, style="bold", markup=False)


def warnings(results: Results) -> list[str]:
    """What stands between these numbers and a claim."""
    found = []
    if results.quick:
        found.append("QUICK RUN: a smoke test on small inputs. These numbers say nothing.")
    if results.partial:
        found.append("PARTIAL RUN: cases were left out.")
    load, cores = results.machine.get("load_before"), results.machine.get("cores") or 1
    if load is not None and load > 0.25 * cores:
        found.append(f"BUSY MACHINE: a load of {load} on {cores} cores before the first process was started.")
    return found


def seconds(value: float) -> str:
    """A time with three significant digits in the unit that suits it."""
    return " ".join(_scaled(value, _unit(value)))


def _unit(value: float) -> str:
    return next((unit for unit in ("s", "ms") if value * _PER_SECOND[unit] >= 1), "µs")


def _scaled(value: float, unit: str) -> tuple[str, str]:
    scaled = value * _PER_SECOND[unit]
    return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}", unit


def _overview_rows(case: CaseResult, metric: Metric) -> list[tuple[str, ...]]:
    if not case.of_role("native"):
        return []  # it is there for other cases to be compared with
    default = case.default
    natively = default.spread(metric)
    rows: list[tuple[str, ...]] = []
    for ours in case.of_role("ours"):
        best = case.rival(ours, metric)
        mine, at_best = ours.spread(metric), best.spread(metric)
        rows.append(
            (
                case.name,
                seconds(natively.median),
                f"{seconds(at_best.median)} ({best.name})",
                ours.name,
                seconds(mine.median),
                _ratio(natively, mine),
                _ratio(at_best, mine),
                _peaks(default, ours),
                verdict(mine, at_best),
            )
        )
    return rows


def _contender_row(contender: ContenderResult, case: CaseResult, metric: Metric) -> tuple[str, ...]:
    rate: list[str] = []
    if case.megabytes:
        cpu = contender.spread("cpu").median
        rate = [f"{case.megabytes / cpu:.1f}" if cpu else "-"]
    is_compared = contender.role != "part" and case.of_role("native")
    return (
        contender.name,
        _with_range(contender.spread("wall")),
        _with_range(contender.spread("cpu")),
        *rate,
        _mebibytes(contender.peak_extra),
        _ratio(case.default.spread(metric), contender.spread(metric)) if is_compared else "",
        _remark(contender, case, metric),
    )


def _remark(contender: ContenderResult, case: CaseResult, metric: Metric) -> str:
    if contender.role == "ours" and case.of_role("native"):
        rival = case.rival(contender, metric)
        found = verdict(contender.spread(metric), rival.spread(metric))
        return f"{found} {'over' if found == 'no gain' else 'than'} {rival.name}"
    return "a part, for comparison" if contender.role == "part" else ""


def _ratio(other: Spread, ours: Spread) -> str:
    return f"{other.median / ours.median:.2f}x" if ours.median else "-"


def _with_range(spread: Spread) -> str:
    unit = _unit(spread.median)
    low, high = (_scaled(value, unit)[0] for value in (spread.low, spread.high))
    return f"{seconds(spread.median)} ({low} to {high})"


def _mebibytes(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median / 2**20:,.0f} MiB"


def _peaks(default: ContenderResult, ours: ContenderResult) -> str:
    if default.peak_extra is None or ours.peak_extra is None:
        return "-"
    return f"{_mebibytes(default.peak_extra)} -> {_mebibytes(ours.peak_extra)}"


def _metric_name(metric: Metric) -> str:
    return {"wall": "wall time", "cpu": "CPU time"}[metric]


def _text_note(case: CaseResult) -> Sequence[str]:
    if "corpus_bytes" not in case.parameters:
        return ()
    return (
        f"Text: {case.parameters['corpus_bytes'] / 1e6:.1f} MB in {case.parameters['corpus_files']:,} files, "
        f"SHA-256 {case.parameters['corpus_sha256'][:12]}. All results identical ({case.digest[:12]}).",
    )


def _repeats(results: Results) -> str:
    return (
        f"{results.repeats} repeats in fresh processes, order rotated; median (lowest to highest). Ratios go by "
        f"{_metric_name(results.metric)}. A gain or a loss is one only if the ranges do not overlap and the medians "
        "differ by more than 5 %."
    )


def _surroundings(results: Results) -> str:
    machine = results.machine
    installed = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version != "-")
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, load "
        f"before {machine['load_before']}. {installed}."
    )
