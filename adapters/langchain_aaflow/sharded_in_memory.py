"""InMemoryVectorStores as parts of a sharded one: the scores, the order and the ties of one store that has all rows.

The native search is one product of a query with the matrix of all vectors. BLAS computes it some rows at a time, and
the few rows that are left over, at the end or where the share of a thread ends, by other instructions, so that their
last bits depend on how many rows there are. Here each rank computes its rows as they would be computed in that
matrix; that this gives the same bits is tried out first.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from aaflow_plugins.shards import Manifest
from langchain_aaflow.in_memory_store import arithmetic_is_known
from langchain_aaflow.sharded_parts import Part, Place, Results, documents_of

Array = npt.NDArray[np.float64]

#: Rows that BLAS takes at a time.
_GROUP: Final = 4
#: Floats of the matrix on which the arithmetic is tried out: enough for all threads to have a share.
_TRIED_FLOATS: Final = 300_000

_FILE: Final = "store.json"


class InMemoryPart(Part):
    """A rank's InMemoryVectorStore."""

    def __init__(self, store: InMemoryVectorStore) -> None:
        self.store = store
        self._product: RowProduct | None = None

    @property
    def rows(self) -> int:
        """Those of the store."""
        return len(self.store.store)

    @property
    def width(self) -> int | None:
        """That of the first vector."""
        entry = next(iter(self.store.store.values()), None)
        return None if entry is None else len(entry["vector"])

    def documents(self, rows: Sequence[int]) -> list[Document]:
        """New ones, as the native search makes them."""
        entries = self._entries
        return [_document(entries[row]) for row in rows]

    def vectors(self) -> list[Any]:
        """The very lists."""
        return [entry["vector"] for entry in self.store.store.values()]

    def refill(self, documents: list[Document], vectors: list[Any]) -> None:
        """In place: `store.store` stays the very dict."""
        self.store.store.clear()
        for document, vector in zip(documents, vectors, strict=True):
            entry = {"vector": vector, "text": document.page_content, "metadata": document.metadata}
            self.store.store[str(document.id)] = {"id": document.id, **entry}

    def emptied(self) -> InMemoryPart:
        """Another store, with the same embeddings."""
        store = object.__new__(type(self.store))
        store.__dict__ = {**self.store.__dict__, "store": {}}
        return InMemoryPart(store)

    def embed_query(self, query: str) -> list[float]:
        """By the store's embeddings."""
        vector: list[float] = self.store.embedding.embed_query(query)
        return vector

    def search(self, place: Place, queries: list[Any], k: int, options: dict[str, Any]) -> list[Results] | None:
        """By the ranks' own products; equal similarities by the native sort of all of them."""
        keep = options.get("filter")
        chosen, within = None, place
        if keep is not None:
            chosen = [row for row, entry in enumerate(self._entries) if keep(_document(entry))]
            within = Place.of(place.ranks, len(chosen))
        if not within.total:
            return [[] for _ in queries]
        k = within.total if k is None else k  # natively it is the end of a slice
        similarity = self._similarities(within, queries, chosen)
        if not place.all(similarity is not None):
            return None
        assert similarity is not None
        found = _best(within, similarity, k)
        if chosen is not None:
            # From numbers among the chosen to numbers among all: each rank knows those of its own.
            mine = pa.array(np.array(chosen, np.int64) + place.first)
            numbers = place.ranks.all_gather(pa.table({"row": mine}))["row"].to_numpy()
            found = [[(int(numbers[row]), score) for row, score in hits] for hits in found]
        documents = documents_of(place, self, [row for hits in found for row, _ in hits])
        return [[(documents[row], score) for row, score in hits] for hits in found]

    def _similarities(self, within: Place, queries: list[Any], chosen: list[int] | None) -> Array | None:
        """Each query's cosine similarity with the chosen rows, `(q, n)`, as natively; None where that isn't known."""
        wanted = np.array(queries)
        if wanted.dtype != np.float64 or wanted.ndim != 2:
            return None
        width = wanted.shape[1]
        matrix = self._matrix if self.rows else np.empty((0, width))
        if matrix is None or matrix.shape[1] != width:
            return None
        if chosen is not None:
            product = _product_of(matrix[chosen], within)
        else:
            product = self._product = self._product or _product_of(matrix, within)
        if product is None:
            return None
        rows = []
        for query in wanted:
            with np.errstate(all="ignore"):
                length = np.linalg.norm(query[None], axis=1)
                row = product(query[None]) / np.outer(length, product.lengths)[0]
            undefined = ~np.isfinite(row)
            # Vectors that aren't finite are warned of, and similarities none of which is defined refused, natively.
            if not np.isfinite(length).all() or not product.finite or (len(row) and undefined.all()):
                return None
            row[undefined] = 0.0
            rows.append(row)
        return np.stack(rows)

    @cached_property
    def _entries(self) -> list[dict[str, Any]]:
        return list(self.store.store.values())

    @cached_property
    def _matrix(self) -> Array | None:
        """All vectors, `(n, d)`; None if they are no floats of one width."""
        vectors = self.vectors()
        if not vectors or set(map(type, vectors)) != {list} or len(set(map(len, vectors))) != 1:
            return None
        matrix = np.array(vectors)
        return matrix if matrix.dtype == np.float64 else None

    def save(self, folder: Path) -> None:
        """As `InMemoryVectorStore.dump` writes it: JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.store.dump(str(folder / _FILE))

    @property
    def settings(self) -> dict[str, Any]:
        """None."""
        return {}


def load(folder: Path, shards: Sequence[int], embedding: Embeddings, options: dict[str, Any]) -> InMemoryPart:
    """Shards as `InMemoryVectorStore.load` reads them, one after the other."""
    store = InMemoryVectorStore(embedding, **options)
    for number in shards:
        path = Manifest.shard(folder, number) / _FILE
        store.store.update(InMemoryVectorStore.load(str(path), embedding).store)
    return InMemoryPart(store)


def _best(within: Place, similarity: Array, k: int) -> list[list[tuple[int, float]]]:
    """For each query the numbers of the `k` best of all ranks' rows, and their similarities.

    All ranks make this call.

    Args:
        within: Where this rank's rows stand.
        similarity: Each query's similarity with this rank's rows, `(q, n)`.
        k: As natively, where it is the end of a slice.
    """
    queries, ranks = len(similarity), within.ranks
    # One more: whether the last one is the last of several equal ones.
    depth = max(k + 1, 1)
    numbers, scores = np.full((queries, depth), -1), np.zeros((queries, depth))
    if depth < similarity.shape[1]:
        order = np.argpartition(-similarity, depth - 1, axis=1)[:, :depth]
    else:
        order = np.broadcast_to(np.arange(similarity.shape[1]), similarity.shape)
    numbers[:, : order.shape[1]] = order + within.first
    scores[:, : order.shape[1]] = np.take_along_axis(similarity, order, axis=1)
    table = ranks.all_gather(pa.table({"row": pa.array(numbers.reshape(-1)), "score": pa.array(scores.reshape(-1))}))
    all_rows, all_scores = (
        np.swapaxes(table[name].to_numpy().reshape(-1, queries, depth), 0, 1).reshape(queries, -1)
        for name in ("row", "score")
    )
    best = []
    for number in range(queries):
        there = all_rows[number] >= 0
        rows, values = all_rows[number][there], all_scores[number][there]
        order = np.argsort(-values)[:depth]
        rows, values = rows[order], values[order]
        if k < 1 or not (values[:-1] > values[1:]).all():
            # Equal similarities come out in the order in which sorting all of them happens to leave them.
            values = ranks.all_gather(pa.table({"similarity": pa.array(similarity[number])}))["similarity"].to_numpy()
            rows = values.argsort()[::-1]
            values = values[rows]
        best.append(list(zip(rows[:k].tolist(), values[:k].tolist(), strict=True)))
    return best


def _product_of(matrix: Array, within: Place) -> RowProduct | None:
    width = matrix.shape[1]
    threads = threads_of(width, min(within.total, max(16 * _GROUP, _TRIED_FLOATS // max(1, width))))
    return None if threads is None else RowProduct(matrix, within.first, within.total, threads)


class RowProduct:
    """`np.dot(query, whole.T)` for some consecutive rows of a matrix, bit for bit, without the others.

    Attributes:
        matrix: The rows, `(n, d)`.
        lengths: The length of each row.
        finite: Whether all of them are finite.
    """

    def __init__(self, matrix: Array, first: int, total: int, threads: int) -> None:
        """Set up.

        Args:
            matrix: The rows.
            first: The number of the first of them in the whole matrix.
            total: Rows of the whole matrix.
            threads: How many threads share its rows.
        """
        with np.errstate(all="ignore"):
            self.matrix, self.lengths = matrix, np.linalg.norm(matrix, axis=1)
        self.finite = bool(np.isfinite(self.lengths).all())
        self._alone = total == 1
        count, width = matrix.shape
        # No row is left over here, however many threads there are.
        filled = -count % (_GROUP * threads)
        self._groups = np.concatenate([matrix, np.zeros((filled, width))]) if filled else matrix
        self._left: list[tuple[slice, Array, slice]] = []
        for start, stop in left_over(total, threads):
            low, high = max(start, first), min(stop, first + count)
            if low < high:
                rows = np.zeros((_GROUP + stop - start, width))
                there = slice(_GROUP + low - start, _GROUP + high - start)
                rows[there] = matrix[low - first : high - first]
                self._left.append((slice(low - first, high - first), rows, there))

    def __call__(self, query: Array) -> Array:
        """The products `(n,)` with a query `(1, d)`."""
        if not len(self.matrix):
            return np.empty(0)
        if self._alone:  # a product of two vectors
            return np.asarray(np.dot(query, self.matrix.T)[0])
        products: Array = np.dot(query, self._groups.T)[0, : len(self.matrix)]
        for here, rows, there in self._left:
            products[here] = np.dot(query, rows.T)[0, there]
        return products


def left_over(total: int, threads: int) -> list[tuple[int, int]]:
    """The rows of each thread that make no whole group, as ranges; each thread has its share of what is left."""
    found, start = [], 0
    for thread in range(threads):
        count = min(max(-(-(total - start) // (threads - thread)), _GROUP), total - start)
        start += count
        if count % _GROUP:
            found.append((start - count % _GROUP, start))
    return found


@cache
def threads_of(width: int, total: int) -> int | None:
    """How many threads BLAS takes for a matrix of this shape; None if its arithmetic is another than assumed here."""
    if not arithmetic_is_known() or not width:
        return None
    generator = np.random.default_rng(0)
    matrix, queries = generator.standard_normal((total, width)), generator.standard_normal((3, 1, width))
    # Small parts, too: older versions share out the rows of a small product otherwise.
    cuts = {min(cut, total) for cut in (1, 4, total // 3, total // 2, max(total - 4, 0))}
    for threads in range(1, (os.cpu_count() or 1) + 1):
        if all(_is_reproduced(matrix, queries, cut, threads) for cut in cuts):
            return threads
    return None


def _is_reproduced(matrix: Array, queries: Array, cut: int, threads: int) -> bool:
    """Whether two parts of a matrix give the products of the whole."""
    total = len(matrix)
    parts = [RowProduct(matrix[:cut], 0, total, threads), RowProduct(matrix[cut:], cut, total, threads)]
    return all(
        np.concatenate([part(query) for part in parts]).tobytes() == np.dot(query, matrix.T)[0].tobytes()
        for query in queries
    )


def _document(entry: dict[str, Any]) -> Document:
    return Document(id=entry["id"], page_content=entry["text"], metadata=entry["metadata"])
