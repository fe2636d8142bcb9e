"""LangChain's InMemoryVectorStore: searches that keep the matrix which the native search rebuilds at each query.

The native store is a public dict of dicts, `store`, each with its vector as a list of floats. A search turns all of
them into a float64 matrix, which takes far longer than the product with the query. Here the matrix is kept, and
before each use compared with the lists themselves, as `aaflow_plugins.kept_vectors` says, unless nobody but the store
can have changed one (`aaflow_plugins.reach`).
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from langchain_core.documents import Document
from langchain_core.embeddings import FakeEmbeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_core.vectorstores import base as base_module
from langchain_core.vectorstores import in_memory as in_memory_module
from langchain_core.vectorstores import utils as native_similarity

from aaflow_plugins.collector import paused_collector
from aaflow_plugins.embedding import Vectors
from aaflow_plugins.joins import IN_BLOCKS
from aaflow_plugins.kept_vectors import KeptSearches, begin_with_floats
from aaflow_plugins.random_ids import random_ids
from aaflow_plugins.reach import Found, Reach, attribute
from aaflow_plugins.storing import VectorSink
from langchain_aaflow.joining import aembed_query, asearch, embed_query, joins_of, search
from langchain_aaflow.native_stores import replaced_methods

Array = npt.NDArray[np.float64]
Entry = dict[str, Any]
Filter = Callable[[Document], bool]
T = TypeVar("T")

#: Fewer documents are searched natively: there is nothing to save.
MIN_DOCUMENTS = 32

#: Attributes by which one gets hold of a store's documents.
_WAYS_IN: Final = frozenset({"store", "__dict__"})


class AcceleratedInMemoryVectorStore(InMemoryVectorStore):
    """`InMemoryVectorStore` with the same contents, results and errors, searched sooner.

    Replaced is the method in which all native searches end. The kept matrix is no part of the object's state: it
    is neither pickled nor copied nor shared with the store of which this is a view. It takes 16 bytes a float,
    beside the native lists' 32.
    """

    __slots__ = ("_aaflow_joins", "_kept")
    _kept: _KeptMatrix

    if not TYPE_CHECKING:  # which would take it for a source of attributes of any name

        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name in _WAYS_IN:
                _kept_of(self).reach.note()
            return found

    def __getstate__(self) -> Any:
        joins = joins_of(self)
        return self.__dict__ if joins is IN_BLOCKS else (self.__dict__, {"_aaflow_joins": joins})

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """The native search, joined with concurrent ones."""
        joins = joins_of(self)
        if joins.scope is None:
            return super().similarity_search_with_score(query, k, **kwargs)
        vector = embed_query(self.embedding, query, joins, self.embedding.embed_query)
        return self.similarity_search_with_score_by_vector(vector, k, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The native search, joined with concurrent ones. As natively, it runs in the event loop."""
        joins = joins_of(self)
        if joins.scope is None:
            return await super().asimilarity_search_with_score(query, k, **kwargs)
        vector = await aembed_query(self.embedding, query, joins, self.embedding.aembed_query)
        one = partial(_next_turn, partial(_dropping_vectors, super().similarity_search_with_score_by_vector))
        many = partial(_next_turn, self.similarity_search_with_score_by_vectors)
        return await asearch(
            self, vector, {"k": k, **kwargs}, one, many if len(_stored(self)) >= MIN_DOCUMENTS else None
        )

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The native search, joined with concurrent ones."""
        settings = {"k": k, "filter": filter, **kwargs}
        one = partial(_dropping_vectors, super().similarity_search_with_score_by_vector)
        many = self.similarity_search_with_score_by_vectors if len(_stored(self)) >= MIN_DOCUMENTS else None
        return search(self, embedding, settings, one, many)

    def _similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Filter | None = None,
    ) -> list[tuple[Document, float, list[float]]]:
        if len(_stored(self)) < MIN_DOCUMENTS or not arithmetic_is_known():
            return super()._similarity_search_with_score_by_vector(embedding, k, filter)
        found = self._found(embedding, k, filter)
        if not getattr(_searching, "drops_vectors", False):
            _kept_of(self).reach.note()  # whoever asks has the very lists now
        return found

    def _found(
        self, embedding: list[float], k: int, filter: Filter | None
    ) -> list[tuple[Document, float, list[float]]]:
        contents, chosen = _kept_of(self).contents(self), None
        docs = contents.docs
        if filter is not None:
            chosen = [row for row, doc in enumerate(docs) if filter(_document(doc))]
            if not chosen:
                return []
        kept = contents.rows()
        if chosen is not None:
            docs = [docs[row] for row in chosen]
            kept = None if kept is None else kept.rows(chosen)
        similarity = None if kept is None else kept.similarity(embedding)
        if similarity is None:
            # Called by itself: a filter must not be asked twice.
            similarity = native_similarity._cosine_similarity([embedding], [doc["vector"] for doc in docs])[0]
        return _ranked(docs, similarity, k)

    def similarity_search_with_score_by_vectors(
        self,
        embeddings: npt.NDArray[np.floating[Any]] | Sequence[list[float]],
        k: int = 4,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[list[tuple[Document, float]]]:
        """Search for many query vectors, comparing the kept matrix with the store once for all of them.

        Args:
            embeddings: `(q, d)` array, or one sequence of floats a query.
            k: Documents a query.
            filter: As in `similarity_search_with_score_by_vector`.
            **kwargs: As there.

        Returns:
            For each query exactly what `similarity_search_with_score_by_vector` returns for it.

        Raises:
            Exception: What that method raises for the first query that it refuses.
        """
        kept = None
        docs: Sequence[Entry] = []
        if filter is None and len(embeddings) > 1 and len(_stored(self)) >= MIN_DOCUMENTS and arithmetic_is_known():
            contents = _kept_of(self).contents(self)
            kept, docs = contents.rows() or contents.rows(), contents.docs
        results = []
        for embedding in embeddings:
            similarity = None if kept is None else kept.similarity(embedding)
            if similarity is None:
                results.append(self.similarity_search_with_score_by_vector(embedding, k, filter=filter, **kwargs))
            else:
                results.append([(document, score) for document, score, _ in _ranked(docs, similarity, k)])
        return results

    def similarity_search_with_score_batch(
        self, queries: Sequence[str], k: int = 4, **kwargs: Any
    ) -> list[list[tuple[Document, float]]]:
        """Search for many queries at once: for each what `similarity_search_with_score` returns for it.

        Queries are embedded one by one and in order, as by single searches, but all before the first is
        searched.
        """
        vectors = [self.embedding.embed_query(query) for query in queries]
        return self.similarity_search_with_score_by_vectors(vectors, k, **kwargs)

    def similarity_search_batch(self, queries: Sequence[str], k: int = 4, **kwargs: Any) -> list[list[Document]]:
        """Search for many queries at once: for each what `similarity_search` returns for it."""
        found = self.similarity_search_with_score_batch(queries, k, **kwargs)
        return [[document for document, _ in results] for results in found]


def _stored(store: InMemoryVectorStore) -> dict[str, Entry]:
    """The public dict of a store, without a note that somebody looks at it."""
    is_ours = type(store) is AcceleratedInMemoryVectorStore
    stored: dict[str, Entry] = attribute(store, "store") if is_ours else store.store
    return stored


def _kept_of(store: AcceleratedInMemoryVectorStore) -> _KeptMatrix:
    try:
        kept: _KeptMatrix = attribute(store, "_kept")
    except AttributeError:
        kept = store._kept = _KeptMatrix()
    return kept


# Tags and tracing of a retriever show the name of its store's class: that of the native one. Pickle goes by
# `__qualname__`.
AcceleratedInMemoryVectorStore.__name__ = InMemoryVectorStore.__name__


class InMemorySink(VectorSink):
    """Takes rows with finished vectors into an InMemoryVectorStore, as its own `add_documents` would.

    The native store keeps lists of floats: the one copy that can't be avoided.
    """

    takes_buffer = False

    def __init__(self, store: InMemoryVectorStore) -> None:
        self.store = store

    @property
    def dimension(self) -> int | None:
        """Always None: the native store takes vectors of any length, and only its searches refuse them."""
        return None

    def upsert(
        self,
        texts: Sequence[str],
        metadatas: Sequence[Mapping[str, Any]],
        ids: Sequence[str | None],
        vectors: Vectors,
    ) -> list[str]:
        """Add rows as `add_documents` does with documents of these texts, metadata and ids.

        As there, a dict of metadata is kept itself, not a copy of it, and a row whose id is taken replaces the
        other in its place.
        """
        fresh = iter(random_ids(sum(not given for given in ids)))
        added = [given or next(fresh) for given in ids]
        with paused_collector():
            rows = zip(added, texts, metadatas, vectors.tolist(), strict=True)
            entries = [_entry(id_, text, metadata, vector) for id_, text, metadata, vector in rows]
        self.store.store.update(zip(added, entries, strict=True))
        return added


def native_reason(store: InMemoryVectorStore | type[InMemoryVectorStore]) -> str | None:
    """Why this InMemoryVectorStore or class is left as it is; None if it is accelerated."""
    store_class = store if isinstance(store, type) else type(store)
    if store_class not in (InMemoryVectorStore, AcceleratedInMemoryVectorStore):
        return f"{store_class.__name__} is a subclass of InMemoryVectorStore, whose methods may mean something else"
    if changed := replaced_methods(store, _REPLACED | _MAKING if isinstance(store, type) else _REPLACED, _MODULES):
        return f"{', '.join(changed)} of this store is replaced"
    return None


#: Methods that the view or the sink stands for, and those that the sink stands for where it makes the store.
_REPLACED = {
    *("add_documents", "aadd_documents", "add_texts", "aadd_texts"),
    *("_similarity_search_with_score_by_vector", "similarity_search_with_score_by_vector"),
    *("similarity_search_with_score", "asimilarity_search_with_score"),
}
_MAKING = {"from_documents", "afrom_documents", "from_texts", "afrom_texts"}

#: Where these methods are written.
_MODULES = [base_module, in_memory_module, sys.modules[__name__]]


@dataclass(frozen=True)
class _Rows:
    """Vectors as a native search would see them, `(n, d)`, and the length of each."""

    matrix: Array
    lengths: Array

    def rows(self, chosen: list[int]) -> _Rows:
        return _Rows(self.matrix[chosen], self.lengths[chosen])

    def similarity(self, embedding: Any) -> Array | None:
        """Cosine similarity of each row with a query, by the native operations; None for what they refuse."""
        query = np.array([embedding])
        if query.ndim != 2 or query.dtype.kind != "f" or query.shape[1] != self.matrix.shape[1]:
            return None
        with np.errstate(all="ignore"):
            length = np.linalg.norm(query, axis=1)
        # The native operations warn of what isn't finite.
        if not np.isfinite(length).all():
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            similarity: Array = np.dot(query, self.matrix.T) / np.outer(length, self.lengths)
        undefined = ~np.isfinite(similarity)
        if undefined.any():
            if np.isnan(similarity).all():
                return None
            similarity[undefined] = 0.0
        row: Array = similarity[0]
        return row


@dataclass
class _Contents:
    """What a store holds at one moment."""

    kept: _KeptMatrix
    stored: dict[str, Entry]
    docs: Sequence[Entry]
    #: What the look was, if then nobody but the store could reach the vectors.
    look: object | None
    _rows: _Rows | None = None

    def rows(self) -> _Rows | None:
        """The rows of the documents' vectors, as they are now; None if they have to be taken natively."""
        if self._rows is None or self.look is not self.kept.reach.look:
            plain = set(map(type, self.docs)) == {dict}
            self._rows = self.kept.of([doc.get("vector") for doc in self.docs]) if plain else None
            if self._rows is not None and self.look is not None:
                self.kept.last = self
        return self._rows


