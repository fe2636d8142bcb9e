"""The contract between the executor and one embeddings object.

An `Embedder` says how texts are grouped into requests, how one request is sent, and how the replies
become one vector a text again. The executor owns everything else: concurrency, order, memory, errors.
Adapters and plug-ins provide embedders (hook `aaflow_embedder`); the core never imports a model's client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """One vector for each of some consecutive texts.

    Attributes:
        matrix: `(n, d)` C-contiguous float32 array; row `i` belongs to text `i`.
        exact: What the native call returns, row by row, for the rows whose floats do not fit float32
            (key: row). Empty when every native float is a float32, so that `matrix` is the whole truth.
        bytes_copied: Bytes copied to build `matrix`, beyond decoding the reply once.
    """

    matrix: Matrix
    exact: dict[int, list[float]] = field(default_factory=dict)
    bytes_copied: int = 0

    def __len__(self) -> int:
        return len(self.matrix)

    def tolist(self) -> list[list[float]]:
        """The native form: one list of Python floats a text."""
        rows: list[list[float]] = self.matrix.tolist()
        for row, values in self.exact.items():
            rows[row] = values
        return rows


@dataclass(frozen=True)
class Request:
    """One call to the model.

    Attributes:
        payload: What `send` needs; opaque to the executor.
        items: Number of items in the call (texts or pieces of texts).
        size: Bytes of payload, for the schedule's memory bound.
    """

    payload: Any
    items: int
    size: int = 0


class Embedder(ABC):
    """How one embeddings object turns texts into vectors.

    For every sequence of texts, whatever the sizes of the batches they arrive in,
    `assemble(zip(requests, map(send, requests)))` over `compose(batches)` yields exactly the vectors that
    the native `embed_documents(all texts)` returns, in order, and makes the same requests.

    Attributes:
        max_concurrency: Requests in flight unless the user says otherwise. 1 where the object is not known
            to be safe to call from several threads.
    """

    max_concurrency: int = 1

    @abstractmethod
    def compose(self, batches: Iterable[Sequence[str]]) -> Iterator[Request]:
        """Group texts into requests, lazily and in order, as the native call would."""

    @abstractmethod
    def send(self, request: Request) -> Any:
        """Make one call, blocking. Called from several threads at once up to `max_concurrency`."""

    async def asend(self, request: Request) -> Any:
        """Make one call on the running loop."""
        raise TypeError(f"{type(self).__name__} has no asynchronous form")

    #: True if `asend` awaits a real asynchronous client.
    has_async: bool = False

    @abstractmethod
    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """Turn replies, in the order of `compose`, into vectors for consecutive texts."""

    def describe(self) -> str:
        """One line for `explain()`: which path is taken and why."""
        return type(self).__name__
