"""Nodes of every kind, and vectors as nobody has checked them, in an accelerated index as in a native one."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import IndexNode, TextNode

from tests.llama_index.index_pairs import (
    TEXT,
    Custom,
    DigestEmbedding,
    Side,
    assert_same,
    built,
    document,
    node,
    odd_nodes,
    pair,
)


def test_nodes_of_every_kind(sides: tuple[Side, Side]) -> None:
    assert_same(
        sides,
        lambda side: side.build([]),
        lambda side: side.index.insert_nodes(odd_nodes()),
        lambda side: side.index.ainsert_nodes(odd_nodes()),
        lambda side: side.index.delete_nodes(["image", "media", "big"], delete_from_docstore=True),
        lambda side: side.index.delete_ref_doc("b", delete_from_docstore=True),
    )


#: What pydantic makes other lists of, or refuses.
ODD_VECTORS: list[Any] = [
    [1, 2.5],
    [True, 0.5],
    [np.float64(0.5), 1.0],
    ["0.5", 1.0],
    (0.5, 1.0),
    np.array([0.5, 1.0]),
    [float("nan"), -0.0],
    [],
    None,
    [0.5, None],
    "0.5",
]


def carrying(vector: Any) -> list[Any]:
    """Nodes that have a vector as nobody has checked it, between others."""
    nodes = [node(name, "text", "a", embedding=[0.5, 1.0]) for name in ("before", "plain", "custom", "after")]
    nodes[2] = Custom(**nodes[2].to_dict())
    for carrier in nodes[1:3]:
        carrier.__dict__["embedding"] = vector
    return nodes


@pytest.mark.parametrize("vector", ODD_VECTORS, ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
def test_vectors_that_pydantic_converts(sides: tuple[Side, Side], vector: Any, is_async: bool) -> None:
    assert_same(
        sides,
        built("a"),
        lambda side: (side.index.ainsert_nodes if is_async else side.index.insert_nodes)(carrying(vector)),
        files=False,
    )


def test_who_has_which_vector(sides: tuple[Side, Side]) -> None:
    """A store's lists are its own, of the very floats that were given; the nodes given stay as they are."""

    def shared(side: Side) -> Any:
        vector = [0.1, 0.7]
        nodes = [node("n", "text", "a"), node("m", "text", "a"), Custom(**node("c", "text").to_dict())]
        for each in nodes:
            each.__dict__["embedding"] = vector
        side.index.insert_nodes(nodes)
        kept = [side.index.vector_store.data.embedding_dict.get(name) for name in ("n", "m", "c")]
        return [
            [each.embedding is vector for each in nodes],
            [sorted(each.model_fields_set) for each in nodes],
            [[each is other for other in [*kept, vector]] for each in kept],
            [[number is given for number, given in zip(each or (), vector, strict=False)] for each in kept],
        ]

    assert_same(sides, built("a"), shared)


def test_a_node_class_that_copies_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides, copied = pair(tmp_path), []
    native = TextNode.model_copy

    def model_copy(self: Any, **kwargs: Any) -> Any:
        copied.append(self.node_id)
        return native(self, **kwargs)

    monkeypatch.setattr(TextNode, "model_copy", model_copy)
    copies = []
    for side in sides:
        copied.clear()
        side.build([document("a", TEXT)])
        side.index.insert_nodes([node("n", "text", "a", embedding=[0.5, 1.0])])
        copies.append(copied.copy())
    assert copies[1] == copies[0]
    assert sides[1].seen() == sides[0].seen()


def test_the_collector_is_paused_where_the_model_has_nothing_to_do(tmp_path: Path) -> None:
    side = pair(tmp_path)[1]
    side.build([document("a", TEXT)])
    runs: list[bool] = []

    class Watching(DigestEmbedding):
        def _get_text_embedding(self, text: str) -> list[float]:
            runs.append(gc.isenabled())
            return super()._get_text_embedding(text)

    side.index._embed_model = Watching()
    with_vector = node("n", "text", "a", embedding=[0.5, 1.0])
    side.index.insert_nodes([with_vector])
    assert runs == []
    side.index.insert_nodes([with_vector, node("m", "text", "a")])
    assert runs == [True]
    assert gc.isenabled()


def test_plain_nodes_among_others_of_their_document(sides: tuple[Side, Side]) -> None:
    def insert(side: Side) -> None:
        custom = Custom(**node("custom", "text", "a").to_dict())
        side.index.insert_nodes([node("before", "text", "a"), custom, node("custom", "again", "a")])

    assert_same(sides, lambda side: side.build([]), insert)


def test_a_document_that_lists_a_node_twice(sides: tuple[Side, Side]) -> None:
    def listed_twice(side: Side) -> None:
        store = side.index.docstore._kvstore
        for name in ("a", "b"):
            info = store.get(name, "docstore/ref_doc_info")
            if info:
                store.put(name, {**info, "node_ids": info["node_ids"] * 2}, "docstore/ref_doc_info")

    assert_same(
        sides,
        built("a", "b"),
        listed_twice,
        lambda side: side.index.insert_nodes([node("x", "text", "a"), node("y", "text", "b")]),
        listed_twice,
        lambda side: side.index.delete_nodes(["a-1", "x", "b-0"], delete_from_docstore=True),
        lambda side: side.index.delete_ref_doc("b", delete_from_docstore=True),
    )


def test_building_from_nodes(tmp_path: Path) -> None:
    sides = pair(tmp_path)

    def build(side: Side) -> None:
        cls = side.wrap(VectorStoreIndex)
        options = {name: value for name, value in side.settings.items() if name != "transformations"}
        objects = [IndexNode(id_="o", text="an object", index_id="o", obj=side.index)]
        side.index = cls(odd_nodes(), objects=objects, storage_context=side.context, **options)
        side.index.set_index_id("index")

    native, _ = assert_same(sides, build, lambda side: side.index.insert_nodes(odd_nodes()))
    assert "Some nodes are missing content" in native[2]
