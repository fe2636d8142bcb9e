"""The lean way to call ChatOpenAI against the native one, with real clients: what runs natively, and why."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_debug, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.context import collect_runs
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from langchain_aaflow import openai_chat_conditions as conditions
from langchain_aaflow.openai_chat import LeanChat, lean_chat
from tests.langchain.openai_chat.calls import PLAIN_REPLIES, Server, compare, model_at

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow


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
        assert "prints" in str(lean_chat(model))
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


def test_nobody_is_told_of_the_comparison_with_the_native_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once in a process, within whatever the user counts or traces just then."""
    posted: list[Any] = []
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setattr(LangChainTracer, "on_chat_model_start", lambda *_, **__: posted.append("a run"))
    conditions._disagreement.cache_clear()
    with collect_runs() as runs, get_usage_metadata_callback() as usage:
        assert conditions._disagreement() is None
    assert (posted, runs.traced_runs, usage.usage_metadata) == ([], [], {})
