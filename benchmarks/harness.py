"""The protocol that every benchmark follows: fresh processes, rotated order, equal results or none.

A `Benchmark` names cases and contenders. For each case and repeat every contender gets a process of its own, in an
order that rotates by one from repeat to repeat; only the call itself is timed there (`measure.Work` says what that
is). The digests of all results of a case must be equal, or there is no result at all.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aaflow_plugins.engines.launching import launch_command, rank_environment
from benchmarks.corpus import Corpora
from benchmarks.machine import machine, versions
from benchmarks.measure import Work, rotated
from benchmarks.results import CaseResult, ContenderResult, Measurement, Metric, Results, Role
from llama_index_aaflow.carried_files import carried, use_copy_of_nltk_data

ROOT = Path(__file__).resolve().parent.parent

#: Repeats unless told otherwise.
REPEATS, QUICK_REPEATS = 5, 2


class BenchmarkError(Exception):
    """A contender failed."""


class ResultsDifferError(BenchmarkError):
    """Two contenders, or two runs of one, did not give the same result: no time of theirs means anything."""


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Attributes:
        name: As it stands in the table.
        role: Whose way it is.
        prepare: Called in the contender's own process with the case's parameters.
        against: Name of the native contender that is given the same, where others are given something else; without
            it, one of ours is compared with the best of them.
        ranks: Processes of an MPI job that do the work together, each of which calls `prepare`; what rank 0 measures
            counts.
    """

    name: str
    role: Role
    prepare: Callable[[Mapping[str, Any]], Work]
    against: str = ""
    ranks: int = 1


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Attributes:
        name: As it stands in the table.
        parameters: JSON that every contender's `prepare` gets.
        contenders: Names of those that take part; the first native one is the framework's default. Without a native
            one it is there for other cases to be compared with.
        megabytes: Megabytes of text, if a rate is to be shown.
    """

    name: str
    parameters: Mapping[str, Any]
    contenders: tuple[str, ...]
    megabytes: float | None = None


@dataclass(frozen=True)
class Scale:
    """How large a run is.

    Attributes:
        quick: A smoke test: small inputs.
        corpora: Where the cases' texts come from.
    """

    quick: bool
    corpora: Corpora


def _no_service(_: Case) -> AbstractContextManager[Mapping[str, Any]]:
    return nullcontext({})


def _no_notes(_case: CaseResult, _results: Sequence[CaseResult]) -> list[str]:
    return []


@dataclass(frozen=True)
class Benchmark:
    """Cases, and who competes in them.

    Attributes:
        name: On the command line and in file names.
        home: `module:attribute` where a contender's process finds this object.
        title: One line for people.
        protocol: What is timed, what is prepared before, and what the warm-up is.
        metric: What comparisons go by.
        contenders: All contenders of all cases.
        cases: The cases of a scale.
        service: Runs what a case's contenders share (a server) and gives further parameters for all of them.
        notes: Lines to stand below a case's table.
        together: Whether all contenders share one process and are called in turn, `parameters["iterations"]` times:
            for calls too short to be measured one by one.
    """

    name: str
    home: str
    title: str
    protocol: str
    metric: Metric
    contenders: tuple[Contender, ...]
    cases: Callable[[Scale], list[Case]]
    service: Callable[[Case], AbstractContextManager[Mapping[str, Any]]] = field(default=_no_service)
    notes: Callable[[CaseResult, Sequence[CaseResult]], list[str]] = field(default=_no_notes)
    together: bool = False

    def contender(self, name: str) -> Contender:
        """The contender of a name.

        Raises:
            KeyError: If there is none.
        """
        return {contender.name: contender for contender in self.contenders}[name]


def load_benchmark(home: str) -> Benchmark:
    """The benchmark at `module:attribute`."""
    module, _, attribute = home.partition(":")
    benchmark: Benchmark = getattr(importlib.import_module(module), attribute)
    return benchmark


def run_benchmark(
    benchmark: Benchmark,
    *,
    quick: bool = False,
    repeats: int | None = None,
    folder: Path | None = None,
    only: Sequence[str] = (),
    report: Callable[[str], object] = lambda _: None,
) -> Results:
    """Measure every case, `repeats` processes a contender.

    Args:
        benchmark: What to run.
        quick: A smoke test.
        repeats: Processes a contender and case. None: 5, or 2 if quick.
        folder: Text to work on; None takes what the installed Python's library carries.
        only: Run only cases whose name is, or else contains, one of these.
        report: Called with one line a measurement.

    Raises:
        BenchmarkError: If a contender fails; with its last words.
        ResultsDifferError: If results of one case are not all equal.
        ValueError: If no case is left, or the folder holds no text.
    """
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    surroundings = machine()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        cases = benchmark.cases(Scale(quick, Corpora(Path(scratch), folder)))
        names = {case.name for case in cases}
        chosen = [
            case
            for case in cases
            if not only or any(case.name == word if word in names else word in case.name for word in only)
        ]
        if not chosen:
            raise ValueError(
                f"no case of {benchmark.name} has {', '.join(only)!r} in its name: {[case.name for case in cases]}"
            )
        done = [_run_case(benchmark, case, repeats, Path(scratch), report) for case in chosen]
    return Results(
        benchmark=benchmark.name,
        title=benchmark.title,
        protocol=benchmark.protocol,
        metric=benchmark.metric,
        quick=quick,
        partial=len(chosen) < len(cases),
        repeats=repeats,
        machine=surroundings,
        versions=versions(),
        cases=tuple(done),
    )


def _run_case(
    benchmark: Benchmark, case: Case, repeats: int, scratch: Path, report: Callable[[str], object]
) -> CaseResult:
    runs: dict[str, list[Measurement]] = {name: [] for name in case.contenders}
    agreed: _Agreement = _Agreement(case.name)
    with benchmark.service(case) as shared:
        parameters = {**case.parameters, **shared}
        for repeat in range(repeats):
            order = rotated(case.contenders, repeat)
            for group in [order] if benchmark.together else [[name] for name in order]:
                measured = _in_fresh_process(benchmark, case.name, group, parameters, scratch)
                for name, run in zip(group, measured, strict=True):
                    agreed.check(name, repeat, run.digest, part=benchmark.contender(name).role == "part")
                    runs[name].append(run)
                    report(f"{case.name} · {name} · {repeat + 1}/{repeats} · {run.wall:.6g} s, CPU {run.cpu:.6g} s")
    return CaseResult(
        name=case.name,
        parameters=_portable(case.parameters),
        megabytes=case.megabytes,
        digest=agreed.digest,
        contenders=tuple(
            ContenderResult(each.name, each.role, tuple(runs[each.name]), each.against)
            for each in map(benchmark.contender, case.contenders)
        ),
    )


class _Agreement:
    """What the results of one case have to be."""

    def __init__(self, case: str) -> None:
        self._case = case
        self._first = ""
        self.digest = ""

    def check(self, name: str, repeat: int, digest: str | None, *, part: bool) -> None:
        run = f"{name!r} (repeat {repeat + 1})"
        if part:
            return
        if not digest:
            raise BenchmarkError(f"{self._case}: {run} gave no digest of its result")
        if not self.digest:
            self.digest, self._first = digest, run
        elif digest != self.digest:
            raise ResultsDifferError(f"{self._case}: the result of {run} is not that of {self._first}")


def _in_fresh_process(
    benchmark: Benchmark, case: str, contenders: Sequence[str], parameters: Mapping[str, Any], scratch: Path
) -> list[Measurement]:
    reply = scratch / "measurements.json"
    reply.unlink(missing_ok=True)
    task = {"benchmark": benchmark.home, "contenders": list(contenders), "parameters": dict(parameters)}
    given = scratch / "task.json"
    given.write_text(json.dumps(task), encoding="utf-8")
    program = ["-m", "benchmarks.run_one", str(given), str(reply)]
    ranks = max(benchmark.contender(name).ranks for name in contenders)
    child = subprocess.run(
        launch_command(ranks, program) if ranks > 1 else [sys.executable, *program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(ranks),
        check=False,
    )
    if child.returncode or not reply.exists():
        last_words = "\n".join(child.stderr.strip().splitlines()[-15:])
        names = ", ".join(contenders)
        raise BenchmarkError(f"{case}: {names} failed with exit status {child.returncode}\n{last_words}")
    return [Measurement(**run) for run in json.loads(reply.read_text(encoding="utf-8"))]


def environment(ranks: int = 1) -> dict[str, str]:
    """Environment variables of every process that is started: nothing traced, nothing fetched.

    Args:
        ranks: How many processes share the machine's cores, as those of `aaflow launch` do.
    """
    use_copy_of_nltk_data()
    given = rank_environment(ranks) if ranks > 1 else os.environ
    variables = {name: value for name, value in given.items() if not name.startswith(("LANGSMITH_", "LANGCHAIN_"))}
    encodings = carried("tiktoken_cache")  # cl100k_base and gpt2
    if encodings:
        variables.setdefault("TIKTOKEN_CACHE_DIR", str(encodings))
    return variables


def _portable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without the paths of this run's scratch files."""
    return {name: value for name, value in parameters.items() if name != "corpus"}
