"""Vector stores whose concurrent searches are joined."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult

from aaflow_plugins.joins import Joins
from aaflow_plugins.plugins import load_for
from llama_index_aaflow.native_classes import sharing
from llama_index_aaflow.query.answers import scope_of, take_result
from llama_index_aaflow.query.views import ModelView, is_viewable, model_view_class


@runtime_checkable
class SearchesMany(Protocol):
    """A vector store that answers many queries at once."""

    def query_many(self, queries: Sequence[VectorStoreQuery]) -> list[VectorStoreQueryResult]:
        """What `query` returns for each; raises what it raises for one of them."""


class JoinsSearches(ModelView):
    """Mixed into a store's class: its concurrent searches are made together.

    The store itself searches: what that calls of its own methods is joined with nothing.
    """

    _aaflow_joins: ClassVar[Joins]
    _aaflow_viewed: Any

    @property
    def _aaflow_store(self: Any) -> Any:
        """The store, and what it keeps between searches."""
        try:
            return self._aaflow_viewed
        except AttributeError:  # a copy of a view
            object.__setattr__(self, "_aaflow_viewed", sharing(self, type(self).aaflow_below))
            return self._aaflow_viewed

    def query(self: Any, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The store's search, joined with concurrent ones."""
        store = self._aaflow_store
        one: Callable[..., VectorStoreQueryResult] = store.query
        if kwargs:
            return one(query, **kwargs)
        if (found := take_result(self, query)) is not None:
            return found
        scope = scope_of(self._aaflow_joins)
        if scope is None:
            return one(query)
        answered: VectorStoreQueryResult = scope.call(("search", id(vars(self))), query, one, store.query_many)
        return answered

    async def aquery(self: Any, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The store's search, joined with concurrent ones."""
        store = self._aaflow_store
        alone: Callable[..., Awaitable[VectorStoreQueryResult]] = store.aquery
        if kwargs:
            return await alone(query, **kwargs)
        if (found := take_result(self, query)) is not None:
            return found
        scope = scope_of(self._aaflow_joins)
        if scope is None:
            return await alone(query)

        async def one(query: VectorStoreQuery) -> VectorStoreQueryResult:
            # A search never waits: without this turn, nobody would come while it is under way.
            await asyncio.sleep(0)
            return await alone(query)

        async def many(queries: list[VectorStoreQuery]) -> list[VectorStoreQueryResult]:
            results: list[VectorStoreQueryResult] = store.query_many(queries)
            return results

        return await scope.acall(("search", id(vars(self))), query, one, many)

    def query_many(self, queries: Sequence[VectorStoreQuery], **kwargs: Any) -> list[VectorStoreQueryResult]:
        """What `query` returns for each; raises what it raises for one of them."""
        results: list[VectorStoreQueryResult] = self._aaflow_store.query_many(queries, **kwargs)
        return results


def joining_store(store: Any, joins: Joins) -> Any:
    """A view of a vector store that is searched sooner, and whose concurrent searches are joined.

    Args:
        store: Any. It is not changed.
        joins: When its searches are joined.

    Returns:
        The view; the store itself if nothing is known that searches it sooner.
    """
    hooks = load_for(store)
    sooner: Any = hooks.aaflow_accelerate(obj=store, executor=None, batching=False, batch_queries=False) or store
    if isinstance(sooner, JoinsSearches) or not isinstance(sooner, SearchesMany) or not is_viewable(sooner):
        return sooner
    view = sharing(sooner, _joining_class(type(sooner), joins))
    object.__setattr__(view, "_aaflow_viewed", sooner)
    return view


@lru_cache(maxsize=256)
def _joining_class(below: Any, joins: Joins) -> Any:
    return model_view_class(below, JoinsSearches, {"_aaflow_joins": joins}, {"__slots__": ("_aaflow_viewed",)})
