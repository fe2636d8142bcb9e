"""LlamaIndex's SimpleVectorStore: searches that keep the matrix which the native query rebuilds, and quicker files.

The native store is a public dict of lists of floats, `data.embedding_dict`. A query turns all of them into a float64
matrix and computes one similarity after the other. Here a matrix is kept as long as the lists stay what they were, and
the native function ranks only what can be among the best (`llama_index_aaflow.simple_vector_ranking`). Whether they do
is looked at only if somebody else can have changed one (`aaflow_plugins.reach`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

from llama_index.core.vector_stores.simple import SimpleVectorStore, SimpleVectorStoreData
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from aaflow_plugins.known_code import is_one_of
from aaflow_plugins.reach import attribute
from llama_index_aaflow.simple_vector_files import read, write
from llama_index_aaflow.simple_vector_ranking import KeptUnits, Rows, data_of

#: Untyped: what they import from elsewhere is looked up in them at each use, as the native code does.
simple: Any = import_module("llama_index.core.vector_stores.simple")
embedding_utils: Any = import_module("llama_index.core.indices.query.embedding_utils")

#: Fewer vectors are searched natively: there is nothing to save.
MIN_VECTORS: Final = 32

#: Attributes by which one gets hold of a store's data.
_WAYS_IN: Final = frozenset({"data", "__dict__"})

#: Structures of the native code that is reproduced or relied on: llama-index-core 0.14.0 to 0.14.25.
_QUERY: Final = frozenset({"b9ebee54fa33a4df"})
_PERSIST: Final = frozenset({"409f90f20fda2070", "627e26268fcd3b5b"})
_FROM_PERSIST_PATH: Final = frozenset({"d8284555b9873999"})
_TOP_K: Final = frozenset({"95f467f97c1716c4"})
_SIMILARITY: Final = frozenset({"e8aed0f3e8b6a3a8"})


class AcceleratedSimpleVectorStore(SimpleVectorStore):
    """`SimpleVectorStore` with the same contents, results and errors, searched sooner.

    What is kept is no part of the object's state: it is neither pickled nor copied nor shared with the store of which
    this is a view. It takes 12 bytes a float, beside the native lists' 32.
    """

    __slots__ = ("_aaflow_kept",)

    if not TYPE_CHECKING:  # which would take it for a source of attributes of any name

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name in _WAYS_IN:
                _kept(self).reach.note()
            return found

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Search for the nodes most similar to a query, as natively."""
        rows = self._rows() if self._can_rank(query) else None
        answer = None if rows is None else rows.answer(query, _data(self).metadata_dict)
        return super().query(query, **kwargs) if answer is None else answer

    def query_many(self, queries: Sequence[VectorStoreQuery], **kwargs: Any) -> list[VectorStoreQueryResult]:
        """Search for many queries, comparing what is kept with the store once for all of them.

        Args:
            queries: Any number of queries.
            **kwargs: As for `query`.

        Returns:
            For each query exactly what `query` returns for it.

        Raises:
            Exception: What `query` raises for the first query that it refuses.
        """
        rankable = list(map(self._can_rank, queries))
        rows = self._rows() if sum(rankable) > 1 else None
        proposals = iter(rows.propose(list(compress(queries, rankable))) if rows is not None else ())
        results = []
        for query, can_rank in zip(queries, rankable, strict=True):
            answer = None
            if rows is not None and can_rank:
                answer = rows.answer(query, _data(self).metadata_dict, next(proposals))
            results.append(self.query(query, **kwargs) if answer is None else answer)
        return results

    async def aquery_many(self, queries: Sequence[VectorStoreQuery], **kwargs: Any) -> list[VectorStoreQueryResult]:
        """`query_many`: as natively, a search runs in the event loop."""
        return self.query_many(queries, **kwargs)

    def persist(
        self,
        persist_path: str = os.path.join(DEFAULT_PERSIST_DIR, DEFAULT_PERSIST_FNAME),
        fs: Any = None,
    ) -> None:
        """Write the store to a file, as natively.

        Args:
            persist_path: Where to.
            fs: The filesystem of fsspec; None for the store's own.
        """
        if not (
            is_one_of(vars(SimpleVectorStore)["persist"], _PERSIST) and write(self.data, persist_path, fs or self._fs)
        ):
            super().persist(persist_path, fs)

    @classmethod
    def from_persist_path(cls, persist_path: str, fs: Any = None) -> SimpleVectorStore:
        """Read a store from a file, as natively.

        Args:
            persist_path: Where from.
            fs: The filesystem of fsspec; None for the local one.

        Raises:
            ValueError: If there is no such file.
        """
        files = fs or simple.fsspec.filesystem("file")
        make: Any = cls
        native = vars(SimpleVectorStore)["from_persist_path"].__func__
        if is_one_of(native, _FROM_PERSIST_PATH) and files.exists(persist_path):
            found: SimpleVectorStore = make(read(persist_path, files, simple.logger))
            return found
        return super().from_persist_path(persist_path, fs)

    def _can_rank(self, query: VectorStoreQuery) -> bool:
        """Whether the native query would come to the function that ranks all vectors, as it is known."""
        data = _data(self)
        return (
            type(query) is VectorStoreQuery
            and query.mode == VectorStoreQueryMode.DEFAULT
            and type(query.similarity_top_k) is int
            and query.similarity_top_k > 0
            and type(data) is SimpleVectorStoreData
            and type(data.embedding_dict) is dict
            and len(data.embedding_dict) >= MIN_VECTORS
            and not (query.filters is not None and not data.metadata_dict)
            and ranking_is_known()
        )

    def _rows(self) -> Rows:
        if type(self) is AcceleratedSimpleVectorStore:
            return _kept(self).rows(self)
        stored = self.data.embedding_dict
        return Rows(stored, list(stored), list(stored.values()), _kept(self))


def _data(store: AcceleratedSimpleVectorStore) -> SimpleVectorStoreData:
    # Attributes of a subclass may be something else.
    return data_of(store) if type(store) is AcceleratedSimpleVectorStore else store.data


def _kept(store: AcceleratedSimpleVectorStore) -> KeptUnits:
    try:
        kept: KeptUnits = attribute(store, "_aaflow_kept")
    except AttributeError:
        kept = KeptUnits()
        object.__setattr__(store, "_aaflow_kept", kept)
    return kept


# A store's class shows in its representation: that of the native one. Pickle goes by `__qualname__`.
AcceleratedSimpleVectorStore.__name__ = SimpleVectorStore.__name__


def native_reason(store_or_class: Any) -> str | None:
    """Why this SimpleVectorStore or class is left as it is; None if it is accelerated."""
    store_class = store_or_class if isinstance(store_or_class, type) else type(store_or_class)
    if store_class not in (SimpleVectorStore, AcceleratedSimpleVectorStore):
        return f"{store_class.__name__} is a subclass of SimpleVectorStore, whose methods may mean something else"
    if not ranking_is_known():
        return "the installed llama-index-core has another SimpleVectorStore.query than known, or it is replaced"
    return None


def ranking_is_known() -> bool:
    """Whether the native query is as known, down to the similarity of two vectors. Each can be replaced at any time."""
    return (
        is_one_of(vars(SimpleVectorStore)["query"], _QUERY)
        and is_one_of(simple.get_top_k_embeddings, _TOP_K)
        and is_one_of(embedding_utils.default_similarity_fn, _SIMILARITY)
    )
