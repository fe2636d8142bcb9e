"""The lean way to call ChatOpenAI against the native one: real clients, and a server that answers as it is told."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx as httpx1
import openai
import openai._base_client as base_client
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_debug, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import BaseModel

from langchain_aaflow.openai_chat import LeanChat, lean_chat
from langchain_aaflow.openai_rate_limits import limited
from tests.langchain.warned import caught_warnings

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow

httpx: Any = vars(base_client)["httpx2" if hasattr(base_client, "httpx2") else "httpx"]


# -- a server that answers as it is told -------------------------------------------------------------------------


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
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """One loop for all: connections belong to it."""
    with asyncio.Runner() as runner:
        yield runner


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


@pytest.fixture
def only_lean(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, native calls fail."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("called natively")

    def arm() -> None:
        monkeypatch.setattr(BaseChatModel, "invoke", refuse)
        monkeypatch.setattr(BaseChatModel, "ainvoke", refuse)

    return arm


# -- the plain call ----------------------------------------------------------------------------------------------

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

KWARGS: dict[str, dict[str, Any]] = {
    "none": {},
    "stop": {"stop": ["\n", "é"]},
    "stop of none": {"stop": None},
    "tools": {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    "sampling": {"temperature": 0.0, "seed": 7, "max_tokens": 5, "top_p": 1e-7, "user": "u", "model": "gpt-4.1"},
    "logprobs": {"logprobs": True, "top_logprobs": 1},
    "for tracers": {"ls_structured_output_format": {"kwargs": {"method": "x"}, "schema": TOOL}},
    "extra": {"extra_headers": {"X-One": "1"}, "extra_query": {"q": "a b"}, "extra_body": {"top_k": 3}},
    "timeout": {"timeout": 9.5},
}


@pytest.mark.parametrize("name", PLAIN_REPLIES)
def test_plain_replies_make_the_same_message(
    name: str, server: Server, runner: asyncio.Runner, only_lean: Callable[[], None]
) -> None:
    """To the order of keys; and they are read the lean way."""
    model = model_at(server)
    compare(server, runner, model, "A question?", {}, PLAIN_REPLIES[name])
    lean: Any = lean_chat(model)
    only_lean()
    lean.invoke("A question?", None, {})
    runner.run(lean.ainvoke("A question?", None, {}))


@pytest.mark.parametrize("name", KWARGS)
def test_plain_arguments_make_the_same_request(
    name: str, server: Server, runner: asyncio.Runner, only_lean: Callable[[], None]
) -> None:
    """Path, headers in their order, and body, to the byte; again for the second call by the same pattern."""
    model = model_at(server, default_headers={"X-Test": "1"}, default_query={"v": "2"}, organization="org")
    messages = [SystemMessage("é"), HumanMessage('"quoted"\n\u2028')]
    compare(server, runner, model, messages, KWARGS[name], reply_of())
    lean: Any = lean_chat(model)
    native = []
    for text in ("one", "two"):
        server.told(reply_of())
        model.invoke(text, **KWARGS[name])
        runner.run(model.ainvoke(text, **KWARGS[name]))
        native += server.seen
    only_lean()
    seen = []
    for text in ("one", "two"):
        server.told(reply_of())
        lean.invoke(text, None, KWARGS[name])
        runner.run(lean.ainvoke(text, None, KWARGS[name]))
        seen += server.seen
    assert seen == native


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0.5, "max_tokens": 10, "seed": 3, "stop": ["a"], "logit_bias": {"1": 2}},
        {"model": "o3-mini", "reasoning_effort": "low"},
        {"model_kwargs": {"user": "u"}, "extra_body": {"k": 1}, "service_tier": "flex"},
        {"timeout": 12, "max_retries": 0},
        {"timeout": (3.0, 4.0)},
        {"n": 1, "tags": ["t"], "metadata": {"m": 1}, "disable_streaming": True, "cache": False},
    ],
    ids=str,
)
def test_settings_of_the_model_are_the_same_on_the_wire(
    arguments: dict[str, Any], server: Server, runner: asyncio.Runner
) -> None:
    """System messages to reasoning models too."""
    compare(server, runner, model_at(server, **arguments), [SystemMessage("s"), HumanMessage("h")], {}, reply_of())


@pytest.mark.parametrize(
    "value", ["text", StringPromptValue(text="text"), ChatPromptValue(messages=[HumanMessage("h")]), [("ai", "a")]]
)
def test_inputs_of_each_kind(value: Any, server: Server, runner: asyncio.Runner) -> None:
    compare(server, runner, model_at(server), value, {}, reply_of())


def test_the_message_is_named_after_a_run_id_that_was_given(server: Server, runner: asyncio.Runner) -> None:
    """As natively."""
    model, run_id = model_at(server), uuid.uuid4()
    lean: Any = lean_chat(model)
    server.told(reply_of())
    config: Any = {"run_id": run_id}
    ids = {model.invoke("a", dict(config)).id, lean.invoke("a", config, {}).id}
    assert ids | {runner.run(lean.ainvoke("a", config, {})).id} == {f"lc_run--{run_id}-0"}


# -- all other calls ---------------------------------------------------------------------------------------------


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


# -- generated ---------------------------------------------------------------------------------------------------

TEXT = st.text(max_size=8)
NAME = st.sampled_from([None, "a", "b c"])
BLOCK = st.one_of(
    TEXT,
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.sampled_from(
        [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa", "detail": "low"}},
            {"type": "image", "base64": "aaaa", "mime_type": "image/png"},
            {"type": "image", "source_type": "url", "url": "http://a/b.png"},
            {"type": "file", "base64": "aaaa", "mime_type": "application/pdf", "filename": "f.pdf"},
            {"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}},
            {"type": "tool_use", "id": "t", "name": "n", "input": {}},
            {"type": "thinking", "thinking": "hm"},
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "refusal", "refusal": "no"},
            {"type": "other", "x": [1, {"é": None}]},
            {"text": "untyped"},
        ]
    ),
)
CONTENT = TEXT | st.lists(BLOCK, max_size=3)
TOOL_CALLS = st.lists(
    st.builds(
        lambda name, value: {"name": name, "args": {"query": value}, "id": "call_1", "type": "tool_call"},
        st.sampled_from(["search", "é"]),
        TEXT | st.integers() | st.none() | st.floats(allow_nan=False),
    ),
    max_size=2,
)
CHAT = st.lists(
    st.one_of(
        st.builds(SystemMessage, CONTENT),
        st.builds(lambda text: SystemMessage(text, additional_kwargs={"__openai_role__": "developer"}), TEXT),
        st.builds(lambda content, name: HumanMessage(content, name=name, id="h1"), CONTENT, NAME),
        st.builds(lambda content, calls: AIMessage(content, tool_calls=calls), CONTENT, TOOL_CALLS),
        st.builds(
            lambda text: AIMessage(
                text,
                invalid_tool_calls=[{"name": "f", "args": "{", "id": "i", "error": "e", "type": "invalid_tool_call"}],
                response_metadata={"a": 1},
            ),
            TEXT,
        ),
        st.builds(lambda text: AIMessage(text, additional_kwargs={"function_call": {"name": "f"}}), TEXT),
        st.builds(lambda text: AIMessage(text, additional_kwargs={"tool_calls": [{**CALL, "index": 0}]}), TEXT),
        st.builds(lambda content: ToolMessage(content, tool_call_id="call_1", name="search"), CONTENT),
        st.builds(lambda text: ChatMessage(text, role="critic"), TEXT),
        st.builds(lambda text: FunctionMessage(text, name="f"), TEXT),
    ),
    min_size=1,
    max_size=4,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.none() | st.lists(TEXT, max_size=2),
        "temperature": st.none() | st.floats(0, 2) | st.integers(0, 2),
        "max_tokens": st.integers(1, 9),
        "seed": st.integers(),
        "tools": st.lists(st.just(TOOL), max_size=2),
        "tool_choice": st.sampled_from(["auto", "none", {"type": "function", "function": {"name": "search"}}]),
        "logit_bias": st.dictionaries(st.sampled_from(["1", "2"]), st.integers(-3, 3)),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
        "user": TEXT,
        "extra_body": st.dictionaries(st.sampled_from(["top_k", "model"]), st.integers(), max_size=2),
    },
)
GENERATED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(GENERATED, max_examples=150)
@given(CHAT, ARGUMENTS)
def test_generated_requests(
    server: Server, runner: asyncio.Runner, messages: list[Any], kwargs: dict[str, Any]
) -> None:
    """Any messages of any kind, with any arguments: the same bytes, or the same error."""
    compare(server, runner, model_at(server), messages, kwargs, reply_of())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=3,
)


@st.composite
def damaged(draw: Any) -> Any:
    """A plain reply with something changed, taken out or added, anywhere."""
    reply = copy.deepcopy(draw(st.sampled_from(list(PLAIN_REPLIES.values()))))
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(reply))
        container, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["change", "remove", "add", "same type"]))
        if change == "add" and isinstance(container, dict):
            names = [
                "parsed",
                "error",
                "id",
                "name",
                "refusal",
                "audio",
                "tool_calls",
                "content",
                "_x",
                "model_dump",
                "x",
            ]
            container[draw(st.sampled_from(names))] = draw(JSON)
        elif key not in (container if isinstance(container, dict) else range(len(container))):
            continue
        elif change == "remove":
            del container[key]
        else:
            same = {str: TEXT, int: st.integers(0, 9), float: st.floats()}.get(type(container[key]))
            container[key] = draw(same if change == "same type" and same is not None else JSON)
    return reply


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@settings(GENERATED, max_examples=300)
@given(damaged())
def test_generated_replies(server: Server, runner: asyncio.Runner, reply: Any) -> None:
    """Whatever the server says: the same message, or the same error."""
    compare(server, runner, model_at(server), "text", {}, reply)


# -- many at once ------------------------------------------------------------------------------------------------


def test_many_calls_at_once(server: Server, runner: asyncio.Runner, only_lean: Callable[[], None]) -> None:
    """Each has its own messages, and no two share what could be changed in one of them."""
    model = model_at(server)
    lean: Any = lean_chat(model)
    server.told(reply_of({"tool_calls": [CALL]}))
    only_lean()

    async def many() -> list[AIMessage]:
        return await asyncio.gather(*(lean.ainvoke(f"question {number}", None, {}) for number in range(40)))

    with ThreadPoolExecutor(16) as pool:
        threaded = list(pool.map(lambda number: lean.invoke(f"question {number}", None, {}), range(40, 80)))
    messages = runner.run(many()) + threaded
    asked = sorted(json.loads(body)["messages"][0]["content"] for _, _, body in server.seen)
    assert asked == sorted(f"question {number}" for number in range(80))
    assert len({message.id for message in messages}) == 80
    messages[0].response_metadata["token_usage"]["x"] = messages[0].tool_calls[0]["args"]["x"] = 1
    assert messages[1].response_metadata["token_usage"] == messages[2].response_metadata["token_usage"]
    assert "x" not in messages[1].tool_calls[0]["args"]


def test_calls_of_one_batch_may_differ_in_their_arguments(
    server: Server, runner: asyncio.Runner, only_lean: Callable[[], None]
) -> None:
    """In values that are equal to Python and not to the API, too."""
    model = model_at(server)
    lean: Any = lean_chat(model)
    every: list[dict[str, Any]] = [
        {},
        {"stop": ["a"]},
        {"stop": ["b"]},
        {"top_logprobs": 1},
        {"top_logprobs": True},
        {"top_logprobs": 1.0},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"timeout": 3},
        {"extra_headers": {"X-A": "1"}},
        {"extra_body": {"a": 1}},
    ] * 2
    server.told(reply_of())
    for kwargs in every:
        model.invoke("text", **kwargs)
        runner.run(model.ainvoke("text", **kwargs))
    native, server.seen = server.seen, []
    only_lean()
    for kwargs in every:
        lean.invoke("text", None, kwargs)
        runner.run(lean.ainvoke("text", None, kwargs))
    assert server.seen == native


def test_it_goes_through_the_endpoints_limiter(server: Server, runner: asyncio.Runner) -> None:
    """A model whose requests share what their endpoint refuses: lean too, and refusals are waited for."""
    model = limited(model_at(server, api_key="limited", max_retries=3))
    compare(server, runner, model, "text", {}, 429, 429, reply_of())


@pytest.mark.parametrize("library", sorted({httpx1, httpx}, key=lambda library: library.__name__))
def test_the_users_own_http_clients_are_used(library: Any, server: Server, runner: asyncio.Runner) -> None:
    """Their hooks, cookies and classes' methods."""
    seen: list[str] = []

    class Client(library.Client):  # type: ignore[misc, name-defined]
        def send(self, *arguments: Any, **options: Any) -> Any:
            seen.append("send")
            return super().send(*arguments, **options)

    async def note(_: Any) -> None:
        seen.append("async hook")

    async def close() -> None:
        await async_client.aclose()

    with Client(event_hooks={"request": [lambda _: seen.append("hook")]}, cookies={"a": "b"}) as client:
        async_client = library.AsyncClient(event_hooks={"request": [note]}, headers={"X-Own": "1"})
        model = model_at(server, http_client=client, http_async_client=async_client)
        compare(server, runner, model, "text", {}, reply_of())
        runner.run(close())
    assert seen == ["send", "hook"] * 2 + ["async hook"] * 2


