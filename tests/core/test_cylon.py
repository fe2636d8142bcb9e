"""Cylon is used where it gives right answers, and nothing breaks where it does not.

Cylon itself is seldom installed: a stand-in for it, `tests/ranks/stand_ins/pycylon`, has its limits, and faults on
demand. The variable AAFLOW_CYLON_PYTHON names an interpreter whose environment has the real one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mpi4py", reason="Cylon needs aaflow-plugins[mpi]")

from aaflow_plugins.engines import cylon_check
from aaflow_plugins.engines.cylon_rows import Addressed, as_streams, direct_columns, of_streams, received
from aaflow_plugins.engines.launching import launch_command
from tests.generated import examples

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = ROOT / "tests" / "ranks" / "stand_ins"
RANKS = ROOT / "tests" / "ranks"
SUITE = (
    *("-m", "pytest", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", f"--confcutdir={RANKS}", "-k", "cylon"),
    *(str(RANKS / "test_communicator.py"), str(RANKS / "test_engine_cylon.py")),
)
SECONDS = 120

SLOW = pytest.mark.slow


def with_stand_in(fault: str) -> dict[str, str]:
    """An environment in which a stand-in takes Cylon's place."""
    return {**os.environ, "PYTHONPATH": str(STAND_INS), "STAND_IN": fault}


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )


