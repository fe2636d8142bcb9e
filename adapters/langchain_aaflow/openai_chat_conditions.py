"""For which `ChatOpenAI` objects the lean way is exact: known code, known clients, nobody listening."""

from __future__ import annotations

import inspect
import json
import logging
from contextvars import Context
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import langchain_core
import langchain_openai
import openai
import openai._base_client as base_client
from langchain_core.globals import get_debug, get_llm_cache
from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI
from langsmith.run_helpers import tracing_context
from openai.resources.chat.completions import AsyncCompletions, Completions
from pydantic import SecretStr

from langchain_aaflow.openai_chat_replies import message_of
from langchain_aaflow.openai_chat_requests import Asked, pattern_of
from openai_aaflow.clients import HTTP_LIBRARY, is_patched

_CLIENT_METHODS = (
    "post",
    "request",
    "_build_headers",
    "_build_request",
    "_prepare_options",
    "_prepare_request",
    "_process_response",
    "_send_request",
)

#: Methods that the lean way stands in for, or whose results it relies on.
_REPLACED: dict[type, tuple[str, ...]] = {
    ChatOpenAI: (
        "invoke",
        "ainvoke",
        "generate_prompt",
        "agenerate_prompt",
        "generate",
        "agenerate",
        "_generate_with_cache",
        "_agenerate_with_cache",
        "_generate",
        "_agenerate",
        "_should_stream",
        "_convert_input",
        "_get_request_payload",
        "_use_responses_api",
        "_create_chat_result",
        "_combine_llm_outputs",
        "_get_invocation_params",
        "_get_ls_params",
    ),
    Completions: ("create",),
    AsyncCompletions: ("create",),
    openai.OpenAI: _CLIENT_METHODS,
    openai.AsyncOpenAI: _CLIENT_METHODS,
}
_PACKAGES = tuple(f"{Path(str(package.__file__)).parent}/" for package in (langchain_core, langchain_openai, openai))

#: What a client has that changes its requests from one to the next.
_CHANGING = ("_api_key_provider", "_workload_identity_auth", "_provider_runtime", "_idempotency_header")


def native_reason(model: Any) -> str | None:
    """Why this object's calls are left to the native code; None if the lean way is exact for it, for now."""
    if type(model) is not ChatOpenAI:
        return f"{type(model).__name__} is not ChatOpenAI itself"
    if model.streaming or model.use_responses_api or model.include_response_headers:
        return "it streams, uses the Responses API, or includes headers"
    if getattr(model, "output_version", None) not in (None, "v0"):
        return f"its output_version is {model.output_version}"
    if model.cache or (model.cache is None and get_llm_cache() is not None):
        return "it has a cache"
    if model.rate_limiter is not None:
        return "it has a rate limiter"
    if base_client.log.isEnabledFor(logging.DEBUG):
        return "the openai client logs each step"
    if get_debug():
        return "LangChain prints each step"
    for owner, names in _REPLACED.items():
        for name in names:
            if not _is_own(owner, name) or (owner is ChatOpenAI and name in vars(model)):
                return f"{owner.__name__} has a {name} that is not its own"
    return (
        _client_reason(model.root_client, model.client, openai.OpenAI, Completions)
        or _client_reason(model.root_async_client, model.async_client, openai.AsyncOpenAI, AsyncCompletions)
        or _disagreement()
    )


def _is_own(owner: type, name: str) -> bool:
    """Whether a method is one that the packages came with; wrappers are not."""
    function = inspect.getattr_static(owner, name)
    return isinstance(function, FunctionType) and function.__code__.co_filename.startswith(_PACKAGES)


def _client_reason(root: Any, resource: Any, root_class: type, resource_class: type) -> str | None:
    if root is None and resource is None:
        return None  # as it is where the API key comes from a coroutine; natively the call says so
    if (type(root), type(resource)) != (root_class, resource_class) or resource._client is not root:
        return "its client is not the openai package's own"
    if is_patched(root) or is_patched(resource):
        return "a method of its client was replaced"
    if root._strict_response_validation:
        return "its client validates replies strictly"
    if not root.api_key or any(getattr(root, name, None) is not None for name in _CHANGING):
        return "its client asks for credentials at each request"
    return None


_REPLY: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "probe",
    "system_fingerprint": "fp",
    "usage": {
        "total_tokens": 3,
        "prompt_tokens": 2,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 1},
        "vendor": 1,
    },
    "vendor": [None],
}
_CALL = {"type": "function", "id": "call_1", "function": {"name": "f", "arguments": '{"a":1}'}}
_TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
_CHOICES: list[dict[str, Any]] = [
    {"message": {"content": "a", "role": "assistant"}, "finish_reason": "stop", "logprobs": {"content": [_TOKEN]}},
    {"message": {"role": "assistant", "content": None, "tool_calls": [_CALL]}, "finish_reason": "tool_calls"},
    {"message": {"role": "assistant", "refusal": "no", "annotations": [], "x": 1}, "finish_reason": "length"},
]


@cache
def _disagreement() -> str | None:
    """Compare with the installed native code, once, on replies that meet every case; nothing is sent.

    In a context of its own, and not traced: nobody's handlers should be told of these calls.
    """

    def compared() -> str | None:
        with tracing_context(enabled=False):
            return _compare()

    return Context().run(compared)


def _compare() -> str | None:
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append((request.method, request.url, request.headers.multi_items(), request.content))
        choice = {"index": 0, **_CHOICES[json.loads(request.content)["seed"]]}
        return HTTP_LIBRARY.Response(200, json={**_REPLY, "choices": [choice]})

    transport = HTTP_LIBRARY.MockTransport(answer)
    http = HTTP_LIBRARY.Client(transport=transport)
    try:
        probe = ChatOpenAI(
            model="probe",
            api_key=SecretStr("none"),
            base_url="http://probe/v1",
            openai_proxy="",
            http_client=http,
            http_async_client=HTTP_LIBRARY.AsyncClient(transport=transport),
        )
        for seed in range(len(_CHOICES)):
            kwargs: dict[str, Any] = {"stop": ["."], "seed": seed, "tools": [{"type": "function", "function": {}}]}
            asked = Asked(probe, "a question", kwargs)
            request, options = asked.request(http, pattern_of(probe, asked.parameters))
            ours, native = message_of(probe, http.send(request, **options), None), probe.invoke("a question", **kwargs)
            # As texts: the order of keys counts.
            if ours is None or repr(_unnamed(ours)) != repr(_unnamed(native)) or seen[-1] != seen[-2]:
                return "this langchain-openai makes requests or messages in a way that is not known"
    except Exception as error:
        return f"comparing with the native code failed ({error!r})"
    return None


def _unnamed(message: BaseMessage) -> BaseMessage:
    """Without its random id."""
    return message.model_copy(update={"id": None})
