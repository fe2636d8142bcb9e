"""Many queries of one retriever at once: embedded in one call where that is known to be the same, searched in one.

The batch answers only the searches. Everything after that (filters, thresholds, relevance scores and their warnings)
is done by the native retriever and store themselves, query by query, with searches that are answered already.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore, VectorStoreRetriever

from langchain_aaflow import vectorstores
from langchain_aaflow.embeddings import limited_embeddings
from langchain_aaflow.joining import aembed_query, embed_query, joins_of
from langchain_aaflow.native_stores import replaced_methods
from langchain_aaflow.query_batching import aembed_together, embed_together, queries_batch_exactly

#: What a search in a batch stands for, on the retriever and on the store.
_RETRIEVING = {"invoke", "ainvoke", "_get_relevant_documents", "_aget_relevant_documents"}
_SEARCHING = {
    *("similarity_search", "similarity_search_with_score", "similarity_search_with_score_by_vector"),
    *("asimilarity_search", "asimilarity_search_with_score", "asimilarity_search_with_score_by_vector"),
    *("similarity_search_with_relevance_scores", "asimilarity_search_with_relevance_scores"),
    *("_similarity_search_with_relevance_scores", "_asimilarity_search_with_relevance_scores"),
    *("_embed_query", "_aembed_query"),
}

#: Settings of a search that mean the same in a batch.
_SETTINGS = {"k", "filter", "fetch_k", "score_threshold"}


class BatchedRetrieval:
    """Answers many queries of one retriever exactly as single calls would.

    A query goes through two steps, each for many queries at once: vectors by `embed` (or one by one by `embed_one`),
    then documents by `search`. If a step fails for a batch, single calls of the retriever find out for which query.

    Attributes:
        retriever: The native object.
        embeds_together: Whether `embed` gives the vectors of single calls. If not, `embed_one` has to be called for
            each query; they are searched together all the same.
    """

    def __init__(
        self, retriever: VectorStoreRetriever, store: Any, settings: Mapping[str, Any], embeds_together: bool
    ) -> None:
        self.retriever = retriever
        self.embeds_together = embeds_together
        self._store = store
        self._settings = dict(settings)
        self._embeddings: Embeddings | None = store.embeddings

    def limited(self) -> BatchedRetrieval:
        """The same, for one batch: its requests for vectors share what their endpoint has refused."""
        result = copy.copy(self)
        if (embeddings := self._store.embeddings) is not None:
            result._embeddings = limited_embeddings(embeddings)
        return result

    def embed(self, queries: Sequence[str]) -> list[list[float]]:
        """The queries' vectors by one call of `embed_documents`; only if `embeds_together`.

        Raises:
            ValueError: If there are not as many vectors as queries.
            Exception: What `embed_documents` raises.
        """
        assert self._embeddings is not None
        return embed_together(self._embeddings, queries)

    async def aembed(self, queries: Sequence[str]) -> list[list[float]]:
        """The queries' vectors by one call of `aembed_documents`; otherwise as `embed`."""
        assert self._embeddings is not None
        return await aembed_together(self._embeddings, queries)

    def embed_one(self, query: str) -> list[float]:
        """A query's vector by the call that the retriever's own `invoke` makes; raises what that raises."""
        if self._embeddings is None:
            vector: list[float] = self._store._embed_query(query)  # FAISS may have a function in their place
            return vector
        return embed_query(self._store.embeddings, query, joins_of(self._store), self._embeddings.embed_query)

    async def aembed_one(self, query: str) -> list[float]:
        """A query's vector by the call that the retriever's own `ainvoke` makes; raises what that raises."""
        if self._embeddings is None:
            vector: list[float] = await self._store._aembed_query(query)
            return vector
        return await aembed_query(self._store.embeddings, query, joins_of(self._store), self._embeddings.aembed_query)

    def search(self, vectors: Sequence[list[float]], queries: Sequence[str]) -> list[list[Document]]:
        """Search for all queries; blocking, and safe to call from several threads.

        Args:
            vectors: A vector a query, as the embeddings gave it.
            queries: Their texts.

        Returns:
            For each query what the retriever's own `invoke` and `ainvoke` return.

        Raises:
            Exception: What a single call raises for some query.
        """
        settings = self._settings
        if self.retriever.search_type == "similarity_score_threshold":
            # A threshold on relevance; the search itself would take it for one on distances.
            settings = {name: value for name, value in settings.items() if name != "score_threshold"}
        answers = iter(self._store.similarity_search_with_score_by_vectors(vectors, **settings))
        answered = object.__new__(type(self._store))
        answered.__dict__ = {**vars(self._store), "similarity_search_with_score": lambda *_, **__: next(answers)}
        reader = self.retriever.model_copy(update={"vectorstore": answered})
        unseen = CallbackManagerForRetrieverRun.get_noop_manager()
        return [reader._get_relevant_documents(query, run_manager=unseen, **self._settings) for query in queries]


def batched_retrieval(
    retriever: BaseRetriever, *, batch_queries: bool = False, kwargs: Mapping[str, Any] = MappingProxyType({})
) -> BatchedRetrieval | str:
    """The way to answer many queries of a retriever at once.

    Args:
        retriever: Any retriever. It is not changed.
        batch_queries: Whether the user says that queries may be embedded in one call, whatever the embeddings.
        kwargs: What `invoke` is given beside its config, except `run_id`. It goes to the search.

    Returns:
        The batched retrieval, or why every query has to go through the retriever's own `invoke`.
    """
    if not isinstance(retriever, VectorStoreRetriever):
        return f"{type(retriever).__name__} is no VectorStoreRetriever"
    if changed := replaced_methods(retriever, _RETRIEVING, _modules(VectorStoreRetriever)):
        return f"{', '.join(changed)} of this {type(retriever).__name__} is replaced"
    settings = {**retriever.search_kwargs, **kwargs}
    if reason := _settings_reason(retriever.search_type, settings) or store_reason(retriever.vectorstore):
        return reason
    if retriever.search_type == "similarity_score_threshold" and isinstance(retriever.vectorstore, InMemoryVectorStore):
        return "InMemoryVectorStore has no relevance scores"
    store = vectorstores.accelerate_store(retriever.vectorstore)
    embeddings = store.embeddings
    together = embeddings is not None and (batch_queries or queries_batch_exactly(embeddings))
    return BatchedRetrieval(retriever, store, settings, together)


def _settings_reason(search_type: str, settings: Mapping[str, Any]) -> str | None:
    if search_type not in ("similarity", "similarity_score_threshold"):
        return f"searches of type {search_type!r} have no batch"
    if unknown := sorted(set(settings) - _SETTINGS):
        return f"{', '.join(unknown)} among the search's settings: not known in a batch"
    if callable(settings.get("filter")):
        return "its filter is a function, which may look at the context of its own call"
    return None


def store_reason(store: VectorStore) -> str | None:
    """Why searches of this store can't be answered in a batch; None if they can."""
    if reason := vectorstores.native_reason(store):
        return reason
    if changed := replaced_methods(store, _SEARCHING & set(dir(store)), _modules(type(store))):
        return f"{', '.join(changed)} of this store is replaced"
    return None


def _modules(known: type) -> list[ModuleType]:
    """Where the methods of a known class are written."""
    return [sys.modules[base.__module__] for base in known.__mro__ if base is not object]
