"""Accelerated SimpleVectorStores write the native bytes and read what native reads."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from dataclasses_json.cfg import global_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import StorageContext
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.simple import SimpleVectorStoreData

from aaflow_plugins import accelerate
from llama_index_aaflow import simple_vector_files
from llama_index_aaflow.simple_vector_store import AcceleratedSimpleVectorStore
from tests.generated import examples
from tests.llama_index.stored_vectors import accelerated, filled
from tests.observed import logged

#: Numbers in every notation, and on both sides of where it changes.
NUMBERS = [
    0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 1e-4, math.nextafter(1e-4, 0), math.nextafter(1e-4, 1), 1e-5, 9.999e-5,
    1.234e-5, -1e-5, 1e-7, 1e-10, 5e-324, 2.2250738585072014e-308, 1e15, 1e16, math.nextafter(1e16, 0),
    math.nextafter(1e16, 1e17), 123456789012345678.0, 1e17, 1e22, 1e23, 1.7976931348623157e308, 100.00001,
    9007199254740993.0, 0.00010000000000000002,
]  # fmt: skip

floats = st.one_of(st.sampled_from(NUMBERS), st.floats(allow_nan=False, allow_infinity=False), st.floats(-1e-3, 1e-3))
any_text = st.text(st.characters(codec=None), max_size=6)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
stored = st.dictionaries(any_text, st.tuples(st.lists(floats, max_size=6), any_text, plain_json), max_size=5)


@pytest.fixture(params=["orjson", "json"])
def _reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "json":
        monkeypatch.setattr(simple_vector_files, "orjson", None)


both_readers = pytest.mark.usefixtures("_reader")


def store_of(rows: dict[str, Any]) -> SimpleVectorStore:
    store = SimpleVectorStore()
    for key, (vector, document, metadata) in rows.items():
        store.data.embedding_dict[key] = vector
        store.data.text_id_to_ref_doc_id[key] = document
        store.data.metadata_dict[key] = metadata
    return store


def written(store: SimpleVectorStore, path: Path) -> Any:
    """The file that a store leaves, or its error and what it leaves."""
    try:
        store.persist(str(path))
    except Exception as error:
        return type(error), str(error), path.read_bytes() if path.exists() else None
    return path.read_bytes()


def loaded(store_class: Any, path: Path) -> Any:
    """The data of a file, told apart by types and bits, or the error."""
    try:
        store = store_class.from_persist_path(str(path))
    except Exception as error:
        return type(error), str(error)
    data = store.data
    return type(data), *(repr(getattr(data, name)) for name in simple_vector_files._FIELDS)


def assert_same_file(store: SimpleVectorStore, tmp_path: Path) -> None:
    """Natively and accelerated the same file is written, and each file is read the same."""
    expected = written(store, tmp_path / "native" / "store.json")
    assert written(accelerated(store), tmp_path / "ours" / "store.json") == expected
    if type(expected) is bytes:
        assert_same_contents(expected, tmp_path)


def assert_same_contents(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "read.json"
    path.write_bytes(content)
    assert loaded(AcceleratedSimpleVectorStore, path) == loaded(SimpleVectorStore, path)


@both_readers
def test_stores_of_every_size(tmp_path: Path) -> None:
    for rows in (0, 1, 127, 128, 129, 400):
        assert_same_file(filled(rows), tmp_path)
    assert_same_file(store_of({"a": (NUMBERS, "d", {"n": NUMBERS, "inf": math.inf})}), tmp_path)


@both_readers
@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored)
def test_generated_stores(tmp_path: Path, rows: dict[str, Any]) -> None:
    assert_same_file(store_of(rows), tmp_path)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(floats, min_size=1, max_size=40))
def test_generated_numbers(numbers: list[float]) -> None:
    assert simple_vector_files._vector(numbers) == json.dumps(numbers)


@dataclass
class Point:
    x: int


CHANGES: list[Callable[[Any], None]] = [
    lambda data: data.embedding_dict.update(n1=[1, 2]),
    lambda data: data.embedding_dict.update(n1=(1.0, 2.0)),
    lambda data: data.embedding_dict.update(n1=[math.nan, math.inf, 1.0]),
    lambda data: data.embedding_dict.update(n1=[None]),
    lambda data: data.embedding_dict.update(n1=[True, 1.0]),
    lambda data: data.embedding_dict.update(n1=["n", "e"]),
    lambda data: data.embedding_dict.update(n1=None),
    lambda data: data.embedding_dict.update(n1={1.0}),
    lambda data: data.embedding_dict.update({1: [1.0]}),
    lambda data: data.embedding_dict.update({("a",): [1.0]}),
    lambda data: data.embedding_dict.update({"\ud800": [1.0]}),
    lambda data: data.text_id_to_ref_doc_id.update(n1=3),
    lambda data: data.text_id_to_ref_doc_id.update(n1=None),
    lambda data: data.text_id_to_ref_doc_id.update(n1="\ud800 \x00 \u2028"),
    lambda data: data.metadata_dict.update(n1={1: {True: "a", None: 2.0}}),
    lambda data: data.metadata_dict.update(n1=Point(3)),
    lambda data: data.metadata_dict.update(n1={"set": {1}}),
    lambda data: data.metadata_dict.update(n1={"object": object()}),
    lambda data: data.metadata_dict.update(n1={"bytes": b"x"}),
    lambda data: data.metadata_dict.update(n1={"big": 2**70, "negative": -(2**63) - 1, "edge": 2**64 - 1}),
    lambda data: data.metadata_dict.update(n1={"huge": [1e19, -1e300]}),
    lambda data: data.metadata_dict.update(n1=nested(20)),
    lambda data: data.metadata_dict.update(n1=nested(200)),
    lambda data: data.metadata_dict.update(n1=nested(100_000)),
    lambda data: data.metadata_dict.update(n1=data.metadata_dict),
    lambda data: setattr(data, "metadata_dict", None),
    lambda data: setattr(data, "metadata_dict", {}),
    lambda data: setattr(data, "embedding_dict", []),
    lambda data: setattr(data, "another", 1),
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@both_readers
@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_the_native_add_does_not_put_there(change: Callable[[Any], None], tmp_path: Path) -> None:
    store = filled(5)
    change(store.data)
    assert_same_file(store, tmp_path)
    # Over a file that is there: an error leaves what it leaves natively.
    for folder in ("native", "ours"):
        (tmp_path / folder / "store.json").write_bytes(b"older")
    assert_same_file(store, tmp_path)


CONTENTS = [
    b"", b"{}", b"[]", b"null", b"3", b"{", b'{"embedding_dict": {}}', b'{"embedding_dict": {}, "other": {}}',
    b'{"embedding_dict": null}', b'{"embedding_dict": []}', b'{"embedding_dict": {"a": null}}',
    b'{"embedding_dict": {"a": [1, 2.5, true]}}', b'{"embedding_dict": {"a": [null]}}',
    b'{"embedding_dict": {"a": "xy"}}',
    b'{"embedding_dict": {"a": ["1"]}}', b'{"embedding_dict": {"a": [NaN, Infinity, -Infinity]}}',
    b'{"embedding_dict": {"a": [1e400]}}', b'{"embedding_dict": {"a": [1E5, -0, -0.0, 0e7]}}',
    b'{"embedding_dict": {"a": [18446744073709551617, 1' + b"0" * 400 + b"]}}",
    b'{"embedding_dict": {"a": [18446744073709551617, 0.5]}}',
    b'{"embedding_dict": {"a": [1.5], "b": [2.5], "a": [3.5]}}',
    b'{"embedding_dict": {"a": [1.5]}, "embedding_dict": {}}',
    b'{"text_id_to_ref_doc_id": {"a": 1, "b": null, "c": 1.5}}', b'{"text_id_to_ref_doc_id": {"a": ["x"]}}',
    b'{"metadata_dict": {"a": {"big": 18446744073709551616, "small": -9223372036854775809}}}',
    b'{"metadata_dict": {"a": {"max": 18446744073709551615, "min": -9223372036854775808}, "b": 1e300, "c": -0}}',
    b'{"metadata_dict": {"a": "\\ud800", "b": "\\ud83d\\ude00", "c": NaN}}', b'{"metadata_dict": {"a": "\xff"}}',
    '\ufeff{"metadata_dict": {"a": "é"}}'.encode(), '{"metadata_dict": {"a": "é"}}'.encode("utf-16"),
    '{"metadata_dict": {"é": "é", "\u2028": "\U0001f600"}}'.encode(), b' {"metadata_dict" :\n{"a"\t: [ ]} } \r\n',
    b'{"metadata_dict": {"a": "\x01"}}', b'{"metadata_dict": {"a": 1,}}', b'{"metadata_dict": {"a": ' + b"[" * 2000,
    b'{"metadata_dict": {"a": ' + b"[" * 1500 + b"]" * 1500 + b"}}", b"{'a': 1}", b'{"metadata_dict": {"a": 01}}',
    b'{"metadata_dict": {"a": ' + b'{"b": ' * 700 + b"1" + b"}" * 702, b'{"metadata_dict": {"a": [1e400, 2e300]}}',
    b'{"embedding_dict": {"a": [1.5]}} extra', b'{"embedding_dict": {"a": [1.5]}}\n',
]  # fmt: skip


@both_readers
@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_files_that_somebody_else_wrote(content: bytes, tmp_path: Path) -> None:
    assert_same_contents(content, tmp_path)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,24})\.[0-9]{1,24}([eE][+-]?[0-9]{1,3})?", fullmatch=True), max_size=9)
)
def test_numbers_that_somebody_else_wrote(tmp_path: Path, numbers: list[str]) -> None:
    assert_same_contents(f'{{"embedding_dict": {{"a": [{", ".join(numbers)}]}}}}'.encode(), tmp_path)


def test_ways_in_and_out(tmp_path: Path) -> None:
    native = filled(40)
    view = accelerate(native)
    store_class = accelerate(SimpleVectorStore)
    for namespace in ("default", "image"):
        view.persist(str(tmp_path / "new" / "folder" / f"{namespace}__vector_store.json"))
    folder = str(tmp_path / "new" / "folder")
    for found in (
        store_class.from_persist_dir(folder),
        store_class.from_persist_dir(folder, namespace="image"),
        store_class.from_namespaced_persist_dir(folder)["image"],
        store_class.from_persist_dir("folder", fs=fsspec.filesystem("dir", path=str(tmp_path / "new"))),
    ):
        assert type(found) is store_class
        assert found.data == native.data
    with pytest.raises(ValueError, match="No existing llama_index") as ours:
        store_class.from_persist_path("/no/such/file")
    with pytest.raises(ValueError, match="No existing llama_index") as theirs:
        SimpleVectorStore.from_persist_path("/no/such/file")
    assert str(ours.value) == str(theirs.value)
    context = StorageContext.from_defaults(vector_store=view)
    context.persist(str(tmp_path / "context"))
    assert StorageContext.from_defaults(persist_dir=str(tmp_path / "context")).vector_store.data == native.data


def test_other_filesystems(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    store = filled(40)
    for each, path in ((store, "/native/store.json"), (accelerated(store), "/ours/store.json")):
        each.persist(path, fs=memory)
        own = copy.copy(each)
        own._fs = memory
        own.persist("/own" + path)
    files = [memory.cat(path) for path in ("/native/store.json", "/ours/store.json")]
    assert files == [memory.cat("/own" + path) for path in ("/native/store.json", "/ours/store.json")]
    assert files[0] == files[1]
    assert AcceleratedSimpleVectorStore.from_persist_path("/ours/store.json", fs=memory).data == store.data


def test_a_filesystem_that_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for store in (filled(3), accelerated(filled(3))):
        with pytest.raises(OSError, match="file"):
            store.persist(str(tmp_path / "file" / "store.json"))
        with pytest.raises(IsADirectoryError):
            store.persist(str(tmp_path))


def test_what_is_logged(tmp_path: Path) -> None:
    path = str(tmp_path / "store.json")
    filled(3).persist(path)
    told = []
    for store_class in (SimpleVectorStore, AcceleratedSimpleVectorStore):
        with logged("llama_index.core.vector_stores.simple") as records:
            store_class.from_persist_path(path)
        told.append([record.getMessage() for record in records])
    assert told[0] == told[1]


def test_the_native_code_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what the native `add` puts into a store, a store that has been loaded again, and an older file."""
    store = accelerate(SimpleVectorStore())
    store.add([TextNode(id_=str(row), text=f"é {row}", embedding=[1e-5 * row] * 8) for row in range(300)])
    walked: list[Any] = []
    monkeypatch.setattr(SimpleVectorStore, "persist", counted(SimpleVectorStore.persist, walked))
    # A wrapped method is no longer the known one.
    assert written(store, tmp_path / "wrapped.json") == (tmp_path / "wrapped.json").read_bytes()
    assert walked == [store]
    monkeypatch.undo()
    monkeypatch.setattr(simple_vector_files.json, "load", None)
    monkeypatch.setattr(simple_vector_files.json, "loads", None)
    store.persist(str(tmp_path / "store.json"))
    again = type(store).from_persist_path(str(tmp_path / "store.json"))
    again.persist(str(tmp_path / "again.json"))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "store.json").read_bytes()
    del again.data.metadata_dict["1"]
    assert simple_vector_files._is_plain_data(again.data)


