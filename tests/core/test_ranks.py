"""Starts several ranks, each of which runs the tests of `tests/ranks`; and what happens when one of them fails."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="several ranks need aaflow-plugins[mpi]")

from aaflow_plugins.engines.launching import launch_command
from tests.house.code_blocks import code_blocks

ROOT = Path(__file__).resolve().parents[2]
#: As long as four ranks may take on two cores that do something else besides.
SECONDS = 600


def run(ranks: int, *program: str, seconds: float = SECONDS, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        launch_command(ranks, program),
        cwd=ROOT,
        # Plug-ins of pytest that nobody asked for take each rank some seconds to import.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )


#: What one Python and one version of everything can tell.
SLOW = pytest.mark.slow


def suite(ranks: int, *tests: str, **environment: str) -> None:
    folder = ROOT / "tests" / "ranks"
    plugins = ("-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin")
    chosen = [str(folder / f"test_{name}.py") for name in tests] or [str(folder)]
    done = run(ranks, "-m", "pytest", *plugins, f"--confcutdir={folder}", *chosen, **environment)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@SLOW
def test_suite() -> None:
    suite(1)


@SLOW
def test_one_of_five_parameters_of_every_test() -> None:
    suite(2, ONE_EXAMPLE_OF="5")


@pytest.mark.parametrize("ranks", [3, pytest.param(4, marks=SLOW)])
def test_engines_and_shards(ranks: int) -> None:
    """What numbers of ranks can tell most of."""
    suite(ranks, "communicator", "tasks", "engine_cylon", "langchain_dedupe", "langchain_shards", "llama_index_shards")


@pytest.mark.at_length
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_suite_at_length(ranks: int) -> None:
    suite(ranks)


FAILED = "RankError: rank 1 failed: ValueError: chunk 17 is bad"
PLAN = "RankError: rank 1 runs something else: not with rank 0's plan; settings and versions must be the same"
COLUMNS = "RankError: rank 1 came to all_gather with a: int32, where rank 0 has a: int64"
CALLS = "RankError: rank 1 came to gather at 0, rank 0 to shuffle by a"


@pytest.mark.parametrize(
    ("what", "own", "others"),
    [
        ("error", "ValueError: chunk 17 is bad", FAILED),
        pytest.param("error while others work", "ValueError: chunk 17 is bad", FAILED, marks=SLOW),
        pytest.param("plan", PLAN, PLAN, marks=SLOW),
        pytest.param("columns", COLUMNS, COLUMNS, marks=SLOW),
        pytest.param("calls", CALLS, CALLS, marks=SLOW),
    ],
)
def test_an_error_is_raised_on_all_ranks(what: str, own: str, others: str) -> None:
    done = run(3, "-m", "tests.ranks.programs.failing", what)
    assert done.returncode != 0
    for rank in range(3):
        assert f"rank {rank} raises {own if rank == 1 else others}" in done.stderr
    assert "late" not in done.stderr


@pytest.mark.parametrize(
    ("what", "said"),
    [
        pytest.param("error outside", "rank 1 raises ValueError: chunk 17 is bad", marks=SLOW),
        pytest.param("end", "RankError: rank 1 has ended", marks=SLOW),
        ("kill", "signal 9"),
    ],
)
def test_a_rank_that_is_gone_ends_the_job(what: str, said: str) -> None:
    """By whoever notices first; the others may have no time to say anything."""
    done = run(3, "-m", "tests.ranks.programs.failing", what)
    assert done.returncode != 0
    assert said in done.stderr + done.stdout
    assert "late" not in done.stderr


@pytest.mark.parametrize("what", ["peace", pytest.param("status", marks=SLOW), pytest.param("error", marks=SLOW)])
def test_a_rank_that_ends_before_it_has_met_the_others(what: str) -> None:
    try:
        done = run(3, "-m", "tests.ranks.programs.absent", what, seconds=90)
        assert done.returncode != 0
        said = done.stderr
    except subprocess.TimeoutExpired as late:
        # Open MPI's launcher may crash, and has hung once, when it is to end a job of which one rank waits in the
        # `Finalize` of MPI: the ranks have done their part by then.
        said = (late.stderr or b"").decode(errors="replace")
    assert "RankError: rank 1 has ended" in said


@pytest.mark.parametrize("what", ["pipeline", pytest.param("chain", marks=SLOW)])
def test_a_task_that_is_cancelled_in_the_first_call(what: str) -> None:
    """Before the others have come: they hear of it nevertheless, and the next call is all ranks' next one."""
    done = run(2, "-m", "tests.ranks.programs.cancelled", what)
    assert done.returncode == 0
    results = "1 results" if what == "pipeline" else "2 results"
    for line in ("rank 0: TimeoutError ", "rank 1: RankError rank 0 was cancelled"):
        assert line in done.stderr.splitlines()
    assert [f"rank {rank}: {results}" in done.stderr for rank in range(2)] == [True, True]


def test_an_interrupt_ends_all_ranks() -> None:
    """Ctrl-C reaches the launcher."""
    command = launch_command(2, ["-m", "tests.ranks.programs.failing", "interrupt"])
    job = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stderr is not None
    while "waiting" not in (line := job.stderr.readline()):
        assert line, "the job ended by itself"
    began = time.monotonic()
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=60)
    assert job.returncode != 0
    assert time.monotonic() - began < 30


def test_a_launcher_of_another_mpi() -> None:
    """Each process would take itself for the only one, and do the whole job."""
    program = "from aaflow_plugins.plugins import engine; engine('mpi')"
    environment = {**os.environ, "PMI_SIZE": "4"}
    command = launch_command(1, ["-c", program])
    done = subprocess.run(command[-3:], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "a launcher has started 4 ranks, but the MPI library that mpi4py found sees 1" in done.stderr


@pytest.mark.parametrize(
    ("document", "name", "folder", "files"),
    [
        ("README.md", "index_on_ranks.py", "index", ["index.faiss", "index.pkl"]),
        pytest.param(
            "docs/ranks.md",
            "shards_on_ranks.py",
            "shards",
            ["manifest.json", "shard-00000", "shard-00001"],
            marks=SLOW,
        ),
        pytest.param("docs/ranks.md", "nightly_on_ranks.py", "nightly", ["0", "1"], marks=SLOW),
    ],
)
def test_scripts_of_the_documents(document: str, name: str, folder: str, files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("wordllama", reason="its model needs numpy 2")
    (script,) = (block for block in code_blocks(ROOT / document) if block.file == name)
    (tmp_path / name).write_text(script.code, encoding="utf-8")
    (tmp_path / "documents").mkdir()
    for number in range(4):
        (tmp_path / "documents" / f"{number}.txt").write_text(f"Text {number}. " * 200)
    command = launch_command(2, [name])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == files
