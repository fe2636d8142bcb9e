"""What the loopback server says in a chat, and after how long: functions of the messages and of nothing else.

The same messages get the same answer, tool call and latency in whatever order requests arrive, so that anything
which shuffles, drops or repeats calls shows, and all contenders wait for the same model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import orjson

_NORMAL = NormalDist()
#: Characters of a streamed answer an event.
_PIECE = 48
_WORDS = ("index", "query", "vector", "answer", "rank", "shard", "token", "batch")
_VERBS = ("finds", "holds", "joins", "keeps", "meets", "orders", "passes", "splits")
#: One for each byte of a digest.
_PHRASES = tuple(f"{_WORDS[byte & 7]} {_VERBS[byte >> 3 & 7]} {_WORDS[byte >> 5]}" for byte in range(256))


@dataclass(frozen=True)
class Latency:
    """How long a model takes to answer.

    Attributes:
        distribution: `uniform` from `first` to `second` milliseconds; or `lognormal` with a median of `first`
            milliseconds and a standard deviation of the logarithm of `second`.
        first: See there.
        second: See there.
        seed: Another one gives the same messages another draw.
    """

    distribution: Literal["uniform", "lognormal"] = "uniform"
    first: float = 0.0
    second: float = 0.0
    seed: int = 0

    def seconds(self, messages: bytes) -> float:
        """The latency of a request with these messages."""
        digest = hashlib.blake2b(messages, digest_size=8, salt=self.seed.to_bytes(8, "little")).digest()
        # The middle of one of 2^52 steps: never 0 or 1, where the logarithm's normal distribution has no value.
        share = ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52
        if self.distribution == "uniform":
            return (self.first + (self.second - self.first) * share) / 1000
        return self.first * math.exp(self.second * _NORMAL.inv_cdf(share)) / 1000


class Completion:
    """The answer to one request.

    Args:
        request: The request's JSON.
        tool_rounds: How often the model asks for the first of the tools that it is offered before it answers.

    Attributes:
        messages: What the answer and its latency depend on, as bytes.
        text: The answer, if it is none of a tool's calls.

    Raises:
        ValueError: If the request has no messages, or offers a tool without a name.
    """

    def __init__(self, request: Mapping[str, Any], tool_rounds: int) -> None:
        messages = request.get("messages")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("messages must be an array of objects")
        # Clients differ in the order of the keys.
        self.messages = orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
        self._model = orjson.dumps(str(request.get("model")))
        digest = hashlib.blake2b(self.messages, digest_size=16).digest()
        self._name = digest[:8].hex().encode()
        self._tokens = (len(self.messages) // 4, 3 * len(digest))
        rounds = sum(1 for message in messages if message.get("tool_calls"))
        self._call = _tool_call(request, messages, rounds) if rounds < tool_rounds and request.get("tools") else None
        self.text = " ".join([_PHRASES[byte] for byte in digest])

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        if self._call is None:
            message, reason = b'"content":"%b"' % self.text.encode(), b"stop"
        else:
            message, reason = b'"content":null,"tool_calls":[%b]' % self._tool_call(b""), b"tool_calls"
        return (
            b'{"id":"chatcmpl-%b","object":"chat.completion","created":1700000000,"model":%b,"choices":[{"index":0,'
            b'"message":{"role":"assistant",%b,"refusal":null},"logprobs":null,"finish_reason":"%b"}],"usage":%b}'
        ) % (self._name, self._model, message, reason, self._usage())

    def events(self, *, usage: bool) -> list[bytes]:
        """The server-sent events of a streamed answer, `[DONE]` being the last.

        Args:
            usage: Whether the client asked for the usage in an event of its own (`stream_options`).
        """
        if self._call is None:
            text = self.text.encode()
            pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
            deltas, reason = [b'"content":"%b"' % piece for piece in pieces], b"stop"
        else:
            deltas, reason = [b'"tool_calls":[%b]' % self._tool_call(b'"index":0,')], b"tool_calls"
        first = b'"role":"assistant","content":%b' % (b'""' if self._call is None else b"null")
        return [
            self._event(self._choice(first, b"null"), usage),
            *(self._event(self._choice(delta, b"null"), usage) for delta in deltas),
            self._event(self._choice(b"", b'"%b"' % reason), usage),
            *([self._event(b"", usage, self._usage())] if usage else []),
            b"data: [DONE]\n\n",
        ]

    def _event(self, choices: bytes, with_usage: bool, usage: bytes = b"null") -> bytes:
        more = b',"usage":%b' % usage if with_usage else b""
        return (
            b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":1700000000,"model":%b,'
            b'"choices":[%b]%b}\n\n'
        ) % (self._name, self._model, choices, more)

    @staticmethod
    def _choice(delta: bytes, reason: bytes) -> bytes:
        return b'{"index":0,"delta":{%b},"logprobs":null,"finish_reason":%b}' % (delta, reason)

    def _tool_call(self, index: bytes) -> bytes:
        assert self._call is not None
        name, arguments = self._call
        return b'{%b"id":"call_%b","type":"function","function":{"name":%b,"arguments":%b}}' % (
            index,
            self._name,
            orjson.dumps(name),
            orjson.dumps(arguments),
        )

    def _usage(self) -> bytes:
        asked, said = self._tokens
        return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (asked, said, asked + said)


def _tool_call(request: Mapping[str, Any], messages: list[dict[str, Any]], rounds: int) -> tuple[str, str]:
    """Name and JSON arguments: the user's last words, and which round it is, for the first argument required."""
    try:
        function = request["tools"][0]["function"]
        name = str(function["name"])
        argument = (function.get("parameters") or {}).get("required", ["query"])[0]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("tools must be an array of functions with a name") from error
    said = next((message.get("content") for message in reversed(messages) if message.get("role") == "user"), None)
    query = f"{said if isinstance(said, str) else ''} ({rounds + 1})"
    return name, orjson.dumps({argument: query}).decode()
