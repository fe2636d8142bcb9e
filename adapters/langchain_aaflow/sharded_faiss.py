"""FAISS stores as parts of a sharded one: the scores, the order and the ties of one index that has all rows.

faiss compares a single query with one vector after the other, and keeps the best in a heap. That is done here on each
rank's rows, in one thread (with several, faiss computes the scores of 10,000 vectors or more by another routine, whose
last bits differ), and what one heap would keep of all rows follows from what each rank has found.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores.faiss import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from aaflow_plugins.embedding import Matrix
from aaflow_plugins.shards import Manifest
from faiss_aaflow.search import search_each
from langchain_aaflow.sharded_parts import Part, Place, Results, documents_of

#: Untyped: faiss adds its numpy-facing methods at import, its type information lags behind.
faiss: Any = import_module("faiss")

Rows = npt.NDArray[np.int64]


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
        found = self._best(place, matrix, wanted)
        if found is None:
            return None
        scores, rows = found
        documents = documents_of(place, self, [row for row in np.unique(rows).tolist() if row >= 0])
        # The native method turns an index's answer into documents: filter, threshold and all.
        answered = _AnsweredIndex()
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

    def _best(self, place: Place, queries: Matrix, k: int) -> tuple[Matrix, Rows] | None:
        """Scores and rows, `(q, k)`, as one index over all rows finds them; row -1 where there are fewer.

        None where that is not known: of many results faiss keeps any of those that are equal at the end.
        """
        index, first = self.store.index, place.first
        falling = index.metric_type == faiss.METRIC_INNER_PRODUCT
        many = k >= faiss.cvar.distance_compute_min_k_reservoir
        # Of inner products a heap drops the lower row of two equal ones first when it has to: as many again may count.
        depth = 2 * k if falling else k + many
        with _one_thread():
            found = list(search_each(index, queries, depth))
            if falling:
                found = [
                    _with_first_ties(index, queries[number : number + 1], *answer, k)
                    for number, answer in enumerate(found)
                ]
        scores, rows = (np.concatenate(each) for each in zip(*found, strict=True))
        scores, rows = place.ranks.reduce_top_k(scores, np.where(rows < 0, -1, rows + first), largest=falling)
        if many and ((scores[:, k - 1] == scores[:, k]) & (rows[:, k] >= 0)).any():
            return None
        if not falling:
            return scores[:, :k], rows[:, :k]
        kept = [_kept_by_a_heap(*each, k) for each in zip(scores, rows, strict=True)]
        return np.stack([each[0] for each in kept]), np.stack([each[1] for each in kept])

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


class _AnsweredIndex:
    """Stands in for an index in a native search: gives the answer that is already known."""

    answer: Any = None

    def search(self, vectors: Matrix, k: int) -> Any:
        return self.answer


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have faiss search in this thread alone."""
    most = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(most)


def _with_first_ties(index: Any, query: Matrix, scores: Matrix, rows: Rows, k: int) -> tuple[Matrix, Rows]:
    """The `2 k` best inner products, of equal ones the lower rows first.

    Args:
        index: The index.
        query: `(1, d)`.
        scores: What a search for `2 k` has found, `(1, 2 k)`.
        rows: The rows of the scores.
        k: Half of what was searched for.
    """
    found, held = scores[0], rows[0]
    if held[-1] >= 0 and found[-1] == found[k - 1]:
        # More rows than were asked for may have this score.
        _, more, numbers = index.range_search(query, float(np.nextafter(found[k - 1], np.float32(-np.inf))))
        found, held = more, numbers
    order = np.lexsort((held, -found, held < 0))[: 2 * k]
    return found[order][None], held[order][None]


def _kept_by_a_heap(scores: Matrix, rows: Rows, k: int) -> tuple[Matrix, Rows]:
    """What faiss's heap of `k` inner products keeps of these rows, were they added in their order; best first.

    A row enters a full heap only if its product is larger than the smallest there; of equal ones the lowest row leaves
    first, and comes last in the end.
    """
    heap: list[tuple[float, int]] = []
    for row, score in sorted(zip(rows.tolist(), scores.tolist(), strict=True)):
        if row < 0:
            continue
        if len(heap) < k:
            heapq.heappush(heap, (score, row))
        elif score > heap[0][0]:
            heapq.heapreplace(heap, (score, row))
    best = sorted(heap, reverse=True)
    missing = k - len(best)
    kept = np.array([score for score, _ in best] + [-np.inf] * missing, np.float32)
    return kept, np.array([row for _, row in best] + [-1] * missing, np.int64)