# -- what runs natively ------------------------------------------------------------------------------------------


class Own(ChatOpenAI):
    pass


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"streaming": True}, "streams"),
        ({"use_responses_api": True}, "Responses API"),
        ({"include_response_headers": True}, "headers"),
        ({"output_version": "v1"}, "output_version is v1"),
        ({"cache": True}, "cache"),
        ({"cache": InMemoryCache()}, "cache"),
        ({"rate_limiter": InMemoryRateLimiter()}, "rate limiter"),
        ({"callbacks": [BaseCallbackHandler()]}, "listened to"),
        ({"verbose": True}, "listened to"),
    ],
)
def test_why_it_is_native(arguments: dict[str, Any], reason: str, server: Server) -> None:
    assert reason in str(lean_chat(model_at(server, **arguments)))


def test_other_classes_are_native(server: Server) -> None:
    """Subclasses may do anything."""
    azure = AzureChatOpenAI(azure_endpoint="http://a", azure_deployment="d", api_version="2024-06-01", api_key="k")
    own = Own(model="m", api_key="k")
    assert str(lean_chat(azure)) == "AzureChatOpenAI is not ChatOpenAI itself"
    assert str(lean_chat(own)) == "Own is not ChatOpenAI itself"
    assert "is not ChatOpenAI itself" in str(lean_chat(None))


