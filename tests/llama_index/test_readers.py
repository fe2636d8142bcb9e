"""SimpleDirectoryReader reads the native documents, side by side where natively worker processes would."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import SimpleDirectoryReader
from llama_index.core.readers.base import BaseReader
from llama_index.core.readers.file import base as native_module
from llama_index.core.schema import Document

from llama_index_aaflow import accelerate, readers
from llama_index_aaflow.readers import ReadsInThreads, native_reason
from tests.generated import examples
from tests.llama_index.parsing_outcomes import corpus, outcome, visible

CONTENTS = {
    "a.txt": b"Some words.\n",
    "b.md": "# \u00dcber \u4e2d\u6587 \U0001f600\r\nline\x00".encode(),
    "c": b"",
    "d.py": b"bad \xff\xfe bytes \xed\xa0\x80",
    "\u00e9 (1).TXT": b"\xef\xbb\xbfmarked",
    "sub/e.tar.gz": b"x" * 70_000,
    "sub/.hidden/f.rst": b"hidden",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in CONTENTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "link.txt").symlink_to("sub/e.tar.gz")
    return tmp_path


@pytest.fixture(autouse=True)
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """More workers than cores are refused; here are 4 cores, whatever the machine."""
    monkeypatch.setattr(multiprocessing, "cpu_count", lambda: 4)


def reader_of(folder: Path, **given: Any) -> Any:
    return SimpleDirectoryReader(folder, **{"recursive": True, "filename_as_id": True, **given})


def assert_reads_the_same(reader: Any) -> None:
    """Assert that threads give what native reads in its loop, sent as worker processes send it."""
    accelerated = accelerate(reader)
    assert isinstance(accelerated, ReadsInThreads)
    native = outcome(lambda: pickle.loads(pickle.dumps(reader.load_data())))
    assert outcome(lambda: accelerated.load_data(num_workers=2)) == native
    assert outcome(accelerated.load_data) == outcome(reader.load_data)


# -- documents -------------------------------------------------------------------------------------------


def test_documents_of_worker_processes(folder: Path) -> None:
    reader = reader_of(folder, exclude_hidden=False)
    native = reader.load_data(num_workers=2)
    assert len(native) == 8
    assert visible(accelerate(reader).load_data(num_workers=2)) == visible(native)


def test_real_text(tmp_path: Path) -> None:
    for number, text in enumerate(corpus(300_000)):
        (tmp_path / f"{number}.md").write_text(text, encoding="utf-8")
    assert_reads_the_same(reader_of(tmp_path))


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(st.binary(max_size=12), st.text(max_size=6).map(str.encode)), min_size=1, max_size=4),
    st.sampled_from(["utf-8", "utf-16", "ascii", "latin-1", "cp1252"]),
    st.sampled_from(["ignore", "strict", "replace", "backslashreplace"]),
)
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes], encoding: str, errors: str) -> None:
    folder = tmp_path_factory.mktemp("files")
    for number, content in enumerate(contents):
        (folder / f"{number}.txt").write_bytes(content)
    assert_reads_the_same(reader_of(folder, encoding=encoding, errors=errors))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"exclude_hidden": False, "exclude_empty": True},
        {"num_files_limit": 3},
        {"required_exts": [".txt"]},
        {"recursive": False, "exclude": ["*.md"]},
        {"raise_on_error": True},
        {"file_extractor": {".unused": BaseReader()}},
        {"fs": LocalFileSystem()},
    ],
)
def test_settings(folder: Path, given: dict[str, Any]) -> None:
    assert_reads_the_same(reader_of(folder, **given))


def test_ids_of_any_kind(folder: Path) -> None:
    """Random ids differ, and nothing else."""
    reader = reader_of(folder, filename_as_id=False)
    native, ours = pickle.loads(pickle.dumps(reader.load_data())), accelerate(reader).load_data(num_workers=2)
    assert len({document.id_ for document in ours}) == len(ours)
    for theirs, document in zip(native, ours, strict=True):
        assert len(document.id_) == len(theirs.id_)
        document.__dict__["id_"] = theirs.id_
    assert visible(ours) == visible(native)


@pytest.mark.parametrize(
    "change", [os.remove, lambda path: os.chmod(path, 0), lambda path: (os.remove(path), os.mkdir(path))]
)
def test_files_that_change(folder: Path, change: Callable[[Any], Any]) -> None:
    """What can't be read when its turn comes raises what it raises natively."""
    reader = reader_of(folder)
    change(folder / "b.md")
    assert_reads_the_same(reader)


