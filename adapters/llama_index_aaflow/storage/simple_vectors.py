"""Nodes into a SimpleVectorStore without writing each of them as JSON on the way to its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores import SimpleVectorStore, simple
from llama_index.core.vector_stores.simple import SimpleVectorStoreData
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from aaflow_plugins.collector import paused_collector
from llama_index_aaflow.known_code import is_known, is_native
from llama_index_aaflow.storage.plain_nodes import plain_nodes_are_known

_NATIVE: Final = ((SimpleVectorStore, ("add", "async_add")),)


def add(store: Any, nodes: Sequence[BaseNode], plain: Sequence[bool]) -> list[str]:
    """Do what `store.add(nodes)` does.

    Args:
        store: A SimpleVectorStore that `is_reproduced`.
        nodes: Nodes with embeddings.
        plain: Which of them are `is_plain`.

    Returns:
        Their ids.

    Raises:
        Whatever the store raises.
    """
    with paused_collector():
        for node, is_plain in zip(nodes, plain, strict=True):
            if is_plain and node.embedding is not None:
                _add(store.data, node)
            else:
                store.add([node])
    return [node.node_id for node in nodes]


def _add(data: SimpleVectorStoreData, node: Any) -> None:
    node_id, document_id = node.node_id, node.ref_doc_id or "None"
    data.embedding_dict[node_id] = node.embedding
    data.text_id_to_ref_doc_id[node_id] = document_id
    metadata = node.metadata.copy()
    metadata.pop("_node_content", None)
    metadata["_node_type"] = "TextNode"
    metadata["document_id"] = metadata["doc_id"] = metadata["ref_doc_id"] = document_id
    data.metadata_dict[node_id] = metadata


def is_reproduced(store: Any) -> bool:
    """Whether a vector store is a SimpleVectorStore that takes nodes, at this moment, in the way known here."""
    cls = type(store)
    return (
        isinstance(store, SimpleVectorStore)
        and all(base in SimpleVectorStore.__mro__ or _is_ours(base) for base in cls.__mro__)
        and cls.add is SimpleVectorStore.add
        and cls.async_add is SimpleVectorStore.async_add
        and not {"add", "async_add"} & vars(store).keys()
        and is_native(_NATIVE)
        and is_known(node_to_metadata_dict)
        and vars(simple)["node_to_metadata_dict"] is node_to_metadata_dict
        and plain_nodes_are_known()
    )


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]
