"""A plan is checked when it is built and never changes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pyarrow as pa
import pytest

from aaflow_plugins import Executor, Plan, PlanError
from aaflow_plugins.dataplane import schemas
from aaflow_plugins.operators import Load, Split
from tests.core.plans import TEXT, HashEmbedder, split_batch, text_batch, word_plan


def test_an_edge_that_does_not_fit_names_both_operators_and_the_field() -> None:
    load = Load(name="numbers", adds=pa.schema([("text", pa.int64())]), size_of=len, batch_of=text_batch)
    with pytest.raises(PlanError, match=r"load numbers -> split words: field 'text' arrives as int64 but is read as"):
        Plan([load, Split(name="words", reads=TEXT, adds=TEXT, call=split_batch)])


def test_a_missing_field_is_named() -> None:
    load = Load(name="nothing", size_of=len, batch_of=text_batch)
    with pytest.raises(PlanError, match=r"load nothing -> split words: field 'text' is read but does not arrive"):
        Plan([load, Split(name="words", reads=TEXT, adds=TEXT, call=split_batch)])


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(PlanError, match="at least one operator"):
        Plan([])


@pytest.mark.parametrize(
    ("have", "want", "fits"),
    [(3, 3, True), (3, 4, False), (None, 4, True), (4, None, True)],
)
def test_an_unknown_vector_dimension_fits_any(have: int | None, want: int | None, fits: bool) -> None:
    assert schemas.compatible(schemas.vector("v", have), schemas.vector("v", want)) is fits


def test_a_plan_cannot_be_changed() -> None:
    plan = word_plan(HashEmbedder(), [])
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.operators = ()  # type: ignore[misc]


def test_the_fingerprint_is_stable_across_processes_and_depends_on_the_configuration() -> None:
    code = (
        "from tests.core.plans import *; import dataclasses;"
        "p = word_plan(HashEmbedder(), []); print(p.fingerprint());"
        "load, *rest = p.operators;"
        "print(Plan([dataclasses.replace(load, config={'a': 1}), *rest]).fingerprint())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    same, other = run.stdout.split()
    assert same == word_plan(HashEmbedder(), []).fingerprint()
    assert other != same


def test_fingerprints_of_operators_tell_which_differs() -> None:
    load, *rest = word_plan(HashEmbedder(), []).operators
    same, other = (Plan([each, *rest]).fingerprints() for each in (load, dataclasses.replace(load, config={"a": 1})))
    assert [name for name in same if same[name] != other[name]] == [f"{load.kind} {load.name}"]


def test_explain_shows_operators_schemas_and_the_schedule() -> None:
    plan = word_plan(HashEmbedder(), [])
    text = plan.explain(Executor(max_concurrency=3).schedule(plan))
    for expected in (
        "1. load texts [map]",
        "out: text: large_string",
        "vector: vector<float32>[3]",
        "3 at once on thread",
    ):
        assert expected in text
    assert "in flight at most" in text