def test_order_and_no_threads_left(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.txt").write_text("x" * (300 - number) * 40)
    before = threading.active_count()
    assert_reads_the_same(reader_of(tmp_path))
    assert threading.active_count() == before


def test_files_are_read_at_the_same_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native, together = LocalFileSystem._open, threading.Barrier(4, timeout=20)

    def meeting(*given: Any, **settings: Any) -> Any:
        together.wait()
        return native(*given, **settings)

    reader = accelerate(SimpleDirectoryReader(input_files=[folder / name for name in ("a.txt", "b.md", "c", "d.py")]))
    monkeypatch.setattr(LocalFileSystem, "_open", meeting)
    assert len(reader.load_data(num_workers=4)) == 4


# -- as natively -----------------------------------------------------------------------------------------


def test_it_is_the_native_class_to_everybody(folder: Path) -> None:
    reader = reader_of(folder)
    accelerated = accelerate(reader)
    assert isinstance(accelerated, SimpleDirectoryReader)
    assert type(accelerated).__qualname__ == "SimpleDirectoryReader"
    assert accelerate(accelerated) is accelerated
    assert native_reason(reader) is native_reason(accelerated) is None
    assert vars(accelerated) == vars(reader)
    restored = pickle.loads(pickle.dumps(accelerated))
    assert type(restored) is type(accelerated)
    accelerated.filename_as_id = False
    assert reader.filename_as_id
    reader.input_files.pop()
    assert len(accelerated.input_files) == len(reader.input_files)
    assert_reads_the_same(reader)


def test_other_methods(folder: Path) -> None:
    reader = reader_of(folder)
    accelerated = accelerate(reader)
    assert accelerated.list_resources() == reader.list_resources()
    resource = reader.list_resources()[0]
    assert accelerated.get_resource_info(resource) == reader.get_resource_info(resource)
    assert outcome(lambda: accelerated.load_resource(resource)) == outcome(lambda: reader.load_resource(resource))
    assert visible(list(accelerated.iter_data())) == visible(list(reader.iter_data()))
    assert visible(asyncio.run(accelerated.aload_data(num_workers=2))) == visible(asyncio.run(reader.aload_data()))


def test_warnings_and_progress(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        accelerate(reader_of(folder)).load_data(num_workers=5, show_progress=True)
    (warning,) = (each for each in seen if "num_workers" in str(each.message))
    modern = "stacklevel" in Path(native_module.__file__).read_text()
    assert warning.filename == (__file__ if modern else native_module.__file__)
    assert ("Loading files" in capsys.readouterr().err) or not modern


class Upper(BaseReader):
    def load_data(self, file: Path, extra_info: Any = None) -> list[Document]:
        return [Document(text=file.read_text().upper(), metadata=extra_info)]


class Elsewhere(LocalFileSystem):
    pass


@pytest.mark.parametrize(
    "given",
    [
        {"file_extractor": {".txt": Upper()}},
        {"file_metadata": lambda path: {"path": path}},
        {"fs": Elsewhere()},
        {"encoding": "utf-7"},
        {"encoding": "unheard-of"},
        {"errors": "surrogateescape"},
    ],
)
def test_what_may_call_others_code_is_done_by_processes(
    folder: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = accelerate(reader_of(folder, **given))
    assert isinstance(reader, ReadsInThreads)
    _assert_takes_processes(reader, monkeypatch)


@pytest.mark.parametrize("owner", [SimpleDirectoryReader, native_module])
def test_patched_code_is_done_by_processes(folder: Path, owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = accelerate(reader_of(folder))
    if owner is native_module:
        monkeypatch.setattr(owner, "default_file_metadata_func", lambda path, fs: {})
    else:
        monkeypatch.setattr(owner, "load_file", staticmethod(lambda *given, **settings: []))
    _assert_takes_processes(reader, monkeypatch)


def _assert_takes_processes(reader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(method: str) -> Any:
        raise InterruptedError(method)

    monkeypatch.setattr(readers.multiprocessing, "get_context", asked)
    with pytest.raises(InterruptedError, match="spawn"):
        reader.load_data(num_workers=2)


def test_what_stays_native(folder: Path) -> None:
    class Mine(SimpleDirectoryReader):
        def load_data(self, *given: Any, **settings: Any) -> list[Document]:
            return []

    class Heir(SimpleDirectoryReader):
        pass

    mine, own = Mine(folder), reader_of(folder)
    assert accelerate(mine) is mine
    assert "overrides load_data" in str(native_reason(mine))
    own.load_data = list
    assert accelerate(own) is own
    assert isinstance(accelerate(Heir(folder)), Heir)
    assert_reads_the_same(Heir(folder, filename_as_id=True))
