"""The fast path for `OpenAIEmbeddings` and `AzureOpenAIEmbeddings`: the same requests, several at a time.

The native call tokenizes every text, then sends its requests one after another and turns each reply into lists of
Python floats twice over. Here requests are composed as texts come in, from the same token ids and in the same groups;
they go through the object's own client (its retries, errors, credentials and hooks), and a reply's base64 becomes one
float32 matrix. Whatever a reply holds that is not plain base64 vectors is left to the client's own parsing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import langchain_openai.embeddings.base as native_module
import numpy as np
import tiktoken
from langchain_core.runnables.config import run_in_executor
from langchain_openai import OpenAIEmbeddings

from aaflow_plugins.embedding import Embedder, Request, Vectors, reject_nan, same_width, vectors_from_rows
from aaflow_plugins.executor import Executor
from aaflow_plugins.tokenizers import TokenIds, ordinary_tokens, plain_special_settings
from openai_aaflow.replies import decode, native_rows
from openai_aaflow.requests import apost, post

#: What a request holds for a text: its token ids, the pieces of a long one, or the text itself.
Piece = list[int] | TokenIds | str


@dataclass(frozen=True)
class _Call:
    """What one request carries, and how its vectors belong to texts.

    `pieces[i]` is the number of vectors of this request that belong to the i-th text that ends here: 1 as a rule,
    0 for a text without tokens, more for a long one. Vectors left over belong to a text that goes on in the next
    request. `items` is the API's `input`; a `str` asks for the vector of the empty text.
    """

    items: list[Piece] | str
    pieces: list[int]


class OpenAIEmbedder(Embedder):
    """Composes, sends and decodes the requests of one `OpenAIEmbeddings` or `AzureOpenAIEmbeddings` object.

    The object is asked for its settings when requests are composed and sent, so a change made to it counts.

    Attributes:
        embeddings: The native object.
        chunk_size: Pieces a request, at most.
        parameters: Keyword arguments of `embed_documents` for the API.
        max_concurrency: 16, or what the executor of an accelerated object says.
    """

    max_concurrency = 16
    has_async = True

    def __init__(
        self, embeddings: OpenAIEmbeddings, chunk_size: int | None = None, parameters: dict[str, Any] | None = None
    ) -> None:
        self.embeddings = embeddings
        self.chunk_size = chunk_size or embeddings.chunk_size
        self.parameters = parameters or {}
        if getattr(type(embeddings), "aaflow_accelerated", False):
            executor: Executor | None = embeddings._executor  # type: ignore[attr-defined]
            self.max_concurrency = (executor and executor.resources.max_concurrency) or self.max_concurrency

    def describe(self) -> str:
        """One line for `explain()`."""
        return f"{type(self.embeddings).__name__}: own requests of {self.chunk_size}, base64 decoded to float32"

    # -- texts to requests -------------------------------------------------------------------------------

    def compose(self, batches: Iterable[Sequence[str]]) -> Iterator[Request]:
        """Group the token ids of texts into requests, as the native call groups them.

        Raises:
            ValueError: If a text holds a special token that the object disallows.
        """
        if self.embeddings.check_embedding_ctx_length:
            encode, window = _encoder(self.embeddings), self.embeddings.embedding_ctx_length
            limit = _token_limit()
        else:
            encode, window, limit = None, 0, None
        group = _Group()
        empty_asked = False
        for batch in batches:
            for text in batch:
                if encode is None:
                    pieces: list[Any] = [text]
                else:
                    tokens = encode(text)
                    if len(tokens) <= window:
                        pieces = [tokens] if len(tokens) else []
                    else:
                        pieces = [tokens[start : start + window] for start in range(0, len(tokens), window)]
                for piece in pieces:
                    size = len(piece)
                    full = len(group.items) == self.chunk_size
                    # A group is sent when the next piece no longer fits, not when it is full: texts without
                    # pieces that follow still belong to it.
                    if group.items and (full or (limit is not None and group.size + size > limit)):
                        if group.has_empty and not empty_asked:
                            empty_asked = True
                            yield _EMPTY_TEXT
                        yield group.request()
                        group = _Group()
                    group.add(piece, size)
                group.end_text()
        if group.has_empty and not empty_asked:
            yield _EMPTY_TEXT if group.items else Request(_Call("", group.pieces), 1)
        if group.items:
            yield group.request()

    # -- requests to replies -----------------------------------------------------------------------------

    def send(self, request: Request) -> Any:
        """Make one call with the object's own client.

        Raises:
            openai.OpenAIError: As the native call does.
        """
        parameters = self._parameters()
        reply = post(self.embeddings.client, request.payload.items, parameters)
        vectors = decode(reply.http, "encoding_format" in parameters)
        return self._native_reply(reply.parse()) if vectors is None else vectors

    async def asend(self, request: Request) -> Any:
        """Make one call with the object's own asynchronous client.

        Raises:
            openai.OpenAIError: As the native call does.
        """
        parameters = self._parameters()
        reply = await apost(self.embeddings.async_client, request.payload.items, parameters)
        vectors = decode(reply.http, "encoding_format" in parameters)
        return self._native_reply(await reply.parse()) if vectors is None else vectors

    def _native_reply(self, response: Any) -> Vectors | list[Any]:
        rows = native_rows(response)
        try:
            return vectors_from_rows(rows, self._name)
        except ValueError:
            return rows  # what is wrong is said by `assemble`, which knows the texts

    def _parameters(self) -> dict[str, Any]:
        return {**self.embeddings._invocation_params, **self.parameters}

    # -- replies to vectors ------------------------------------------------------------------------------

    def assemble(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """Join the vectors of pieces to one a text.

        Raises:
            ValueError: If a reply has too few or too many vectors, vectors of different lengths, or NaN.
        """
        first = 0
        for vectors in self.joined(replies):
            reject_nan(vectors, self._name, first)
            first += len(vectors)
            yield vectors

    def rows(self, replies: Sequence[tuple[Request, Any]], texts: list[str]) -> list[list[float]]:
        """What the native `embed_documents(texts)` returns after the same replies, or raises.

        Args:
            replies: All replies, in the order of `compose`.
            texts: All texts.
        """
        rows = self._well_formed(replies)
        if rows is None:
            replay = self._replay(client=_Replay(replies, self.embeddings.client))
            rows = OpenAIEmbeddings.embed_documents(replay, texts, chunk_size=self.chunk_size, **self.parameters)
        return rows

    async def arows(self, replies: Sequence[tuple[Request, Any]], texts: list[str]) -> list[list[float]]:
        """What the native `aembed_documents(texts)` returns after the same replies, or raises."""
        rows = await run_in_executor(None, self._well_formed, replies)
        if rows is None:
            replay = self._replay(async_client=_AsyncReplay(replies, self.embeddings.async_client))
            rows = await OpenAIEmbeddings.aembed_documents(replay, texts, chunk_size=self.chunk_size, **self.parameters)
        return rows

    def _well_formed(self, replies: Sequence[tuple[Request, Any]]) -> list[list[float]] | None:
        try:
            return [row for vectors in self.joined(replies) for row in vectors.tolist()]
        except ValueError:
            return None

    def _replay(self, **client: Any) -> OpenAIEmbeddings:
        # What malformed replies come to is for the native code to say: it gets them again, from memory.
        replay = copy.copy(self.embeddings)
        replay.__dict__.update(client, show_progress_bar=False)
        return replay

    def joined(self, replies: Iterable[tuple[Request, Any]]) -> Iterator[Vectors]:
        """Like `assemble`, but NaN passes, as it does natively."""
        width: int | None = None
        first = 0
        begun = _Begun()
        empty: Vectors | None = None
        for request, reply in replies:
            call: _Call = request.payload
            vectors = reply if isinstance(reply, Vectors) else vectors_from_rows(reply, self._name, first)
            if isinstance(call.items, str):
                # Natively only the first vector counts here.
                if not len(vectors):
                    raise ValueError(f"{self._name} returned no vector for the empty text")
                empty = vectors
            elif len(vectors) != len(call.items):
                raise ValueError(
                    f"{self._name} returned {len(vectors)} vectors for {len(call.items)} inputs from text {first} on"
                )
            width = same_width(vectors, width, self._name, first)
            if not begun.pieces and len(call.pieces) == len(call.items) and set(call.pieces) == {1}:
                yield vectors
            elif call.pieces or not isinstance(call.items, str):
                vectors = self._join(call, vectors, begun, empty)
                yield vectors
            first += len(call.pieces)

    def _join(self, call: _Call, vectors: Vectors, begun: _Begun, empty: Vectors | None) -> Vectors:
        """One vector for each text that ends in this call; what is left over begins the next text."""
        matrix = np.empty((len(call.pieces), vectors.matrix.shape[1]), dtype=np.float32)
        exact: dict[int, list[float]] = {}
        at = 0
        for text, count in enumerate(call.pieces):
            source, row = vectors, at
            if count + len(begun.pieces) > 1:
                begun.extend(call, vectors, at, at + count)
                exact[text] = begun.average(self.embeddings.skip_empty)
                with np.errstate(over="ignore"):
                    matrix[text] = exact[text]
            else:
                if not count:
                    assert empty is not None
                    source, row = empty, 0
                matrix[text] = source.matrix[row]
                if row in source.exact:
                    exact[text] = source.exact[row]
            at += count
        if not isinstance(call.items, str):
            begun.extend(call, vectors, at, len(call.items))
        return Vectors(matrix, exact, vectors.bytes_copied + matrix.nbytes)

    @property
    def _name(self) -> str:
        return type(self.embeddings).__name__


@dataclass
class _Group:
    """A request in the making."""

    items: list[Piece] = field(default_factory=list)
    pieces: list[int] = field(default_factory=list)
    size: int = 0
    has_empty: bool = False
    _of_text: int = 0

    def add(self, piece: Piece, size: int) -> None:
        self.items.append(piece)
        self.size += size
        self._of_text += 1

    def end_text(self) -> None:
        self.pieces.append(self._of_text)
        self.has_empty |= not self._of_text
        self._of_text = 0

    def request(self) -> Request:
        # Four bytes an id, and about six as JSON; a text's characters count as ids do.
        return Request(_Call(self.items, self.pieces), len(self.items), 10 * self.size)


@dataclass
class _Begun:
    """The pieces so far of a text that one request does not hold whole."""

    pieces: list[Piece] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)

    def extend(self, call: _Call, vectors: Vectors, start: int, stop: int) -> None:
        self.pieces += call.items[start:stop]
        for row in range(start, stop):
            self.rows.append(vectors.exact[row] if row in vectors.exact else vectors.matrix[row].tolist())

    def average(self, skip_empty: bool) -> list[float]:
        """The native weighted and normalised average, by the native code: its last bit depends on Python's `sum`."""
        average: Any = native_module._process_batched_chunked_embeddings
        row: list[float] = average(1, self.pieces, self.rows, [0] * len(self.rows), skip_empty)[0]
        self.pieces, self.rows = [], []
        return row


