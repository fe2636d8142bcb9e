"""What the engine hands to Cylon, and what it makes of it; beside the tests of all engines, which run it too.

`tests/core/test_cylon.py` starts this with a stand-in for Cylon, and with Cylon itself where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest

from aaflow_plugins.dataplane.vectors import to_arrow
from aaflow_plugins.engines.communicator import RankError
from tests.ranks.test_communicator import assert_equal, table_of

if find_spec("pycylon") is None:
    pytest.skip("pycylon is not installed", allow_module_level=True)

from aaflow_plugins.engines.cylon import CylonCommunicator
from aaflow_plugins.plugins import engine


@pytest.fixture
def cylon() -> CylonCommunicator:
    found = engine("cylon")
    assert isinstance(found, CylonCommunicator)
    return found


@pytest.fixture(autouse=True)
def _block(request: pytest.FixtureRequest, cylon: CylonCommunicator) -> Iterator[None]:
    if request.node.get_closest_marker("own_block"):
        yield
        return
    with cylon.together(request.node.name):
        yield


@pytest.fixture
def given(cylon: CylonCommunicator, monkeypatch: pytest.MonkeyPatch) -> list[pa.Table]:
    """The tables that Cylon is given to shuffle."""
    tables: list[pa.Table] = []
    shuffle = cylon.library.shuffle

    def noted(table: pa.Table, key: str) -> pa.Table:
        tables.append(table)
        return shuffle(table, key)

    monkeypatch.setattr(cylon.library, "shuffle", noted)
    return tables


def owned(cylon: CylonCommunicator, parts: list[pa.Table]) -> pa.Table:
    everything = pa.concat_tables(parts)
    return everything.take(pa.array(np.flatnonzero(np.mod(everything["key"].to_numpy(), cylon.size) == cylon.rank)))


def test_only_what_cylon_can_carry_is_given(cylon: CylonCommunicator, given: list[pa.Table]) -> None:
    """Types that all versions know, no offset, no null, and keys that any of their partitions takes alike."""
    parts = [table_of(rank, 80).slice(7, 60) for rank in range(cylon.size)]
    assert_equal(cylon.shuffle(parts[cylon.rank], "key"), owned(cylon, parts))
    assert len(given) == 2  # one of rows, one of streams
    for table in given:
        assert table["owner"].type == pa.int64()
        assert set(table["owner"].to_pylist()) <= set(range(cylon.size))
        for column in table.columns:
            (chunk,) = column.chunks
            assert (chunk.offset, chunk.null_count) == (0, 0)
            known = pa.types.is_integer, pa.types.is_string, pa.types.is_binary, pa.types.is_fixed_size_binary
            assert any(is_known(chunk.type) for is_known in known)


def test_vectors_go_without_a_copy(cylon: CylonCommunicator, given: list[pa.Table]) -> None:
    vectors = to_arrow(np.random.default_rng(cylon.rank).standard_normal((50, 384), dtype=np.float32))
    cylon.shuffle(pa.table({"key": np.arange(50), "vector": vectors}).slice(10), "key")
    (table,) = given
    assert table["1"].type == pa.binary(4 * 384)
    start = vectors.values.buffers()[1].address
    assert table["1"].chunk(0).buffers()[1].address == start + 10 * 4 * 384


@pytest.mark.parametrize("round_bytes", [600, 5_000])
def test_rounds(
    round_bytes: int, cylon: CylonCommunicator, given: list[pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks have unlike numbers of rows, one of them none; strings that no round has room for go as streams."""
    monkeypatch.setattr(cylon, "round_bytes", round_bytes)
    parts = [table_of(rank, rows) for rank, rows in enumerate([5, 0, 40, 20][: cylon.size])]
    assert_equal(cylon.shuffle(parts[cylon.rank], "key"), owned(cylon, parts))
    assert len(given) > 2


def test_keys_at_the_ends_of_int64(cylon: CylonCommunicator) -> None:
    """Cylon's partition takes 32 bits of them."""
    edges = [-(2**63), 2**63 - 1, -1, 0, 2**32, 2**32 + 1, -(2**32) - 1]
    parts = [pa.table({"key": edges, "rank": [rank] * len(edges)}) for rank in range(cylon.size)]
    assert_equal(cylon.shuffle(parts[cylon.rank], "key"), owned(cylon, parts))


@pytest.mark.own_block
def test_unlike_columns_do_not_reach_cylon(cylon: CylonCommunicator, given: list[pa.Table]) -> None:
    """It ends a process that gets them."""
    if cylon.size == 1:
        pytest.skip("one rank has nobody to differ from")
    column = pa.array([1], pa.int32() if cylon.rank == 1 else pa.int64())
    with pytest.raises(RankError, match="rank 1 came to shuffle by key with a: int32"), cylon.together("unlike"):
        cylon.shuffle(pa.table({"key": [1], "a": column}), "key")
    assert not given


@pytest.mark.own_block
def test_a_rank_that_fails_before_it_sends(cylon: CylonCommunicator, given: list[pa.Table]) -> None:
    key = pa.array([1, None] if cylon.rank == cylon.size - 1 else [1, 2])
    raised = ValueError if cylon.rank == cylon.size - 1 else RankError
    with pytest.raises(raised, match="column 'key' is int64 with nulls"), cylon.together("nulls"):
        cylon.shuffle(pa.table({"key": key}), "key")
    assert not given
