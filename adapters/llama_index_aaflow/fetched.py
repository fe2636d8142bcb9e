"""Replies for batches of texts, there before the native loop of an embedding model asks for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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


@dataclass
class Begun:
    """Requests under way for batches that the native asynchronous call will ask for.

    Attributes:
        embedding: Whose they are.
        send: Begins one.
    """

    embedding: Any
    send: Callable[[list[str]], asyncio.Task[list[list[float]]]]
    _requests: deque[tuple[list[str], asyncio.Task[list[list[float]]]]] = field(default_factory=deque)

    def begin(self, texts: list[str]) -> None:
        """Begin the request for the batch that comes next."""
        self._requests.append((texts, self.send(texts)))

    def take(self, texts: list[str]) -> asyncio.Task[list[list[float]]] | None:
        """The request for the next batch if these are its texts; None otherwise, and the others are not made either."""
        if not self._requests:
            return None
        expected, request = self._requests.popleft()
        if expected == texts:
            return request
        request.cancel()
        self.cancel()
        return None

    def cancel(self) -> None:
        """Cancel the requests that nobody has taken."""
        for _, request in self._requests:
            request.cancel()
        self._requests.clear()


def lists(rows: list[Any]) -> list[list[float]]:
    """Rows as natively: what waits to be asked for is kept as arrays, in a fraction of the memory."""
    return [row.tolist() if isinstance(row, np.ndarray) else row for row in rows]
