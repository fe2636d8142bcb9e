"""The lean way to call ChatOpenAI against the native one, with real clients: plain calls, one and many."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx as httpx1
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue

from langchain_aaflow.openai_chat import lean_chat
from langchain_aaflow.openai_rate_limits import limited
from tests.langchain.openai_chat.calls import CALL, PLAIN_REPLIES, TOOL, Server, compare, httpx, model_at, reply_of

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow

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
