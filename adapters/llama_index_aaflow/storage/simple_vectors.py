"""Nodes into a SimpleVectorStore without writing each of them as JSON on the way to its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from llama_index.core.schema import BaseNode, NodeRelationship
from llama_index.core.vector_stores import SimpleVectorStore, simple
from llama_index.core.vector_stores.simple import SimpleVectorStoreData
from llama_index.core.vector_stores.utils import node_to_metadata_dict

from llama_index_aaflow.known_code import is_known, is_native
from llama_index_aaflow.storage.plain_nodes import Form, plain_nodes_are_known, with_vector

_NATIVE: Final = ((SimpleVectorStore, ("add", "async_add")),)
_SOURCE: Final = NodeRelationship.SOURCE.value


def add(store: Any, nodes: Sequence[BaseNode], forms: Sequence[Form | None], vectors: Sequence[Any]) -> list[str]:
    """Do what `store.add(nodes)` does, where each node has its vector.

    Args:
        store: A SimpleVectorStore that `is_reproduced`.
        nodes: Nodes. Those without a form have their vectors.
        forms: The `plain_form` of each.
        vectors: A vector for each, which is the store's from now on.

    Returns:
        Their ids.

    Raises:
        Whatever the store raises.
    """
    for node, form, vector in zip(nodes, forms, vectors, strict=True):
        if form is not None and vector is not None:
            _add(store.data, form, vector)
        else:
            store.add([node if form is None else with_vector(node, vector)])
    return [node.node_id for node in nodes]


def _add(data: SimpleVectorStoreData, form: Form, vector: list[float]) -> None:
    node_id, source = form["id_"], form["relationships"].get(_SOURCE)
    document_id = (source and source["node_id"]) or "None"
    data.embedding_dict[node_id] = vector
    data.text_id_to_ref_doc_id[node_id] = document_id
    metadata = form["metadata"].copy()
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
