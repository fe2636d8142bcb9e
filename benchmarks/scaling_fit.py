"""What measured runs say of scaling, and what `aaflow plan` would have predicted from the run on one rank."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil

from aaflow_plugins.prediction import Cluster, Costs, costs_of, predict
from aaflow_plugins.report import Calls, OperatorReport, Report
from benchmarks.results import CaseResult, ContenderResult

STAGES = ("load", "split", "embed", "upsert", "checksum")
#: Below this, in seconds, a relative error says nothing.
_SHORT = 0.1

#: Strong scaling as the paper reports it (arXiv 2605.02162): chunks, and seconds by workers.
_CHUNKS, _PUBLISHED = 100_000_000, {128: 30.9, 2048: 2.09}


# -- from a measured run to predictions ------------------------------------------------------------------


def report_of(
    seconds: Mapping[str, float],
    result: ContenderResult,
    documents: int,
    batch: int,
    alone: Sequence[str] = (),
    cpu: Mapping[str, float] | None = None,
) -> Report:
    """The report of a run on one rank, as far as it was measured.

    Args:
        seconds: Of each stage.
        result: The run.
        documents: What it was given.
        batch: Texts a request.
        alone: Stages that rank 0 does by itself where it leads, beside those that it always does.
        cpu: CPU seconds of each stage, where they are known.
    """
    rows = int(result.fact("rows") or 0)
    embed = seconds["embed"]
    operators = [
        OperatorReport(
            name,
            "",
            rows=rows if at else documents,
            busy_seconds=seconds.get(name, 0.0),
            cpu_seconds=(cpu or {}).get(name, 0.0),
            alone=name in alone,
        )
        for at, name in enumerate(STAGES)
    ]
    operators[2].calls = Calls(ceil(rows / batch), rows, embed)
    wall, total = result.spread("wall").median, result.spread("cpu").median
    return Report(operators, wall_seconds=wall, cpu_seconds=total, model_seconds=embed, resident_bytes=0)


def compared(
    costs: Costs,
    documents: int,
    workers: int,
    gather: str,
    seconds: Mapping[str, float],
    measured: ContenderResult,
    *,
    at_work: bool = False,
) -> str:
    """Predicted times of stages and of all, each against the one that was measured, with the error.

    Args:
        costs: Of a run on one rank.
        documents: What was given to all ranks.
        workers: Ranks.
        gather: Where the results are.
        seconds: Of each stage, as measured.
        measured: The run.
        at_work: Whether those are at work only: a rank that waits for a core is not.
    """
    cluster = Cluster(cores=os.cpu_count() or 1, ranks_a_node=workers)
    predicted = predict(costs, workers, cluster, items=documents, gather=gather)
    own_cores = Cluster(cores=workers * costs.cores, ranks_a_node=workers)
    stages = predict(costs, workers, own_cores, items=documents, gather=gather).stages if at_work else predicted.stages
    # Measured is all that a rank spends beside its stages: what one rank takes for that, too, and what it tells others.
    times = {**dict(zip(STAGES, stages, strict=True)), "exchange": predicted.exchange + costs.framework}
    pairs = [(name, times[name], seconds[name]) for name in times if name in seconds]
    pairs.append(("total", predicted.total, measured.spread("wall").median))
    told = ", ".join(f"{name} {_against(*pair)}" for name, *pair in pairs)
    return f"{measured.name}, PREDICTED from one rank: {told}."


def _against(predicted: float, measured: float) -> str:
    error = f", {predicted / measured - 1:+.0%}" if measured > _SHORT else ""
    return f"{predicted:.3f} s (measured {measured:.3f}{error})"


def beside_the_paper(costs: Costs) -> str:
    """The paper's strong scaling, and what is predicted for the same number of chunks."""
    documents = round(_CHUNKS / costs.stages[1].rows)
    costs = replace(costs, stages=tuple(stage for stage in costs.stages if stage.kind != "checksum"))
    ours = {ranks: predict(costs, ranks, Cluster(), items=documents, gather="shards").total for ranks in _PUBLISHED}
    told = ", ".join(
        f"{ranks:,} ranks {ours[ranks]:.2f} s (the paper: {theirs} s)" for ranks, theirs in _PUBLISHED.items()
    )
    few, many = _PUBLISHED
    return (
        f"PREDICTED from this run, not measured, for the paper's {_CHUNKS / 1e6:.0f} million chunks on ranks that have "
        f"a core each, as fast as this machine's, and a 10 Gbit/s network: {told}; {ours[few] / ours[many]:.1f} times "
        f"as fast for {many // few} times the ranks (the paper: {_PUBLISHED[few] / _PUBLISHED[many]:.1f}). The paper's "
        "figures were measured on its authors' cluster, with their operators: what can be compared is the shape."
    )


def efficiency(alone: ContenderResult, each: ContenderResult, workers: int, more: float = 1.0) -> str:
    """Parallel efficiency, for `more` times the work of one worker."""
    return f"{each.name} {more * alone.spread('wall').median / (workers * each.spread('wall').median):.0%}"


# -- notes of the synthetic shape ------------------------------------------------------------------------


def notes(case: CaseResult, results: Sequence[CaseResult]) -> list[str]:
    """Stage times, efficiency, memory and predictions of one case, against the case on one worker."""
    workers, documents = case.parameters["workers"], case.parameters["files"]
    lines = [
        f"{each.name}, of that, on the slowest worker: {times}."
        for each in case.contenders
        if (times := "; ".join(f"{name} {1000 * value:,.1f} ms" for name, value in stages_of(each).items()))
    ]
    alone = next((each for each in results if each.parameters["workers"] == 1 and _like(each, case)), None)
    if alone is None:
        return lines
    more = documents / alone.parameters["files"]
    first, ours = _way(alone, "ours (shards)"), _way(case, "ours (shards)")
    if workers > 1:
        gains = [efficiency(one, each, workers, more) for each in case.contenders if (one := _way(alone, _name(each)))]
        lines.append(f"Parallel efficiency, against the same way on one worker: {', '.join(gains)}.")
    if first is None or ours is None:
        return lines
    # Rank 0 splits: chunks have start indices, which only their documents tell.
    by_itself = ("split", "checksum")
    files, batch = alone.parameters["files"], case.parameters["batch"]
    costs = costs_of([report_of(stages_of(first), first, files, batch, by_itself)])
    if workers > 1:
        lines.append(compared(costs, documents, workers, "shards", stages_of(ours), ours, at_work=True))
        led = _way(case, "ours (root)", exactly=True)
        lines += [compared(costs, documents, workers, "root", {}, led)] if led else []
    elif not case.parameters["item_ms"]:
        lines.append(beside_the_paper(costs))
    return lines


def stages_of(result: ContenderResult) -> dict[str, float]:
    """Medians of what was noted of stages."""
    names = [name for name in result.runs[0].facts if name not in ("rows", "largest_peak")]
    return {name: value for name in names if (value := result.fact(name)) is not None}


def _like(one: CaseResult, other: CaseResult) -> bool:
    names = ("dimension", "chunks_a_file", "request_ms", "item_ms")
    return all(one.parameters[name] == other.parameters[name] for name in names)


def _name(each: ContenderResult) -> str:
    return each.name.rsplit(",", 1)[0]


def _way(case: CaseResult, name: str, *, exactly: bool = False) -> ContenderResult | None:
    wanted = name if exactly else name.replace("(root)", "(shards)")
    return next((each for each in case.contenders if _name(each) == wanted), None)
