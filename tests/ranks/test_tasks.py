"""Tasks that rank 0 hands out, or does itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.tasks import TaskPool, _Other, _Task, lead_or_serve
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
    return lead_or_serve(job, "tasks", {}, b"", {0: CALL}, lead)


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
    """What comes after it is not begun here any more."""
    begun: list[int] = []

    def double(number: int) -> int:
        begun.append(number)
        if number == 13:
            raise ValueError("the native error")
        return 2 * number

    def lead(pool: TaskPool) -> list[int]:
        found: list[int] = []
        with pytest.raises(ValueError, match="the native error"):
            found.extend(pool.each(0, CALL, double, range(200)))
        assert max(begun[begun.index(13) :]) == 13
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


@pytest.mark.parametrize("bound", [{"held": 3}, {"at_once": 1}, {"held": 40, "at_once": 1}])
def test_items_are_read_as_far_ahead_as_allowed(job: Communicator, bound: dict[str, int]) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    def lead(pool: TaskPool) -> int:
        ahead = 0
        for handed, _ in enumerate(pool.each(0, CALL, lambda number: 2 * number, items(), **bound)):
            ahead = max(ahead, len(read) - handed)
        return ahead

    found = led(job, lead)
    if job.rank == 0:
        assert found <= min(bound.values())


def test_items_that_cannot_be_read(job: Communicator) -> None:
    """What came before goes all the way."""

    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("no more of them")

    def lead(pool: TaskPool) -> list[int]:
        found: list[int] = []
        with pytest.raises(OSError, match="no more of them"):
            found.extend(pool.each(0, CALL, lambda number: 2 * number, items()))
        return found

    found = led(job, lead)
    if job.rank == 0:
        assert found == [0, 2, 4, 6, 8]


def test_waiting_is_told(job: Communicator) -> None:
    waited: list[int] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waited.append(1)
        yield

    found = led(job, lambda pool: list(pool.each(0, CALL, lambda number: 2 * number, [1], waiting=waiting)))
    if job.rank == 0:
        assert found == [2]
        assert waited == [1]


@pytest.mark.parametrize(("seconds", "tasks"), [(1.0, 2), (0.011, 2), (0.005, 4), (1e-6, 16), (0.0, 16)])
def test_short_tasks_are_given_in_numbers(seconds: float, tasks: int) -> None:
    """Two of those whose time is not known, if there are enough for all; then as many as take 20 ms."""
    other, count = _Other(), 0
    first = _Task(0, CALL, 0)
    other.is_given(first)
    assert other.has_room(0, plenty=True)
    assert not other.has_room(0, plenty=False)
    other.is_given(_Task(0, CALL, 0))
    assert not other.has_room(0, plenty=True)
    other.has_done(first, seconds)
    other.has_done(_Task(0, CALL, 0))
    assert other.room(0) == tasks
    assert other.room(1) == 2
    while other.has_room(0, plenty=True):
        other.is_given(_Task(0, CALL, 0))
        count += 1
    assert count == tasks