class _KeptMatrix(KeptSearches[_Rows]):
    """The matrix of a store's vectors, as long as they stay what they were.

    It grows with vectors that are added at the end. After any other change one search runs natively, and the next
    makes it anew.
    """

    def __init__(self) -> None:
        super().__init__(_with_lengths)
        self.reach = Reach(_TO_VECTORS, _ALONE)
        #: What was compared last, if nobody but the store could reach it.
        self.last: _Contents | None = None

    def contents(self, store: InMemoryVectorStore) -> _Contents:
        """What a store holds: without a comparison, where nobody can have changed it since the last one."""
        look = self.reach.look
        if (last := self.last) is not None and last.look is look and last.stored is _stored(store):
            return last
        # They would count among the references.
        self.last = last = None
        if type(store) is not AcceleratedInMemoryVectorStore:
            # Of a class whose attributes may be something else.
            return _Contents(self, store.store, list(store.store.values()), None)
        with self._turn() as is_free:
            found = self.reach.find(store)
            alone = is_free and self.reach.is_alone(found, self._kept.lists)
        _, (stored,), docs, _ = found.levels
        return _Contents(self, stored, docs, look if alone and type(stored) is dict else None)

    def of(self, vectors: list[Any]) -> _Rows | None:
        """The rows of exactly these vectors, or None if they have to be taken natively."""
        return super().of(vectors) if set(map(type, vectors)) == {list} else None

    def _of(self, vectors: list[Any]) -> _Rows | None:
        known = len(self._kept)
        held = vectors[:known] if len(vectors) > known else vectors
        if not (self._kept.are(held) and begin_with_floats(held)):
            self._kept.forget()
            return None
        if len(vectors) > known and not self._append(vectors):
            return None
        return _Rows(*self._kept.arrays)


