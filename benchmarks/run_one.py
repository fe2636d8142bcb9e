"""A contender's process: read the task from standard input, measure, write the measurements to a file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import load_benchmark
from benchmarks.measure import alternate, measure


def main() -> None:
    """Do the task on standard input; the one argument names the file for the measurements."""
    task = json.load(sys.stdin)
    benchmark = load_benchmark(task["benchmark"])
    parameters = task["parameters"]
    works = [benchmark.contender(name).prepare(parameters) for name in task["contenders"]]
    if benchmark.together:
        measured = alternate(works, parameters["iterations"])
    else:
        (work,) = works
        measured = [measure(work)]
    Path(sys.argv[1]).write_text(json.dumps([asdict(run) for run in measured]), encoding="utf-8")


if __name__ == "__main__":
    main()
