"""Query engines and retrievers with batches: the same classes, which answer the same, sooner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Final

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType

from aaflow_plugins.executor import Executor
from aaflow_plugins.joins import IN_BLOCKS, Joins
from aaflow_plugins.scheduler import check_count
from llama_index_aaflow.query.embedding import joining_embeddings
from llama_index_aaflow.query.map_steps import bounded
from llama_index_aaflow.query.on_ranks import arun_batch, run_batch
from llama_index_aaflow.query.running import JOIN_SIZE, MAX_CONCURRENCY, Batch
from llama_index_aaflow.query.searching import joining_store
from llama_index_aaflow.query.views import Viewed
from llama_index_aaflow.sharded_retrieval import ShardedRetriever


@dataclass(frozen=True)
class Settings:
    """What an accelerated object was told.

    Attributes:
        joins: When concurrent calls are joined, and whether queries may be embedded in one call.
        executor: Bounds of its batches, or None for the defaults.
    """

    joins: Joins = IN_BLOCKS
    executor: Executor | None = None


@dataclass
class _Own:
    """What an accelerated object has beside the native attributes."""

    settings: Settings
    views: dict[str, Any] = field(default_factory=dict)


class Accelerated:
    """What accelerated engines and retrievers have in common.

    Attributes:
        aaflow_native: The native class.
    """

    __slots__ = ()

    aaflow_native: ClassVar[Any]
    _aaflow: _Own

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """An object of one's own: native methods make others of the class they are called on."""
        made: Any = super().__new__(cls)
        made._aaflow = _Own(Settings())
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Name the native class, so that a class made at run time can be restored."""
        if "aaflow_native" not in vars(type(self)):  # A subclass that somebody wrote.
            return super().__reduce_ex__(protocol)
        return _restored, (self.aaflow_native, self._aaflow.settings), dict(vars(self))

    def _aaflow_batch(
        self, queries: Sequence[QueryType], retriever: Any, max_concurrency: int | None, return_exceptions: bool
    ) -> Batch:
        executor = self._aaflow.settings.executor
        if isinstance(queries, str | QueryBundle):
            raise TypeError(f"queries must be several, not a single {type(queries).__name__}")
        if max_concurrency is not None:
            check_count("max_concurrency", max_concurrency, 1)
        limit = max_concurrency or (executor and executor.resources.max_concurrency) or MAX_CONCURRENCY
        join_size = (executor and executor.batch_size) or JOIN_SIZE
        return Batch(list(queries), retriever, limit, join_size, return_exceptions)


class AnswersBatches(Accelerated):
    """A query engine with batches."""

    __slots__ = ()

    def batch(
        self: Any,
        queries: Sequence[QueryType],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> list[RESPONSE_TYPE]:
        """What `query` gives for each query, sooner: several are under way at once, in threads.

        Callbacks, events and spans are those of single calls, each in a copy of the caller's context. It may be
        called where an event loop runs, which it blocks, as `query` does.

        Args:
            queries: Strings or query bundles.
            max_concurrency: Queries in flight at the most, and calls of the model within them; None for what the
                executor says, 16 by default.
            return_exceptions: Whether errors are results, in their place.

        Returns:
            A response a query, in order.

        Raises:
            TypeError: If `queries` is a single query, or `max_concurrency` no int.
            ValueError: If `max_concurrency` is less than 1.
            Exception: What the first of the queries that failed raised.
        """
        batch = self._aaflow_batch(queries, self._aaflow_retriever, max_concurrency, return_exceptions)
        responses: list[RESPONSE_TYPE] = run_batch(self, batch, bounded(self).query)
        return responses

    async def abatch(
        self: Any,
        queries: Sequence[QueryType],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> list[RESPONSE_TYPE]:
        """What `aquery` gives for each query, sooner: several are under way at once, as tasks.

        Callbacks, events and spans are those of single calls, each in a copy of the caller's context.

        Args:
            queries: As for `batch`.
            max_concurrency: As for `batch`.
            return_exceptions: As for `batch`.

        Returns:
            A response a query, in order.

        Raises:
            TypeError: If `queries` is a single query, or `max_concurrency` no int.
            ValueError: If `max_concurrency` is less than 1.
            Exception: What the first of the queries that failed raised; those behind it are cancelled.
            asyncio.CancelledError: If the caller is cancelled; so is all that is under way.
        """
        batch = self._aaflow_batch(queries, self._aaflow_retriever, max_concurrency, return_exceptions)
        responses: list[RESPONSE_TYPE] = await arun_batch(self, batch, bounded(self).aquery)
        return responses

    @property
    def _aaflow_retriever(self) -> Any:
        """What a look ahead may ask, or all ranks together; None for nothing."""
        retriever = getattr(self, "_retriever", None)
        return retriever if isinstance(retriever, ShardedRetriever) else None


class RetrievesBatches(Accelerated):
    """A retriever with batches."""

    __slots__ = ()

    def batch(
        self: Any,
        queries: Sequence[QueryType],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> list[list[NodeWithScore]]:
        """What `retrieve` gives for each query, sooner.

        Args:
            queries: Strings or query bundles.
            max_concurrency: Queries in flight at the most; None for what the executor says, 16 by default.
            return_exceptions: Whether errors are results, in their place.

        Returns:
            The nodes for each query, in order.

        Raises:
            TypeError: If `queries` is a single query, or `max_concurrency` no int.
            ValueError: If `max_concurrency` is less than 1.
            Exception: What the first of the queries that failed raised.
        """
        batch = self._aaflow_batch(queries, self, max_concurrency, return_exceptions)
        found: list[list[NodeWithScore]] = run_batch(self, batch, self.retrieve)
        return found

    async def abatch(
        self: Any,
        queries: Sequence[QueryType],
        *,
        max_concurrency: int | None = None,
        return_exceptions: bool = False,
    ) -> list[list[NodeWithScore]]:
        """What `aretrieve` gives for each query, sooner; otherwise as `batch`.

        Args:
            queries: As for `batch`.
            max_concurrency: As for `batch`.
            return_exceptions: As for `batch`.

        Returns:
            The nodes for each query, in order.

        Raises:
            TypeError: If `queries` is a single query, or `max_concurrency` no int.
            ValueError: If `max_concurrency` is less than 1.
            Exception: What the first of the queries that failed raised; those behind it are cancelled.
            asyncio.CancelledError: If the caller is cancelled; so is all that is under way.
        """
        batch = self._aaflow_batch(queries, self, max_concurrency, return_exceptions)
        found: list[list[NodeWithScore]] = await arun_batch(self, batch, self.aretrieve)
        return found


class SearchesSooner(RetrievesBatches):
    """A `VectorIndexRetriever` whose queries are embedded and searched for together."""

    __slots__ = ()

    _embed_model = Viewed(lambda model, settings: joining_embeddings(model, settings.joins))
    _vector_store = Viewed(lambda store, settings: joining_store(store, settings.joins))


class AsksSooner(AnswersBatches):
    """A `RetrieverQueryEngine` whose retriever is accelerated."""

    __slots__ = ()

    _retriever = Viewed(lambda retriever, settings: _accelerated(retriever, settings))

    @property
    def _aaflow_retriever(self) -> Any:
        return self._retriever


#: What a subclass may not have a way of its own of, because the accelerated object bypasses or replaces it.
_OWN_WAYS: Final = (
    "__new__",
    "__getattribute__",
    "__setattr__",
    "__reduce__",
    "__reduce_ex__",
    "__copy__",
    "__deepcopy__",
    "__getstate__",
    "__setstate__",
    "__slots__",
    "batch",
    "abatch",
)


def accelerate_engine(engine: BaseQueryEngine, joins: Joins = IN_BLOCKS, executor: Executor | None = None) -> Any:
    """A query engine of the same class with `batch` and `abatch`, whose single calls are native.

    Args:
        engine: Any query engine. It is not changed; every attribute is shared with it.
        joins: When concurrent calls are joined, and whether queries may be embedded in one call.
        executor: `max_concurrency` bounds a batch that says nothing, `batch_size` is the number of queries that are
            embedded and searched for together.

    Returns:
        The accelerated engine. Exactly a `RetrieverQueryEngine` over exactly a `VectorIndexRetriever` has its queries
        embedded and searched for together; any other makes the calls of single queries, several at once. The engine
        itself if its class does not allow for one.
    """
    return _accelerated(engine, Settings(joins, executor), BaseQueryEngine)


def accelerate_retriever(retriever: BaseRetriever, joins: Joins = IN_BLOCKS, executor: Executor | None = None) -> Any:
    """A retriever of the same class with `batch` and `abatch`; otherwise as `accelerate_engine`."""
    return _accelerated(retriever, Settings(joins, executor), BaseRetriever)


def _accelerated(native: Any, settings: Settings, kind: type = VectorIndexRetriever) -> Any:
    """The accelerated form of an engine or a retriever; within an engine only the known retriever has one."""
    owner = type(native)
    if isinstance(native, Accelerated) and "aaflow_native" in vars(owner):
        owner = native.aaflow_native
        if native._aaflow.settings == settings or kind is VectorIndexRetriever:
            return native
    if (kind is VectorIndexRetriever and owner is not VectorIndexRetriever) or not _allows(owner):
        return native
    twin = _new(owner, settings)
    object.__setattr__(twin, "__dict__", vars(native))
    return twin


def _allows(owner: Any) -> bool:
    return not any(
        name in vars(base) for base in owner.__mro__ if base is not object for name in _OWN_WAYS if base not in _PLAIN
    )


#: Bases whose own ways are all known.
_PLAIN: Final = frozenset({*BaseQueryEngine.__mro__, *BaseRetriever.__mro__})


@lru_cache(maxsize=256)
def _accelerated_class(native: Any) -> Any:
    mixin: type[Accelerated]
    if issubclass(native, BaseQueryEngine):
        mixin = AsksSooner if native is RetrieverQueryEngine else AnswersBatches
    else:
        mixin = SearchesSooner if native is VectorIndexRetriever else RetrievesBatches
    namespace = {"__module__": native.__module__, "__doc__": native.__doc__, "__slots__": ("_aaflow",)}
    made: Any = type(native)(native.__name__, (mixin, native), namespace)
    made.__qualname__ = native.__qualname__
    made.aaflow_native = native
    return made


def _new(native: Any, settings: Settings) -> Any:
    made = _accelerated_class(native)
    twin = made.__new__(made)
    twin._aaflow = _Own(settings)
    return twin


def _restored(native: Any, settings: Settings) -> Any:
    return _new(native, settings)
