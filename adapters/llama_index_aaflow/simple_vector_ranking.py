"""The best of a SimpleVectorStore's vectors for a query, found among few of them.

Unit vectors in float32 are kept, and before each use compared with the store's own lists, as
`aaflow_plugins.kept_vectors` says. They only propose: the rows whose similarity can be among the best, by a bound on
the rounding error, are handed to the native function, which computes their similarities as for all rows. Where
similarities are equal, their order depends on what the native heap has held before: then it is given all rows that
can have been in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llama_index.core.vector_stores.simple import SimpleVectorStore, SimpleVectorStoreData
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult

from aaflow_plugins.kept_vectors import KeptSearches
from aaflow_plugins.reach import Found, Reach, attribute

#: Untyped: what it imports from elsewhere is looked up in it at each use, as the native code does.
simple: Any = import_module("llama_index.core.vector_stores.simple")

Matrix = npt.NDArray[np.float32]

#: Of a store this share of the vectors, if a query asks for no more, is searched natively without looking at the
#: others: to compare a vector with what is kept takes a fortieth of the time that its native similarity takes.
SELECTED_SHARE: Final = 40

#: Similarities computed at once for many queries: what bounds their memory, to 64 MiB.
SCORES_AT_ONCE: Final = 1 << 24

#: Lengths whose square and product are far from what float64 can't hold.
_SHORTEST, _LONGEST = 1e-100, 1e100

#: Unit roundoff of float32.
_UNIT: Final = 2.0**-24


@dataclass
class Rows:
    """A store's contents at one moment, and the unit vectors of all rows once they are asked for."""

    stored: dict[str, Any]
    ids: list[str]
    vectors: list[Any]
    kept: KeptUnits
    #: What the look was, if then nobody but the store could reach the vectors.
    look: object | None = None
    _units: Matrix | None = None
    _asked: bool = False
    _left: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def units(self) -> Matrix | None:
        """The unit vectors of all rows `(n, d)`; None where a search has to be native."""
        if not self._asked:
            self._asked = True
            if len(self.ids) == len(self.vectors):
                self._units = self.kept.of(self.vectors)
            if self._units is not None and self.look is not None:
                self.kept.last = self
        return self._units

    def propose(self, queries: Sequence[VectorStoreQuery]) -> Iterator[Matrix | None]:
        """Yield for each query the similarity of all rows `(n,)`, near the native one; None if it is refused."""
        # What one search does natively, many do at once.
        if self.units() is None:
            self._asked = False
        units = self.units()
        directions = [None if units is None else _direction(query.query_embedding, units) for query in queries]
        at_once = max(1, SCORES_AT_ONCE // max(1, len(self.ids)))
        for start in range(0, len(directions), at_once):
            part = directions[start : start + at_once]
            wanted = [direction for direction in part if direction is not None]
            scores = iter(np.array(wanted) @ units.T if wanted and units is not None else ())
            for direction in part:
                yield None if direction is None else next(scores)

    def answer(
        self, query: VectorStoreQuery, metadata: Any, scores: Matrix | None = None
    ) -> VectorStoreQueryResult | None:
        """What the native query returns; None where that is for the native query to say.

        Args:
            query: A query of the default mode.
            metadata: The store's metadata by id.
            scores: What `propose` gives, if it was asked.
        """
        chosen = self._chosen(query, metadata)
        if chosen is None:
            return self._best(query, None, scores)
        best = self._best(query, chosen, scores) if SELECTED_SHARE * len(chosen) > len(self.ids) else None
        return best or self._ranked(query, chosen, query.similarity_top_k)

    def deciding(
        self, query: VectorStoreQuery, metadata: Any, scores: Matrix | None, *, equal: bool = False
    ) -> list[int]:
        """The rows, in order, that decide what the native function gives for all rows, whatever rows there are beside.

        Args:
            query: A query of the default mode.
            metadata: The store's metadata by id.
            scores: What `propose` gives; None for all rows that the query leaves.
            equal: Whether there may be equal similarities among the best.
        """
        chosen = self._chosen(query, metadata)
        rows = list(range(len(self.ids))) if chosen is None else chosen
        top, units = query.similarity_top_k, self._units
        if scores is None or units is None or not 0 < top < len(rows):
            return rows
        of_chosen, margin = scores if chosen is None else scores[chosen], margin_of(units.shape[1])
        kept = once_near(of_chosen, top, margin) if equal else near(of_chosen, top, margin)
        return [rows[place] for place in kept.tolist()]

    def _best(
        self, query: VectorStoreQuery, chosen: list[int] | None, scores: Matrix | None
    ) -> VectorStoreQueryResult | None:
        """The best of the chosen rows, or of all; None if the native function has to see every one of them."""
        if 4 * query.similarity_top_k > (len(self.ids) if chosen is None else len(chosen)):
            return None
        units = self.units()
        if units is None:
            return None
        if scores is None:
            direction = _direction(query.query_embedding, units)
            if direction is None:
                return None
            # Row by row: threads of a matrix product wait for each other, and this takes a millisecond.
            scores = np.matmul(units[:, None, :], direction[:, None])[:, 0, 0]
        if chosen is not None:
            scores = scores[chosen]
        margin = margin_of(units.shape[1])
        ranked = self._ranked_alone(query, chosen, near(scores, query.similarity_top_k, margin), None)
        if ranked is None:
            return None
        top = query.similarity_top_k
        similarities, ids = ranked.similarities or [], ranked.ids or []
        if all(before > after for before, after in pairwise(similarities[: top + 1])):
            return VectorStoreQueryResult(similarities=similarities[:top], ids=ids[:top])
        # Equal similarities come out in the order that the native heap's history leaves.
        return self._ranked_alone(query, chosen, once_near(scores, top, margin), top)

    def _chosen(self, query: VectorStoreQuery, metadata: Any) -> list[int] | None:
        """The rows that a query's ids and filters leave, in order; None for all."""
        available = self._available(query.node_ids)
        if available is self.stored and not (query.filters and query.filters.filters):
            return None
        matches = simple.build_metadata_filter_fn(lambda node_id: metadata[node_id], query.filters)
        return [row for row, node_id in enumerate(self.ids) if node_id in available and matches(node_id)]

    def _available(self, node_ids: list[str] | None) -> Any:
        """The ids that a list of ids leaves, found once for queries that share it. An index's retriever names all."""
        if node_ids is None:
            return self.stored
        left = self._left.get(id(node_ids))
        if left is None:
            named = set(node_ids)
            left = self._left[id(node_ids)] = node_ids, self.stored if named.issuperset(self.ids) else named
        return left[1]

    def _ranked_alone(
        self, query: VectorStoreQuery, chosen: list[int] | None, places: npt.NDArray[np.intp], top: int | None
    ) -> VectorStoreQueryResult | None:
        """Some of the rows that a query leaves, ranked by the native function; None if it has to see all of them."""
        if 4 * len(places) > (len(self.ids) if chosen is None else len(chosen)):
            return None
        rows = places.tolist() if chosen is None else [chosen[at] for at in places.tolist()]
        # By themselves, floats of a lower precision that equal those that were there would be ranked in it.
        if any(set(map(type, self.vectors[row])) != {float} or type(self.ids[row]) is not str for row in rows):
            return None
        return self._ranked(query, rows, top)

    def _ranked(self, query: VectorStoreQuery, rows: list[int], top: int | None) -> VectorStoreQueryResult | None:
        # Another thread may have changed the store between two looks at it.
        if any(self.stored.get(self.ids[row]) is not self.vectors[row] for row in rows):
            return None
        similarities, ids = simple.get_top_k_embeddings(
            query.query_embedding,
            [self.vectors[row] for row in rows],
            similarity_top_k=top,
            embedding_ids=[self.ids[row] for row in rows],
        )
        return VectorStoreQueryResult(similarities=similarities, ids=ids)


class KeptUnits(KeptSearches[Matrix]):
    """The unit vectors `(n, d)` of a store's vectors, brought up to date at each use.

    Where most vectors have been exchanged, one search runs natively.
    """

    def __init__(self) -> None:
        super().__init__(unit_vectors)
        self.reach = Reach(_TO_VECTORS, _ALONE)
        #: What was compared last, if nobody but the store could reach it.
        self.last: Rows | None = None

    def rows(self, store: SimpleVectorStore) -> Rows:
        """What a store holds: without a comparison, where nobody can have changed it since the last one."""
        look = self.reach.look
        if (last := self.last) is not None and last.look is look and last.stored is data_of(store).embedding_dict:
            return replace(last, _left={})
        # They would count among the references.
        self.last = last = None
        with self._turn() as is_free:
            found = self.reach.find(store)
            alone = is_free and self.reach.is_alone(found, self._kept.lists)
        *_, (stored,), vectors = found.levels
        return Rows(stored, list(stored), list(vectors), self, look if alone else None)

    def _of(self, vectors: list[Any]) -> Matrix | None:
        known = len(self._kept)
        if not self._kept.are(vectors[:known] if len(vectors) > known else vectors):
            if set(map(type, vectors)) != {list} or not self._kept.renew(vectors):
                return None
        elif len(vectors) > known and not (set(map(type, vectors[known:])) == {list} and self._append(vectors)):
            return None
        return self._kept.arrays[0]


def data_of(store: SimpleVectorStore) -> SimpleVectorStoreData:
    """The data of a store, without a note that somebody looks at it."""
    data: SimpleVectorStoreData = attribute(store, "data")
    return data


#: From a store's attributes to its vectors.
_TO_VECTORS: Final = (
    lambda states: [states[0]["data"]],
    lambda datas: [vars(datas[0])],
    lambda states: [states[0]["embedding_dict"]],
    lambda dicts: list(dicts[0].values()),
)

_ALONE: Final = Found(SimpleVectorStore(SimpleVectorStoreData(embedding_dict={"": [0.0]})), _TO_VECTORS).references


def unit_vectors(rows: npt.NDArray[np.float64]) -> tuple[Matrix] | None:
    """The directions of vectors `(n, d)`; None if one has none, or a length that float64 is no match for."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    if not ((lengths >= _SHORTEST) & (lengths <= _LONGEST)).all():
        return None
    return ((rows / lengths[:, None]).astype(np.float32),)


def _direction(embedding: Any, units: Matrix) -> Matrix | None:
    """The unit vector of a query `(d,)`; None for a query that is left to the native arithmetic."""
    try:
        query = np.array(embedding)
    except (TypeError, ValueError):
        return None
    if query.dtype not in (np.float64, np.float32) or query.shape != units.shape[1:]:
        return None
    found = unit_vectors(query.astype(np.float64)[None])
    return None if found is None else found[0][0]


def margin_of(dimension: int) -> np.float32:
    """How far the similarities of two rows can lie apart that their scores rank the other way round.

    A sum of `d` products in any order, fused or not, is off by at most `g = d·u/(1 - d·u)` times the sum of the
    absolute products (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), which for unit vectors is
    at most 1. Some units are added to `d` for the rounding of the vectors themselves, beside which that of the native
    float64 is nothing.
    """
    units = (dimension + 8) * _UNIT
    return np.float32(2.01 * 1.01 * units / (1 - units))


def near(scores: Matrix, top: int, margin: np.float32) -> npt.NDArray[np.intp]:
    """The rows, in order, that can be among the `top` by their native similarities."""
    return np.flatnonzero(scores >= _last_of_top(scores, top) - margin)


def once_near(scores: Matrix, top: int, margin: np.float32) -> npt.NDArray[np.intp]:
    """The rows, in order, that decide how the native heap of `top` rows is laid out in the end.

    Those are the first, and whatever was not below all that was in the heap when its turn came. A row below all is
    pushed and popped again: it goes up to the root and what it moved down goes back where it was, each the smaller of
    two children.
    """
    parts = [np.arange(top)]
    end = top
    while end < len(scores):
        # Of the rows up to twice as many, too many are taken: what they add to the heap is not looked at.
        low = _last_of_top(scores[:end], top) - margin
        parts.append(end + np.flatnonzero(scores[end : 2 * end] >= low))
        end *= 2
    return np.concatenate(parts)


def _last_of_top(scores: Matrix, top: int) -> np.float32:
    last: np.float32 = np.partition(scores, len(scores) - top)[len(scores) - top]
    return last