class _Replay:
    """A client that answers from memory, in the order of the native requests.

    A reply without a vector for a text makes the native code ask for the empty text's: that request is new.
    """

    def __init__(self, replies: Sequence[tuple[Request, Any]], client: Any) -> None:
        self._replies = [reply for _, reply in sorted(replies, key=lambda reply: asks_for_empty(reply[0]))]
        self._replies.reverse()
        self._client = client

    def _next(self) -> dict[str, Any]:
        reply = self._replies.pop()
        return {"data": [{"embedding": row} for row in (reply.tolist() if isinstance(reply, Vectors) else reply)]}

    def create(self, **arguments: Any) -> Any:
        return self._next() if self._replies else self._client.create(**arguments)


class _AsyncReplay(_Replay):
    async def create(self, **arguments: Any) -> Any:
        return self._next() if self._replies else await self._client.create(**arguments)


_EMPTY_TEXT = Request(_Call("", []), 1)


def asks_for_empty(request: Request) -> bool:
    """True for the request that the native call makes last, for texts without tokens."""
    return isinstance(request.payload.items, str)


def _encoder(embeddings: OpenAIEmbeddings) -> Callable[[str], list[int] | TokenIds]:
    """The native token ids of a text."""
    try:
        encoding = tiktoken.encoding_for_model(embeddings.tiktoken_model_name or embeddings.model)
    except KeyError:
        encoding = tiktoken.get_encoding("cl100k_base")
    special: dict[str, Any] = {
        name: value
        for name in ("allowed_special", "disallowed_special")
        if (value := getattr(embeddings, name)) is not None
    }
    ordinary = ordinary_tokens(encoding)
    plain = not special or plain_special_settings(
        encoding, special.get("allowed_special", "all"), special.get("disallowed_special", "all")
    )
    replace_newlines = embeddings.model.endswith("001")

    def encode(text: str) -> list[int] | TokenIds:
        if replace_newlines:
            text = text.replace("\n", " ")
        if plain and ordinary.is_ordinary(text):
            return ordinary.encode(text)
        return encoding.encode(text, **special) if special else encoding.encode_ordinary(text)

    return encode


def _token_limit() -> int | None:
    """Tokens a request; langchain-openai 1.0.0 to 1.0.2 knew no such limit."""
    limit: int | None = getattr(native_module, "MAX_TOKENS_PER_REQUEST", None)
    return limit
