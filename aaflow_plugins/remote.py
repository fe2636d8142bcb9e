"""Steps that can run in another process: a worker of this machine, or another rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa


@dataclass(frozen=True)
class RemoteCall:
    """A step that can run in another process, moving Arrow columns only.

    Attributes:
        pack: The Arrow columns to send for an item (a batch, a request); raises UnicodeEncodeError where text has no
            UTF-8 form.
        function: Runs in the other process on what `pack` made. For a worker it is pickled; another rank has its own.
        unpack: Makes the result from the item and what came back; None where that cannot carry the native result,
            and the step is to be run in this process.
        sample: `sample_of` this process's `function`; told apart from other ranks' before work is shared. None where
            the plan says it all.
    """

    pack: Callable[[Any], pa.RecordBatch]
    function: Callable[[pa.RecordBatch], pa.RecordBatch]
    unpack: Callable[[Any, pa.RecordBatch], Any]
    sample: Callable[[], bytes] | None = None


#: Before what a model raised for a sample.
FAILED: Final = b"failed: "


def sample_of(embed: Callable[[list[str]], Any]) -> bytes:
    """What tells a model from others: a digest of what it gives for a text, or `FAILED` and what it raises.

    Args:
        embed: Embeds a list of texts.
    """
    try:
        given = repr(embed(["The same text for all ranks."]))
    except Exception as error:
        return FAILED + f"{type(error).__name__}: {error}"[:1000].encode(errors="replace")
    return hashlib.blake2b(given.encode()).digest()
