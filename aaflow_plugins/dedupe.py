"""Which of many texts are the first of their kind, in the order of one process, whichever rank has them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from aaflow_plugins.engines.communicator import Communicator


def content_key(text: str) -> bytes:
    """16 bytes that stand for a text: the same for equal texts, and for no others that anybody could find."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def firsts(keys: Sequence[bytes], ranks: Communicator) -> list[bool]:
    """Which keys are not there before: neither on this rank, nor on one before it.

    All ranks make this call together. Equal keys meet on one rank, and it tells the others which of theirs came later.

    Args:
        keys: This rank's, of 8 bytes or more that are spread evenly, as those of a digest.
        ranks: The ranks; what they have, one after the other, is the whole input.

    Returns:
        For each key whether it is the first of its kind.
    """
    own: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        own.setdefault(key, row)
    columns = {
        # Half of the integers: whatever a negative one modulo the number of ranks is.
        "number": pa.array([int.from_bytes(key[:8]) >> 1 for key in own], pa.int64()),
        "rank": pa.array(np.full(len(own), ranks.rank)),
        "row": pa.array(list(own.values()), pa.int64()),
        "key": pa.array(list(own), pa.large_binary()),
    }
    met = ranks.shuffle(pa.table(columns), "number")
    seen: set[bytes] = set()
    later = []
    for rank, row, key in sorted(zip(*(met[name].to_pylist() for name in ("rank", "row", "key")), strict=True)):
        if key in seen:
            later.append({"rank": rank, "row": row})
        seen.add(key)
    told = pa.Table.from_pylist(later, pa.schema({"rank": pa.int64(), "row": pa.int64()}))
    first = set(own.values()).difference(ranks.shuffle(told, "rank")["row"].to_pylist())
    return [row in first for row in range(len(keys))]
