"""Sharded stores without ranks: documents as bytes, products of some rows, what a heap keeps of parts."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_aaflow.sharded_documents import from_bytes, to_bytes
from langchain_aaflow.sharded_in_memory import RowProduct, left_over, threads_of

ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
KEYS = st.text() | st.integers() | st.just("$kind") | st.tuples(st.integers())
TIMES = st.datetimes().map(lambda time: time.replace(fold=0))
VALUES = st.recursive(
    ATOMS
    | st.binary()
    | st.dates()
    | st.datetimes(allow_imaginary=False).map(lambda time: time.replace(fold=0))
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters()), st.dictionaries(st.text() | st.just("$kind"), VALUES), st.none() | st.text())
def test_documents_come_back_as_they_were(text: str, metadata: dict[str, Any], id_: str | None) -> None:
    """Types and the order of keys included."""
    document = Document(page_content=text, metadata=metadata, id=id_)
    again = from_bytes(to_bytes(document))
    assert repr(again) == repr(document)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.int64(3),
        np.bool_(True),
        Path("a/b"),
        Decimal("0.10"),
        UUID(int=7),
        date(2026, 1, 2),
        (1, [2]),
    ],
    ids=repr,
)
def test_types_that_travel(value: Any) -> None:
    (again,) = from_bytes(to_bytes(Document(page_content="", metadata={"a": value}))).metadata.values()
    assert type(again) is type(value)
    assert again == value


class _Text(str):
    pass


@pytest.mark.parametrize(
    "value", [object(), {1}, _Text("a"), datetime(2026, 1, 2, tzinfo=ZoneInfo("UTC")), 1j], ids=repr
)
def test_types_that_do_not_travel(value: Any) -> None:
    with pytest.raises(TypeError, match="can't go to another rank"):
        to_bytes(Document(page_content="", metadata={"deep": [value]}))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.sampled_from([1, 3, 16, 300]), st.lists(st.floats(0, 1), max_size=3), st.integers(0, 9))
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


@settings(max_examples=150, deadline=None)
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
