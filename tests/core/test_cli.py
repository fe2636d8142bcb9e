"""The command line, as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aaflow_plugins import cli
from aaflow_plugins.engines.launching import rank_environment
from aaflow_plugins.report import OperatorReport, Report

OBJECTS = """
import functools

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

splitter = RecursiveCharacterTextSplitter(chunk_size=200, chunk_overlap=20)
number = 3

def pipeline():
    return {"splitter": splitter, "embedding": DeterministicFakeEmbedding(size=4), "vectorstore": InMemoryVectorStore}

def parser():
    from llama_index.core.node_parser import SentenceSplitter

    return SentenceSplitter(chunk_size=100, chunk_overlap=10)

cached = functools.cache(parser)

def steps():
    from llama_index.core import MockEmbedding
    from llama_index.core.ingestion import IngestionPipeline

    return IngestionPipeline(transformations=[parser(), MockEmbedding(embed_dim=2)])

def broken():
    raise RuntimeError("the user's own")

class Refused(DeterministicFakeEmbedding):
    def embed_documents(self, texts):
        raise ValueError("a bad key")

def refused():
    return splitter, Refused(size=4), InMemoryVectorStore
"""

#: Modules that can't be imported, and what is said of them.
FAILING = {"leaves": "import sys; sys.exit(0)", "silent": "raise ValueError", "lacks": "raise ImportError('no libfoo')"}


@pytest.fixture
def folder(tmp_path: Path, real_texts: list[str]) -> Path:
    (tmp_path / "mine.py").write_text(OBJECTS)
    for name, code in FAILING.items():
        (tmp_path / f"{name}.py").write_text(code)
    report = Report([OperatorReport("load", "texts", None)], fingerprint="", in_flight_bytes=0)
    report.operators[0].rows, report.operators[0].batches, report.wall_seconds = 40, 1, 1.0
    (tmp_path / "report.json").write_text(report.to_json())
    (tmp_path / "no-report.json").write_text("{")
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, text in enumerate(real_texts[:60]):
        (texts / f"{number}.txt").write_text(text, encoding="utf-8")
    (texts / "broken.txt").write_bytes(b"\xff\xfe\x81")
    (texts / "picture.png").write_bytes(b"\x89PNG")
    return tmp_path


def aaflow(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "aaflow_plugins.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.slow
def test_compare_runs_the_users_own_objects_on_their_files(folder: Path) -> None:
    run = aaflow(folder, "compare", "mine:pipeline", "--documents", "texts", "--repeats", "2")
    assert run.returncode == 0, run.stderr
    assert "60 files" in run.stdout
    assert "broken.txt: not valid UTF-8" in run.stdout
    assert "identical results" in run.stdout
    assert "DeterministicFakeEmbedding is not known" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize("target", ["mine:parser", "mine:cached"])
def test_compare_takes_llama_index_objects(target: str, folder: Path) -> None:
    run = aaflow(folder, "compare", target, "--documents", "texts", "--repeats", "1")
    assert run.returncode == 0, run.stderr
    assert "parse 60 documents: SentenceSplitter" in run.stdout
    assert "identical results" in run.stdout


def test_explain_shows_the_plan(folder: Path) -> None:
    run = aaflow(folder, "explain", "mine:pipeline")
    assert run.returncode == 0, run.stderr
    for expected in (
        "load documents",
        "split RecursiveCharacterTextSplitter",
        "upsert InMemoryVectorStore",
        "runs: natively",
    ):
        assert expected in run.stdout


def test_explain_shows_what_of_llama_index_is_native_and_why(folder: Path) -> None:
    run = aaflow(folder, "explain", "mine:steps")
    assert run.returncode == 0, run.stderr
    for expected in ("parse SentenceSplitter", "embed MockEmbedding", "MockEmbedding is not known"):
        assert expected in run.stdout


def test_doctor_names_versions_and_fast_paths(folder: Path) -> None:
    run = aaflow(folder, "doctor")
    assert run.returncode == 0, run.stderr
    for expected in (
        "pyarrow",
        "langchain_aaflow.plugin",
        "InMemoryVectorStore",
        "lean ChatOpenAI",
        "LangGraph",
        "VectorStoreIndex",
        "local",
    ):
        assert expected in run.stdout


def test_launch_starts_ranks(folder: Path) -> None:
    pytest.importorskip("mpi4py", reason="several ranks need aaflow-plugins[mpi]")
    (folder / "ranks.py").write_text(
        "import os, sys\n"
        "from aaflow_plugins.plugins import engine\n"
        "ranks = engine('mpi')\n"
        "print(f'rank {ranks.rank} of {ranks.size}: {sys.argv[1:]}', flush=True)\n"
        "assert os.environ['RAYON_NUM_THREADS'].isdigit()\n"
    )
    run = aaflow(folder, "launch", "-n", "2", "ranks.py", "-n", "own", "--option")
    assert run.returncode == 0, run.stderr
    for rank in range(2):
        assert f"rank {rank} of 2: ['-n', 'own', '--option']" in run.stdout


def test_ranks_share_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aaflow_plugins.engines.launching.available_cores", lambda: 8)
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    assert [rank_environment(ranks)["RAYON_NUM_THREADS"] for ranks in (1, 3, 4, 64)] == ["8", "2", "2", "1"]
    assert "OMP_NUM_THREADS" not in rank_environment(4).keys() - os.environ.keys()
    monkeypatch.setenv("RAYON_NUM_THREADS", "5")
    assert rank_environment(64)["RAYON_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "2", "missing.py"], "missing.py: there is no such script; give its path, and `-n` before it\n"),
        (["-n", "0", "x.py"], "Invalid value"),
        (["-n", "1000000", "mine.py"], "--ranks 1000000: at most"),
    ],
)
def test_launch_says_what_is_wrong(folder: Path, arguments: list[str], said: str) -> None:
    run = aaflow(folder, "launch", *arguments)
    assert run.returncode != 0
    assert said in run.stderr


def test_demo_on_a_folder_of_the_users(folder: Path) -> None:
    pytest.importorskip("wordllama", reason="its model needs numpy 2")
    run = aaflow(folder, "demo", "--corpus", "texts", "--repeats", "1")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("identical results") == 6
    assert run.stdout.count("The nearest passage is in") == 2
    assert "langchain" in run.stdout
    assert "llama-index" in run.stdout


@pytest.mark.at_length
def test_demo_of_one_framework(folder: Path) -> None:
    pytest.importorskip("wordllama", reason="its model needs numpy 2")
    run = aaflow(folder, "demo", "--corpus", "texts", "--repeats", "1", "--framework", "llama-index")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("identical results") == 3
    assert "VectorStoreIndex" in run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "mine:missing", "--documents", "texts"], "'mine' has no 'missing'"),
        (["compare", "mine", "--documents", "texts"], "name it as module:object"),
        (["compare", "nothing:here", "--documents", "texts"], "No module named 'nothing'"),
        (["compare", "mine:pipeline", "--documents", "nowhere"], "nowhere is not a folder"),
        (["compare", "mine:number", "--documents", "texts"], "nothing here to compare"),
        (["compare", "mine:broken", "--documents", "texts"], "RuntimeError: the user's own"),
        (["compare", "mine:splitter", "--documents", "texts", "--repeats", "0"], "repeats must be at least 1"),
        (["compare", "mine:refused", "--documents", "texts"], "both fail with ValueError: a bad key"),
        (["explain", "mine:number"], "nothing here to plan"),
        (["explain", "leaves:x"], "importing leaves ends the program"),
        (["explain", "silent:x"], "error: ValueError"),
        (["explain", "lacks:x"], "lacks:x: ImportError: no libfoo"),
        (["explain", "./mine:pipeline"], "name it as module:object"),
        (["plan", "no-report.json"], "no-report.json: "),
        (["plan", "report.json", "--ranks", "2,4,...,1"], "numbers like 1,2,4 or 2,4,...,2048"),
        (["plan", "report.json", "--latency", "-1"], "latency and overhead must be numbers of microseconds"),
        (["plan", "report.json", "--overhead", "nan"], "latency and overhead must be numbers of microseconds"),
        (["plan", "report.json", "--cores", "inf"], "cores and bandwidth must be positive numbers"),
        (["plan", "report.json", "--bandwidth", "nan"], "cores and bandwidth must be positive numbers"),
        (["demo", "--framework", "other"], "no such plug-in (installed: langchain"),
    ],
)
def test_errors_are_one_clear_line(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: one of its own takes seconds to import what the objects need."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "argv", ["aaflow", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert message in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.slow
def test_debug_shows_the_traceback(folder: Path) -> None:
    run = aaflow(folder, "compare", "mine:broken", "--documents", "texts", "--debug")
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "the user's own" in run.stderr
