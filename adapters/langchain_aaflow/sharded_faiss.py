"""FAISS stores as parts of a sharded one: what `faiss_aaflow.sharded` finds, as documents."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores.faiss import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from aaflow_plugins.shards import Manifest
from faiss_aaflow.search import AnsweredIndex
from faiss_aaflow.sharded import search_parts
from langchain_aaflow.sharded_parts import Part, Place, Results, documents_of

#: Untyped: faiss adds its numpy-facing methods at import, its type information lags behind.
faiss: Any = import_module("faiss")


class FaissPart(Part):
    """A rank's FAISS store with a flat index."""

    def __init__(self, store: Any) -> None:
        self.store = store

    @property
    def rows(self) -> int:
        """Those of the index."""
        return int(self.store.index.ntotal)

    @property
    def width(self) -> int | None:
        """That of the index."""
        return int(self.store.index.d)

    def documents(self, rows: Sequence[int]) -> list[Document]:
        """Out of the docstore."""
        found = []
        for row in rows:
            id_ = self.store.index_to_docstore_id[row]
            document = self.store.docstore.search(id_)
            if not isinstance(document, Document):
                raise ValueError(f"Could not find document for id {id_}, got {document}")
            found.append(document)
        return found

    def vectors(self) -> list[Any]:
        """Rows of float32, normalized if the store normalizes."""
        return list(self.store.index.reconstruct_n(0, self.rows)) if self.rows else []

    def refill(self, documents: list[Document], vectors: list[Any]) -> None:
        """In place: the index and the dicts stay the very objects."""
        self.store.index.reset()
        if vectors:
            self.store.index.add(np.stack(vectors))
        self.store.docstore._dict.clear()
        self.store.docstore._dict.update({document.id: document for document in documents})
        self.store.index_to_docstore_id.clear()
        self.store.index_to_docstore_id.update(enumerate(document.id for document in documents))

    def emptied(self) -> FaissPart:
        """Another store, with the same embeddings, distance and settings."""
        store = object.__new__(type(self.store))
        index = type(self.store.index)(self.width)
        fresh = {"index": index, "docstore": InMemoryDocstore(), "index_to_docstore_id": {}}
        store.__dict__ = {**self.store.__dict__, **fresh}
        return FaissPart(store)

    def embed_query(self, query: str) -> list[float]:
        """By the store's embeddings or function."""
        vector: list[float] = self.store._embed_query(query)
        return vector

    def search(self, place: Place, queries: list[Any], k: int, options: dict[str, Any]) -> list[Results] | None:
        """By the ranks' own indexes."""
        wanted = k if options.get("filter") is None else options.get("fetch_k", 20)
        matrix = np.array(queries, dtype=np.float32)
        if self.store._normalize_L2:
            faiss.normalize_L2(matrix)
        found = search_parts(place.ranks, self.store.index, place.first, place.total, matrix, wanted)
        if found is None:
            return None
        scores, rows = found
        documents = documents_of(place, self, [row for row in np.unique(rows).tolist() if row >= 0])
        # The native method turns an index's answer into documents: filter, threshold and all.
        answered = AnsweredIndex()
        reader = object.__new__(FAISS)
        reader.__dict__ = {
            **self.store.__dict__,
            "index": answered,
            "index_to_docstore_id": {row: str(row) for row in documents},
            "docstore": InMemoryDocstore({str(row): document for row, document in documents.items()}),
        }
        results = []
        for number, query in enumerate(queries):
            answered.answer = scores[number][None], rows[number][None]
            results.append(reader.similarity_search_with_score_by_vector(query, k=k, **options))
        return results

    def save(self, folder: Path) -> None:
        """The index in faiss's format, the documents pickled, as `FAISS.save_local` writes them."""
        self.store.save_local(str(folder))

    @property
    def settings(self) -> dict[str, Any]:
        """The metric, and what `load_local` has to be told."""
        return {
            "metric": int(self.store.index.metric_type),
            "normalize_L2": bool(self.store._normalize_L2),
            "distance_strategy": str(self.store.distance_strategy.value),
        }


def refusal(store: Any) -> str | None:
    """Why a FAISS store can't be kept in shards; None if it can."""
    if type(store.index) not in (faiss.IndexFlatL2, faiss.IndexFlatIP):
        return f"its index is a {type(store.index).__name__}, and no flat one of L2 distances or inner products"
    if type(store.docstore) is not InMemoryDocstore:
        return f"its documents are in a {type(store.docstore).__name__}"
    return "it is not empty" if store.index.ntotal else None


def empty(store_class: Any, embedding: Embeddings, width: int) -> FaissPart:
    """The store that a class makes, without a row."""
    return FaissPart(store_class(embedding, faiss.IndexFlatL2(width), InMemoryDocstore(), {}))


def load(
    manifest: Manifest, folder: Path, shards: Sequence[int], embedding: Embeddings, options: dict[str, Any]
) -> FaissPart:
    """Shards as `FAISS.load_local` reads them, one after the other.

    Raises:
        ValueError: Without `allow_dangerous_deserialization`, as documents are pickled.
    """
    settings = {
        "normalize_L2": manifest.settings["normalize_L2"],
        "distance_strategy": DistanceStrategy(manifest.settings["distance_strategy"]),
    }
    loaded = [
        FAISS.load_local(str(Manifest.shard(folder, number)), embedding, **{**settings, **options}) for number in shards
    ]
    if not loaded:
        kind = faiss.IndexFlatIP if manifest.settings["metric"] == faiss.METRIC_INNER_PRODUCT else faiss.IndexFlatL2
        extra = {key: value for key, value in options.items() if key == "relevance_score_fn"}
        return FaissPart(FAISS(embedding, kind(manifest.width), InMemoryDocstore(), {}, **settings, **extra))
    for other in loaded[1:]:
        loaded[0].merge_from(other)
    return FaissPart(loaded[0])
