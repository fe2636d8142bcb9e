"""Nodes into a document store and out of it, one after the other, each document's list of nodes kept in place.

`KVDocumentStore.add_documents([node])` and `delete_document(node_id)` read, walk and write the whole list of the node's
document each time: the time of a document grows with the square of its nodes. Here a list is read once for any number
of nodes. What can't be reproduced exactly is passed on to the native methods, node by node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Self

from dataclasses_json import cfg
from dataclasses_json import core as dataclasses_json_core
from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import BaseNode, Document, ImageNode, IndexNode, Node, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore, keyval_docstore
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.storage.docstore.utils import doc_to_json
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index_aaflow.known_code import is_known, is_native
from llama_index_aaflow.storage.plain_nodes import Form, plain_nodes_are_known

_ATTRIBUTES: Final = frozenset(vars(SimpleDocumentStore()))
_KV_ATTRIBUTES: Final = frozenset(vars(SimpleKVStore()))
_NATIVE: Final = (
    (
        SimpleDocumentStore,
        (
            "add_documents", "async_add_documents", "_prepare_kv_pairs", "_async_prepare_kv_pairs",
            "_get_kv_pairs_for_insert", "_merge_ref_doc_kv_pairs", "get_ref_doc_info", "aget_ref_doc_info",
            "delete_document", "delete_ref_doc", "_remove_from_ref_doc_node", "_get_ref_doc_id",
        ),
    ),
    (SimpleKVStore, ("put", "aput", "get", "aget", "delete", "_get_collection_mapping", "put_all", "aput_all")),
)  # fmt: skip
_CLASSES: Final = frozenset({TextNode, ImageNode, IndexNode, Node, Document})
_TYPE: Final = TextNode.get_type()
_ATOMS: Final = frozenset({str, int, float, bool, type(None)})


def is_reproduced(docstore: Any) -> bool:
    """Whether a document store works, at this moment, in the way known here."""
    return (
        type(docstore) is SimpleDocumentStore
        and type(docstore._kvstore) is SimpleKVStore
        and vars(docstore).keys() <= _ATTRIBUTES
        and vars(docstore._kvstore).keys() <= _KV_ATTRIBUTES
        and docstore._batch_size == 1
        and not cfg.global_config.encoders
        and is_native(_NATIVE)
        and is_known(doc_to_json)
        and vars(keyval_docstore)["doc_to_json"] is doc_to_json
        and is_known(dataclasses_json_core._asdict)
        and plain_nodes_are_known()
    )


class _Document:
    """A document's entry while its nodes are added or removed.

    Attributes:
        entry: What is, or will be, stored.
        node_ids: The ids that it lists, in order, as keys.
    """

    __slots__ = ("_seen", "entry", "node_ids")

    def __init__(self, seen: list[str] | None, entry: dict[str, Any]) -> None:
        self._seen = seen
        self.entry = entry
        self.node_ids = dict.fromkeys(entry["node_ids"])

    @classmethod
    def of(cls, info: RefDocInfo) -> _Document | None:
        """A new entry for what a store told of a document; None if it is not plain."""
        node_ids, metadata = info.node_ids, copied(info.metadata or {})
        if type(node_ids) is not list or not _are_texts(node_ids) or metadata is None:
            return None
        return cls(node_ids, {"node_ids": node_ids.copy(), "metadata": metadata})

    def list_node(self, node_id: str, metadata: dict[str, Any]) -> None:
        """Put a node at the end of the list, unless it is there, and take over metadata if there is none."""
        if node_id not in self.node_ids:
            self.node_ids[node_id] = None
            self.entry["node_ids"].append(node_id)
            # The list that earlier looks at the store were given, too, but by the first change alone.
            if self._seen is not None:
                self._seen.append(node_id)
        self._seen = None
        if not self.entry["metadata"]:
            self.entry["metadata"] = copied(metadata)

    def unlist_node(self, node_id: str) -> None:
        """Take a node from `node_ids`; the entry's list is not changed."""
        if node_id in self.node_ids:
            del self.node_ids[node_id]
            if self._seen is not None:
                self._seen.remove(node_id)
        self._seen = None


