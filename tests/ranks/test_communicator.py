"""What engines do with tables, against what one process makes of all of them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from aaflow_plugins import rank
from aaflow_plugins.engines.communicator import Communicator

WORDS = ["", "a", "two words", "ünïcode", "a string of more than sixteen bytes", "\U0001f600"]


def table_of(rank: int, rows: int) -> pa.Table:
    """Every kind of column, the same for the same rank."""
    random = np.random.default_rng(rank)
    words = [WORDS[number] for number in random.integers(0, len(WORDS), rows)]
    maybe = [word if number % 3 else None for number, word in enumerate(words)]
    vectors = random.standard_normal((rows, 5)).astype(np.float32)
    return pa.table(
        {
            "key": pa.array(random.integers(-1000, 1000, rows), pa.int64()),
            "row": pa.array(np.arange(rows), pa.int32()),
            "word": pa.array(words, pa.string()),
            "large": pa.array(maybe, pa.large_string()),
            "binary": pa.array([word.encode() for word in words], pa.binary()),
            "flag": pa.array([bool(number % 2) for number in range(rows)], pa.bool_()),
            "maybe": pa.array([number if number % 4 else None for number in range(rows)], pa.int16()),
            "list": pa.array([list(range(number % 5)) for number in range(rows)], pa.list_(pa.int64())),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 5),
            "nested": pa.array(
                [[[number, number + 1], [0, rank]] for number in range(rows)], pa.list_(pa.list_(pa.int16(), 2), 2)
            ),
            "holes": pa.array(
                [[1.0, None] if number % 2 else None for number in range(rows)], pa.list_(pa.float32(), 2)
            ),
            "fixed": pa.array([bytes([number % 256] * 3) for number in range(rows)], pa.binary(3)),
            "dictionary": pa.array(words, pa.string()).dictionary_encode(),
            "struct": pa.array(
                [{"a": number, "b": word} for number, word in enumerate(words)],
                pa.struct([("a", pa.int64()), ("b", pa.string())]),
            ),
            "null": pa.nulls(rows),
            "time": pa.array(random.integers(0, 10**12, rows), pa.timestamp("ms", "UTC")),
            "half": pa.array(random.standard_normal(rows).astype(np.float16)),
            "decimal": pa.array(random.integers(0, 10**6, rows)).cast(pa.decimal128(30, 2)),
        }
    )


def plain(table: pa.Table | None) -> pa.Table:
    """One chunk a column, dictionaries resolved."""
    assert table is not None
    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, table.column_names).combine_chunks()


def assert_equal(found: pa.Table | None, expected: pa.Table) -> None:
    assert found is not None
    assert found.schema == expected.schema
    assert plain(found).equals(plain(expected))


#: Rows on rank 0, 1, ...: alike, uneven, none on some, none anywhere.
SHAPES = [(7, 7, 7, 7), (1, 900, 0, 30), (0, 0, 5, 0), (0, 0, 0, 0)]


@pytest.fixture(params=SHAPES, ids=str)
def rows(request: pytest.FixtureRequest) -> tuple[int, ...]:
    shape: tuple[int, ...] = request.param
    return shape


@pytest.fixture(params=[None, 100], ids=["whole", "in parts"])
def message_bytes(request: pytest.FixtureRequest, ranks: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and hasattr(ranks, "message_bytes"):
        monkeypatch.setattr(ranks, "message_bytes", request.param)
        monkeypatch.setattr(ranks, "block_bytes", 3 * request.param)


def test_a_rank_knows_its_number_from_the_launcher(ranks: Communicator) -> None:
    assert rank() == ranks.rank


def all_of(ranks: Communicator, rows: tuple[int, ...]) -> pa.Table:
    return pa.concat_tables([table_of(rank, rows[rank]) for rank in range(ranks.size)])


@pytest.mark.usefixtures("message_bytes")
def test_gather(ranks: Communicator, rows: tuple[int, ...]) -> None:
    root = ranks.size - 1
    found = ranks.gather(table_of(ranks.rank, rows[ranks.rank]), root)
    if ranks.rank == root:
        assert_equal(found, all_of(ranks, rows))
    else:
        assert found is None


@pytest.mark.usefixtures("message_bytes")
def test_all_gather(ranks: Communicator, rows: tuple[int, ...]) -> None:
    assert_equal(ranks.all_gather(table_of(ranks.rank, rows[ranks.rank])), all_of(ranks, rows))


@pytest.mark.usefixtures("message_bytes")
def test_broadcast(ranks: Communicator, rows: tuple[int, ...]) -> None:
    for root in range(ranks.size):
        table = table_of(root, rows[root])
        assert_equal(ranks.broadcast(table if ranks.rank == root else None, root), table)


@pytest.mark.usefixtures("message_bytes")
def test_shuffle(ranks: Communicator, rows: tuple[int, ...]) -> None:
    together = all_of(ranks, rows)
    owned = np.flatnonzero(np.mod(together["key"].to_numpy(), ranks.size) == ranks.rank)
    found = ranks.shuffle(table_of(ranks.rank, rows[ranks.rank]), "key")
    assert_equal(found, together.take(pa.array(owned)))


def test_slices_and_chunks(ranks: Communicator) -> None:
    """Offsets, and columns in several pieces, of which some are empty."""
    table = table_of(ranks.rank, 50)
    mine = pa.concat_tables([table.slice(3, 9), table.slice(0, 0), table.slice(20, 11)])
    parts = [table_of(rank, 50) for rank in range(ranks.size)]
    expected = pa.concat_tables([part for each in parts for part in (each.slice(3, 9), each.slice(20, 11))])
    assert_equal(ranks.all_gather(mine), expected)


def test_a_column_with_nulls_on_one_rank_only(ranks: Communicator) -> None:
    columns = [pa.array([1, None if rank == ranks.size - 1 else 2]) for rank in range(ranks.size)]
    found = ranks.all_gather(pa.table({"n": columns[ranks.rank]}))
    assert found["n"].to_pylist() == pa.chunked_array(columns).to_pylist()


def test_dictionaries_with_nulls(ranks: Communicator) -> None:
    indices, dictionary = pa.array([0, 1, 0]), pa.array([None, f"rank {ranks.rank}"])
    found = ranks.all_gather(pa.table({"d": pa.DictionaryArray.from_arrays(indices, dictionary)}))
    assert found["d"].to_pylist() == [each for rank in range(ranks.size) for each in (None, f"rank {rank}", None)]


def test_no_columns_but_the_key(ranks: Communicator) -> None:
    found = ranks.shuffle(pa.table({"key": np.arange(10)}), "key")
    assert found["key"].to_pylist() == [*range(ranks.rank, 10, ranks.size)] * ranks.size


def test_agree(ranks: Communicator) -> None:
    assert ranks.agree(b"x" * ranks.rank) == {b"x" * rank: rank for rank in range(ranks.size)}
    first = {b"odd" if rank % 2 else b"even": rank % 2 for rank in range(ranks.size)}
    assert list(ranks.agree(b"odd" if ranks.rank % 2 else b"even").items()) == list(first.items())


@pytest.mark.parametrize("largest", [True, False])
def test_top_k(ranks: Communicator, largest: bool) -> None:
    """Against a sort of everything; scores are few, so that many are equal."""
    queries, k, missing = 6, 4, 2
    random = np.random.default_rng(0)
    scores = random.integers(0, 5, (ranks.size, queries, k)).astype(np.float32)
    rows = random.permutation(ranks.size * queries * k).reshape(ranks.size, queries, k)
    rows[:, 0, :] = -1
    rows[0, 1, missing:] = -1
    found_scores, found_rows = ranks.reduce_top_k(scores[ranks.rank], rows[ranks.rank], largest=largest)
    for query in range(queries):
        found = zip(scores[:, query].ravel().tolist(), rows[:, query].ravel().tolist(), strict=True)
        expected = sorted(
            ((score, row) for score, row in found if row >= 0),
            key=lambda each: (-each[0] if largest else each[0], each[1]),
        )[:k]
        expected += [(-np.inf if largest else np.inf, -1)] * (k - len(expected))
        assert [*zip(found_scores[query].tolist(), found_rows[query].tolist(), strict=True)] == expected


def test_nothing_is_pickled(ranks: Communicator, no_pickle: None) -> None:
    table = table_of(ranks.rank, 20)
    ranks.all_gather(table)
    ranks.shuffle(table, "key")
    ranks.gather(table)
    ranks.broadcast(table)
    ranks.agree(b"")


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from mpi4py import MPI

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("something was pickled")

    for name in ("dumps", "loads"):
        monkeypatch.setattr(pickle, name, refused)
    MPI.pickle.__init__(refused, refused)  # as its documentation has it
    try:
        with pytest.raises(AssertionError):
            MPI.COMM_SELF.sendrecv("text", 0)
        yield
    finally:
        MPI.pickle.__init__()


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [pa.array([1, None]), pa.array([1, 2], pa.int32()), pa.array(["a", "b"])])
def test_keys_are_int64_without_nulls(ranks: Communicator, bad: pa.Array) -> None:
    with pytest.raises(ValueError, match="key: column 'id'"):
        ranks.shuffle(pa.table({"id": bad}), "id")
    with pytest.raises(ValueError, match="key: the table has no column 'other', but id"):
        ranks.shuffle(pa.table({"id": bad}), "other")


def test_no_table_at_the_root(ranks: Communicator) -> None:
    with pytest.raises(ValueError, match="table is None at the root"):
        ranks.broadcast(None)
