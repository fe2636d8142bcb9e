"""Replies for batches of texts, there before the native loop of an embedding model asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fetched:
    """What became of one batch: its rows, or an error; neither if an earlier one had failed already.

    Attributes:
        texts: The batch.
        rows: A vector a text, in the form that whoever fetched it takes.
        error: What fetching it raised.
    """

    texts: list[str]
    rows: list[Any] | None = None
    error: Exception | None = None


@dataclass
class Ahead:
    """Replies for the batches that the native loop will ask for.

    Attributes:
        embedding: Whose they are.
        replies: In the order of the batches.
        complete: Whether they are for all batches of the call that comes next.
    """

    embedding: Any
    replies: Iterator[Fetched]
    complete: bool = False

    def __post_init__(self) -> None:
        self._waiting: deque[Fetched] = deque()

    def pull(self) -> bool:
        """Wait for one more reply and keep it; False if there are no more."""
        fetched = next(self.replies, None)
        if fetched is None:
            return False
        # Lists are what is asked for in the end, and the arrays' memory is that of threads, which share none.
        self._waiting.append(fetched if fetched.rows is None else replace(fetched, rows=lists(fetched.rows)))
        return True

    def take(self, texts: list[str]) -> list[Any] | None:
        """The rows of the next batch if these are its texts; None otherwise.

        Raises:
            Exception: What fetching it raised.
        """
        if not self._waiting and not self.pull():
            return None
        if self._waiting[0].texts != texts:
            return None
        fetched = self._waiting.popleft()
        if fetched.error is not None:
            raise fetched.error
        return fetched.rows


def lists(rows: list[Any]) -> list[list[float]]:
    """Rows as natively: what waits to be asked for is kept as arrays, in a fraction of the memory."""
    return [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
