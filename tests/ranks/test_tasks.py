"""Tasks that rank 0 hands out, or does itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pytest

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.tasks import TaskPool, lead_or_serve
from aaflow_plugins.remote import RemoteCall


def doubled(record: pa.RecordBatch) -> pa.RecordBatch:
    """What the other ranks do: they fail on 13, and have no answer for 17 that says it all."""
    number = record.column(0)[0].as_py()
    if number == 13:
        raise ValueError("not here")
    return pa.record_batch([pa.array([2 * number])], ["number"])


def packed(number: int) -> pa.RecordBatch:
    if number == 7:
        "\ud800".encode()  # raises
    return pa.record_batch([pa.array([number])], ["number"])


CALL = RemoteCall(packed, doubled, lambda number, record: None if number == 17 else record.column(0)[0].as_py())


def led(job: Communicator, lead: Callable[[TaskPool], Any]) -> Any:
    """What rank 0 finds out with the help of the others."""
    if job.size == 1:
        pytest.skip("one rank has no others to hand tasks to")
    return lead_or_serve(job, "tasks", b"", {0: CALL}, lead)


def test_results_are_in_order(job: Communicator) -> None:
    """Whoever does a task; and what others fail on, or cannot carry, is done here, in the calling thread."""
    here: list[threading.Thread] = []

    def double(number: int) -> int:
        here.append(threading.current_thread())
        return 2 * number

    found = led(job, lambda pool: list(pool.each(0, CALL, double, range(200))))
    if job.rank == 0:
        assert found == [2 * number for number in range(200)]
        assert len(here) >= 3
        assert set(here) == {threading.current_thread()}


def test_an_error_comes_in_its_turn(job: Communicator) -> None:
    def double(number: int) -> int:
        if number == 13:
            raise ValueError("the native error")
        return 2 * number

    def lead(pool: TaskPool) -> list[int]:
        found: list[int] = []
        with pytest.raises(ValueError, match="the native error"):
            found.extend(pool.each(0, CALL, double, range(200)))
        return [*found, *pool.each(0, CALL, double, range(3))]

    found = led(job, lead)
    if job.rank == 0:
        assert found == [*range(0, 26, 2), 0, 2, 4]


def test_tasks_of_tasks(job: Communicator) -> None:
    """Items may themselves come of tasks, and nobody need read to the end."""

    def lead(pool: TaskPool) -> list[int]:
        def items() -> Iterator[int]:
            return pool.each(0, CALL, lambda number: 2 * number, range(100))

        few = pool.each(0, CALL, lambda number: 2 * number, items())
        found = [next(few) for _ in range(5)]
        few.close()
        return [*found, *pool.each(0, CALL, lambda number: 2 * number, items())]

    found = led(job, lead)
    if job.rank == 0:
        assert found == [*range(0, 20, 4), *range(0, 400, 4)]


def test_threads(job: Communicator) -> None:
    """Of several threads one at a time does a task here."""
    at_work = threading.Lock()

    def double(number: int) -> int:
        assert at_work.acquire(blocking=False)
        try:
            return 2 * number
        finally:
            at_work.release()

    def lead(pool: TaskPool) -> list[int]:
        with ThreadPoolExecutor(pool.slots) as threads:
            return list(threads.map(lambda number: pool.do(0, CALL, double, number), range(200)))

    found = led(job, lead)
    if job.rank == 0:
        assert found == [2 * number for number in range(200)]
