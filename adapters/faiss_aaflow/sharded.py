"""Searches of flat indexes that each have a part of the rows, with the scores, order and ties of one that has all.

faiss compares a single query with one vector after the other and keeps the best in a heap; on 10,000 vectors or more,
if it has several threads, by matrix products and a heap for each thread. The last bits of the scores differ between
the two. Each rank computes those that one index would have computed, and what its heap would have kept of all rows
follows from what the ranks have found.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aaflow_plugins.embedding import Matrix
from aaflow_plugins.engines.communicator import Communicator
from faiss_aaflow.search import (
    MIN_QUERIES,
    MIN_VECTORS,
    SPARE,
    ErrorBound,
    Ids,
    Rescore,
    Trial,
    by_product,
    by_subset,
    faiss,
    limited_threads,
    search_each,
)

#: Rows below which no thread has a share of its own.
_ROWS_A_THREAD: Final = 1024


def search_parts(
    ranks: Communicator, index: Any, first: int, total: int, queries: Matrix, k: int
) -> tuple[Matrix, Ids] | None:
    """What one flat index over the rows of all ranks finds for each query; all ranks make this call.

    Args:
        ranks: The ranks.
        index: This rank's part: a flat index of L2 distances or inner products.
        first: The number of its first row over all ranks.
        total: Rows of all ranks.
        queries: `(q, d)` C-contiguous float32 array, the same on all ranks.
        k: Results a query.

    Returns:
        Scores `(q, k)` float32 and rows `(q, k)` int64, as `search` of a single query returns them; row -1 where there
        are fewer. If this process's faiss has several threads, and there are 10,000 rows or more, then of equal scores
        at the end of `k` those of the lower rows are taken; which ones one index takes, only its threads' heaps say.
        None, on all ranks, if so many results are asked for that one heap wouldn't tell either.

    Raises:
        AssertionError: As faiss does for a wrong dimension or `k < 1`.
    """
    routine = _routine_of(index, total, k)
    if len(ranks.agree(getattr(routine, "__name__", "unknown").encode())) > 1 or routine is None:
        return None
    if routine is by_product:
        return _by_products(ranks, index, first, queries, k)
    return _one_by_one(ranks, index, first, queries, k)


def _routine_of(index: Any, total: int, k: int) -> Rescore | None:
    """The routine by which one index of so many rows computes the scores of a single query, in this process."""
    threads = faiss.omp_get_max_threads()
    if threads == 1 or total < MIN_VECTORS or k < 1 or k > total:
        return by_subset
    rows = min(total, max(MIN_VECTORS, _ROWS_A_THREAD * threads))
    falling = index.metric_type == faiss.METRIC_INNER_PRODUCT
    return _tried_out(falling, index.d, rows, k, threads, faiss.cvar.distance_compute_blas_threshold)


@lru_cache(64)
def _tried_out(falling: bool, width: int, rows: int, k: int, *conditions: int) -> Rescore | None:
    """The routine, found out on an index of made-up rows: as many as it takes for all threads to have a share."""
    random = np.random.default_rng(0)
    index = (faiss.IndexFlatIP if falling else faiss.IndexFlatL2)(width)
    index.add(random.standard_normal((rows, width), dtype=np.float32))
    trial = Trial(index, k)
    return trial.routine if trial.tells(random.standard_normal((MIN_QUERIES, width), dtype=np.float32)) else None


def _one_by_one(ranks: Communicator, index: Any, first: int, queries: Matrix, k: int) -> tuple[Matrix, Ids] | None:
    """Where one index would compare the query with one vector after the other, and keep the best in one heap."""
    falling = index.metric_type == faiss.METRIC_INNER_PRODUCT
    many = k >= faiss.cvar.distance_compute_min_k_reservoir
    scores, rows = proposals(index, queries, k)
    scores, rows = ranks.reduce_top_k(scores, np.where(rows < 0, -1, rows + first), largest=falling)
    if many and ((scores[:, k - 1] == scores[:, k]) & (rows[:, k] >= 0)).any():
        return None
    if not falling:
        return scores[:, :k], rows[:, :k]
    kept = [kept_by_a_heap(*each, k) for each in zip(scores, rows, strict=True)]
    return np.stack([each[0] for each in kept]), np.stack([each[1] for each in kept])


def _by_products(ranks: Communicator, index: Any, first: int, queries: Matrix, k: int) -> tuple[Matrix, Ids] | None:
    """Where one index would compute matrix products, by several threads.

    Candidates are found as above, and their scores computed anew. A query for which they may not be all is answered as
    by one thread.
    """
    falling = index.metric_type == faiss.METRIC_INNER_PRODUCT
    step = k + SPARE  # as many at once as were tried out
    proposed, rows = _searched(index, queries, step)
    scores = np.zeros_like(proposed)
    for number, query in enumerate(queries):
        held = rows[number][rows[number] >= 0]
        if len(held):
            scores[number, : len(held)] = by_product(index, query[None], np.resize(held, (1, step)))[0, : len(held)]
    best, numbers = ranks.reduce_top_k(scores, np.where(rows < 0, -1, rows + first), largest=falling)
    certain: npt.NDArray[np.bool_] = np.asarray(np.isfinite(best[:, :k]).all(axis=1))
    if index.ntotal > step:
        error = ErrorBound(index)
        for number in np.flatnonzero(certain).tolist():
            kth, end = float(best[number, k - 1]), float(proposed[number, -1])
            certain[number] = error.separates(queries[number][None], kth, end)
    said = ranks.all_gather(pa.table({"certain": pa.array(certain.astype(np.int8))}))["certain"].to_numpy()
    certain = said.reshape(ranks.size, -1).all(axis=0)
    order = np.lexsort((-numbers[:, :k] if falling else numbers[:, :k], -best[:, :k] if falling else best[:, :k]))
    found = np.take_along_axis(best, order, 1), np.take_along_axis(numbers, order, 1)
    if not certain.all():
        others = _one_by_one(ranks, index, first, np.ascontiguousarray(queries[~certain]), k)
        if others is None:
            return None
        found[0][~certain], found[1][~certain] = others
    return found


def proposals(index: Any, queries: Matrix, k: int) -> tuple[Matrix, Ids]:
    """All rows of a part that one heap may keep of all ranks' rows: scores and rows, a row a query, best first."""
    falling = index.metric_type == faiss.METRIC_INNER_PRODUCT
    many = k >= faiss.cvar.distance_compute_min_k_reservoir
    # Of inner products a heap drops the lower row of two equal ones first when it has to: as many again may count.
    scores, rows = _searched(index, queries, 2 * k if falling else k + many)
    if falling:
        for query, own_scores, own_rows in zip(queries, scores, rows, strict=True):
            _put_first_ties(index, query[None], own_scores, own_rows, k)
    return scores, rows