#: From a store's attributes to its vectors.
_TO_VECTORS: Final = (
    lambda states: [states[0]["store"]],
    lambda dicts: list(dicts[0].values()),
    lambda docs: [doc.get("vector") if type(doc) is dict else None for doc in docs],
)


def _alone() -> list[int]:
    store = InMemoryVectorStore(FakeEmbeddings(size=1))
    store.store[""] = {"vector": [0.0]}
    return Found(store, _TO_VECTORS).references


_ALONE: Final = _alone()


def _with_lengths(rows: Array) -> tuple[Array, Array] | None:
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    return (rows, lengths) if np.isfinite(lengths).all() else None


#: Whether the native search that is under way in a thread lets go of the vectors that it is given.
_searching: Final = threading.local()


def _dropping_vectors(native: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What a native search returns that keeps no vector."""
    _searching.drops_vectors = True
    try:
        return native(*args, **kwargs)
    finally:
        _searching.drops_vectors = False


async def _next_turn(call: Callable[..., Any], wanted: Any, **settings: Any) -> Any:
    # In the meantime, other tasks that are ready ask for theirs.
    await asyncio.sleep(0)
    return call(wanted, **settings)


def _ranked(docs: Sequence[Entry], similarity: Array, k: int) -> list[tuple[Document, float, list[float]]]:
    return [(_document(docs[row]), float(similarity[row].item()), docs[row]["vector"]) for row in _top(similarity, k)]


def _top(similarity: Array, k: int) -> npt.NDArray[np.intp]:
    """`similarity.argsort()[::-1][:k]`, without sorting what is not asked for where the answer is the same."""
    count = len(similarity)
    if type(k) is int and k > 0 and 4 * (k + 1) < count:
        best = np.argpartition(similarity, count - k - 1)[count - k - 1 :]
        best = best[np.argsort(similarity[best])[::-1]]
        ranked = similarity[best]
        # Equal scores come out in the order that sorting all of them leaves.
        if (ranked[:-1] > ranked[1:]).all():
            return best[:k]
    return similarity.argsort()[::-1][:k]


def _document(entry: Entry) -> Document:
    return Document(id=entry["id"], page_content=entry["text"], metadata=entry["metadata"])


def _entry(id_: str, text: str, metadata: Mapping[str, Any], vector: list[float]) -> Entry:
    if type(text) is not str or type(metadata) is not dict:
        document = Document(page_content=text, metadata=metadata)
        text, metadata = document.page_content, document.metadata
    return {"id": id_, "vector": vector, "text": text, "metadata": metadata}


_arithmetic: bool | None = None


def arithmetic_is_known() -> bool:
    """Whether the installed langchain-core computes similarities as this module does.

    Its function is private and may change; where `simsimd` is installed it computes something else.
    """
    global _arithmetic
    if _arithmetic is None:
        generator = np.random.default_rng(0)
        vectors, query = generator.standard_normal((67, 24)), generator.standard_normal(24)
        vectors[5] = 0.0
        ours = _Rows(vectors, np.linalg.norm(vectors, axis=1)).similarity(query.tolist())
        native = native_similarity._cosine_similarity([query.tolist()], vectors.tolist())
        _arithmetic = ours is not None and ours.tobytes() == np.asarray(native)[0].tobytes()
    return _arithmetic
