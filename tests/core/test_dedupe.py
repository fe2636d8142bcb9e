"""Of equal texts only the first goes on."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.dataplane.schemas import native, text
from aaflow_plugins.dedupe import content_key, firsts
from aaflow_plugins.engines.local import LocalCommunicator
from aaflow_plugins.operators import Dedupe

TEXTS = st.text("ab\ud800\u00e9", max_size=3)
SCHEMA = pa.schema([native("item", "object"), text("text"), pa.field("number", pa.int64())])


def first_of_each(texts: list[str]) -> list[int]:
    return [row for row, text in enumerate(texts) if text not in texts[:row]]


@given(st.lists(TEXTS))
def test_the_first_of_each(texts: list[str]) -> None:
    found = firsts(list(map(content_key, texts)), LocalCommunicator())
    assert [row for row, first in enumerate(found) if first] == first_of_each(texts)


@given(st.lists(st.lists(TEXTS, max_size=4), max_size=4))
def test_batches(batches: list[list[str]]) -> None:
    """Rows keep all their columns; what has none left is no batch."""
    rows = iter(range(100))

    def batch(texts: list[str]) -> Batch:
        numbers = [next(rows) for _ in texts]
        columns: dict[str, Any] = {"item": [str(row) for row in numbers], "text": texts, "number": pa.array(numbers)}
        return Batch(SCHEMA, columns, len(texts))

    (stage,) = Dedupe().stages()
    found = list(stage.run(iter([batch(texts) for texts in batches])))  # type: ignore[union-attr]
    every = [text for texts in batches for text in texts]
    expected = first_of_each(every)
    for name, values in {"text": every, "item": list(map(str, range(100))), "number": list(range(100))}.items():
        assert [value for each in found for value in each.native(name)] == [values[row] for row in expected]
    assert all(each.num_rows == len(each.native("text")) for each in found)
    assert [each.num_rows for each in found].count(0) == batches.count([])