def _searched(index: Any, queries: Matrix, k: int) -> tuple[Matrix, Ids]:
    """What single searches find in one thread, one row a query."""
    with limited_threads(1):
        scores, rows = zip(*search_each(index, queries, k), strict=True)
    return np.concatenate(scores), np.concatenate(rows)


def _put_first_ties(index: Any, query: Matrix, scores: Matrix, rows: Ids, k: int) -> None:
    """Of equal inner products put the lower rows first, and those that were not among the results in place of higher.

    Args:
        index: The index.
        query: `(1, d)`.
        scores: What a search for `2 k` has found, `(2 k,)`; changed in place, as `rows`.
        rows: The rows of the scores.
        k: Half of what was searched for.
    """
    found, held = scores, rows
    if rows[-1] >= 0 and scores[-1] == scores[k - 1]:
        # More rows than were asked for may have this score.
        with limited_threads(1):
            _, found, held = index.range_search(query, float(np.nextafter(scores[k - 1], np.float32(-np.inf))))
    order = np.lexsort((held, -found, held < 0))[: len(rows)]
    scores[:], rows[:] = found[order], held[order]


def kept_by_a_heap(scores: Matrix, rows: Ids, k: int) -> tuple[Matrix, Ids]:
    """What faiss's heap of `k` inner products keeps of these rows, were they added in their order; best first.

    A row enters a full heap only if its product is larger than the smallest there; of equal ones the lowest row leaves
    first, and comes last in the end.
    """
    heap: list[tuple[float, int]] = []
    for row, score in sorted(zip(rows.tolist(), scores.tolist(), strict=True)):
        if row < 0:
            continue
        if len(heap) < k:
            heapq.heappush(heap, (score, row))
        elif score > heap[0][0]:
            heapq.heapreplace(heap, (score, row))
    best = sorted(heap, reverse=True)
    missing = k - len(best)
    kept = np.array([score for score, _ in best] + [-np.inf] * missing, np.float32)
    return kept, np.array([row for _, row in best] + [-1] * missing, np.int64)
