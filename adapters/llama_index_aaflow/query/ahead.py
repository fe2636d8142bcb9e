"""Many queries embedded and searched for together, before each is run natively with what was found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from llama_index.core.base.embeddings.base import mean_agg
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores.types import VectorStoreQueryMode

from aaflow_plugins.flow import FIRST_BLOCK, Flow, Outcome, Point
from aaflow_plugins.loop_flow import LoopFlow
from llama_index_aaflow.query.answers import Answers, Vector
from llama_index_aaflow.query.embedding import JoinsQueries, joins_now
from llama_index_aaflow.query.searching import JoinsSearches

_logger = logging.getLogger(__name__)

#: Searches by words, which need no vector.
_BY_WORDS = (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE)


class Ahead:
    """Answers the queries of one batch together, as they come.

    Nothing is raised here: a query without answers asks for itself, when it is run, and has its own errors.
    """

    def __init__(self, flow: Flow, retriever: Any, size: int, total: int) -> None:
        """Set up.

        Args:
            flow: What the batch runs in.
            retriever: As `looks_ahead` has approved of.
            size: Queries answered together at the most.
            total: Queries of the batch.
        """
        self._flow, self._retriever = flow, retriever
        self._point = Point(flow, self._answer, size, min(FIRST_BLOCK, size) if total > size else size)

    async def answers(self, query: Any) -> Answers | None:
        """What is known of a query before it is run; None for nothing."""
        bundle = QueryBundle(query) if isinstance(query, str) else query
        if type(bundle) is not QueryBundle:
            return None
        try:
            answers: Answers = await self._point.ask(bundle)
        except Exception:
            _logger.debug("queries could not be answered together; each asks for itself", exc_info=True)
            return None
        return answers

    async def _answer(self, bundles: list[QueryBundle]) -> Sequence[Outcome[Answers]]:
        retriever = self._retriever
        model = retriever._embed_model
        texts = list(dict.fromkeys(text for bundle in bundles for text in _texts(retriever, bundle)))
        vectors: list[Vector] = []
        if isinstance(self._flow, LoopFlow):
            if texts:
                # No query's context is right for all.
                vectors = await self._flow.spawn(model._aaflow_atogether(texts), Context())
            found = _searched(retriever, bundles, dict(zip(texts, vectors, strict=True)))
        else:

            def work() -> list[Answers]:
                vectors = model._aaflow_together(texts) if texts else []
                return _searched(retriever, bundles, dict(zip(texts, vectors, strict=True)))

            found = await self._flow.call(work, urgent=True)
        return [Outcome(answers, None, number) for number, answers in enumerate(found)]


def looks_ahead(retriever: Any) -> bool:
    """Whether queries of a retriever can be answered together before they are run."""
    if not isinstance(retriever, VectorIndexRetriever):
        return False
    model = retriever._embed_model
    if isinstance(model, JoinsQueries) and joins_now(model):
        return True
    # Without their vectors there is nothing to search for.
    return isinstance(retriever._vector_store, JoinsSearches) and not _needs_vectors(retriever)


def _needs_vectors(retriever: Any) -> bool:
    return retriever._vector_store.is_embedding_query and retriever._vector_store_query_mode not in _BY_WORDS


def _texts(retriever: Any, bundle: QueryBundle) -> list[str]:
    return bundle.embedding_strs if bundle.embedding is None and _needs_vectors(retriever) else []


def _searched(retriever: Any, bundles: Sequence[QueryBundle], vectors: dict[str, Vector]) -> list[Answers]:
    """Search for all queries at once, if the store can; the vectors are answers in any case."""
    model, store = retriever._embed_model, retriever._vector_store
    answers, queries = [], []
    for bundle in bundles:
        texts = _texts(retriever, bundle)
        answers.append(Answers({(id(vars(model)), text): list(vectors[text]) for text in texts}))
        embedding = mean_agg([vectors[text] for text in texts]) if texts else bundle.embedding
        asked = QueryBundle(query_str=bundle.query_str, embedding=embedding)
        queries.append(retriever._build_vector_store_query(asked))
    if isinstance(store, JoinsSearches) and not retriever._kwargs:
        try:
            results: Sequence[Any] = store.query_many(queries)
        except Exception:
            _logger.debug("a search for many queries failed; each searches for itself", exc_info=True)
        else:
            for each, query, result in zip(answers, queries, results, strict=True):
                each.searches.append((id(vars(store)), query, result))
    return answers
