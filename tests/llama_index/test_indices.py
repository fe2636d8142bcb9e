"""An accelerated VectorStoreIndex keeps what the native one keeps, whatever is done to it and whenever one looks."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wrapt
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import SummaryIndex, VectorStoreIndex
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import IndexNode
from llama_index.core.vector_stores import SimpleVectorStore

import aaflow_plugins
from llama_index_aaflow import accelerate, indices
from llama_index_aaflow.indices import AcceleratedVectorStoreIndex, native_reason
from llama_index_aaflow.storage import documents as storage_documents
from llama_index_aaflow.storage import index_structs, simple_vectors
from tests.generated import examples
from tests.llama_index.index_pairs import (
    STORES,
    TEXT,
    DigestEmbedding,
    Side,
    assert_same,
    built,
    document,
    node,
    odd_nodes,
    pair,
)
from tests.llama_index.parsing_outcomes import numbered
from tests.llama_index.tracing import spans
from tests.observed import logged

METADATA: list[dict[str, Any]] = [
    {},
    {"file": "a.txt", "pages": 3, "score": 0.5, "draft": True, "none": None},
    {"nested": {"a": [1, (2, 3)], "b": {"c": None}}, "name": "n\u00e9"},
    {"_node_content": "x", "doc_id": "y", "nan": float("inf")},
    {"ordered": OrderedDict(a=1)},
]


# -- operations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", METADATA, ids=["empty", "plain", "nested", "odd", "ordered"])
def test_every_operation(sides: tuple[Side, Side], metadata: dict[str, Any]) -> None:
    outcomes = assert_same(
        sides,
        built("a", "b", metadata=metadata),
        lambda side: side.index.insert(document("c", TEXT, metadata)),
        lambda side: side.index.ainsert(document("d", TEXT, metadata)),
        lambda side: side.index.insert_nodes([node("n1", "own text", "a"), node("n2", "without source")]),
        lambda side: side.index.ainsert_nodes([node("n3", "own text", "e", metadata=metadata)]),
        lambda side: side.index.update_ref_doc(document("b", f"new {TEXT}", metadata)),
        lambda side: side.index.refresh_ref_docs([document("a", "changed"), document("f", TEXT), document("c", TEXT)]),
        lambda side: side.index.delete_ref_doc("c"),
        lambda side: side.index.delete_ref_doc("d", delete_from_docstore=True),
        lambda side: side.index.adelete_ref_doc("f", delete_from_docstore=True),
        lambda side: side.index.delete_nodes(["n1"], delete_from_docstore=True),
        lambda side: side.index.delete_nodes(["n2"]),
        lambda side: side.index.adelete_nodes(["n3"], delete_from_docstore=True),
        lambda side: side.index.aupdate_ref_doc(document("b", "newer", metadata)),
        lambda side: side.index.arefresh_ref_docs([document("b", "newest"), document("b", "newest")]),
    )
    assert outcomes[0][0] == "returned"


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize("use_async", [False, True])
def test_settings(tmp_path: Path, store: str, override: bool, use_async: bool) -> None:
    sides = pair(tmp_path, store, store_nodes_override=override, use_async=use_async, show_progress=True)
    assert_same(
        sides,
        built("a", "b", metadata=METADATA[1]),
        lambda side: side.index.insert_nodes([node("n", "text", "a")]),
        lambda side: side.index.delete_ref_doc("a", delete_from_docstore=True),
    )


# -- failures --------------------------------------------------------------------------------------------


def documents_kept(side: Side) -> str:
    return json.dumps(side.index.docstore.to_dict(), default=str)


class Unwritable:
    """Metadata that nothing writes."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("not copied")

    def __repr__(self) -> str:
        return "unwritable"


