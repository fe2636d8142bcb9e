"""A program of two ranks: Cylon's answers to questions whose answers are known. Prints each step that goes well."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from aaflow_plugins.dataplane.vectors import to_arrow
from aaflow_plugins.engines.cylon_check import STEPS
from aaflow_plugins.engines.mpi import connect

_ROWS = 60


def _rows(rank: int) -> pa.Table:
    """Rows of a rank, all of whose strings are longer than 16 bytes, and some the same as those of other ranks."""
    numbers = np.arange(_ROWS)
    return pa.table(
        {
            "key": numbers * 7919 - 100_000,
            "text": [f"a string of more than sixteen bytes, {number // 2 * 'x'}" for number in numbers.tolist()],
            "rank": pa.array(np.full(_ROWS, rank), pa.int32()),
            "flag": pa.array((numbers % 3 == 0).tolist()),
            "vector": to_arrow(np.arange(_ROWS * 5, dtype=np.float32).reshape(_ROWS, 5)),
        }
    )


def _steps() -> Iterator[None]:
    """Does one step after the other; begins by importing pycylon."""
    from aaflow_plugins.engines.cylon import CylonCommunicator

    ranks = connect()
    with ranks.together("the check of Cylon"):
        cylon = CylonCommunicator(ranks)
        ranks.barrier()
        yield
        mine = pa.table({"text": _rows(ranks.rank)["text"], "fixed": pa.array([b"12345"] * _ROWS, pa.binary(5))})
        if not cylon.library.round_trip(mine).equals(mine):
            raise ValueError("other rows come back")
        ranks.barrier()
        yield
        for counts in ([_ROWS, _ROWS // 2], [0, _ROWS]):
            parts = [_rows(rank).slice(0, count) for rank, count in enumerate(counts)]
            everything = pa.concat_tables(parts)
            owned = np.flatnonzero(np.mod(everything["key"].to_numpy(), ranks.size) == ranks.rank)
            shuffled = cylon.shuffle(parts[ranks.rank], "key")
            if not shuffled.combine_chunks().equals(everything.take(pa.array(owned)).combine_chunks()):
                raise ValueError("other rows arrive")
        ranks.barrier()
        yield
        here = cylon.library.shuffle(pa.table({"text": _rows(ranks.rank)["text"]}), "text")
        texts = ranks.all_gather(pa.table({"text": here["text"].unique()}))["text"]
        if len(texts) != len(texts.unique()):
            raise ValueError("the same string is at two ranks")
        yield


def main(seconds: int) -> None:
    """Take the steps; whatever keeps this process, its time is limited."""
    signal.alarm(seconds)
    for step, _ in zip(STEPS, _steps(), strict=True):
        if connect().rank == 0:
            sys.stdout.write(f"{step}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
