"""Vectors as rows and as matrices."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aaflow_plugins.embedding import vectors_from_lists, vectors_from_rows


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(st.floats(allow_nan=False), min_size=width, max_size=width), min_size=1)
    )
)
def test_lists_made_late_are_those_made_early(rows: list[list[float]]) -> None:
    early, late = vectors_from_rows(rows, ""), vectors_from_lists(np.array(rows))
    assert early.matrix.tobytes() == late.matrix.tobytes()
    assert repr(early.tolist()) == repr(late.tolist()) == repr(rows)
    assert repr(dict(late.exact)) == repr(early.exact)
    assert [late.exact.get(row) for row in (-1, len(rows))] == [None, None]
    assert early.bytes_copied == late.bytes_copied