def bad_nodes(bad: Any) -> list[Any]:
    return [node(f"n{number}", f"text {number}", "a") for number in range(7)] + [bad, node("after", "text", "a")]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: node("bad", "boom"),
        lambda: node("bad", "text", "a", metadata={"a": Unwritable()}),
        lambda: IndexNode(id_="bad", text="text", index_id="i", obj=Unwritable()),
        lambda: node("bad", "text", metadata={"a": 1}, metadata_template="{missing}"),
        lambda: node("bad", "text").model_copy(update={"text": 3}),
        lambda: node("bad", "text").model_copy(update={"metadata": {"a": "\ud800"}}),
        lambda: node("bad", "text").model_copy(update={"metadata": {3: "a"}}),
        lambda: "no node",
    ],
    ids=["embedding", "metadata", "object", "template", "text", "surrogate", "name", "string"],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failure_leaves_what_native_leaves(sides: tuple[Side, Side], bad: Callable[[], Any], is_async: bool) -> None:
    def insert(side: Side) -> Any:
        nodes = bad_nodes(bad())
        return side.index.ainsert_nodes(nodes) if is_async else side.index.insert_nodes(nodes)

    assert_same(
        sides, built("a"), insert, lambda side: json.dumps(side.index.docstore.to_dict(), default=str), files=False
    )
    assert_same(
        sides,
        lambda side: list(side.context.index_store.to_dict()["index_store/data"]),
        lambda side: side.context.index_store.get_index_struct("index").to_json(),
        lambda side: side.index.delete_nodes(["n0", "missing", "n1"], delete_from_docstore=True),
        lambda side: side.context.index_store.get_index_struct("index").to_json(),
        lambda side: side.index.delete_nodes([["unhashable"]], delete_from_docstore=True),
        lambda side: side.index.delete_ref_doc("a", delete_from_docstore=True),
        documents_kept,
        files=False,
    )


class FailingStore(STORES["simple"]):  # type: ignore[misc]
    """A vector store whose third batch fails."""

    calls: int = 0

    def add(self, nodes: Any, **options: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise OSError("full")
        return super().add(nodes, **options)


def test_a_store_that_fails_at_the_third_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STORES, "failing", FailingStore)
    sides = pair(tmp_path, "failing")
    outcomes = assert_same(
        sides,
        lambda side: side.build([]),
        lambda side: side.index.insert_nodes([node(f"n{number}", "text", "a") for number in range(22)]),
        lambda side: side.index.insert_nodes([node("n", "text", "a")]),
    )
    assert outcomes[1][:3] == ("raised", OSError, "full")


# -- whenever somebody looks -----------------------------------------------------------------------------


def changes(side: Side) -> Any:
    side.index.insert_nodes([node(f"n{len(side.index.index_struct.nodes_dict)}", "text", "a")])


LOOKS: dict[str, Callable[[Side], Any]] = {
    "struct": lambda side: side.context.index_store.get_index_struct("index").to_json(),
    "structs": lambda side: [struct.to_json() for struct in side.context.index_store.index_structs()],
    "async": lambda side: asyncio.run(side.context.index_store.aget_index_struct("index")).to_json(),
    "dict": lambda side: json.dumps(side.context.index_store.to_dict()),
    "get": lambda side: side.context.index_store._kvstore.get("index", "index_store/data"),
    "all": lambda side: side.context.index_store._kvstore.get_all("index_store/data"),
    "items": lambda side: list(side.context.index_store._kvstore._collections_mappings.items()),
    "values": lambda side: list(side.context.index_store._kvstore._collections_mappings.values()),
    "mapping": lambda side: dict(side.context.index_store._kvstore._collections_mappings),
    "spread": lambda side: {**side.context.index_store._kvstore._collections_mappings},
    "union": lambda side: side.context.index_store._kvstore._collections_mappings | {},
    "written": lambda side: repr(side.context.index_store._kvstore._collections_mappings),
    "indented": lambda side: json.dumps(side.context.index_store._kvstore._collections_mappings, indent=1),
    "copied": lambda side: json.dumps(copy.copy(side.context.index_store).to_dict()),
    "deepcopied": lambda side: json.dumps(copy.deepcopy(side.context.index_store).to_dict()),
    "pickled": lambda side: json.dumps(pickle.loads(pickle.dumps(side.context.index_store)).to_dict()),
    "context": lambda side: json.dumps(side.context.to_dict()),
    "nodes": lambda side: (
        repr(side.index.index_struct), side.index.index_struct.to_json(), copy.deepcopy(side.index.index_struct)
    ),
}  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
def test_looking(tmp_path: Path, look: str) -> None:
    assert_same(
        pair(tmp_path),
        built("a"),
        changes,
        changes,
        LOOKS[look],
        LOOKS[look],
        changes,
        changes,
        LOOKS[look],
        files=False,
    )


