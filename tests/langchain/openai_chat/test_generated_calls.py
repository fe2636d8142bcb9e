"""The lean way to call ChatOpenAI against the native one, with real clients: generated requests and replies."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage

from tests.generated import examples
from tests.langchain.openai_chat.calls import CALL, PLAIN_REPLIES, TOOL, Server, compare, model_at, reply_of

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow

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


@settings(GENERATED, max_examples=examples(30))
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


@settings(GENERATED, max_examples=examples(50))
@given(damaged())
def test_generated_replies(server: Server, runner: asyncio.Runner, reply: Any) -> None:
    """Whatever the server says: the same message, or the same error."""
    compare(server, runner, model_at(server), "text", {}, reply)
