"""A server that answers as it is told, what it answers, and all that can be seen of a call of it."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai._base_client as base_client
from langchain_openai import ChatOpenAI

from langchain_aaflow.openai_chat import LeanChat, lean_chat
from tests.langchain.warned import caught_warnings

httpx: Any = vars(base_client)["httpx2" if hasattr(base_client, "httpx2") else "httpx"]


# -- a server that answers as it is told -------------------------------------------------------------------------


class _Listener(ThreadingHTTPServer):
    """Takes many connections at once.

    What does not fit the queue is tried again after 1, 3 and 7 seconds, and the client gives up after 5.
    """

    request_queue_size = 256
    daemon_threads = True


class Server:
    """Answers requests with `answers`, the last of them again and again, and keeps what it was sent.

    An answer is a status, headers and a body; a body of None closes the connection without a word.
    """

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.seen.append((self.path, self.headers.items(), _without_ids(body)))
                status, headers, reply = outer.answers[0] if len(outer.answers) == 1 else outer.answers.pop(0)
                if reply is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                for header in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(*header)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.seen: list[Any] = []
        self.answers: list[tuple[int, dict[str, str], bytes | None]] = []
        self._server = _Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def told(self, *answers: Any) -> None:
        """Answer from now on with these: replies, statuses, or status, headers and body."""
        self.seen = []
        self.answers = [_answer(answer) for answer in answers]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _without_ids(body: bytes) -> bytes:
    """Without those that langchain-core draws for content blocks."""
    return re.sub(rb"lc_[0-9a-f-]{36}", b"", body)


def _answer(answer: Any) -> tuple[int, dict[str, str], bytes | None]:
    if isinstance(answer, int):
        return answer, {"retry-after-ms": "1"}, json.dumps({"error": {"message": f"said {answer}"}}).encode()
    return answer if isinstance(answer, tuple) else (200, {}, json.dumps(answer).encode())


def model_at(server: Server, **arguments: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "gpt-4o-mini", "api_key": "key", "base_url": server.url, **arguments})


MESSAGE: dict[str, Any] = {"role": "assistant", "content": "An answer.", "refusal": None, "annotations": []}

CALL = {"id": "call_1", "type": "function", "function": {"name": "search", "arguments": '{"query": "a"}'}}

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 1,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}


def reply_of(message: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {**MESSAGE, **(message or {})}, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [choice],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        **others,
    }


# -- what comes of a call ----------------------------------------------------------------------------------------


def outcome(call: Callable[[], Any]) -> Any:
    """All that can be seen of it: message or error, and warnings."""
    with caught_warnings() as caught:
        try:
            message = call()
        except Exception as error:
            result = _seen_of(error)
        else:
            message_id, message.id = message.id, None
            # As text: types and the order of keys count.
            result = (type(message), repr(message), repr(message.model_dump(warnings=False)), _kind(message_id))
    return result, [str(warning.message) for warning in caught]


def _kind(message_id: str) -> Any:
    prefix, _, rest = message_id.partition("--")
    if prefix != "lc_run":
        return message_id
    return prefix, uuid.UUID(rest[:36]).version, rest[36:]


def _seen_of(error: BaseException | None) -> Any:
    if error is None:
        return None
    response, request = getattr(error, "response", None), getattr(error, "request", None)
    return (
        type(error),
        re.sub("[0-9a-f]{12}", "", str(error)),  # addresses
        repr(getattr(error, "body", None)),
        response is not None and (response.status_code, response.content, response.request.content),
        request is not None and (str(request.url), request.content, request.headers.get("x-stainless-retry-count")),
        _seen_of(error.__cause__),
        error.__cause__ is None and _seen_of(error.__context__),
    )


def compare(
    server: Server, runner: asyncio.Runner, model: ChatOpenAI, value: Any, kwargs: dict[str, Any], *answers: Any
) -> Any:
    """Both forms of the call, natively and lean, in outcome and requests; returns the outcome."""
    lean = lean_chat(model)
    assert isinstance(lean, LeanChat)
    results = []
    for call in (
        lambda: model.invoke(value, **kwargs),
        lambda: lean.invoke(value, None, kwargs),
        lambda: runner.run(model.ainvoke(value, **kwargs)),
        lambda: runner.run(lean.ainvoke(value, None, kwargs)),
    ):
        server.told(*answers)
        for client in (model.root_client, model.root_async_client):
            client._client.cookies.clear()
        before = copy.deepcopy((value, kwargs))
        results.append((outcome(call), server.seen))
        assert (value, kwargs) == before
    native, ours, anative, aours = results
    assert ours == native
    assert aours == anative
    return native[0][0]


# -- plain replies -----------------------------------------------------------------------------------------------

TOKEN = {
    "token": "An",
    "logprob": -0.25,
    "bytes": [65, 110],
    "top_logprobs": [{"token": "A", "logprob": -1.5, "bytes": None}],
}

PLAIN_REPLIES: dict[str, dict[str, Any]] = {
    "text": reply_of(),
    "no usage": reply_of(usage=None),
    "bare": {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": "a"}}],
    },
    "empty": reply_of({"content": ""}),
    "null content": reply_of({"content": None}),
    "refusal": reply_of({"content": None, "refusal": "I won't."}),
    "tool call": reply_of({"content": None, "tool_calls": [CALL]}),
    "two tool calls": reply_of({"tool_calls": [CALL, {**CALL, "id": "call_2"}]}),
    "invalid arguments": reply_of(
        {"tool_calls": [{**CALL, "function": {"name": "search", "arguments": "{"}}]},
    ),
    "function call": reply_of({"function_call": {"name": "f", "arguments": "{}"}}),
    "logprobs": reply_of(
        choices=[
            {
                "index": 0,
                "message": MESSAGE,
                "finish_reason": "stop",
                "logprobs": {"content": [TOKEN], "refusal": None},
            }
        ]
    ),
    "annotations": reply_of(
        {
            "annotations": [
                {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 2, "title": "t", "url": "u"}}
            ]
        }
    ),
    "another vendor's fields": reply_of(
        {"reasoning_content": "Let me think.", "x": {"y": [1, None]}, "id": "msg_1", "name": "bot"},
        usage={**USAGE, "queue_time": 0.25, "num_sources": 3},
        kv_transfer_params=None,
        provider="p",
    ),
    "priority": reply_of(service_tier="priority"),
    "other characters": reply_of({"content": 'é\u2028"\\\n\U0001f600\ud800'}),
}