def counted(method: Any, calls: list[Any]) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(self)
        return method(self, *args, **kwargs)

    return call


def test_settings_of_dataclasses_json_are_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(global_config.encoders, str, str.upper)
    monkeypatch.setitem(global_config.decoders, float, lambda value: -value)
    assert_same_file(filled(3), tmp_path)


def test_other_kinds_of_data(tmp_path: Path) -> None:
    class Data(SimpleVectorStoreData):
        def to_dict(self, encode_json: bool = False) -> dict[str, Any]:
            return {"mine": 1}

    data = filled(3).data
    assert_same_file(SimpleVectorStore(Data(data.embedding_dict)), tmp_path)


def test_an_orjson_that_writes_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Orjson:
        loads = staticmethod(simple_vector_files.orjson.loads)

        @staticmethod
        def dumps(value: Any) -> bytes:
            return json.dumps(value, separators=(",", ":")).replace("1.1", "1.10").encode()

    monkeypatch.setattr(simple_vector_files, "orjson", Orjson)
    simple_vector_files._writes_as_python.cache_clear()
    try:
        assert not simple_vector_files._writes_as_python()
        assert_same_file(store_of({"a": ([1.1], "d", {})}), tmp_path)
    finally:
        simple_vector_files._writes_as_python.cache_clear()
