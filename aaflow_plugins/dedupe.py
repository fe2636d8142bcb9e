"""Which of many texts are the first of their kind, in the order of one process, whichever rank has them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from aaflow_plugins.engines.communicator import Communicator


def content_key(text: str) -> bytes:
    """16 bytes that stand for a text: the same for equal texts, and for no others that anybody could find."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def new_rows(keys: Iterable[Hashable], seen: set[Hashable]) -> list[int]:
    """Where keys are that have not been seen before; they have been afterwards."""
    rows = []
    for row, key in enumerate(keys):
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return rows


def meeting_number(digest: bytes) -> int:
    """What rows are shuffled by so that equal digests, of 8 bytes or more, meet on one rank."""
    # Half of the integers: whatever a negative one modulo the number of ranks is.
    return int.from_bytes(digest[:8]) >> 1


def firsts(keys: Sequence[bytes], ranks: Communicator) -> list[bool]:
    """Which keys are not there before: neither on this rank, nor on one before it.

    All ranks make this call together. Equal keys meet on one rank, and it tells the others which of theirs came later.

    Args:
        keys: This rank's, of 8 bytes or more that are spread evenly, as those of a digest.
        ranks: The ranks; what they have, one after the other, is the whole input.

    Returns:
        For each key whether it is the first of its kind.
    """
    own = new_rows(keys, set())
    columns = {
        "number": pa.array([meeting_number(keys[row]) for row in own], pa.int64()),
        "rank": pa.array(np.full(len(own), ranks.rank)),
        "row": pa.array(own, pa.int64()),
        "key": pa.array([keys[row] for row in own], pa.large_binary()),
    }
    met = ranks.shuffle(pa.table(columns), "number").sort_by([("rank", "ascending"), ("row", "ascending")])
    later = np.ones(met.num_rows, bool)
    later[new_rows(met["key"].to_pylist(), set())] = False
    told = met.select(["rank", "row"]).filter(pa.array(later))
    first = set(own).difference(ranks.shuffle(told, "rank")["row"].to_pylist())
    return [row in first for row in range(len(keys))]