def test_what_is_set_for_the_process_is_seen(server: Server) -> None:
    """A cache, debugging, and the client's log."""
    model = model_at(server)
    set_llm_cache(InMemoryCache())
    try:
        assert "cache" in str(lean_chat(model))
        assert isinstance(lean_chat(model_at(server, cache=False)), LeanChat)
    finally:
        set_llm_cache(None)
    set_debug(True)
    try:
        assert "listened to" in str(lean_chat(model))
    finally:
        set_debug(False)
    log = logging.getLogger("openai")
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        assert "logs" in str(lean_chat(model))
    finally:
        log.setLevel(level)
    assert isinstance(lean_chat(model), LeanChat)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (BaseChatModel, "ainvoke"),
        (BaseChatModel, "_generate_with_cache"),
        (ChatOpenAI, "_get_request_payload"),
        (openai.AsyncOpenAI, "post"),
        (openai.resources.chat.completions.Completions, "create"),
    ],
)
def test_instrumented_code_is_native(owner: type, name: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrapper around any method that is stood in for would miss calls."""
    native = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *arguments, **options: native(*arguments, **options))
    assert f"has a {name} that is not its own" in str(lean_chat(model_at(server)))


def test_an_instrumented_client_is_native(server: Server) -> None:
    """As tracing tools wrap one object."""
    model = model_at(server)
    create = model.client.create
    model.client.create = lambda **arguments: create(**arguments)
    assert "a method of its client was replaced" in str(lean_chat(model))


def test_an_unknown_client_is_native(server: Server) -> None:
    assert "not the openai package's own" in str(lean_chat(model_at(server, async_client=object())))


def test_a_key_that_is_asked_for_at_each_call_is_native(server: Server) -> None:
    root = openai.OpenAI(api_key=lambda: "key", base_url=server.url)
    model = model_at(server, root_client=root, client=root.chat.completions)
    assert "credentials" in str(lean_chat(model))


def test_patched_conversions_are_used(server: Server, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users who patch langchain-openai to keep a vendor's field get it."""
    import langchain_openai.chat_models.base as native_module

    native: Any = native_module._convert_dict_to_message

    def convert(reply: Any) -> Any:
        message = native(reply)
        message.additional_kwargs["reasoning"] = reply.get("reasoning_content")
        return message

    monkeypatch.setattr(native_module, "_convert_dict_to_message", convert)
    result = compare(server, runner, model_at(server), "text", {}, PLAIN_REPLIES["another vendor's fields"])
    assert "'reasoning': 'Let me think.'" in result[1]