# -- the check -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seconds", "expected"),
    [
        pytest.param("", 60, cylon_check.Verdict("", string_keys=True), marks=SLOW),
        pytest.param("strings", 60, cylon_check.Verdict("", string_keys=False), marks=SLOW),
        ("wrong", 60, "the shuffle of strings raised ValueError: other rows arrive"),
        ("crashes", 60, "the Arrow round trip ended by SIGSEGV"),
        pytest.param("hangs", 1, "gave no answer within 1 s", marks=SLOW),
    ],
)
def test_check(fault: str, seconds: int, expected: cylon_check.Verdict | str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setenv("STAND_IN", fault)
    verdict = cylon_check.check(seconds)
    if isinstance(expected, str):
        assert verdict.fault.startswith("pycylon found, but it fails its self-check: the ")
        assert verdict.fault.endswith(expected)
    else:
        assert verdict == expected
    assert "pycylon" not in sys.modules


def test_without_a_launcher_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "the import was not tried: no `mpirun`" in cylon_check.check().fault


# -- the engine ------------------------------------------------------------------------------------------

MISSING = """
import sys
sys.modules["pycylon"] = None
from aaflow_plugins import Executor
from aaflow_plugins.plugins import ranks_of
executor = Executor(engine="cylon")
assert "mpi4py" not in sys.modules
print(ranks_of(executor).name, ranks_of(executor).name)
"""


def test_where_it_is_missing_one_line_says_so() -> None:
    done = run([sys.executable, "-c", MISSING], dict(os.environ))
    assert (done.stdout, done.stderr) == ("mpi mpi\n", "pycylon is not installed; using the mpi engine\n")


FAULTY = """
import sys
from aaflow_plugins import Executor
from aaflow_plugins.plugins import ranks_of
ranks = ranks_of(Executor(engine="cylon"))
assert "pycylon" not in sys.modules
with ranks.together("work"):
    print(f"rank {ranks.rank} of {ranks.size}: {ranks.name}", flush=True)
"""


def test_where_it_is_faulty_the_ranks_of_a_job_do_without() -> None:
    done = run(launch_command(2, ["-c", FAULTY]), with_stand_in("crashes"))
    # The launcher may put what ranks write at the same time into one line.
    assert all(done.stdout.count(f"rank {rank} of 2: mpi") == 1 for rank in range(2)), done.stdout + done.stderr
    reason = "pycylon found, but it fails its self-check: the Arrow round trip ended by SIGSEGV"
    assert done.stderr == f"{reason}; using the mpi engine\n"


FAILING = """
import pyarrow as pa
from aaflow_plugins.engines.cylon import CylonCommunicator
from aaflow_plugins.engines.mpi import connect
with connect().together("set up"):
    ranks = CylonCommunicator(connect())
def failing(*_):
    raise ValueError("out of buffers")
if ranks.rank == 1:
    ranks.library.shuffle = failing
with ranks.together("work"):
    ranks.shuffle(pa.table({"key": [1, 2]}), "key")
"""


@pytest.mark.slow
def test_a_fault_within_cylon_ends_the_job() -> None:
    """The other ranks hear of nothing while they are in it."""
    done = run(launch_command(2, ["-c", FAILING]), with_stand_in(""))
    assert done.returncode != 0
    assert "ValueError: out of buffers\nrank 1 failed while data was on its way: the job ends" in done.stderr


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.at_length), pytest.param(3, marks=SLOW)])
def test_suite(ranks: int) -> None:
    """With what released versions do to strings as keys: the engine has no such keys."""
    environment = {**with_stand_in("strings"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = run(launch_command(ranks, SUITE), environment)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


START = """
import os, sys
from aaflow_plugins.engines.launching import launch_command
command = launch_command(int(sys.argv[1]), sys.argv[2:])
os.execv(command[0], command)
"""


@pytest.mark.parametrize("ranks", [2, 3])
def test_suite_with_cylon_itself(ranks: int) -> None:
    python = os.environ.get("AAFLOW_CYLON_PYTHON")
    if python is None:
        pytest.skip("AAFLOW_CYLON_PYTHON names no interpreter whose environment has pycylon and aaflow-plugins[test]")
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = run([python, "-c", START, str(ranks), *SUITE], environment)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


# -- rows ------------------------------------------------------------------------------------------------

TYPES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint8(): st.integers(0, 255),
    pa.float16(): st.just(np.float16(1.5)),
    pa.float64(): st.floats(allow_nan=False),
    pa.timestamp("us"): st.integers(0, 2**50),
    pa.decimal128(30): st.integers(-(10**20), 10**20),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(),
    pa.large_string(): st.text(),
    pa.binary(): st.binary(),
    pa.large_binary(): st.binary(),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.list_(pa.float32(), 2): st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2),
    pa.list_(pa.string()): st.lists(st.text()),
    pa.struct([("a", pa.int8())]): st.fixed_dictionaries({"a": st.integers(0, 9)}),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Columns of any types, with nulls or without, in chunks with offsets."""
    rows = draw(st.integers(0, 12))
    types = draw(st.lists(st.sampled_from([*TYPES]), max_size=4))
    columns = []
    for type_ in types:
        values = TYPES[type_] | st.none() if draw(st.booleans()) else TYPES[type_]
        columns.append(pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), type_))
    table = pa.table([pa.array(range(rows)), *columns], [f"c{number}" for number in range(len(columns) + 1)])
    cut = draw(st.integers(0, rows))
    return pa.concat_tables([table.slice(cut), table.slice(0, cut)]).slice(draw(st.integers(0, rows)))


def brought(sent: Addressed, size: int, random: Random) -> tuple[pa.Table, np.ndarray]:
    """What is received of rows that go in slices, and come in any order."""
    slices = sent.slices(size)
    assert [number for each in slices for number in range(each.start, each.stop)] == [*range(len(sent.owners))]
    parts = [sent.carried(each) for each in [*slices, slice(0, 0)]]
    mixed = pa.concat_tables(random.sample(parts, len(parts)))
    order = random.sample(range(mixed.num_rows), mixed.num_rows)
    return received([mixed.take(pa.array(order, pa.int64()))], sent.table.schema)


@settings(max_examples=examples(30), deadline=None)
@given(tables(), st.integers(1, 200), st.randoms(use_true_random=False))
def test_rows_are_the_same_when_they_come_back(table: pa.Table, size: int, random: Random) -> None:
    direct = direct_columns(table, 100)
    rows = table.select([number for number, is_direct in enumerate(direct) if is_direct])
    rest = table.select([number for number, is_direct in enumerate(direct) if not is_direct])
    owners = np.zeros(table.num_rows, np.int64)
    found, ranks = brought(Addressed(3, owners, rows), size, random)
    assert found.combine_chunks().equals(rows.combine_chunks())
    assert set(ranks.tolist()) <= {3}
    if rest.num_columns:
        streams = as_streams(3, rest, owners, 1, size)
        found = of_streams(*brought(streams, size, random), rest.schema)
        assert found.combine_chunks().equals(rest.combine_chunks())
