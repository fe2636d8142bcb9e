"""LangChain's FAISS vector store: rows enter the index as one float32 buffer, many queries are searched at once.

Importing this module imports langchain_community and faiss; `vectorstores` does so only once a FAISS store or its
class is handed over.

All of the native store's ways in (`from_texts`, `add_documents`, `add_embeddings`, ... and their async twins) end in
one private method; that one is replaced, everything else is inherited.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import faiss
import numpy as np
from langchain_community.docstore.base import AddableMixin
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import faiss as faiss_module
from langchain_community.vectorstores.faiss import FAISS, dependable_faiss_import
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import run_in_executor
from langchain_core.vectorstores import base as base_module

from aaflow_plugins.collector import paused_collector
from aaflow_plugins.embedding import Matrix, Vectors
from aaflow_plugins.random_ids import random_ids
from aaflow_plugins.storing import VectorSink
from faiss_aaflow.search import AnsweredIndex, batch_search_reason, search_each
from langchain_aaflow.documents import documents
from langchain_aaflow.joining import aembed_query, asearch, embed_query, joins_of, search
from langchain_aaflow.native_stores import replaced_methods, shared_view, turn_on

#: The releases of langchain-community, by major and minor version, whose store was compared with this module.
KNOWN_RELEASES = {("0", "4")}

_version = version("langchain-community")
_docstore_add = InMemoryDocstore.add
_native_add: Any = FAISS.__dict__["_FAISS__add"]
_native_from: Any = FAISS.__dict__["_FAISS__from"].__func__


class AcceleratedFAISS(FAISS):
    """`FAISS` with the same contents, results and errors, sooner.

    Replaced is the method in which all native ways of adding rows end. Added are searches for many queries, and
    concurrent single searches are joined where that is asked for.
    """

    __slots__ = ("_aaflow_joins",)

    def _FAISS__add(
        self,
        texts: Iterable[str],
        embeddings: Iterable[list[float]],
        metadatas: Iterable[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
    ) -> list[str]:
        if (
            not isinstance(texts, list | tuple)
            or not isinstance(embeddings, list | tuple | np.ndarray)
            or not isinstance(metadatas, list | tuple | None)
            or not isinstance(ids, list | None)
            or not _well_formed(texts, embeddings, metadatas, ids)
            or not isinstance(self.docstore, AddableMixin)
        ):
            # Whatever is wrong with the rows, the native method finds it before it changes anything.
            added: list[str] = _native_add(self, texts, embeddings, metadatas=metadatas, ids=ids)
            return added
        module = dependable_faiss_import()
        ids = ids or random_ids(len(texts))
        rows = _documents(ids, texts, metadatas)
        vectors = _matrix(embeddings, self.index)
        if self._normalize_L2:
            if vectors is embeddings or not vectors.flags.writeable:
                vectors = vectors.copy()
            module.normalize_L2(vectors)
        self.index.add(vectors)
        # As in the native method the vectors are in the index by now, should the docstore refuse the ids.
        _add_to_docstore(self.docstore, dict(zip(ids, rows, strict=True)))
        numbered = enumerate(ids, len(self.index_to_docstore_id))
        self.index_to_docstore_id.update(numbered if type(self.index_to_docstore_id) is dict else dict(numbered))
        return ids

    def _embed_query(self, text: str) -> list[float]:
        embeddings, one = self.embedding_function, super()._embed_query
        return embed_query(embeddings, text, joins_of(self), one) if isinstance(embeddings, Embeddings) else one(text)

    async def _aembed_query(self, text: str) -> list[float]:
        embeddings, one = self.embedding_function, super()._aembed_query
        return await (
            aembed_query(embeddings, text, joins_of(self), one) if isinstance(embeddings, Embeddings) else one(text)
        )

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Callable[[dict[str, Any]], bool] | dict[str, Any] | None = None,
        fetch_k: int = 20,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The native search, joined with concurrent ones."""
        settings = {"k": k, "filter": filter, "fetch_k": fetch_k, **kwargs}
        many = None if batch_search_reason(self.index) else self.similarity_search_with_score_by_vectors
        return search(self, embedding, settings, super().similarity_search_with_score_by_vector, many)

    async def asimilarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Callable[[dict[str, Any]], bool] | dict[str, Any] | None = None,
        fetch_k: int = 20,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The native search, joined with concurrent ones."""
        settings = {"k": k, "filter": filter, "fetch_k": fetch_k, **kwargs}

        async def many(vectors: Sequence[list[float]], **options: Any) -> list[list[tuple[Document, float]]]:
            return await run_in_executor(None, self.similarity_search_with_score_by_vectors, vectors, **options)

        one = super().asimilarity_search_with_score_by_vector
        return await asearch(self, embedding, settings, one, None if batch_search_reason(self.index) else many)

    def similarity_search_with_score_by_vectors(
        self,
        embeddings: Matrix | Sequence[list[float]],
        k: int = 4,
        filter: Callable[[dict[str, Any]], bool] | dict[str, Any] | None = None,
        fetch_k: int = 20,
        **kwargs: Any,
    ) -> list[list[tuple[Document, float]]]:
        """Search for many query vectors at once.

        Args:
            embeddings: `(q, d)` float32 array, or one sequence of floats a query.
            k: Documents a query.
            filter: As in `similarity_search_with_score_by_vector`.
            fetch_k: Candidates a query before filtering.
            **kwargs: `score_threshold`, as in `similarity_search_with_score_by_vector`.

        Returns:
            For each query exactly what `similarity_search_with_score_by_vector` returns for it.

        Raises:
            Exception: What that method raises for the first query that it refuses.
        """
        options = {"k": k, "filter": filter, "fetch_k": fetch_k, **kwargs}
        queries = self._query_matrix(embeddings)
        if queries is None:
            return [self.similarity_search_with_score_by_vector(each, **options) for each in embeddings]
        answered = AnsweredIndex()
        # The native method turns the index's answer into documents: filter, threshold and all.
        reader = object.__new__(FAISS)
        reader.__dict__ = {**self.__dict__, "index": answered}
        results = []
        for row, answer in enumerate(search_each(self.index, queries, k if filter is None else fetch_k)):
            answered.answer = answer
            results.append(reader.similarity_search_with_score_by_vector(embeddings[row], **options))
        return results

    def similarity_search_with_score_batch(
        self, queries: Sequence[str], k: int = 4, **kwargs: Any
    ) -> list[list[tuple[Document, float]]]:
        """Search for many queries at once: for each what `similarity_search_with_score` returns for it.

        Queries are embedded one by one and in order, as by single searches, but all before the first is
        searched.
        """
        vectors = [self._embed_query(query) for query in queries]
        return self.similarity_search_with_score_by_vectors(vectors, k, **kwargs)

    def similarity_search_batch(self, queries: Sequence[str], k: int = 4, **kwargs: Any) -> list[list[Document]]:
        """Search for many queries at once: for each what `similarity_search` returns for it."""
        found = self.similarity_search_with_score_batch(queries, k, **kwargs)
        return [[document for document, _ in results] for results in found]

    def _query_matrix(self, embeddings: Matrix | Sequence[list[float]]) -> Matrix | None:
        """The queries as the native search would hand them to the index; None if it has to take each alone."""
        if len(embeddings) < 2 or batch_search_reason(self.index) is not None:
            return None
        try:
            queries = np.array(embeddings, dtype=np.float32, order="C")
        except (TypeError, ValueError):
            return None
        if queries.ndim != 2 or queries.shape[1] != self.index.d:
            return None
        if self._normalize_L2:
            for row in range(len(queries)):
                faiss.normalize_L2(queries[row : row + 1])
        return queries


# Tags and tracing of a retriever show the name of its store's class: that of the native one. Pickle goes by
# `__qualname__`.
AcceleratedFAISS.__name__ = FAISS.__name__


class FaissSink(VectorSink):
    """Takes rows with finished vectors into a FAISS store, as its own `add_documents` would.

    Args:
        store: The store that is filled. With `for_class` it is made with the first rows.
    """

    def __init__(self, store: FAISS) -> None:
        self._store: FAISS | None = store
        self._create: Callable[..., FAISS] | None = None

    @classmethod
    def for_class(cls, store_class: type[FAISS], embedding: Embeddings, **kwargs: Any) -> FaissSink:
        """A sink whose store is made when its first rows come, as `store_class.from_documents` would make it.

        Args:
            store_class: `FAISS` or `AcceleratedFAISS`.
            embedding: The embeddings object that the store is to hold.
            **kwargs: What `from_texts` takes beyond texts, metadatas and ids.
        """

        def create(texts: Sequence[str], vectors: Any, metadatas: Any, ids: list[Any] | None) -> FAISS:
            made = _native_from(AcceleratedFAISS, texts, vectors, embedding, metadatas=metadatas, ids=ids, **kwargs)
            return shared_view(made, store_class)

        sink = cls.__new__(cls)
        sink._store = None
        sink._create = create
        return sink

    @property
    def store(self) -> FAISS | None:
        """The store; None while `for_class` waits for its first rows."""
        return self._store

    @property
    def dimension(self) -> int | None:
        """Floats a vector must have; None while there is no index yet."""
        return None if self._store is None else getattr(self._store.index, "d", None)

    def refusal(self, ids: Sequence[str | None]) -> str | None:
        """FAISS takes an id only once, but finds that out when the vectors are in the index already.

        If any row has an id, those without one count as rows of the id that they have instead, None or "".
        """
        if not any(ids):
            return None
        id_, times = Counter(ids).most_common(1)[0]
        if times > 1:
            return f"duplicate ids, {id_!r} for one"
        held = getattr(self._store.docstore, "_dict", {}) if self._store is not None else {}
        taken = [id_ for id_ in ids if id_ in held]
        return f"already in the store: {taken[:3]}" if taken else None

    def upsert(
        self,
        texts: Sequence[str],
        metadatas: Sequence[Mapping[str, Any]],
        ids: Sequence[str | None],
        vectors: Vectors,
    ) -> list[str]:
        """Add rows as `add_documents` does with documents of these texts, metadata and ids.

        As there, ids count if any row has one; a row without one is then stored under None. Where none has,
        the store makes random ones. The index copies the vectors once; the caller's buffer is left as it is.
        Threads that fill one index, through whatever sinks, take turns.

        Raises:
            ValueError: For an id that is used twice, and as the native call for no rows at all.
            AssertionError: For vectors of the wrong dimension.
        """
        texts, metadatas = list(texts), list(metadatas)
        given: list[Any] | None = list(ids) if any(ids) else None
        rows: Any = vectors.matrix if len(vectors) else []
        with turn_on(self):
            if self._store is None:
                assert self._create is not None
                store = self._create(texts, rows, metadatas, given)
                added = list(store.index_to_docstore_id.values())[-len(texts) :]
                self._store = store
                return added
        view = shared_view(self._store, AcceleratedFAISS)
        # A row is in three places, and the number of a vector in the index decides which document it stands for.
        with turn_on(view.index):
            return view._FAISS__add(texts, rows, metadatas=metadatas, ids=given)  # type: ignore[arg-type]


def native_reason(store: FAISS | type[FAISS]) -> str | None:
    """Why this FAISS store or class is left as it is; None if it is accelerated."""
    store_class = store if isinstance(store, type) else type(store)
    if store_class not in (FAISS, AcceleratedFAISS):
        return f"{store_class.__name__} is a subclass of FAISS, whose methods may mean something else"
    if tuple(_version.split(".")[:2]) not in KNOWN_RELEASES:
        return f"langchain-community {_version} is not a version whose FAISS store is known"
    if changed := replaced_methods(store, _ADDING | _MAKING if isinstance(store, type) else _ADDING, _MODULES):
        return f"{', '.join(changed)} of this store is replaced"
    return None


#: Methods that the sink stands for, and those that it stands for where it makes the store.
_ADDING = {
    *("add_documents", "aadd_documents", "add_texts", "aadd_texts"),
    *("_embed_documents", "_aembed_documents", "_FAISS__add"),
}
_MAKING = {"from_documents", "afrom_documents", "from_texts", "afrom_texts", "_FAISS__from"}

#: Where these methods are written.
_MODULES = [base_module, faiss_module, sys.modules[__name__]]


def _well_formed(texts: Any, embeddings: Any, metadatas: Any, ids: Any) -> bool:
    """Whether the native method would get as far as the index with these rows."""
    count = len(texts)
    return (
        count > 0
        and len(embeddings) == count
        and (metadatas is None or len(metadatas) == count)
        and (not ids or (len(ids) == count and _exactly(ids, str, type(None)) and len(set(ids)) == count))
    )


def _exactly(values: Iterable[Any], *types: type) -> bool:
    return set(map(type, values)) <= set(types)


def _documents(ids: Sequence[str], texts: Sequence[str], metadatas: Sequence[dict[str, Any]] | None) -> list[Document]:
    """`Document(id=..., page_content=..., metadata=...)` a row.

    Values of exactly the declared types pass validation unchanged, but for the metadata, of which a document holds a
    shallow copy; so for them validation is left out.
    """
    if not _exactly(texts, str) or (metadatas and not _exactly(metadatas, dict)):
        rows: Iterable[dict[str, Any]] = metadatas or ({} for _ in texts)
        return [
            Document(id=id_, page_content=text, metadata=metadata)
            for id_, text, metadata in zip(ids, texts, rows, strict=True)
        ]
    with paused_collector():
        own = [metadata.copy() for metadata in metadatas] if metadatas else [{} for _ in texts]
        return documents(texts, own, ids)


def _matrix(embeddings: Any, index: Any) -> Matrix:
    """The rows as a `(n, d)` float32 array, equal to `np.array(embeddings, dtype=np.float32)`.

    A float32 array is handed over as it is to faiss's own indexes, which copy what they keep.
    """
    if type(embeddings) is np.ndarray and embeddings.dtype == np.float32 and isinstance(index, faiss.Index):
        matrix: Matrix = np.ascontiguousarray(embeddings)
        return matrix
    if type(embeddings) is not np.ndarray and _exactly(embeddings, np.ndarray):
        first = embeddings[0]
        if all(row.dtype == np.float32 and row.shape == first.shape for row in embeddings):
            # The same numbers; numpy takes arrays in a list item by item.
            return np.concatenate(embeddings).reshape(len(embeddings), *first.shape)
    return np.array(embeddings, dtype=np.float32)


def _add_to_docstore(docstore: Any, documents: dict[str, Document]) -> None:
    """`docstore.add(documents)`, without copying what is already there.

    `InMemoryDocstore.add` puts a new dict in place of its old one, so that whoever holds the old one (`_dict` is
    how people list a store's documents) keeps seeing what was there. If nobody holds it, growing the old one can't
    be told from replacing it, except by another thread that starts to iterate over it within the same microsecond.
    """
    if (
        type(docstore) is InMemoryDocstore
        and InMemoryDocstore.add is _docstore_add
        and "add" not in docstore.__dict__
        and type(docstore._dict) is dict
        and documents.keys().isdisjoint(docstore._dict.keys())
        and _references(docstore) == _OWN_REFERENCES
    ):
        docstore._dict.update(documents)
    else:
        docstore.add(documents)


def _references(docstore: InMemoryDocstore) -> int:
    return sys.getrefcount(docstore._dict)


#: References to a docstore's dict that only the docstore holds.
_OWN_REFERENCES = _references(InMemoryDocstore())
