"""A small benchmark to test the harness with; its contenders' processes import nothing but the harness."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import Benchmark, Case, Contender
from benchmarks.measure import Work


def _sorts(sort: Callable[[list[int]], list[int]]) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        numbers = list(range(parameters["count"], 0, -1))
        facts = {"process": float(os.getpid())}
        return Work(run=lambda _: sort(numbers), digest=lambda result: repr(result[:10]), facts=lambda _: facts)

    return prepare


def _with_ballast(numbers: list[int]) -> list[int]:
    ballast = bytearray(64 * 2**20)
    return sorted(numbers)[: len(ballast)]


def _asleep(numbers: list[int]) -> list[int]:
    time.sleep(0.2)
    return sorted(numbers)


def _fails(numbers: list[int]) -> list[int]:
    raise LookupError("no such order")


SORTING = Benchmark(
    name="sorting",
    home="tests.house.sorting_benchmark:SORTING",
    title="Sorting",
    protocol="Timed: sorting.",
    metric="wall",
    contenders=(
        Contender("sorted", "native", _sorts(sorted)),
        Contender("with ballast", "native", _sorts(_with_ballast)),
        Contender("asleep", "ours", _sorts(_asleep)),
        Contender("unsorted", "ours", _sorts(list)),
        Contender("fails", "ours", _sorts(_fails)),
        Contender("nothing to compare", "part", lambda _: Work(run=lambda _: None)),
    ),
    cases=lambda scale: [
        Case("a thousand", {"count": 1000}, ("sorted", "with ballast", "asleep", "nothing to compare"), 2.0),
        Case("one wrong", {"count": 20}, ("sorted", "unsorted")),
        Case("one fails", {"count": 20}, ("sorted", "fails")),
    ],
)
TOGETHER = dataclasses.replace(
    SORTING,
    home="tests.house.sorting_benchmark:TOGETHER",
    together=True,
    cases=lambda scale: [Case("in turn", {"count": 100, "iterations": 5}, ("sorted", "asleep"))],
)
