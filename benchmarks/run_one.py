"""A contender's process, or one of its ranks: read the task, measure, write the measurements to a file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from aaflow_plugins.engines.launching import launched_ranks
from aaflow_plugins.plugins import engine
from benchmarks.harness import load_benchmark
from benchmarks.measure import Work, alternate, measure
from benchmarks.results import Measurement


def main() -> None:
    """Do a task; the arguments name its file and the one for the measurements."""
    given, reply = map(Path, sys.argv[1:])
    task = json.loads(given.read_text(encoding="utf-8"))
    benchmark = load_benchmark(task["benchmark"])
    parameters = task["parameters"]
    works = [benchmark.contender(name).prepare(parameters) for name in task["contenders"]]
    if launched_ranks() > 1:
        measured = _on_ranks(*works)
    elif benchmark.together:
        measured = alternate(works, parameters["iterations"])
    else:
        measured = list(map(measure, works))
    if measured:
        reply.write_text(json.dumps([asdict(run) for run in measured]), encoding="utf-8")


def _on_ranks(work: Work) -> list[Measurement]:
    """What rank 0 measures, with the largest peak of all ranks' memory; nothing elsewhere."""
    ranks = engine("mpi")

    def before() -> Any:
        state = work.before()
        with ranks.together("begin"):
            return state

    run = measure(replace(work, before=before))
    with ranks.together("end"):
        peaks = [int(value) for value in ranks.agree(b"%d" % (run.peak_extra or 0))]
    return [] if ranks.rank else [replace(run, facts={**run.facts, "largest_peak": float(max(peaks))})]


if __name__ == "__main__":
    main()