def held(side: Side) -> None:
    side.held += [
        side.context.index_store.to_dict(),
        side.context.index_store._kvstore.get_all("index_store/data"),
        side.index.docstore.get_ref_doc_info("a"),
        side.index.docstore.get_ref_doc_info("b"),
        side.index.index_struct.nodes_dict,
    ]


@pytest.mark.parametrize(
    "act",
    [
        changes,
        lambda side: side.index.insert(document("c", TEXT)),
        lambda side: side.index.insert_nodes([node("x", "text", "b"), node("y", "text", "b"), node("z", "text", "a")]),
        lambda side: side.index.delete_nodes(["a-1", "a-2", "b-0"], delete_from_docstore=True),
        lambda side: side.index.delete_ref_doc("b", delete_from_docstore=True),
        lambda side: side.index.update_ref_doc(document("a", TEXT)),
    ],
    ids=["insert_nodes", "insert", "several", "delete_nodes", "delete_ref_doc", "update"],
)
def test_what_was_handed_out_changes_as_natively(tmp_path: Path, act: Callable[[Side], Any]) -> None:
    sides = pair(tmp_path)
    assert_same(sides, built("a", "b"), changes, held, act, changes, files=False)
    assert_same(sides, held, act, files=False)
    assert_same(sides)


def test_what_was_handed_out_before_the_first_change(tmp_path: Path) -> None:
    def held_nodes(side: Side) -> None:
        side.held.append(side.index.index_struct.nodes_dict)

    assert_same(pair(tmp_path), built("a", "b"), held_nodes, changes, changes, files=False)


def test_the_public_nodes_are_a_plain_dict(tmp_path: Path) -> None:
    """Whatever is held meanwhile, and however an index is looked at."""
    sides = pair(tmp_path)

    def public(side: Side) -> Any:
        nodes = side.index.index_struct.nodes_dict
        return type(nodes), nodes is side.index.index_struct.nodes_dict, yaml.safe_dump(nodes)

    def hold(side: Side) -> None:
        side.held.append(side.index.index_struct)

    def share(side: Side) -> None:
        native = object.__new__(VectorStoreIndex)
        native.__dict__ = side.index.__dict__
        side.index, other = side.wrap(native), side.index
        side.held.append(other.index_struct)
        insert(side)
        assert type(native.index_struct.nodes_dict) is dict

    def insert(side: Side) -> None:
        side.index.insert_nodes([node(f"n{len(side.index.docstore.docs)}", "text", "a")])

    acts = [insert, public, insert, insert, public, hold, insert, LOOKS["dict"], insert, public, share, public]
    assert_same(sides, built("a"), *acts, LOOKS["dict"], files=False)
    assert {type(struct.nodes_dict) for struct in sides[1].held} == {dict}


def test_looking_while_another_thread_inserts() -> None:
    """Who is about to change the nodes holds them as they were before somebody looked."""
    index = accelerate(VectorStoreIndex)([node("a", "text"), node("b", "text")], embed_model=DigestEmbedding())
    index.insert_nodes([node("c", "text")])
    under_way = index._index_struct.nodes_dict
    assert list(index.index_struct.nodes_dict) == ["a", "b", "c"]
    under_way["d"] = "d"
    assert list(index.index_struct.nodes_dict) == ["a", "b", "c", "d"]
    # It is taken in the very moment of the look.
    index._index_struct.nodes_dict = under_way.succeeded()
    under_way["e"] = "e"
    del under_way["a"]
    assert index.index_struct.nodes_dict == {name: name for name in "bcde"}
    index.insert_nodes([node("f", "text")])
    struct = index.storage_context.index_store.get_index_struct(index.index_id)
    assert list(struct.nodes_dict) == list(index.index_struct.nodes_dict) == list("bcdef")


