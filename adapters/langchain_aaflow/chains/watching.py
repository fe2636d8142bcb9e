"""Progress and report of one batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from aaflow_plugins.executor import Executor
from aaflow_plugins.plan import Plan
from aaflow_plugins.progress import Progress
from aaflow_plugins.report import OperatorReport, Report


class Watch:
    """Notes what the inputs of a batch do, for the executor's `progress` and `report`."""

    def __init__(self, executor: Executor, plan: Plan, total: int) -> None:
        """Set up.

        Args:
            executor: Whose callback is called, and which gets the report.
            plan: The plan; its operators after the first are the steps.
            total: Number of inputs.
        """
        self._executor, self._total, self._ended = executor, total, 0
        self._report = Report(
            [OperatorReport(op.kind, op.name, op.native) for op in plan.operators],
            fingerprint=plan.fingerprint(),
            in_flight_bytes=0,
        )
        self._at_work = [0] * len(plan.operators)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the batch; the executor has the report afterwards."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._report.wall_seconds = time.perf_counter() - wall
            self._report.cpu_seconds = time.process_time() - cpu
            self._executor.report = self._report

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """An input is at a step, which counts from 0: from its arrival to its leaving, waiting for a slot included."""
        operator, number = self._report.operators[step + 1], step + 1
        self._at_work[number] += 1
        operator.peak_in_flight = max(operator.peak_in_flight, self._at_work[number])
        start = time.perf_counter()
        try:
            yield
            operator.rows += 1
        finally:
            operator.busy_seconds += time.perf_counter() - start
            self._at_work[number] -= 1

    def ended(self) -> None:
        """An input has been through, or failed."""
        self._ended += 1
        self._report.operators[0].rows = self._ended
        if self._executor.progress:
            self._executor.progress(Progress("inputs", self._ended, self._total))
