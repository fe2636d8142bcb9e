"""Sharded stores without ranks: documents as bytes, products of some rows, what a heap keeps of parts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_aaflow.sharded_in_memory import RowProduct, left_over, threads_of
from tests.generated import examples


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 90), st.sampled_from([1, 3, 16, 300]), st.lists(st.floats(0, 1), max_size=3), st.integers(0, 9))
@example(39, 300, [0.125], 0)
def test_rows_of_a_product(total: int, width: int, cuts: list[float], seed: int) -> None:
    """Bit for bit those of the whole product, wherever the parts are cut."""
    random = np.random.default_rng(seed)
    matrix, query = random.standard_normal((total, width)), random.standard_normal((1, width))
    threads = threads_of(width, total)
    if threads is None:
        pytest.skip("the arithmetic here is another")
    ends = sorted({0, total, *(int(cut * total) for cut in cuts)})
    parts = [RowProduct(matrix[start:stop], start, total, threads) for start, stop in pairwise(ends)]
    assert np.concatenate([part(query) for part in parts]).tobytes() == np.dot(query, matrix.T)[0].tobytes()


@given(st.integers(0, 200), st.integers(1, 9))
def test_what_is_left_over(total: int, threads: int) -> None:
    """Fewer than four rows of each thread at the most, and all of them if there are no whole groups."""
    ranges = left_over(total, threads)
    assert len(ranges) <= threads
    assert all(0 < stop - start < 4 and stop <= total for start, stop in ranges)
    assert (total - sum(stop - start for start, stop in ranges)) % 4 == 0


@settings(max_examples=examples(150), deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.integers(1, 11), st.integers(0, 10**6), st.booleans())
def test_what_a_heap_keeps_of_parts(total: int, width: int, k: int, seed: int, falling: bool) -> None:
    """Vectors of few values: most scores occur several times."""
    faiss: Any = pytest.importorskip("faiss")
    from faiss_aaflow.sharded import kept_by_a_heap, proposals

    random = np.random.default_rng(seed)
    vectors = random.integers(-1, 2, (total, width)).astype(np.float32)
    queries = random.integers(-1, 2, (2, width)).astype(np.float32)
    cut = int(random.integers(0, total + 1))
    make = faiss.IndexFlatIP if falling else faiss.IndexFlatL2
    whole = make(width)
    whole.add(vectors)
    found = []
    for first, rows in ((0, vectors[:cut]), (cut, vectors[cut:])):
        part = make(width)
        part.add(rows)
        scores, numbers = proposals(part, queries, k)
        found.append((scores, np.where(numbers < 0, -1, numbers + first)))
    scores, numbers = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
    for number, query in enumerate(queries):
        order = np.lexsort((numbers[number], -scores[number] if falling else scores[number], numbers[number] < 0))
        best = scores[number][order], numbers[number][order]
        kept = kept_by_a_heap(*best, k) if falling else (best[0][:k], best[1][:k])
        expected, rows = whole.search(query[None], k)
        there = rows[0] >= 0
        assert kept[1][: there.sum()].tolist() == rows[0][there].tolist()
        assert kept[0][: there.sum()].tobytes() == expected[0][there].tobytes()
