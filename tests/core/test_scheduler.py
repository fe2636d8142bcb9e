"""The schedule is a pure function of the plan, the sizes and the resources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aaflow_plugins.operators import Resource
from aaflow_plugins.scheduler import MIB, Resources, Sizes, batches, schedule
from tests.core.plans import HashEmbedder, word_plan


def test_two_calls_give_the_same_schedule() -> None:
    sizes = Sizes(tuple(range(1, 5000)))
    first, second = (schedule(word_plan(HashEmbedder(), []), sizes, Resources(max_concurrency=7)) for _ in range(2))
    assert first == second
    assert first.boundaries
    assert first.boundaries[-1][1] == 4999


def test_windows_shrink_to_the_memory_limit() -> None:
    plan = word_plan(HashEmbedder(concurrency=64), [])
    wide = schedule(plan, Sizes(), Resources(memory_limit=1024 * MIB))
    narrow = schedule(plan, Sizes(), Resources(memory_limit=64 * MIB))
    assert wide.steps[2].slots == 64
    assert wide.in_flight_bytes <= 1024 * MIB
    assert narrow.steps[2].slots < 64
    assert narrow.in_flight_bytes <= 64 * MIB


def test_worker_processes_are_used_only_where_asked_for() -> None:
    plan = word_plan(HashEmbedder(), [])
    assert schedule(plan, Sizes(), Resources()).steps[1].resource is Resource.CPU
    assert schedule(plan, Sizes(), Resources(processes=2)).steps[1].resource is Resource.PROCESS


@given(st.lists(st.integers(0, 50)), st.integers(1, 10), st.integers(1, 60))
def test_batches_keep_order_and_bounds(items: list[int], rows: int, size: int) -> None:
    cut = list(batches(items, int, rows, size))
    assert [item for batch in cut for item in batch] == items
    assert all(batch and len(batch) <= rows and (sum(batch) <= size or len(batch) == 1) for batch in cut)


@pytest.mark.parametrize("argument", ["max_concurrency", "processes", "memory_limit"])
@pytest.mark.parametrize("value", ["x", 2.5, True])
def test_a_number_that_is_not_whole_is_refused_by_name(argument: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{argument} must be a whole number"):
        Resources(**{argument: value})


@pytest.mark.parametrize(
    ("argument", "value"), [("max_concurrency", 0), ("processes", -1), ("memory_limit", 0), ("batch_rows", 0)]
)
def test_a_number_no_run_could_use_is_refused_by_name(argument: str, value: int) -> None:
    with pytest.raises(ValueError, match=argument):
        Resources(**{argument: value})


def test_memory_of_what_waits_for_all_its_input_is_predicted_or_said_to_be_unbounded() -> None:
    class Whole(HashEmbedder):
        @property
        def whole_input(self) -> bool:
            return True

    plan = word_plan(Whole(), [])
    known = schedule(plan, Sizes((300 * MIB,)), Resources())
    unknown = schedule(plan, Sizes(), Resources())
    assert known.bounded
    assert known.in_flight_bytes >= 300 * MIB
    assert not unknown.bounded
    assert "embed hash" in plan.explain(unknown)
    assert "waits for all of its input" in plan.explain(unknown)
    assert "grows with the source" in plan.explain(unknown)
