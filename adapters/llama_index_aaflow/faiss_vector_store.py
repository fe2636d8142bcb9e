"""LlamaIndex's FaissVectorStore: vectors added as one buffer, and many queries searched at once.

The native `add` hands the index one vector at a time; a flat index holds the same bytes after one call with all of
them. Of many queries each gets the very answer of a single search (`faiss_aaflow.search`), which the native `query`
then turns into its result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult
from llama_index.vector_stores.faiss import FaissVectorStore

from aaflow_plugins.dataplane.vectors import to_numpy
from aaflow_plugins.embedding import Matrix
from aaflow_plugins.known_code import is_one_of
from faiss_aaflow.search import AnsweredIndex, batch_search_reason, search_each

faiss: Any = import_module("faiss")

#: Structures of the native code that is reproduced or relied on: llama-index-vector-stores-faiss 0.5.1 to 0.7.0, and
#: llama-index-core 0.14.0 to 0.14.25.
_ADD: Final = frozenset({"4356d8c421e0df3f"})
_QUERY: Final = frozenset({"ee5dffa0ed503227"})
_GET_EMBEDDING: Final = frozenset({"4cfeee87f183915b"})

#: Indexes that hold the vectors themselves, one after the other.
_FLAT: Final = (faiss.IndexFlat, faiss.IndexFlatL2, faiss.IndexFlatIP)


class AcceleratedFaissVectorStore(FaissVectorStore):
    """`FaissVectorStore` with the same contents, results and errors, filled and searched sooner."""

    def add(self, nodes: Sequence[BaseNode], **add_kwargs: Any) -> list[str]:
        """Add nodes as natively, with one call to the index.

        Args:
            nodes: Nodes with embeddings.
            **add_kwargs: As natively, ignored.

        Returns:
            The vectors' numbers in the index.

        Raises:
            Exception: What the native method raises; the nodes before the one that it refuses are in the index then.
        """
        index = self._faiss_index
        vectors = _embeddings(nodes, index.d) if _adds_in_bulk(index) else None
        return super().add(cast(list[BaseNode], nodes), **add_kwargs) if vectors is None else _add(index, vectors)

    def add_vectors(self, vectors: npt.NDArray[np.floating[Any]] | pa.FixedSizeListArray) -> list[str]:
        """Add a column of vectors, without a detour over lists of floats.

        Args:
            vectors: `(n, d)` array, or an Arrow `fixed_size_list<float32>[d]` of `n` rows without nulls. Float32 in
                C order enters the index without another copy.

        Returns:
            What `add` returns for nodes of these embeddings.

        Raises:
            ValueError: If a vector of an Arrow column is null.
            AssertionError: If `d` is not the index's dimension; nothing has been added then.
        """
        matrix = to_numpy(vectors) if isinstance(vectors, pa.FixedSizeListArray) else vectors
        rows = np.ascontiguousarray(matrix, dtype=np.float32)
        index = self._faiss_index
        if _adds_in_bulk(index):
            return _add(index, rows)
        # What other indexes make of a vector may depend on those that come with it.
        return [number for row in range(len(rows)) for number in _add(index, rows[row : row + 1])]

    def query_many(self, queries: Sequence[VectorStoreQuery], **kwargs: Any) -> list[VectorStoreQueryResult]:
        """Search for many queries at once.

        Args:
            queries: Any number of queries.
            **kwargs: As for `query`.

        Returns:
            For each query exactly what `query` returns for it.

        Raises:
            Exception: What `query` raises for the first query that it refuses.
        """
        answered = AnsweredIndex()
        reader = _with_index(self, answered)
        results = []
        for query, answer in zip(queries, self._answers(queries), strict=True):
            if answer is None:
                results.append(self.query(query, **kwargs))
            else:
                answered.answer = answer
                results.append(reader.query(query, **kwargs))
        return results

    async def aquery_many(self, queries: Sequence[VectorStoreQuery], **kwargs: Any) -> list[VectorStoreQueryResult]:
        """`query_many`: as natively, a search runs in the event loop."""
        return self.query_many(queries, **kwargs)

    def _answers(self, queries: Sequence[VectorStoreQuery]) -> Iterator[Any]:
        """Yield what the index gives for each query, or None where the native method has to ask it."""
        index = self._faiss_index
        groups: dict[int, list[int]] = defaultdict(list)
        vectors: dict[int, Matrix] = {}
        if is_one_of(vars(FaissVectorStore)["query"], _QUERY) and batch_search_reason(index) is None:
            for at, query in enumerate(queries):
                vector = _query_vector(query, index.d)
                if vector is not None:
                    vectors[at] = vector
                    groups[query.similarity_top_k].append(at)
        searches = {
            top: search_each(index, np.stack([vectors[at] for at in places]), top)
            for top, places in groups.items()
            if len(places) > 1
        }
        for at, query in enumerate(queries):
            search = searches.get(query.similarity_top_k) if at in vectors else None
            yield None if search is None else next(search)


# A store's class shows in its representation: that of the native one. Pickle goes by `__qualname__`.
AcceleratedFaissVectorStore.__name__ = FaissVectorStore.__name__


def native_reason(store_or_class: Any) -> str | None:
    """Why this FaissVectorStore or class is left as it is; None if it is accelerated."""
    store_class = store_or_class if isinstance(store_or_class, type) else type(store_or_class)
    if store_class not in (FaissVectorStore, AcceleratedFaissVectorStore):
        return f"{store_class.__name__} is a subclass of FaissVectorStore, whose methods may mean something else"
    if not (is_one_of(vars(FaissVectorStore)["add"], _ADD) and is_one_of(vars(FaissVectorStore)["query"], _QUERY)):
        return "the installed FaissVectorStore adds or queries in another way than known"
    return None


def _with_index(store: FaissVectorStore, index: Any) -> FaissVectorStore:
    reader: Any = FaissVectorStore.__new__(FaissVectorStore)
    for name in ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__"):
        object.__setattr__(reader, name, getattr(store, name))
    object.__setattr__(reader, "__pydantic_private__", {**(store.__pydantic_private__ or {}), "_faiss_index": index})
    found: FaissVectorStore = reader
    return found


def _adds_in_bulk(index: Any) -> bool:
    return type(index) in _FLAT and is_one_of(vars(FaissVectorStore)["add"], _ADD)


def _add(index: Any, vectors: Matrix) -> list[str]:
    first = index.ntotal
    index.add(vectors)
    return list(map(str, range(first, first + len(vectors))))


def _embeddings(nodes: Any, dimension: int) -> Matrix | None:
    """The nodes' embeddings `(n, d)`, as the native method would hand over each; None if it has to look at each."""
    if type(nodes) not in (list, tuple) or len(nodes) < 2:
        return None
    for cls in set(map(type, nodes)):
        if not (issubclass(cls, BaseNode) and is_one_of(cls.get_embedding, _GET_EMBEDDING)):
            return None
    rows = [node.embedding for node in nodes]
    kinds = set(map(type, rows))
    # A cast that warns does so for each node natively.
    with np.errstate(over="raise", invalid="raise"):
        try:
            if kinds == {list}:
                matrix = np.array(rows, dtype=np.float32)
            elif kinds == {np.ndarray} and all(row.ndim == 1 and row.dtype.kind == "f" for row in rows):
                # The same numbers; numpy takes arrays in a list item by item.
                matrix = np.concatenate(rows).astype(np.float32, copy=False).reshape(len(rows), -1)
                if any(len(row) != dimension for row in rows):
                    return None
            else:
                return None
        except (TypeError, ValueError, ArithmeticError):
            return None
    return matrix if matrix.shape == (len(rows), dimension) else None


def _query_vector(query: Any, dimension: int) -> Matrix | None:
    """A query as the native method would hand it to the index `(d,)`; None if it is left to that."""
    if type(query) is not VectorStoreQuery or query.filters is not None or type(query.similarity_top_k) is not int:
        return None
    with np.errstate(over="raise", invalid="raise"):
        try:
            vector = np.array(query.query_embedding, dtype=np.float32)
        except (TypeError, ValueError, ArithmeticError):
            return None
    return vector if vector.shape == (dimension,) and query.similarity_top_k > 0 else None
