"""Many queries on a flat faiss index at once, with the very scores and order of one query at a time.

faiss computes the distances of one query and of many by different routines (which ones depends on its version and
on the number of vectors and of queries), and the last bits of the scores differ. So the batch only proposes
candidates: `k + SPARE` a query, each then rescored by the routine that a single search uses. Which routine that is,
is found out on the very index, by comparing with single searches on which the routines differ; where none gives
their bits, or nothing sets the routines apart, queries are searched one by one. A query whose answer is not certain
after rescoring (equal scores, or a cut-off that lies within the rounding error) is searched alone too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from aaflow_plugins.embedding import Matrix

#: Untyped: faiss adds its numpy-facing methods at import, its type information lags behind.
faiss: Any = import_module("faiss")

Ids = npt.NDArray[np.int64]
#: (index, queries `(q, d)`, ids `(q, c)`) -> scores `(q, c)`: those of each query with the rows named for it.
Rescore = Callable[[Any, Matrix, Ids], Matrix]

#: Candidates beyond `k`. Wide enough that on real text the cut-off seldom lies within the rounding error.
SPARE = 12

#: On fewer vectors a single search is so short that rescoring costs what the batch saves.
MIN_VECTORS = 10_000

#: Fewer queries do not pay for finding out which routine a single search uses.
MIN_QUERIES = 8

#: Rows and queries of one matrix product: what bounds its memory, 64 MiB.
PRODUCT_ROWS, PRODUCT_QUERIES = 65_536, 256

#: Candidates' vectors that are copied at once.
RESCORED_BYTES = 8 * 2**20

#: Scores of which one minimum is looked at before any other.
_PART = 64
_WITHIN_PART = np.arange(_PART)

#: Multiplications that make a thread of their own worth while, some 20 ms. Threads wait for each other by spinning,
#: and in a chain the other cores have other work.
THREAD_PRODUCTS = 500_000_000

#: Rows compared with a single search before a routine is trusted on an index.
CHECKED_ROWS = 2048

#: Different scores that set the routines apart before a query counts as telling, and such queries for a verdict.
TELLING_SCORES, TELLING_QUERIES = 16, 2

#: The same among the top `k` of all queries compared.
TELLING_TOP_SCORES = 3

#: Unit roundoff of float32.
_UNIT = 2.0**-24

_Conditions = tuple[int, int, int, int]
_trusted: WeakKeyDictionary[Any, tuple[_Conditions, Rescore | None]] = WeakKeyDictionary()


class AnsweredIndex:
    """Stands in for an index in a native search: gives the answer that is already known."""

    answer: Any = None

    def search(self, vectors: Matrix, k: int) -> Any:
        """The answer, whatever is asked."""
        return self.answer


def batch_search_reason(index: Any) -> str | None:
    """Why many queries on this index are searched one by one; None if they can be batched."""
    if type(index) not in (faiss.IndexFlatL2, faiss.IndexFlatIP):
        return f"{type(index).__name__} is not a flat L2 or inner-product index: queries are searched one by one"
    if index.ntotal < MIN_VECTORS:
        return f"{index.ntotal} vectors are searched one query at a time as fast as in a batch"
    return None


def search_each(index: Any, queries: Matrix, k: int) -> Iterator[tuple[Matrix, Ids]]:
    """Yield for each row of `queries` what `index.search(row[None], k)` returns, bit for bit.

    Args:
        index: Any faiss index.
        queries: `(q, d)` C-contiguous float32 array.
        k: Neighbours a query.

    Yields:
        Scores `(1, k)` float32 and ids `(1, k)` int64.

    Raises:
        AssertionError: As faiss does for a wrong dimension or `k < 1`.
    """
    rescore = _rescorer(index, queries, k)
    if rescore is None:
        for row in range(len(queries)):
            yield index.search(queries[row : row + 1], k)
        return
    error = ErrorBound(index)
    for start in range(0, len(queries), PRODUCT_QUERIES):
        yield from _search_block(index, queries[start : start + PRODUCT_QUERIES], k, rescore, error)


def _search_block(
    index: Any, queries: Matrix, k: int, rescore: Rescore, error: ErrorBound
) -> Iterator[tuple[Matrix, Ids]]:
    proposals = _propose(index, queries, k + SPARE)
    at_once = max(1, RESCORED_BYTES // (4 * index.d * (k + SPARE)))
    for row in range(len(queries)):
        query = queries[row : row + 1]
        answer = None
        if proposals is not None:
            cut_offs, candidates = proposals
            if row % at_once == 0:
                scores = rescore(index, queries[row : row + at_once], candidates[row : row + at_once])
            answer = _certain_top(error, query, scores[row % at_once], candidates[row], float(cut_offs[row]), k)
        yield answer or index.search(query, k)


def _propose(index: Any, queries: Matrix, count: int) -> tuple[npt.NDArray[np.float64], Ids] | None:
    """The best `count` rows for each query by a matrix product, and the score of the last of them.

    A product and a selection by parts take a third of the time of faiss's own search for many queries.

    Returns:
        Cut-offs `(q,)` and ids `(q, count)` in no order; None where scores are no numbers.
    """
    vectors = _stored(index)
    ascending = index.metric_type == faiss.METRIC_L2
    with np.errstate(all="ignore"), _threads_for(len(vectors) * queries.size):
        times = _product(queries * np.float32(-2 if ascending else -1))
        found = []
        for start in range(0, len(vectors), PRODUCT_ROWS):
            rows = vectors[start : start + PRODUCT_ROWS]
            scores = times(rows)
            if ascending:
                scores += _squares(rows)[:, None]
            best = _smallest(scores, count)
            if best is None:
                return None
            found.append((best[0], best[1] + start))
    best_scores, ids = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    chosen = np.argpartition(best_scores, count - 1, axis=1)[:, :count]
    cut_offs: npt.NDArray[np.float64] = np.take_along_axis(best_scores, chosen, axis=1).max(axis=1).astype(np.float64)
    if ascending:
        with np.errstate(all="ignore"):
            cut_offs += np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    else:
        cut_offs = -cut_offs
    return cut_offs, np.take_along_axis(ids, chosen, axis=1)


def _smallest(scores: Matrix, count: int) -> tuple[Matrix, Ids] | None:
    """The `count` smallest of each column (or all, of fewer) and their rows, in no order; None for no numbers.

    Args:
        scores: `(n, q)` array.
        count: How many.

    Returns:
        Scores and rows, both `(q, count)`.
    """
    total = len(scores)
    whole = total - total % _PART
    parts = scores[:whole].reshape(-1, _PART, scores.shape[1])
    minima = parts.min(axis=1)
    rest = scores[whole:]
    if np.isnan(minima).any() or np.isnan(rest).any():
        return None
    if len(minima) < count:
        every = np.ascontiguousarray(scores.T)
        chosen = np.argpartition(every, min(count, total) - 1, axis=1)[:, :count]
        return np.take_along_axis(every, chosen, axis=1), chosen
    # `count` parts have a minimum up to this, so the `count`-th smallest score is not above it.
    bounds = np.partition(minima, count - 1, axis=0)[count - 1]
    best, where = np.empty((scores.shape[1], count), np.float32), np.empty((scores.shape[1], count), np.int64)
    tail = np.arange(whole, total)
    for column, bound in enumerate(bounds):
        near = np.flatnonzero(minima[:, column] <= bound)
        values = np.concatenate([parts[near, :, column].ravel(), rest[:, column]])
        rows = np.concatenate([(near[:, None] * _PART + _WITHIN_PART).ravel(), tail])
        chosen = np.argpartition(values, count - 1)[:count]
        best[column], where[column] = values[chosen], rows[chosen]
    return best, where


def _certain_top(
    error: ErrorBound, query: Matrix, scores: Matrix, ids: Ids, cut_off: float, k: int
) -> tuple[Matrix, Ids] | None:
    """The top `k` of the rescored candidates, if no other answer of a single search is possible."""
    order = np.argsort(scores if error.ascending else -scores, kind="stable")[: k + 1]
    ranked = scores[order]
    falling = ranked if error.ascending else -ranked
    # Equal scores come out in the order of faiss's heap, which a ranking doesn't know.
    if not (np.isfinite(ranked).all() and (falling[:-1] < falling[1:]).all()):
        return None
    if not error.separates(query, float(ranked[k - 1]), cut_off):
        return None
    return ranked[None, :k], ids[order[:k]][None, :]


class ErrorBound:
    """How far two ways of computing one float32 score can lie apart.

    A sum of `d` products in any order, fused or not, is off by at most `g = d·u/(1 - d·u)` times the sum of the
    absolute products (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), so an inner product by
    `g·|x|·|y|` and a squared distance, by either formula, by `g·(|x| + |y|)²`; some units are added to `d`
    for the few operations around the sum.
    """

    def __init__(self, index: Any) -> None:
        self.ascending = index.metric_type == faiss.METRIC_L2
        self.growth = 1.01 * (index.d + 8) * _UNIT
        # Below the normal range the error is no longer relative.
        self.tiny = (index.d + 8) * 1e-37
        self.longest = 0.0 if self.ascending else _longest_vector(index)

    def separates(self, query: Matrix, kth: float, cut_off: float) -> bool:
        """Whether every vector that the batch ranked at `cut_off` or beyond loses to the k-th score."""
        length = float(np.sqrt(np.square(query, dtype=np.float64).sum()))
        if not self.ascending:
            error = self.growth * length * self.longest + self.tiny
            return bool(kth - 2 * error > cut_off)
        # Vectors longer than `length + far` are farther than the k-th whatever the rounding; for all others
        # `error` bounds it.
        far = 1.01 * float(np.sqrt(kth)) + 0.25 * length
        error = self.growth * (2 * length + far) ** 2 + self.tiny
        return bool(error < 1e33 and far * far - error > kth and kth + 2 * error < cut_off)


def _longest_vector(index: Any) -> float:
    return 1.001 * float(np.sqrt(_squares(_stored(index)).max(), dtype=np.float64))


def _rescorer(index: Any, queries: Matrix, k: int) -> Rescore | None:
    """The routine whose scores are those of a single search on this index, if one is known."""
    if type(k) is not int or k < 1 or batch_search_reason(index) is not None:
        return None
    if len(queries) < 2 or queries.shape[1] != index.d or 4 * (k + SPARE) > index.ntotal:
        return None
    conditions = (
        index.ntotal,
        k,
        faiss.omp_get_max_threads(),
        faiss.cvar.distance_compute_blas_threshold,
    )
    known = _trusted.get(index)
    if known is not None and known[0] == conditions:
        return known[1]
    if len(queries) < MIN_QUERIES:
        return None
    trial = Trial(index, k)
    if not trial.tells(queries):
        # Not remembered: other queries may tell.
        return None
    _trusted[index] = (conditions, trial.routine)
    return trial.routine


class Trial:
    """Finds the routine that gives the bits of a single search, by queries on which the routines differ.

    A degenerate query (zeros, a unit vector, a row that is there thousands of times) gives the same scores by any
    routine. So a verdict needs queries on which the routines give many different scores, made-up ones of the
    vectors' size among them, and holds if one routine alone gives the bits of every single search made, with those
    of the batch.
    """

    def __init__(self, index: Any, k: int) -> None:
        self._index, self._k = index, k
        self._left: list[Rescore] = [by_subset, by_product]

    @property
    def routine(self) -> Rescore | None:
        """The routine that gave the bits of all single searches so far."""
        return self._left[0] if self._left else None

    def tells(self, queries: Matrix) -> bool:
        """Compare the routines with single searches; whether that says which one a single search uses."""
        made_up = _made_up_queries(self._index)
        first = [queries[row : row + 1] for row in range(min(len(queries), MIN_QUERIES))]
        rows = min(self._index.ntotal, CHECKED_ROWS)
        telling = [self._compare(query, rows) >= TELLING_SCORES for query in (*made_up, first[0])]
        # What a search does may depend on how many results are asked for.
        scores = sum(self._compare(query, self._k) for query in (*made_up, *first))
        return not self._left or (sum(telling) >= TELLING_QUERIES and scores >= TELLING_TOP_SCORES)

    def _compare(self, query: Matrix, rows: int) -> int:
        """Drop the routines that miss a bit of a search for `rows` results; how many scores set them apart."""
        scores, ids = self._index.search(query, rows)
        if not self._left or ids[0, -1] < 0:
            return 0
        # As many at once as will be rescored.
        step = self._k + SPARE
        padded: Ids = np.resize(ids[0], (-(-rows // step), step))
        queries = np.repeat(query, len(padded), axis=0)
        found: dict[Rescore, Matrix] = {
            way: way(self._index, queries, padded).ravel()[:rows] for way in (by_subset, by_product)
        }
        self._left = [way for way in self._left if found[way].tobytes() == scores[0].tobytes()]
        one, other = found.values()
        apart = np.isfinite(one) & np.isfinite(other) & (one != other)
        return len(np.unique(scores[0][apart]))


def _made_up_queries(index: Any) -> Matrix:
    """Queries `(n, 1, d)` in no special position, as large as the index's vectors, always the same."""
    sample = _stored(index)[:: max(1, index.ntotal // 256)]
    with np.errstate(all="ignore"):
        size = np.sqrt(np.mean(np.square(sample, dtype=np.float64)))
        normal = size * np.random.default_rng(0).standard_normal((TELLING_QUERIES, 1, index.d))
        return np.ascontiguousarray(normal, dtype=np.float32)


def _stored(index: Any) -> Matrix:
    matrix: Matrix = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    return matrix


def by_subset(index: Any, queries: Matrix, ids: Ids) -> Matrix:
    """One distance after the other: what faiss does for one query on few vectors."""
    scores = np.empty(ids.shape, dtype=np.float32)
    labels = np.ascontiguousarray(ids)
    index.compute_distance_subset(
        len(queries), faiss.swig_ptr(queries), ids.shape[1], faiss.swig_ptr(scores), faiss.swig_ptr(labels)
    )
    return scores


def by_product(index: Any, queries: Matrix, ids: Ids) -> Matrix:
    """A matrix product for each query: what faiss 1.15 does for one query on 10,000 vectors or more."""
    rows = _stored(index)[ids]
    scores = np.empty(ids.shape, dtype=np.float32)
    # Each of faiss's functions lets go of the interpreter, and where other threads compute it is long in getting it
    # back: of all that can be done for all queries at once, only the product itself would have other bits.
    transform, weights = _transform(queries[:1])
    for query, its_rows, its_scores in zip(queries, rows, scores, strict=True):
        weights[:] = query
        transform.apply_noalloc(len(its_rows), faiss.swig_ptr(its_rows), faiss.swig_ptr(its_scores))
    if index.metric_type == faiss.METRIC_INNER_PRODUCT:
        return scores
    squares = _squares(rows.reshape(-1, index.d)).reshape(ids.shape)
    with np.errstate(all="ignore"):
        distances: Matrix = np.maximum((_squares(queries)[:, None] + squares) - 2 * scores, np.float32(0))
    return distances


def _product(queries: Matrix) -> Callable[[Matrix], Matrix]:
    """The products of rows `(n, d)` with the queries `(q, d)` by faiss's own BLAS: `(n, q)`."""
    transform, _ = _transform(queries)

    def times(rows: Matrix) -> Matrix:
        result = np.empty((len(rows), len(queries)), dtype=np.float32)
        transform.apply_noalloc(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(result))
        return result

    return times


def _transform(queries: Matrix) -> tuple[Any, Matrix]:
    """What multiplies rows with the queries `(q, d)`, and its own copy of them as one array `(q * d,)`."""
    count, dimension = queries.shape
    transform = faiss.LinearTransform(dimension, count, False)
    faiss.copy_array_to_vector(queries.ravel(), transform.A)
    transform.is_trained = True
    return transform, faiss.rev_swig_ptr(transform.A.data(), queries.size)


def _squares(rows: Matrix) -> Matrix:
    """The squared lengths of rows `(n, d)`, by faiss: `(n,)`."""
    squares = np.empty(len(rows), dtype=np.float32)
    faiss.fvec_norms_L2sqr(faiss.swig_ptr(squares), faiss.swig_ptr(rows), rows.shape[1], len(rows))
    return squares


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """Let faiss use so many threads at the most, in this thread alone."""
    most = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(min(most, count))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(most)


def _threads_for(products: int) -> AbstractContextManager[None]:
    """As many threads as so many multiplications are worth."""
    return limited_threads(1 + products // THREAD_PRODUCTS)
