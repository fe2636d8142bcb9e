"""The contract between the executor and one embeddings object.

An `Embedder` says how texts are grouped into requests, how one request is sent, and how the replies
become one vector a text again. The executor owns everything else: concurrency, order, memory, errors.
Adapters and plug-ins provide embedders (hook `aaflow_embedder`); the core never imports a model's client.
`vectors_from_rows` and `reject_nan` turn native rows into `Vectors`, or say clearly what is wrong with them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aaflow_plugins.remote import RemoteCall

Matrix = npt.NDArray[np.float32]

#: What a request and its reply weigh, for the memory bound: 1,000 vectors of 1,536 floats, as base64 and decoded.
REQUEST_BYTES: Final = 1000 * 1536 * 4 * 7 // 3


@dataclass(frozen=True)
class Vectors:
    """One vector for each of some consecutive texts.

    Attributes:
        matrix: `(n, d)` C-contiguous float32 array; row `i` belongs to text `i`.
        exact: The very row that the native call returns (key: row), where `matrix` is not known to be the whole
            truth: floats of more precision than float32, ints, rows that are no lists. A store that keeps rows
            takes these; a store that wants float32 takes `matrix` and never looks. Empty when every native row is
            the list of `matrix`'s own floats.
        bytes_copied: Bytes copied to build `matrix`, beyond decoding the reply once.
    """

    matrix: Matrix
    exact: Mapping[int, list[float]] = field(default_factory=dict)
    bytes_copied: int = 0

    def __len__(self) -> int:
        return len(self.matrix)

    def tolist(self) -> list[list[float]]:
        """The native form: one list of Python floats a text."""
        if len(self.exact) == len(self.matrix):
            return [self.exact[row] for row in range(len(self.exact))]
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

    @property
    def whole_input(self) -> bool:
        """True if all texts make one request, so that memory grows with the input."""
        return False

    @property
    def texts_a_request(self) -> int | None:
        """Texts of each request but the last, where their number alone decides the requests.

        Several ranks can then compose the requests of one process; None where each can compose its own only.
        """
        return None

    @property
    def remote(self) -> RemoteCall | None:
        """How another rank, which has embeddings of its own, sends a request; None where all are sent from here."""
        return None

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


def vectors_from_rows(rows: Any, source: str, first: int = 0) -> Vectors:
    """Turn what a native call returned for consecutive texts into `Vectors`.

    The rows themselves are kept in `exact`: finding out whether float32 holds them costs more than the conversion.

    Args:
        rows: One sequence of numbers a text: lists, arrays, or one two-dimensional array. A C-contiguous float32
            array is taken over without a copy.
        source: What made the rows, for messages.
        first: Position of the first text in the whole input, for messages.

    Raises:
        ValueError: If the rows are not numbers, or not all of one length; the message names the source and the text.
    """
    if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype == np.float32:
        matrix = np.ascontiguousarray(rows)
        copied = 0 if matrix is rows else matrix.nbytes
        return Vectors(matrix, dict(enumerate(rows)), copied)
    try:
        widths = [len(row) for row in rows]
    except TypeError:
        raise ValueError(f"{source} returned {type(rows).__name__}, not one vector for each text") from None
    for row, width in enumerate(widths):
        if width != widths[0]:
            raise ValueError(
                f"{source} returned vectors of different lengths: {widths[0]} floats for text {first}, "
                f"{width} for text {first + row}"
            )
    if widths and not widths[0]:
        raise ValueError(f"{source} returned vectors without a single float from text {first} on")
    if not widths:
        return Vectors(np.empty((0, 0), dtype=np.float32))
    try:
        with np.errstate(over="ignore"):  # what does not fit stays in `exact`
            matrix = np.array(rows, dtype=np.float32)
        if matrix.ndim != 2:
            raise ValueError("its elements are sequences")
    except (TypeError, ValueError) as error:
        text = first + next((row for row, values in enumerate(rows) if not _is_vector(values)), 0)
        raise ValueError(f"{source} returned no vector of numbers for text {text}: {error}") from error
    return Vectors(matrix, dict(enumerate(rows)), matrix.nbytes)


def vectors_from_lists(matrix: npt.NDArray[np.float64]) -> Vectors:
    """What `vectors_from_rows` makes of `matrix.tolist()`, the lists of which are made when somebody looks."""
    with np.errstate(over="ignore"):
        narrow = matrix.astype(np.float32)
    return Vectors(narrow, _Lists(matrix), narrow.nbytes)


@dataclass(frozen=True)
class _Lists(Mapping[int, list[float]]):
    """The rows of a matrix as lists, by their numbers."""

    matrix: npt.NDArray[np.float64]

    def __getitem__(self, row: int) -> list[float]:
        if not 0 <= row < len(self.matrix):
            raise KeyError(row)
        values: list[float] = self.matrix[row].tolist()
        return values

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.matrix)))

    def __len__(self) -> int:
        return len(self.matrix)


def _is_vector(values: Any) -> bool:
    try:
        return np.array(values, dtype=np.float32).ndim == 1
    except (TypeError, ValueError):
        return False


def same_width(vectors: Vectors, width: int | None, source: str, first: int) -> int:
    """The floats a vector, once it is clear that they are as many as before.

    Args:
        vectors: The vectors of one reply.
        width: Floats a vector in the replies before; None for the first reply.
        source: What made them, for the message.
        first: Position of their first text in the whole input, for the message.

    Raises:
        ValueError: If the replies before had vectors of another length.
    """
    own: int = vectors.matrix.shape[1]
    if width not in (None, own):
        raise ValueError(
            f"{source} returned vectors of different lengths: {width} floats before text {first}, {own} from it on"
        )
    return own


def reject_nan(vectors: Vectors, source: str, first: int = 0) -> None:
    """Raise if a vector holds NaN: it would be stored without complaint and never be found.

    Args:
        vectors: Vectors of consecutive texts.
        source: What made them, for the message.
        first: Position of the first text in the whole input, for the message.

    Raises:
        ValueError: If there is a NaN; the message names the source and the first text concerned.
    """
    flat = vectors.matrix.reshape(-1)
    # A sum of squares is NaN only if a term is: one pass without a temporary array in the usual case.
    if np.isnan(np.dot(flat, flat)):
        row = int(np.isnan(vectors.matrix).any(axis=1).argmax())
        raise ValueError(f"{source} returned NaN in the vector for text {first + row}")
