"""Requests to OpenAI's chat API: what the native call sends, prepared once for all messages.

The calls of a batch differ in their messages and in nothing else, but natively each walks all of its parameters and
composes all headers anew. So the native call is made once, with a placeholder for messages and an HTTP client that
sends nothing but notes what it is given: that is the pattern of all further requests.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import langchain_core.language_models.chat_models as core
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

from openai_aaflow.clients import StandIn, json_bytes, through

#: Says in itself how the client writes characters, quotes and lines.
_PLACEHOLDER: list[BaseMessage] = [HumanMessage('plac\u00e9holder "of" messages,\n\u2026 and their end')]

#: Arguments of `invoke` that are for tracers alone.
_TRACED = ("ls_structured_output_format", "structured_output_format")

#: Names that the native call has a use for on its way: as arguments they are errors, or make no part of a request.
_TAKEN = frozenset(
    {"callbacks", "config", "input", "messages", "metadata", "prompts", "run_id", "run_manager", "run_name"}
    | {"self", "tags"}
)


class OtherRequestError(Exception):
    """A call that makes no plain request of the chat API."""


class Asked:
    """A call.

    Attributes:
        parameters: The arguments beside the input that make a difference to the request.
        messages: The messages as the API takes them.
        key: The same for calls that differ in their messages alone.
    """

    def __init__(self, model: ChatOpenAI, value: Any, kwargs: dict[str, Any]) -> None:
        """Convert the input as the native call does.

        Args:
            model: The model.
            value: Its input.
            kwargs: Further arguments of `invoke`.

        Raises:
            OtherRequestError: If it is for the Responses API, for a stream, for a parsed reply, or not understood.
            Exception: What the native call raises.
        """
        if not _TAKEN.isdisjoint(kwargs):
            raise OtherRequestError
        self.parameters = {name: argument for name, argument in kwargs.items() if name not in _TRACED}
        # Looked up where the native call looks it up.
        normalize = core._normalize_messages  # type: ignore[attr-defined]
        messages = normalize(model._convert_input(value).to_messages())
        payload = model._get_request_payload(messages, **self.parameters)
        if payload.get("stream") is not False or "messages" not in payload or "response_format" in payload:
            raise OtherRequestError
        self.messages: list[Any] = payload.pop("messages")
        self.key = json.dumps(payload)

    def request(self, http: Any, pattern: Pattern | None) -> tuple[Any, dict[str, Any]]:
        """The request of the HTTP client `http`, and the options to send it with.

        Raises:
            OtherRequestError: If there is no pattern for it.
            TypeError, ValueError: If the messages can't be written as JSON.
        """
        if pattern is None:
            raise OtherRequestError
        content = pattern.before + json_bytes(self.messages) + pattern.after
        if pattern.headers is None or http.cookies:
            return http.build_request(**pattern.arguments, content=content), pattern.options
        model = pattern.request
        request = type(model)(
            model.method, model.url, headers=pattern.headers, content=content, extensions=model.extensions
        )
        return request, pattern.options


@dataclass(frozen=True)
class Pattern:
    """Requests that differ in their messages.

    Attributes:
        arguments: What the HTTP client's `build_request` is given, but for the content.
        options: What its `send` is given beside the request.
        before: The content up to the messages.
        after: The content from there on.
        request: One such request.
        headers: Its headers but for those that the content and the address make; None where these stand elsewhere
            than the HTTP library puts them.
    """

    arguments: dict[str, Any]
    options: dict[str, Any]
    before: bytes
    after: bytes
    request: Any
    headers: list[tuple[bytes, bytes]] | None


def pattern_of(model: ChatOpenAI, parameters: dict[str, Any]) -> Pattern | None:
    """The pattern of the requests of `invoke`; None if there is none to be seen in one of them.

    Args:
        model: Known to be native, down to its clients.
        parameters: Arguments of `invoke` beside the input.
    """
    recorder = _Recorder(model.root_client._client)
    try:
        sending_through(model, recorder)._generate(_PLACEHOLDER, **parameters)
    except _RecordedError:
        return recorder.pattern(model, parameters)
    except Exception:
        pass  # the native call will raise it
    return None


async def apattern_of(model: ChatOpenAI, parameters: dict[str, Any]) -> Pattern | None:
    """Like `pattern_of`, for `ainvoke`."""
    recorder = _Recorder(model.root_async_client._client)
    try:
        await sending_through(model, recorder, asynchronous=True)._agenerate(_PLACEHOLDER, **parameters)
    except _RecordedError:
        return recorder.pattern(model, parameters)
    except Exception:
        pass  # the native call will raise it
    return None


def sending_through(model: ChatOpenAI, http: Any, *, asynchronous: bool = False) -> ChatOpenAI:
    """A copy of `model` whose requests go through another HTTP client."""
    name = "async_client" if asynchronous else "client"
    root = through(getattr(model, f"root_{name}"), http)
    result = copy.copy(model)
    vars(result).update({f"root_{name}": root, name: root.chat.completions})
    return result


class _RecordedError(BaseException):
    """Ends a call whose request is only looked at; no handler of an `Exception` takes it for a failed one."""


class _Recorder(StandIn):
    """Notes a request and how it would be sent."""

    def build_request(self, **arguments: Any) -> Any:
        self.arguments, self.request = arguments, self._http.build_request(**arguments)
        return self.request

    def send(self, request: Any, **options: Any) -> Any:
        self.options = options
        raise _RecordedError

    def pattern(self, model: ChatOpenAI, parameters: dict[str, Any]) -> Pattern | None:
        others = dict(self.arguments)
        content = others.pop("content", None)
        if not isinstance(content, bytes) or any(others.pop(name, None) for name in ("json", "data", "files")):
            return None
        written = json_bytes(model._get_request_payload(_PLACEHOLDER, **parameters)["messages"])
        parts = content.split(b'"messages":' + written)
        if len(parts) != 2:
            return None
        others["url"] = type(self.request.url)(others["url"])  # read once
        (first, _), *middle, (last, _) = self.request.headers.raw
        by_library = (first.lower(), last.lower()) == (b"host", b"content-length")
        headers = middle if by_library and not self._http.cookies else None
        return Pattern(others, self.options, parts[0] + b'"messages":', parts[1], self.request, headers)


class Answered(StandIn):
    """An HTTP client whose first request has been answered already: what follows from that, native code says."""

    def __init__(self, http: Any, answer: Any) -> None:
        """Set up.

        Args:
            http: Sends all further requests.
            answer: The response that came, or the exception.
        """
        super().__init__(http)
        self._answers = [answer]

    def send(self, request: Any, **options: Any) -> Any:
        """The answer, or what the HTTP client gives."""
        return self._taken() if self._answers else self._http.send(request, **options)

    def _taken(self) -> Any:
        answer = self._answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncAnswered(Answered):
    """The same for an asynchronous client."""

    async def send(self, request: Any, **options: Any) -> Any:
        """The answer, or what the HTTP client gives."""
        return self._taken() if self._answers else await self._http.send(request, **options)
