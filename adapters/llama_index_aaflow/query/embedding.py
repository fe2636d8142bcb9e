"""Queries embedded together: for which models that is the same, and models whose concurrent queries are joined."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, ClassVar, Final

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import DISPATCHER_SPAN_DECORATED_ATTR

from aaflow_plugins.joins import Joins
from aaflow_plugins.plugins import load_for
from llama_index_aaflow.native_classes import sharing
from llama_index_aaflow.query.answers import Vector, scope_of, take_vector
from llama_index_aaflow.query.views import ModelView, is_viewable, model_view_class

#: Whose requests differ between queries and texts by nothing but the engine.
_OPENAI: Final = ("llama_index.embeddings.openai.base", "OpenAIEmbedding")

_QUERYING: Final = ("_get_query_embedding", "_aget_query_embedding")
_TEXTS: Final = ("_get_text_embeddings", "_aget_text_embeddings")


class JoinsQueries(ModelView):
    """Mixed into a model's class: its concurrent queries go into one call."""

    _aaflow_joins: ClassVar[Joins]

    def _aaflow_together(self: Any, queries: Sequence[str]) -> list[Vector]:
        """The vectors of queries; they are embedded as texts are, no more of them in a call than of these."""
        size = self.embed_batch_size
        batches = [list(queries[start : start + size]) for start in range(0, len(queries), size)]
        return _one_each([vector for batch in batches for vector in self._get_text_embeddings(batch)], queries)

    async def _aaflow_atogether(self: Any, queries: Sequence[str]) -> list[Vector]:
        size = self.embed_batch_size
        batches = [list(queries[start : start + size]) for start in range(0, len(queries), size)]
        return _one_each([vector for batch in batches for vector in await self._aget_text_embeddings(batch)], queries)


def joining_embeddings(model: Any, joins: Joins) -> Any:
    """A view of an embedding model whose concurrent queries are joined.

    Args:
        model: Any. It is not changed.
        joins: When, and whether the user says that queries may be embedded in one call.

    Returns:
        The view; the model itself if its queries are not known to have the same vectors in one call.
    """
    if isinstance(model, JoinsQueries) or not is_viewable(model) or not _may_join(model, joins):
        return model
    try:
        below: Any = type(model)
        return sharing(model, _joining_class(below, joins))
    except TypeError:
        return model


def joins_now(model: Any) -> bool:
    """Whether queries of a model go to its endpoint as they are: nothing counts or keeps them."""
    attributes = vars(model)
    return not attributes.get("embeddings_cache") and attributes.get("rate_limiter") is None


def _may_join(model: Any, joins: Joins) -> bool:
    owner = getattr(type(model), "aaflow_native", type(model))
    if not isinstance(model, BaseEmbedding) or not all(map(partial(_plain, owner), _QUERYING)):
        return False
    if any(name in vars(model) for name in (*_QUERYING, *_TEXTS)):
        return False
    if load_for(model).aaflow_query_batching(embeddings=model):
        return True
    if not joins.batch_queries:
        return False
    known = next((base for base in owner.__mro__ if (base.__module__, base.__qualname__) == _OPENAI), None)
    if known is None or any(_home(owner, name) is not known for name in (*_QUERYING, *_TEXTS)):
        return False
    engines: Any = model
    return bool(engines._query_engine == engines._text_engine)


def _home(owner: Any, name: str) -> Any:
    return next((base for base in owner.__mro__ if name in vars(base)), None)


def _plain(owner: Any, name: str) -> FunctionType | None:
    """The function of a method that is traced, and nothing else."""
    method = vars(_home(owner, name))[name]
    function = getattr(method, "__wrapped__", None)
    traced = hasattr(method, DISPATCHER_SPAN_DECORATED_ATTR) and type(function) is FunctionType
    return function if traced and not hasattr(function, "__wrapped__") else None


@lru_cache(maxsize=256)
def _joining_class(below: Any, joins: Joins) -> Any:
    # Each run keeps its span: the methods are traced as the native ones, which they call without theirs.
    def _get_query_embedding(self: Any, query: str) -> Vector:
        return _joined(self, query, partial(natives[0], self))

    async def _aget_query_embedding(self: Any, query: str) -> Vector:
        return await _ajoined(self, query, partial(natives[1], self))

    natives: list[Any] = [_plain(below, name) for name in _QUERYING]
    methods: dict[str, Any] = {}
    for name, method in zip(_QUERYING, (_get_query_embedding, _aget_query_embedding), strict=True):
        methods[name] = get_dispatcher(_home(below, name).__module__).span(method)
    return model_view_class(below, JoinsQueries, {"_aaflow_joins": joins}, methods)


def _joined(model: Any, query: str, one: Callable[[str], Vector]) -> Vector:
    if (ready := take_vector(model, query)) is not None:
        return ready
    scope = scope_of(model._aaflow_joins)
    if scope is None or type(query) is not str or not joins_now(model):
        return one(query)
    key = ("embed_query", id(vars(model)))
    return copy.copy(scope.call(key, query, one, model._aaflow_together, share=True))


async def _ajoined(model: Any, query: str, one: Callable[[str], Awaitable[Vector]]) -> Vector:
    if (ready := take_vector(model, query)) is not None:
        return ready
    scope = scope_of(model._aaflow_joins)
    if scope is None or type(query) is not str or not joins_now(model):
        return await one(query)
    key = ("embed_query", id(vars(model)))
    return copy.copy(await scope.acall(key, query, one, model._aaflow_atogether, share=True))


def _one_each(vectors: list[Vector], queries: Sequence[str]) -> list[Vector]:
    if len(vectors) != len(queries):
        raise ValueError(f"{len(vectors)} vectors came for {len(queries)} queries")
    return vectors