class Adding:
    """Adds nodes to a document store, each as `add_documents([node])` does.

    Args:
        docstore: Any that `is_reproduced`.
    """

    def __init__(self, docstore: Any) -> None:
        self._docstore = docstore
        self._collection: Callable[[str], Any] = docstore._kvstore._get_collection_mapping
        self._documents: dict[str, _Document] = {}

    def add(self, node: BaseNode, form: Form | None) -> None:
        """Add a node without its embedding.

        Args:
            node: Any node.
            form: Its `plain_form`, which becomes the store's.

        Raises:
            Whatever native raises for a node that can't be written.
        """
        if type(node) not in _CLASSES or not self._add(node, form):
            self._docstore.add_documents([without_embedding(node)], allow_update=True)

    def _add(self, node: Any, form: Form | None) -> bool:
        """Add a node of a known class; False, and nothing is done, if its document's entry is not plain."""
        source = node.source_node
        document = None
        if source is not None:
            document = self._document(source.node_id, node)
            if document is None:
                return False
        node_id = node.node_id
        data = doc_to_json(without_embedding(node)) if form is None else {DATA_KEY: form, TYPE_KEY: _TYPE}
        facts = {"doc_hash": node.hash}
        listed = document is not None and bool(source.node_id)
        if listed:
            facts["ref_doc_id"] = source.node_id
        self._collection(self._docstore._node_collection)[node_id] = data
        self._collection(self._docstore._metadata_collection)[node_id] = facts
        if document is not None and listed:
            document.list_node(node_id, node.metadata)
            self._documents[source.node_id] = document
            self._collection(self._docstore._ref_doc_collection)[source.node_id] = document.entry
        return True

    def _document(self, document_id: str, node: Any) -> _Document | None:
        entries = self._collection(self._docstore._ref_doc_collection)
        document = self._documents.get(document_id)
        # Another entry: a node was added natively in between.
        if document is None or entries.get(document_id) is not document.entry:
            document = _Document.of(self._docstore.get_ref_doc_info(document_id) or RefDocInfo())
        if document is None or (not document.entry["metadata"] and copied(node.metadata) is None):
            return None
        return document


class Removing:
    """Removes nodes from a document store, each as `delete_document(node_id, raise_error=False)` does.

    At the end of the block the store is what it is natively.

    Args:
        docstore: Any that `is_reproduced`.
    """

    def __init__(self, docstore: Any) -> None:
        self._docstore = docstore
        self._collection: Callable[[str], Any] = docstore._kvstore._get_collection_mapping
        self._documents: dict[str, _Document] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def remove(self, node_id: str) -> None:
        """Remove a node, if it is there."""
        docstore = self._docstore
        document_id = docstore._get_ref_doc_id(node_id)
        if document_id is not None:
            self._unlist(node_id, document_id)
        self._collection(docstore._node_collection).pop(node_id, None)
        self._collection(docstore._metadata_collection).pop(node_id, None)

    def _unlist(self, node_id: str, document_id: str) -> None:
        docstore = self._docstore
        document = self._documents.get(document_id)
        if document is None:
            info = docstore.get_ref_doc_info(document_id)
            if info is None:
                return
            document = _Document.of(info)
            if document is None or len(document.node_ids) < len(info.node_ids):
                docstore._remove_from_ref_doc_node(node_id)
                return
            self._documents[document_id] = document
        document.unlist_node(node_id)
        if not document.node_ids:
            del self._documents[document_id]
            for collection in (
                docstore._metadata_collection,
                docstore._node_collection,
                docstore._ref_doc_collection,
            ):
                self._collection(collection).pop(document_id, None)

    def _write(self) -> None:
        entries = self._collection(self._docstore._ref_doc_collection) if self._documents else {}
        for document_id, document in self._documents.items():
            document.entry["node_ids"] = list(document.node_ids)
            entries[document_id] = document.entry
        self._documents.clear()


def delete_document(docstore: Any, document_id: str) -> None:
    """Do what `docstore.delete_ref_doc(document_id, raise_error=False)` does.

    Args:
        docstore: Any that `is_reproduced`.
        document_id: The document that the nodes were made of.
    """
    info = docstore.get_ref_doc_info(document_id)
    if info is None:
        return
    with Removing(docstore) as removing:
        for node_id in info.node_ids.copy():
            removing.remove(node_id)
    for collection in (docstore._ref_doc_collection, docstore._metadata_collection, docstore._node_collection):
        docstore._kvstore.delete(document_id, collection=collection)


def without_embedding(node: Any) -> Any:
    """A copy of a node as it is stored."""
    copy = node.model_copy()
    copy.embedding = None
    return copy


def copied(value: Any) -> Any:
    """What `RefDocInfo.to_dict` makes of plain metadata; None for metadata that holds anything else."""
    if type(value) is not dict or not _is_plain(value):
        return None
    return _copied(value)


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return _are_texts(value) and all(map(_is_plain, value.values()))
    return kind in _ATOMS or (kind in (list, tuple) and all(map(_is_plain, value)))


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {name: _copied(item) for name, item in value.items()}
    return value if kind in _ATOMS else list(map(_copied, value))


def _are_texts(values: Iterable[Any]) -> bool:
    return {str}.issuperset(map(type, values))
