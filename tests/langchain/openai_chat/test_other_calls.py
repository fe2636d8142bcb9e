"""The lean way to call ChatOpenAI against the native one, with real clients: calls and answers out of the ordinary."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import openai
import openai._base_client as base_client
import pytest
from langchain_core.messages import HumanMessage
from pydantic import BaseModel

from langchain_aaflow.openai_chat import lean_chat
from tests.langchain.openai_chat.calls import MESSAGE, USAGE, Server, compare, httpx, model_at, reply_of

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow


class Answer(BaseModel):
    text: str


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n": 2},
        {"stream": True},
        {"stream": False},
        {"response_format": {"type": "json_object"}},
        {"response_format": Answer},
        {"tools": [{"type": "web_search_preview"}]},
        {"previous_response_id": "r"},
        {"unknown": 1},
        {"extra_body": {"messages": []}},
        {"timeout": httpx.Timeout(3)},
        {"temperature": float("nan")},
        {"seed": {1}},
        {"extra_headers": {"X-é": "1"}},
    ],
    ids=str,
)
def test_unusual_arguments(kwargs: dict[str, Any], server: Server, runner: asyncio.Runner) -> None:
    """Whatever the native call makes of them."""
    compare(server, runner, model_at(server), "text", kwargs, reply_of({"content": '{"text": "a"}'}))


@pytest.mark.parametrize("value", [3, None, [], [3], [HumanMessage("\ud800")], [("nobody", "x")]], ids=repr)
def test_unusual_inputs(value: Any, server: Server, runner: asyncio.Runner) -> None:
    """Errors of theirs, and what can't be encoded."""
    compare(server, runner, model_at(server), value, {}, reply_of())


ANSWERS: dict[str, list[Any]] = {
    "400": [400],
    "401": [401],
    "403": [403],
    "404": [404],
    "409, then": [409, reply_of()],
    "422": [422],
    "429, then": [429, reply_of()],
    "429 for good": [429],
    "500, 503, then": [500, 503, reply_of()],
    "500 for good": [500],
    "400 after 500": [500, 400],
    "400 with a reply": [(400, {}, json.dumps(reply_of()).encode())],
    "500 with a reply, then": [(500, {"retry-after-ms": "1"}, json.dumps(reply_of()).encode()), reply_of()],
    "too long": [(400, {}, b'{"error": {"message": "too long", "code": "context_length_exceeded"}}')],
    "schema": [(400, {}, b'{"error": {"message": "Invalid schema for response_format"}}')],
    "not to be tried again": [(429, {"x-should-retry": "false"}, b"{}")],
    "to be tried again": [(400, {"x-should-retry": "true", "retry-after-ms": "1"}, b"{}"), reply_of()],
    "disconnected": [(200, {}, None), (200, {}, None), reply_of()],
    "disconnected for good": [(200, {}, None)],
    "500 after disconnected": [(200, {}, None), 400],
    "not JSON": [(200, {}, b"{")],
    "nothing": [(200, {}, b"")],
    "not UTF-8": [(200, {}, b'"\xff"')],
    "a page": [(200, {"Content-Type": "text/html"}, b"<html>")],
    "JSON as text": [(200, {"Content-Type": "text/plain"}, json.dumps(reply_of()).encode())],
    "JSON with a charset": [
        (200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(reply_of()).encode())
    ],
    "201": [(201, {}, json.dumps(reply_of()).encode())],
    "204": [(204, {}, b"")],
    "301": [(301, {"Location": "/v1/chat/completions"}, b""), reply_of()],
    "307": [(307, {"Location": "/v1/chat/completions"}, b""), reply_of()],
    "null": [(200, {}, b"null")],
    "a list": [[]],
    "an error": [{"error": {"message": "no"}}],
    "an error beside": [reply_of(error={"message": "no"})],
    "no choices": [reply_of(choices=[])],
    "null choices": [reply_of(choices=None)],
    "two choices": [reply_of(choices=2 * reply_of()["choices"])],
    "another role": [reply_of({"role": "user"})],
    "no role": [reply_of({"role": None})],
    "a list as content": [reply_of({"content": [{"type": "text", "text": "a"}]})],
    "a number as content": [reply_of({"content": 3})],
    "a custom call": [reply_of({"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}]})],
    "an unknown call": [reply_of({"tool_calls": [{"id": "c", "type": "other"}]})],
    "parsed": [reply_of({"parsed": {"a": 1}})],
    "audio": [reply_of({"audio": {"id": "a", "data": "", "expires_at": 1, "transcript": "t"}})],
    "tokens as text": [reply_of(usage={**USAGE, "total_tokens": "17"})],
    "tokens as float": [reply_of(usage={**USAGE, "total_tokens": 17.0})],
    "tokens missing": [reply_of(usage={"prompt_tokens": 3})],
    "unknown tier": [reply_of(service_tier="gold")],
    "unknown reason": [
        reply_of(choices=[{"index": 0, "finish_reason": "abort", "message": MESSAGE, "stop_reason": None}])
    ],
    "private": [reply_of(_private=1, __cls=1)],
    "numbers": [
        (200, {}, json.dumps(reply_of(usage={**USAGE, "x": 2**70, "y": 0.1})).encode().replace(b"0.1", b"NaN"))
    ],
    "twice": [(200, {}, json.dumps(reply_of()).encode().replace(b'"id"', b'"id": "first", "id"', 1))],
    "a gateway": [(200, {"x-request-id": "r", "x-langsmith-gateway": "{}"}, json.dumps(reply_of()).encode())],
    "cookies": [(200, {"Set-Cookie": "a=b"}, json.dumps(reply_of()).encode()), reply_of()],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_unusual_answers(name: str, server: Server, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same message or error after the same requests: tries, their counts and their causes included."""
    monkeypatch.setattr(base_client, "INITIAL_RETRY_DELAY", 0.001)
    compare(server, runner, model_at(server), "text", {}, *ANSWERS[name])


def test_an_answer_that_does_not_come_in_time(server: Server, runner: asyncio.Runner) -> None:
    """The first try's timeout counts as one; a listener that never accepts."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = model_at(server, base_url=f"http://127.0.0.1:{silent.getsockname()[1]}/v1", timeout=0.05, max_retries=1)
        kind = compare(server, runner, model, "text", {}, reply_of())[0]
    assert issubclass(kind, openai.APITimeoutError)


def test_nobody_listens_there(server: Server, runner: asyncio.Runner) -> None:
    model = model_at(server, base_url="http://127.0.0.1:1/v1", max_retries=1)
    assert issubclass(compare(server, runner, model, "text", {}, reply_of())[0], openai.APIConnectionError)


def test_cancelled(server: Server, runner: asyncio.Runner) -> None:
    """It is cancelled, and makes no further request."""

    async def use() -> None:
        lean: Any = lean_chat(model_at(server))
        task = asyncio.ensure_future(lean.ainvoke("text", None, {}))
        while not server.seen:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    server.told((500, {"retry-after": "30"}, b"{}"))
    runner.run(use())
    assert len(server.seen) == 1
