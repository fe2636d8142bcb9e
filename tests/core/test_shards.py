"""Blocks of the input, batches of texts across them, and folders of shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aaflow_plugins.engines.local import LocalCommunicator
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import (
    MANIFEST,
    Edges,
    Manifest,
    blocks,
    embed_edges,
    embed_evenly,
    pack_vector,
    share_of,
    unpack_vector,
    vector_columns,
    vectors_in,
)


@given(st.lists(st.integers(0, 10**6)), st.integers(1, 9))
@example([], 3)
@example([0, 0, 0, 0], 2)
@example([0, 7, 0], 2)
@example([1, 10**15, 1], 4)
def test_blocks(sizes: list[int], ranks: int) -> None:
    """They cover all items in order, and none is larger than the mean by more than the largest item."""
    found = blocks(sizes, ranks)
    assert len(found) == ranks
    assert [position for block in found for position in block] == list(range(len(sizes)))
    weights = sizes if any(sizes) else [1] * len(sizes)
    for block in found:
        assert ranks * (sum(weights[position] for position in block) - max(weights, default=0)) <= sum(weights)


def test_equal_items_make_equal_blocks() -> None:
    assert [len(block) for block in blocks([5] * 12, 4)] == [3, 3, 3, 3]


class _Rank(LocalCommunicator):
    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.rank, self.size = rank, size


@given(st.integers(1, 100), st.integers(1, 9))
def test_shares_of_calls_in_flight(total: int, size: int) -> None:
    """All of them are used, and each rank has one at least."""
    shares = [share_of(total, _Rank(rank, size)) for rank in range(size)]
    assert min(shares) >= 1
    assert sum(shares) == max(total, size)
    assert max(shares) - min(shares) <= 1


def test_one_rank_has_no_edges() -> None:
    assert embed_edges(LocalCommunicator(), ["a", "b", "c"], 2, list) == Edges([], [])


def test_one_rank_embeds_all() -> None:
    assert embed_evenly(LocalCommunicator(), ["a", "b", "c"], 2, list) == ["a", "b", "c"]
    assert embed_evenly(LocalCommunicator(), [], 2, list) == []


@pytest.mark.parametrize(
    "row",
    [
        [0.1, -0.0, float("inf"), 5e-324],
        [1, 2.5, 10**30],
        [1, 2],
        [np.float32(0.1), np.float32(3)],
        np.array([0.1, 0.2], np.float32),
        np.array([0.1, 0.2]),
        [],
    ],
    ids=str,
)
def test_vectors_that_travel(row: Any) -> None:
    """They come back as they were, type by type."""
    found = unpack_vector(*pack_vector(row))
    assert type(found) is type(row)
    assert list(map(type, found)) == list(map(type, row))
    assert list(map(repr, found)) == list(map(repr, row))


@pytest.mark.parametrize(
    "row", [[True], ["a"], [1.0, None], (1.0, 2.0), np.zeros((2, 2)), [1.0, np.float32(1)]], ids=str
)
def test_vectors_that_do_not_travel(row: Any) -> None:
    with pytest.raises(TypeError, match="can't go to another rank"):
        pack_vector(row)


def test_an_executor_on_one_rank() -> None:
    executor = Executor(max_concurrency=7, batch_size=3, gather="shards", partitioned=True)
    own = executor.of_rank(_Rank(0, 2))
    assert (own.resources.max_concurrency, own.batch_size, own.engine, own.gather) == (4, 3, "local", "root")
    assert executor.resources.max_concurrency == 7
    assert Executor().of_rank(_Rank(1, 2)).resources.max_concurrency is None


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"gather": "none"}, ValueError, "gather must be one of 'root', 'all', 'shards', not 'none'"),
        ({"partitioned": True}, ValueError, "give gather='shards' or 'all'"),
        ({"partitioned": 1, "gather": "all"}, TypeError, "partitioned must be True or False"),
        ({"progress": True}, TypeError, "progress must be a function that is given a Progress, not True"),
    ],
)
def test_settings_of_no_sense(settings: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Executor(**settings)


def test_a_manifest_is_read_as_written(tmp_path: Path) -> None:
    manifest = Manifest("FAISS", [3, 0, 5], 8, {"metric": 1})
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == Manifest.read(tmp_path, ["FAISS"]) == manifest
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


WHOLE = {"format": "aaflow-shards", "version": 1, "kind": "FAISS", "rows": [1], "width": 2, "settings": {}}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (json.dumps(WHOLE)[:40], "is damaged"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is damaged"),
        ([1], "is no manifest of shards"),
        ({"name": "another program's"}, "is no manifest of shards"),
        ({**WHOLE, "version": 2}, "is of version 2; this release reads version 1"),
        ({**WHOLE, "rows": [-1]}, "is damaged"),
        ({**WHOLE, "rows": None}, "is damaged"),
        ({key: WHOLE[key] for key in ("format", "version", "kind")}, "is damaged"),
        (WHOLE, "is of shards of FAISS, not of SimpleVectorStore"),
    ],
    ids=str,
)
def test_a_manifest_that_is_none(tmp_path: Path, held: Any, said: str) -> None:
    """It is torn, another program's, a later release's, or another class's."""
    held = held if isinstance(held, str | bytes) else json.dumps(held)
    (tmp_path / MANIFEST).write_bytes(held if isinstance(held, bytes) else held.encode())
    with pytest.raises(ValueError, match=said):
        Manifest.read(tmp_path, ["SimpleVectorStore"])


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="saving them never ended"):
        Manifest.read(tmp_path)


def test_vectors_in_columns() -> None:
    """One that is missing travels only where it may be."""
    vectors = [[0.1, 0.2], None, [1, 2], []]
    assert vectors_in(pa.table(vector_columns(vectors, some_missing=True))) == vectors
    assert vectors_in(pa.table(vector_columns([]))) == []
    with pytest.raises(TypeError, match="can't go to another rank"):
        vector_columns(vectors)
