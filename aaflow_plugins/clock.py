"""Whose time it is: the driving thread's by operator, and what calls beside it take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from aaflow_plugins.report import OperatorReport, Report, Span, covered_seconds

_END: Any = object()


class Clock:
    """Times a run. The driving thread's time belongs to exactly one operator at any moment."""

    _SHORT = 50e-6  # spans below this clutter a timeline without showing anything

    def __init__(self, report: Report) -> None:
        self._report = report
        self._start = time.perf_counter()
        self._since = self._start
        self._cpu_since = 0.0
        self._owner: int | None = None
        self._models: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def timed(self, stream: Iterator[Any], index: int) -> Iterator[Any]:
        """Pass items through, charging the time they take to make to operator `index`."""
        while True:
            before = self._switch(index)
            try:
                item = next(stream, _END)
            finally:
                self._switch(before)
            if item is _END:
                return
            yield item

    def waiting(self, index: int) -> _Waiting:
        """Charge the block to `waiting_seconds` of operator `index`."""
        return _Waiting(self, self._report.operators[index])

    def call(self, index: int, model: bool, *, in_thread: bool) -> _Call:
        """Charge a call to operator `index`; its CPU time, too, if it has a pool thread to itself."""
        return _Call(self, self._report.operators[index], model, time.thread_time if in_thread else _no_time)

    def add_span(self, operator: str, lane: str, start: float, end: float, model: bool = False) -> None:
        """Note work for the timeline (safe from any thread: appending to a list is atomic)."""
        origin = self._start
        if end - start > self._SHORT:
            self._report.spans.append(Span(operator, lane, start - origin, end - origin, model))
        if model:
            self._models.append((start, end))

    def stop(self) -> None:
        """End the run: what its report says of the whole is known now."""
        self._switch(None)
        self._report.wall_seconds = time.perf_counter() - self._start
        self._report.model_seconds = covered_seconds(self._models)

    def _switch(self, owner: int | None) -> int | None:
        now, cpu = time.perf_counter(), time.thread_time()
        before = self._owner
        if before is not None:
            report = self._report.operators[before]
            with self._lock:
                report.busy_seconds += now - self._since
                report.cpu_seconds += cpu - self._cpu_since
            self.add_span(report.kind, "driver", self._since, now)
        self._owner, self._since, self._cpu_since = owner, now, cpu
        return before


class _Waiting:
    def __init__(self, clock: Clock, report: OperatorReport) -> None:
        self._clock, self._report = clock, report

    def __enter__(self) -> None:
        self._owner = self._clock._switch(None)
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._report.waiting_seconds += time.perf_counter() - self._start
        self._clock._switch(self._owner)


class _Call:
    def __init__(self, clock: Clock, report: OperatorReport, model: bool, cpu_time: Callable[[], float]) -> None:
        self._clock, self._report, self._model, self._cpu_time = clock, report, model, cpu_time

    def __enter__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), self._cpu_time()

    def __exit__(self, *_: object) -> None:
        end, cpu = time.perf_counter(), self._cpu_time() - self._cpu_start
        with self._clock._lock:
            self._report.busy_seconds += end - self._start
            self._report.cpu_seconds += cpu
        lane = threading.current_thread().name
        self._clock.add_span(self._report.kind, lane, self._start, end, self._model)


def _no_time() -> float:
    """CPU time of a call among others on an event loop, whose own can't be told."""
    return 0.0
