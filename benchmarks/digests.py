"""Checksums of results: two contenders did the same exactly if these are equal."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from llama_index.core.schema import BaseNode


def of_documents(documents: Iterable[Document]) -> str:
    """Texts, ids, metadata (types, nesting and order of keys included), and the order of the documents."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(_encoded(document.id, document.page_content, document.metadata))
    return digest.hexdigest()


def of_nodes(nodes: Sequence[BaseNode]) -> str:
    """Everything that nodes hold, and their order; of random ids, which belongs where."""
    digest = hashlib.sha256()
    numbers = {node.node_id: number for number, node in enumerate(nodes)}
    if len(numbers) < len(nodes):
        raise ValueError("two nodes have one id")
    for node in nodes:
        fields = node.to_dict()
        fields["id_"] = UUID(fields["id_"]).version
        fields["relationships"] = [
            (kind, {**related, "node_id": numbers.get(related["node_id"], related["node_id"])})
            for kind, related in fields["relationships"].items()
        ]
        digest.update(_encoded(type(node).__name__, node.hash, fields))
    return digest.hexdigest()


def of_faiss_store(store: Any) -> str:
    """Rows in the order of the index: text, metadata, and the bytes of the float32 vector.

    Ids are random; of them count and kind are compared.
    """
    digest = hashlib.sha256()
    rows = store.index.ntotal
    ids = [store.index_to_docstore_id[row] for row in range(rows)]
    digest.update(_encoded(type(store).__name__, len(set(ids)), {UUID(id_).version for id_ in ids}))
    for id_ in ids:
        document = store.docstore.search(id_)
        digest.update(_encoded(document.id == id_, document.page_content, document.metadata))
    digest.update(_encoded(type(store.index).__name__, store.index.d, store.index.metric_type))
    for start in range(0, rows, 10_000):
        digest.update(store.index.reconstruct_n(start, min(10_000, rows - start)).tobytes())
    return digest.hexdigest()


def of_simple_vectors(data: Any) -> str:
    """What a SimpleVectorStore of LlamaIndex keeps, in order; vectors with types and to the last bit."""
    digest = hashlib.sha256(_encoded(type(data).__name__, data.text_id_to_ref_doc_id, data.metadata_dict))
    for id_, vector in data.embedding_dict.items():
        digest.update(_encoded(id_, type(vector).__name__, {kind.__name__ for kind in map(type, vector)}))
        digest.update(struct.pack(f"{len(vector)}d", *vector))
    return digest.hexdigest()


def of_rows(rows: Sequence[Sequence[float]]) -> str:
    """Rows of numbers: types, values to the last bit, order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_encoded(type(row).__name__, [float.hex(value) for value in row]))
    return digest.hexdigest()


def _encoded(*values: Any) -> bytes:
    return repr(values).encode("utf-8", "surrogatepass")
