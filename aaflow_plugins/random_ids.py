"""Random ids in bulk, of the kind that vector stores give to rows without one."""

from __future__ import annotations

import os
import uuid

import numpy as np

#: Fewer ids are made one by one: the array's overhead is more than it saves.
FEW = 32

_uuid4 = uuid.uuid4

#: The variant of RFC 4122 in a random digit's place.
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def random_ids(count: int) -> list[str]:
    """Random ids as `str(uuid.uuid4())` makes them: version 4, from the system's random source.

    Where `uuid.uuid4` has been replaced (tests do, for known ids), the ids are the replacement's.
    """
    if uuid.uuid4 is not _uuid4:
        return [str(uuid.uuid4()) for _ in range(count)]
    if count < FEW:
        return [_written(os.urandom(16).hex()) for _ in range(count)]
    octets = np.frombuffer(os.urandom(16 * count), dtype=np.uint8).reshape(count, 16).copy()
    octets[:, 6] = octets[:, 6] & 0x0F | 0x40
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = np.frombuffer(octets.tobytes().hex().encode(), dtype=np.uint8).reshape(count, 32)
    text = np.full((count, 36), ord("-"), dtype=np.uint8)
    start = 0
    for group, width in enumerate((8, 4, 4, 4, 12)):
        text[:, start + group : start + group + width] = digits[:, start : start + width]
        start += width
    joined = text.tobytes().decode()
    return [joined[at : at + 36] for at in range(0, 36 * count, 36)]


def _written(digits: str) -> str:
    """32 random digits as an id."""
    version, variant = f"4{digits[13:16]}", f"{_VARIANT[digits[16]]}{digits[17:20]}"
    return f"{digits[:8]}-{digits[8:12]}-{version}-{variant}-{digits[20:]}"
