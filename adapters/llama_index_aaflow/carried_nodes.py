"""Nodes as JSON that comes back the same: what one rank has found or made, another one gets without pickle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.schema import BaseNode, NodeRelationship, ObjectType
from llama_index.core.storage.docstore.utils import doc_to_json, json_to_doc

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.shards import vector_columns, vectors_in
from llama_index_aaflow.storage.documents import without_embedding


def node_to_json(node: BaseNode) -> str:
    """A node as JSON.

    Raises:
        TypeError: If JSON doesn't carry it as it is.
    """
    held = doc_to_json(node)
    if type(json_to_doc(held)) is not type(node):
        raise TypeError(f"node {node.node_id}: JSON does not give a {type(node).__qualname__} back")
    try:
        return to_json(held)
    except TypeError as error:
        raise TypeError(f"node {node.node_id}: {error}") from None


def node_from_json(text: str) -> BaseNode:
    """The node that `node_to_json` was given."""
    return json_to_doc(json.loads(text))


def nodes_on_all(ranks: Communicator, nodes: Sequence[BaseNode]) -> Sequence[BaseNode]:
    """The nodes that rank 0 has, on all ranks, with their vectors; all make this call together.

    Raises:
        TypeError: If JSON doesn't carry one as it is.
        RankError: If another rank fails.
    """
    with ranks.together("nodes for all"):
        table = ranks.broadcast(None if ranks.rank else _to_table(nodes))
        return _from_table(table) if ranks.rank else nodes


def data_on_all(ranks: Communicator, held: Any, vectors: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What rank 0 has, on all ranks; all make this call together.

    Args:
        ranks: The ranks.
        held: What JSON carries; rank 0's counts.
        vectors: Vectors by key, likewise.

    Raises:
        TypeError: If JSON doesn't carry it as it is, or if a vector is none.
        RankError: If another rank fails.
    """
    texts = columns = None
    if ranks.rank == 0:
        texts = pa.table({"text": pa.array([to_json([held, list(vectors)]).encode()], pa.large_binary())})
        columns = pa.table(vector_columns(list(vectors.values())))
    texts, columns = ranks.broadcast(texts), ranks.broadcast(columns)
    if ranks.rank == 0:
        return held, vectors
    held, keys = json.loads(texts["text"][0].as_py())
    return held, dict(zip(keys, vectors_in(columns), strict=True))


def _to_table(nodes: Sequence[BaseNode]) -> pa.Table:
    texts = [node_to_json(without_embedding(node)).encode() for node in nodes]
    vectors = vector_columns([node.embedding for node in nodes], some_missing=True)
    return pa.table({"node": pa.array(texts, pa.large_binary()), **vectors})


def _from_table(table: pa.Table) -> list[BaseNode]:
    nodes = [node_from_json(text) for text in table["node"].to_pylist()]
    for node, vector in zip(nodes, vectors_in(table), strict=True):
        if vector is not None:
            node.embedding = vector
    return nodes


def to_json(value: Any) -> str:
    """A value as JSON, which gives it back as it is.

    Raises:
        TypeError: If it doesn't.
    """
    written = json.dumps(value) if _is_carried(value) else None
    # Two halves of one character would come back as that character.
    if written is None or ("\\ud" in written and json.loads(written) != value):
        raise TypeError("its fields hold something that JSON has no form for")
    return written


#: Strings of nodes and of an index that are told from others by their field.
_BY_FIELD: Final = (NodeRelationship, ObjectType, IndexStructType)


def _is_carried(value: Any) -> bool:
    if type(value) is dict:
        return all(map(_is_text, value)) and all(map(_is_carried, value.values()))
    if type(value) is list:
        return all(map(_is_carried, value))
    return value is None or _is_text(value) or type(value) in (int, float, bool)


def _is_text(value: Any) -> bool:
    return type(value) is str or type(value) in _BY_FIELD
