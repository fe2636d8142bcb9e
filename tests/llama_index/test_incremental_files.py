"""The folder that keeps nodes: what is written is read, bit for bit, whatever happens to files and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionPipeline

from llama_index_aaflow import incremental, incremental_files
from llama_index_aaflow.incremental_files import DAY, Folder, Kept
from tests.generated import examples
from tests.llama_index.pipelines import (
    Lengths,
    documents,
    nodes_of,
    splitter,
)


def _key(name: object) -> bytes:
    return str(name).encode().ljust(32, b".")


def _held(folder: Folder) -> dict[bytes, Kept]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries = folder.read()
    return {key: entries.get(key) for key in entries._places}


vectors = st.lists(st.lists(st.floats(allow_nan=False) | st.floats(width=32), max_size=3), max_size=3)


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 9).map(_key), st.builds(Kept, st.just("text"), vectors)), max_size=4))
def test_vectors_come_back_bit_for_bit(runs: list[dict[bytes, Kept]]) -> None:
    """Of any lengths, run after run, in small pieces; what came first stays."""
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(incremental_files, "_PIECE", 9)
        patch.setattr(incremental_files, "_ROWS", 2)
        patch.setattr(incremental_files, "_MANY", 3)
        folder = Folder(path, 1)
        expected: dict[bytes, Kept] = {}
        for run in runs:
            folder.write(folder.read(), [(key, kept) for key, kept in run.items() if key not in expected], ())
            expected = {**run, **expected}
        held = _held(folder)
        assert held.keys() == expected.keys()
        assert all(repr(held[key]) == repr(kept) for key, kept in expected.items())


def test_files_are_merged_and_old_entries_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of files is bounded; what is used stays, of vectors of any length; what is not goes."""
    now = time.time()
    folder = Folder(str(tmp_path), 30)
    for day in range(100):
        monkeypatch.setattr(time, "time", lambda day=day: now + day * DAY)
        entries = folder.read()
        used = [key for key in (_key(0), _key(1)) if key in entries]
        folder.write(entries, [(_key(day), Kept(str(day), [[float(day)] * (day % 3 + 1)]))], used)
        assert len(list(tmp_path.iterdir())) <= incremental_files._MANY + 3
    held = _held(folder)
    assert {_key(0), _key(1), *(_key(day) for day in range(80, 100))} <= held.keys()
    assert not {_key(day) for day in range(2, 30)} & held.keys()
    assert held[_key(1)] == Kept("1", [[1.0, 1.0]])


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_a_damaged_file_is_told_of_once_and_not_believed(tmp_path: Path, harm: str) -> None:
    def run() -> Any:
        pipeline = incremental(IngestionPipeline(transformations=[splitter(), Lengths()]), tmp_path)
        return nodes_of(pipeline, documents(["One sentence. " * 30]))

    expected = run()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:middle], "changed": flipped, "empty": b""}[harm])
    with pytest.warns(UserWarning, match=r"\.arrow is damaged .* computed again"):
        assert run() == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert run() == expected


@pytest.mark.parametrize("what", ["folder", "loop", "pipe", "unreadable"])
def test_what_cannot_be_read_is_told_of_and_left_alone(tmp_path: Path, what: str) -> None:
    def run() -> Any:
        return nodes_of(incremental(IngestionPipeline(transformations=[splitter()]), tmp_path), documents(["One."]))

    path = tmp_path / "a.arrow"
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif os.geteuid() == 0:
        pytest.skip("root reads all files")
    else:
        path.touch(0)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"a\.arrow can't be read"):
            assert run() == nodes_of(IngestionPipeline(transformations=[splitter()]), documents(["One."]))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    pipeline = incremental(IngestionPipeline(transformations=[splitter()]), tmp_path / "loop")
    with pytest.warns(UserWarning, match=r"loop can't be read"):
        assert pipeline.run(documents=documents(["One."]))


def test_an_entry_outlasts_its_last_use_though_uses_are_noted_daily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    folder = Folder(str(tmp_path), 2)
    folder.write(folder.read(), [(_key("used"), Kept("1", []))], ())
    monkeypatch.setattr(time, "time", lambda: now + 0.9 * DAY)
    folder.write(folder.read(), [], [_key("used")])
    monkeypatch.setattr(time, "time", lambda: now + 2.5 * DAY)
    for number in range(40):
        folder.write(folder.read(), [(_key(number), Kept("1", []))], ())
    assert len(list(tmp_path.iterdir())) < 40
    assert _key("used") in _held(folder)
    monkeypatch.setattr(time, "time", lambda: now + 3.5 * DAY)
    for number in range(40, 80):
        folder.write(folder.read(), [(_key(number), Kept("1", []))], ())
    assert _key("used") not in _held(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pipeline = incremental(IngestionPipeline(transformations=[splitter(), Lengths()]), tmp_path / "file")
    with pytest.warns(UserWarning, match="could not be kept in"):
        assert pipeline.run(documents=documents(["One sentence."]))


WRITER = """
import sys
from llama_index_aaflow import incremental_files
from llama_index_aaflow.incremental_files import Folder, Kept
incremental_files._MANY = 3
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
folder = Folder(path, 30)
for number in range(count):
    key = f"{name}{number}".encode().ljust(32, b".")
    folder.write(folder.read(), [(key, Kept("payload" * 1000, [[1.0, number + 0.1]]))], ())
    print(number, flush=True)
"""


def _writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_file_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    """Whether another process has merged it, or it was never there."""
    folder = Folder(str(tmp_path), float("inf"))
    folder.write(folder.read(), [(_key(1), Kept("1", []))], ())
    (tmp_path / "gone.arrow").symlink_to(tmp_path / "nowhere")
    assert _held(folder) == {_key(1): Kept("1", [])}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each adds entries one by one, and merges what all have written."""
    writers = [_writer(tmp_path, name, 40) for name in "abc"]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    held = _held(Folder(str(tmp_path), 30))
    assert held.keys() == {_key(f"{name}{number}") for name in "abc" for number in range(40)}


def test_a_killed_writer_leaves_what_was_written(tmp_path: Path) -> None:
    """Killed at any moment: whatever it had finished is there, and nothing is damaged."""
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        with _writer(folder, "a", 10_000) as writer:
            assert writer.stdout
            done = [writer.stdout.readline() for _ in range(20 + attempt)]
            time.sleep(0.0007 * attempt)
            writer.send_signal(signal.SIGKILL)
            done += writer.stdout.readlines()
        finished = {_key(f"a{number}") for number in range(len([line for line in done if line.endswith("\n")]))}
        assert finished <= _held(Folder(str(folder), 30)).keys()