def test_changes_by_hand(tmp_path: Path) -> None:
    """Changes of the public struct are stored when the index is changed next, and not before."""
    sides = pair(tmp_path)
    by_hand: list[Callable[[Side], Any]] = [
        lambda side: side.index.index_struct.nodes_dict.update(u="v", w="x"),
        lambda side: side.index.index_struct.nodes_dict.pop("u"),
        lambda side: side.index.index_struct.nodes_dict.pop("not there"),
        lambda side: side.index.index_struct.nodes_dict.setdefault("s", "t"),
        lambda side: side.index.index_struct.nodes_dict.popitem(),
        lambda side: side.index.index_struct.nodes_dict.__ior__({"o": "p"}),
        lambda side: side.index.index_struct.nodes_dict.__setitem__("number", 3),
        lambda side: side.index.index_struct.nodes_dict.__delitem__("number"),
        lambda side: side.index.index_struct.nodes_dict.clear(),
        lambda side: setattr(side.index, "summary", "a summary"),
        lambda side: setattr(side.index.index_struct, "summary", "another"),
        lambda side: setattr(side.index.index_struct, "nodes_dict", {"a": "b"}),
        lambda side: side.index.index_struct.doc_id_dict.update(a=["b"]),
        lambda side: side.index.index_struct.doc_id_dict.clear(),
        lambda side: setattr(side.index.index_struct, "index_id", "renamed"),
        lambda side: side.index.set_index_id("index"),
        lambda side: side.context.index_store.delete_index_struct("index"),
    ]
    assert_same(sides, built("a"), changes, files=False)
    for act in by_hand:
        assert_same(sides, act, LOOKS["dict"], changes, act, changes, changes, files=False)
        assert_same(sides)


def test_two_indexes_in_one_storage_context(tmp_path: Path) -> None:
    sides = pair(tmp_path)

    def second(side: Side) -> None:
        side.held.append(side.index.index_struct)
        side.build([document("z", TEXT)])

    def rename(side: Side) -> None:
        side.index.set_index_id("first")

    assert_same(sides, built("a"), changes, rename, changes, second, changes, LOOKS["structs"], changes)


def test_an_index_that_takes_the_place_of_another(tmp_path: Path) -> None:
    def second(side: Side) -> None:
        first = side.index
        first.set_index_id("first")
        side.build([document("z", TEXT)])
        side.index = first

    def take_its_place(side: Side) -> None:
        side.index.index_struct.index_id = "index"

    acts = [changes, changes, take_its_place, changes, LOOKS["structs"]]
    assert_same(pair(tmp_path), built("a"), second, *acts)


def test_one_index_through_both(tmp_path: Path) -> None:
    """The accelerated view and the native index share everything: each goes on where the other stopped."""
    sides = pair(tmp_path)
    assert_same(sides, built("a"), changes)
    native = object.__new__(VectorStoreIndex)
    native.__dict__ = sides[1].index.__dict__
    view = accelerate(native)
    assert isinstance(view, VectorStoreIndex)
    assert view.__dict__ is native.__dict__
    for number in range(6):
        sides[0].index.insert_nodes([node(f"m{number}", "text", "a")])
        (native if number % 2 else view).insert_nodes([node(f"m{number}", "text", "a")])
    assert_same(sides, changes, changes)


# -- anything, in any order ------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c"])
metadata = st.sampled_from(METADATA)
texts = st.sampled_from([TEXT, "short", "", "  ", "changed " + TEXT, "boom", "\u00e9\u4e2d " * 40])
docs = st.builds(document, names, texts, metadata)
node_names = st.sampled_from([f"{name}-{number}" for name in "ab" for number in range(3)] + ["x", "y"])
plain_nodes = st.builds(
    node, node_names, st.sampled_from(["one", "two", ""]), st.sampled_from(["a", "b", "x", None]), metadata=metadata
)
nodes = st.lists(st.one_of(plain_nodes, st.sampled_from(odd_nodes())), max_size=8)
flag = st.booleans()


def calls(method: str, *arguments: Any, **options: Any) -> Callable[[Side], Any]:
    return lambda side: getattr(side.index, method)(*copy.deepcopy(arguments), **options)


def holding(name: str) -> Callable[[Side], Any]:
    return lambda side: side.held.append(side.index.docstore.get_ref_doc_info(name))


