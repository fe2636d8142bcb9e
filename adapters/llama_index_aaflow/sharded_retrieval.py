"""Retrieval over an index whose nodes are spread over the ranks.

The queries are embedded once, on rank 0. Each rank sends, of its own vectors, the similarities of those that can be
among the best; the native function ranks them in one process's order. The order of equal ones comes of what its heap
has held before: then each rank sends all that can have been among the best when their turn came. The rank that has a
node which is found sends it to all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from llama_index.core.indices.query import embedding_utils as native_module
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from aaflow_plugins.engines.communicator import BusyError, Communicator, within_a_block
from aaflow_plugins.engines.tasks import digest_of
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import ranks_of
from aaflow_plugins.scheduler import check_count
from aaflow_plugins.shards import vector_columns, vectors_in
from llama_index_aaflow.carried_nodes import node_from_json, node_to_json
from llama_index_aaflow.query.running import MAX_CONCURRENCY
from llama_index_aaflow.query.told import told_of_query, told_of_search
from llama_index_aaflow.simple_vector_ranking import KeptUnits, Rows
from llama_index_aaflow.simple_vector_store import ranking_is_known

#: Untyped: what it computes similarities with is looked up in it at each use, as the native code does.
_ranking: Final[Any] = native_module

#: Where each rank, or each thread, has come with another query.
TOGETHER: Final = (
    "a retriever over shards is asked by all ranks together, for one query after the other: have all ranks call "
    "`query` for each (a batch with max_concurrency=1 does, if its executor names no engine), or retrieve first, by "
    "`retriever.batch(queries)`"
)

#: Similarities `(n,)` of rows, and their ids.
_Found = tuple[Any, list[str]]


@dataclass(frozen=True)
class Found:
    """What was found for one query.

    Attributes:
        bundle: The query.
        scores: The best similarities.
        nodes: The nodes they are of, as JSON.
    """

    bundle: QueryBundle
    scores: list[float]
    nodes: list[str]

    def answers(self, query: QueryBundle) -> bool:
        """Whether it is what would be found for a query."""
        return told_of_query(query) == told_of_query(self.bundle) and query.embedding in (None, self.bundle.embedding)

    def read(self) -> list[NodeWithScore]:
        """Nodes of its own, at each call."""
        pairs = zip(self.scores, self.nodes, strict=True)
        return [NodeWithScore(node=node_from_json(node), score=score) for score, node in pairs]


#: What was found for the query that a retriever is called with, and that retriever.
_found: ContextVar[tuple[ShardedRetriever, Found] | None] = ContextVar("_found", default=None)


class ShardedRetriever(VectorIndexRetriever):
    """A `VectorIndexRetriever` over all ranks' nodes; its calls are made by all ranks together.

    Every rank gets what one process's retriever gives: nodes, scores, and their order. Queries of several calls are
    given together by `batch`; two calls at once are refused, as ranks might take them in different orders.

    Attributes:
        ranks: The ranks.
    """

    def __init__(self, index: Any, *, executor: Executor, **settings: Any) -> None:
        """Set up.

        Args:
            index: This rank's part.
            executor: Whose ranks.
            **settings: Those of `VectorIndexRetriever`.

        Raises:
            ValueError: If it isn't known how the native search ranks; the message says why.
        """
        super().__init__(index, **settings)
        if self._vector_store_query_mode != VectorStoreQueryMode.DEFAULT:
            mode = self._vector_store_query_mode.value
            raise ValueError(f"vector_store_query_mode {mode!r} needs all vectors in one store: shards are searched by "
                             "'default' alone")  # fmt: skip
        self.ranks: Final = ranks_of(executor)
        self._executor = executor
        self._kept = KeptUnits()

    def batch(self, queries: Sequence[QueryType], *, max_concurrency: int | None = None) -> list[list[NodeWithScore]]:
        """What `retrieve` gives for each query, searched for together; all ranks make this call.

        Args:
            queries: Strings or query bundles, the same on all ranks.
            max_concurrency: Queries that are embedded at once; None for what the executor says, 16 by default.

        Returns:
            The nodes for each query, in order.

        Raises:
            TypeError: If `queries` is a single query, or `max_concurrency` no int.
            ValueError: If `max_concurrency` is less than 1.
            RankError: If another rank fails, or has other queries.
        """
        if isinstance(queries, str | QueryBundle):
            raise TypeError(f"queries must be several, not a single {type(queries).__name__}")
        if max_concurrency is not None:
            check_count("max_concurrency", max_concurrency, 1)
        limit = max_concurrency or self._executor.resources.max_concurrency or MAX_CONCURRENCY
        bundles = [QueryBundle(query) if isinstance(query, str) else query for query in queries]
        answers = []
        for query, found in zip(queries, self.find(bundles, limit), strict=True):
            with self.knowing(found):
                answers.append(self.retrieve(query))
        return answers

    async def abatch(
        self, queries: Sequence[QueryType], *, max_concurrency: int | None = None
    ) -> list[list[NodeWithScore]]:
        """As `batch`, which it leaves the event loop free for."""
        return await asyncio.to_thread(self.batch, queries, max_concurrency=max_concurrency)

    @contextmanager
    def knowing(self, found: Found) -> Iterator[None]:
        """While it is entered, this is what is retrieved for its query, which was searched for before."""
        token = _found.set((self, found))
        try:
            yield
        finally:
            _found.reset(token)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        known = _found.get()
        if known is not None and known[0] is self and known[1].answers(query_bundle):
            return known[1].read()
        return self.find([query_bundle], 1)[0].read()

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        # In the loop: tasks come to it in the order in which they were made, on all ranks alike.
        return self._retrieve(query_bundle)

    # -- what all ranks do together ------------------------------------------------------------------------

    def find(self, bundles: list[QueryBundle], limit: int) -> list[Found]:
        """Search for queries; all ranks make this call.

        Args:
            bundles: The queries, the same on all ranks; those without a vector are given one.
            limit: Queries that are embedded at once.

        Returns:
            What was found for each query, in order.

        Raises:
            ValueError: If it isn't known how the native search ranks, or if only some ranks may come here.
            RankError: If another rank fails, or has other queries.
        """
        if not ranking_is_known():
            raise ValueError("the installed llama-index-core has another SimpleVectorStore.query than known")
        ranks = ranks_of(self._executor)
        if within_a_block() and self.ranks.size > 1:
            raise ValueError(TOGETHER)
        told = digest_of([*told_of_search(self), *map(told_of_query, bundles)])
        try:
            with ranks.together("retrieve", queries=told.hex()):
                return self._find(ranks, bundles, limit)
        except BusyError:
            raise ValueError(TOGETHER) from None

    def _find(self, ranks: Communicator, bundles: list[QueryBundle], limit: int) -> list[Found]:
        self._embed(ranks, bundles, limit)
        queries = [self._build_vector_store_query(bundle) for bundle in bundles]
        ranked = self._ranked(ranks, queries)
        nodes = self._nodes(ranks, dict.fromkeys(key for _, keys in ranked for key in keys))
        return [
            Found(bundle, scores, [nodes[key] for key in keys])
            for bundle, (scores, keys) in zip(bundles, ranked, strict=True)
        ]

    def _embed(self, ranks: Communicator, bundles: list[QueryBundle], limit: int) -> None:
        """Give the queries their vectors, those that rank 0 has or finds."""
        table = None
        if ranks.rank == 0:
            embed = self._embed_model.get_agg_embedding_from_queries
            wanting = [bundle for bundle in bundles if bundle.embedding is None and bundle.embedding_strs]
            texts = [bundle.embedding_strs for bundle in wanting]
            found = _side_by_side(embed, texts, min(limit, len(texts)))
            for bundle, row in zip(wanting, found, strict=True):
                bundle.embedding = row
            table = pa.table(vector_columns([bundle.embedding for bundle in bundles], some_missing=True))
        table = ranks.broadcast(table)
        if ranks.rank:
            for bundle, vector in zip(bundles, vectors_in(table), strict=True):
                bundle.embedding = vector

    def _ranked(self, ranks: Communicator, queries: list[VectorStoreQuery]) -> list[tuple[list[float], list[str]]]:
        """For each query the similarities and ids of the best of all ranks, as the native function ranks them."""
        store: Any = self._vector_store
        data = store.data
        held = Rows(data.embedding_dict, list(data.embedding_dict), list(data.embedding_dict.values()), self._kept)
        if any(query.filters for query in queries) and held.ids and not data.metadata_dict:
            store.query(queries[0])  # raises what it raises natively
        proposed = list(held.propose(queries)) if held.ids else [None] * len(queries)

        def gathered(wanted: list[int], *, equal: bool) -> list[_Found]:
            asked = [queries[at] for at in wanted]
            rows = [held.deciding(queries[at], data.metadata_dict, proposed[at], equal=equal) for at in wanted]
            return _gathered(ranks, held, asked, rows)

        found = gathered(list(range(len(queries))), equal=False)
        # All ranks see the same, and come to the second call or not.
        unclear = [at for at, query in enumerate(queries) if not _is_clear(query, found[at][0])]
        for at in unclear:
            if np.isnan(found[at][0]).any():  # neither above nor below others: each may decide
                proposed[at] = None
        for at, more in zip(unclear, gathered(unclear, equal=True) if unclear else (), strict=True):
            found[at] = more
        return [_best(query, *each) for query, each in zip(queries, found, strict=True)]

    def _nodes(self, ranks: Communicator, keys: Sequence[str] | dict[str, None]) -> dict[str, str]:
        """The nodes of some rows as JSON, of whichever rank has them."""
        own = self._index.index_struct.nodes_dict
        mine = [key for key in keys if key in own]
        written = [node_to_json(self._docstore.get_node(own[key])) for key in mine]
        columns = {"key": _binary(mine), "node": _binary(written)}
        table = ranks.all_gather(pa.table(columns))
        return dict(zip(_texts(table["key"]), _texts(table["node"]), strict=True))


def _side_by_side(call: Callable[[Any], Any], items: list[Any], limit: int) -> list[Any]:
    if limit < 2:
        return list(map(call, items))
    with ThreadPoolExecutor(limit) as threads:
        return [each.result() for each in [threads.submit(copy_context().run, call, item) for item in items]]


def _gathered(ranks: Communicator, held: Rows, queries: list[VectorStoreQuery], rows: list[list[int]]) -> list[_Found]:
    """For each query the similarities and ids of some rows of each rank."""
    numbers: list[int] = []
    scores: list[float] = []
    keys: list[str] = []
    for number, (query, own) in enumerate(zip(queries, rows, strict=True)):
        scores += _similarities(query, [held.vectors[row] for row in own])
        keys += [held.ids[row] for row in own]
        numbers += [number] * len(own)
    columns = {"query": pa.array(numbers, pa.int64()), "score": pa.array(scores, pa.float64()), "key": _binary(keys)}
    table = ranks.all_gather(pa.table(columns))
    asked, all_scores, all_keys = table["query"].to_numpy(), table["score"].to_numpy(), _texts(table["key"])
    places = [np.flatnonzero(asked == number) for number in range(len(queries))]
    return [(all_scores[each], [all_keys[place] for place in each.tolist()]) for each in places]


def _similarities(query: VectorStoreQuery, vectors: list[Any]) -> Iterator[float]:
    """What the native function computes for each vector.

    Raises:
        TypeError: If one is no list of Python's numbers: what it is computed in then depends on the others.
    """
    if any(not {float, int}.issuperset(map(type, vector)) for vector in vectors):
        raise TypeError("a vector of the store is no list of Python's numbers, which shards are searched for alone")
    direction = np.array(query.query_embedding)
    for vector in np.array(vectors, dtype=np.float64):
        yield _ranking.default_similarity_fn(direction, vector)


def _is_clear(query: VectorStoreQuery, scores: Any) -> bool:
    """Whether the best of some similarities, and the next, are in an order that their values alone decide."""
    best = -np.sort(-scores)[: query.similarity_top_k + 1]
    return not np.isnan(scores).any() and bool((best[:-1] > best[1:]).all())


def _best(query: VectorStoreQuery, scores: Any, keys: list[str]) -> tuple[list[float], list[str]]:
    found: tuple[list[float], list[str]] = _ranking.get_top_k_embeddings(
        query.query_embedding,
        scores.reshape(-1, 1),
        similarity_fn=lambda _, score: score[0],
        similarity_top_k=query.similarity_top_k,
        embedding_ids=keys,
    )
    return found


def _binary(texts: Sequence[str]) -> pa.Array:
    return pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [text.decode("utf-8", "surrogatepass") for text in column.to_pylist()]