operations = st.one_of(
    st.builds(calls, st.sampled_from(["insert", "ainsert", "update_ref_doc", "aupdate_ref_doc"]), docs),
    st.builds(calls, st.sampled_from(["refresh_ref_docs", "arefresh_ref_docs"]), st.lists(docs, max_size=3)),
    st.builds(calls, st.sampled_from(["insert_nodes", "ainsert_nodes"]), nodes),
    st.builds(
        calls, st.sampled_from(["delete_ref_doc", "adelete_ref_doc"]), names, delete_from_docstore=flag
    ),
    st.builds(
        calls,
        st.sampled_from(["delete_nodes", "adelete_nodes"]),
        st.lists(node_names, max_size=3),
        delete_from_docstore=flag,
    ),
    st.builds(holding, names),
    st.sampled_from([LOOKS["dict"], LOOKS["struct"], Side.reload, lambda side: len(side.files())]),
)  # fmt: skip


@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(STORES)), st.lists(docs, max_size=3), st.lists(operations, max_size=9), flag, flag)
def test_any_sequence(
    store: str, start: list[Any], acts: list[Callable[[Side], Any]], override: bool, use_async: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        sides = pair(Path(directory), store, store_nodes_override=override, use_async=use_async)
        start = [each for each in start if "boom" not in each.text]
        assert_same(sides, lambda side: side.build(copy.deepcopy(start)), files=False)
        for act in acts:
            assert_same(sides, act, files=False)
        assert_same(sides)


# -- what is accelerated ---------------------------------------------------------------------------------


class Own(VectorStoreIndex):
    """Somebody's subclass."""


def test_exactly_the_known_class(tmp_path: Path) -> None:
    side = pair(tmp_path)[0]
    assert aaflow_plugins.accelerate(VectorStoreIndex) is AcceleratedVectorStoreIndex
    assert accelerate(AcceleratedVectorStoreIndex) is AcceleratedVectorStoreIndex
    assert accelerate(Own) is Own
    assert accelerate(SummaryIndex) is SummaryIndex
    side.build([document("a", TEXT)])
    view = accelerate(side.index)
    assert type(view) is AcceleratedVectorStoreIndex
    assert type(view).__name__ == "VectorStoreIndex"
    assert accelerate(view) is view
    assert view.docstore is side.index.docstore
    assert native_reason(view) is None
    assert "Own" in str(native_reason(Own))


@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize("name", ["insert_nodes", "_add_nodes_to_index", "delete_ref_doc"])
def test_a_patched_method_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, instrumented: bool
) -> None:
    """A function in its place, or a wrapper as those of tracing libraries, made with the tool that LlamaIndex uses."""
    side = pair(tmp_path)[1]
    side.build([document("a", TEXT)])
    called = []
    native = getattr(VectorStoreIndex, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return native(*args, **kwargs)

    @wrapt.decorator
    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        called.append(name)
        return wrapped(*args, **kwargs)

    monkeypatch.setattr(VectorStoreIndex, name, wrapper(native) if instrumented else patched)
    side.index.insert_nodes([node("n", "text", "a")])
    side.index.delete_ref_doc("a")
    assert called
    assert native_reason(VectorStoreIndex) is not None


def test_the_fast_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is known nothing native is asked for an entry of a document, nor for the struct."""
    side = pair(tmp_path)[1]
    side.build([document("a", TEXT, METADATA[1])])

    def unexpected(*_: Any, **__: Any) -> None:
        raise AssertionError("native")

    monkeypatch.setattr(storage_documents, "without_embedding", unexpected)
    for module, name in ((indices, "without_embedding"), (indices, "with_vector"), (simple_vectors, "with_vector")):
        monkeypatch.setattr(module, name, unexpected)
    waiting = []
    keep = index_structs._put_later
    monkeypatch.setattr(index_structs, "_put_later", lambda *given: waiting.append(keep(*given)) or waiting[-1])
    side.index.insert(document("b", TEXT, METADATA[1]))
    asyncio.run(side.index.ainsert_nodes([node("n", "text", "a")]))
    side.index.delete_ref_doc("a", delete_from_docstore=True)
    assert waiting == [True, True, True]
    assert type(side.index._index_struct.nodes_dict) is index_structs.Nodes
    side.held.append(side.index.index_struct)
    side.index.insert_nodes([node("m", "text", "b")])
    assert waiting == [True, True, True, True]


@pytest.mark.parametrize("name", ["name", "n\u00e9", "\ud800", 7])
def test_the_first_writing_of_a_struct(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    """It is written at once, and as natively, whatever the ids; afterwards it is what it is natively."""
    native_json, slow = IndexDict.to_json, []
    monkeypatch.setattr(IndexDict, "to_json", lambda self: slow.append(self) or native_json(self))
    nodes = [node(each, "text", embedding=[0.5]) for each in ("a", "b")]
    nodes[0].__dict__["id_"] = name
    indexes = [cls(nodes, embed_model=DigestEmbedding()) for cls in (VectorStoreIndex, accelerate(VectorStoreIndex))]
    natives, ours = (str(index.storage_context.index_store.to_dict()).replace(index.index_id, "") for index in indexes)
    assert ours == natives
    assert [type(index._index_struct) for index in indexes] == [IndexDict, IndexDict]
    assert len(slow) == 1 + (type(name) is not str)
    # Nobody writes what is not an index's at once.
    assert type(indexes[1].build_index_from_nodes(nodes)) is IndexDict


def test_pickling(tmp_path: Path) -> None:
    sides = pair(tmp_path, callback_manager=None)
    assert_same(sides, built("a"), changes)

    def pickled(side: Side) -> Any:
        side.index = pickle.loads(pickle.dumps(side.index))
        side.context = side.index.storage_context
        return isinstance(side.index, VectorStoreIndex)

    assert_same(sides, pickled, changes, changes)


def test_without_a_storage_context() -> None:
    """The default vector store of an accelerated index is an accelerated one; the rest is as natively."""
    documents = [document("a", TEXT), document("b", TEXT)]
    settings = {"embed_model": DigestEmbedding(), "transformations": [SentenceSplitter(id_func=numbered)]}
    native = VectorStoreIndex.from_documents(documents, **settings)
    index = accelerate(VectorStoreIndex).from_documents(documents, **settings)
    assert isinstance(index.vector_store, SimpleVectorStore)
    assert accelerate(index.vector_store) is index.vector_store
    assert index.vector_store.to_dict() == native.vector_store.to_dict()
    assert list(index.storage_context.vector_stores) == list(native.storage_context.vector_stores)
    assert index._transformations is settings["transformations"]


def test_querying(tmp_path: Path) -> None:
    sides = pair(tmp_path)

    def found(side: Side) -> Any:
        return [(each.node_id, each.score) for each in side.index.as_retriever(similarity_top_k=3).retrieve("one")]

    def infos(side: Side) -> Any:
        return side.index.ref_doc_info

    assert_same(sides, built("a", "b"), found, infos, changes, found, infos)


def test_spans(tmp_path: Path) -> None:
    sides = pair(tmp_path)

    def traced(act: Callable[[Side], Any]) -> Callable[[Side], Any]:
        def run(side: Side) -> Any:
            with spans() as seen:
                result = act(side)
                if asyncio.iscoroutine(result):
                    asyncio.run(result)
            # Managers of callbacks, among what was given and returned, are told apart by where they are in memory.
            return [told[:3] if told[0] == "enter" else told[:2] for told in seen]

        return run

    outcomes = assert_same(
        sides,
        traced(built("a", "b")),
        traced(lambda side: side.index.insert(document("c", TEXT))),
        traced(lambda side: side.index.ainsert(document("d", TEXT))),
    )
    assert all(outcome[1] for outcome in outcomes)


def test_what_is_logged(tmp_path: Path) -> None:
    sides = pair(tmp_path)

    def told(side: Side) -> Any:
        with logged("llama_index.core.indices.base") as records:
            side.index.delete("b")
            side.index.update(document("a", "new"))
            side.index.refresh([document("a", "newer")])
        return [record.getMessage() for record in records]

    outcomes = assert_same(sides, built("a", "b"), told)
    assert len(outcomes[1][1]) == 3
