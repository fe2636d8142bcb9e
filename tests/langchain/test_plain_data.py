"""Data as JSON: it comes back equal, of the same types, or it is refused."""

from __future__ import annotations

import enum
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.agents import AgentFinish
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue
from pydantic import BaseModel, ConfigDict, PrivateAttr

from aaflow_plugins.divided_batches import NoDataError
from langchain_aaflow.plain_data import digest_of_data, from_json, to_json


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Level(enum.StrEnum):
    HIGH = "high"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Found(BaseModel):
    """Has defaults, extras and something private."""

    model_config = ConfigDict(extra="allow")
    text: str = "none"
    colour: Colour | None = None
    inner: Any = None
    _seen: int = PrivateAttr(default=3)


class Copied(BaseModel):
    """Says itself what a copy takes over."""

    text: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "__pydantic_private__": None}


class Named(str):
    """A string with an attribute."""


def told(value: Any) -> Any:
    """All of a value: types, signs of zeros, what was set, the order of keys."""
    if isinstance(value, BaseModel):
        return type(value), told({**value.__getstate__(), "__pydantic_fields_set__": None}), value.model_fields_set
    if isinstance(value, dict):
        return dict, [(told(key), told(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [told(each) for each in value]
    return type(value), repr(value)


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes().map(lambda moment: moment.replace(fold=0))
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.integers(-128, 127).map(np.int8)
    | st.floats(width=32).map(np.float32)
    | st.booleans().map(np.bool_)
    | st.sampled_from([Path("a/b"), np.float64(0.1), np.longdouble(0.1)])
    | st.sampled_from([Colour.RED, Level.HIGH, Access.WRITE, "$", "v"])
)
keys = st.text(st.characters(codec="utf-8"), max_size=3) | st.sampled_from(["$", "v", 1, True, None, 2.5, Colour.GREEN])
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.builds(Found, inner=inner)
        | st.builds(lambda inner: Found(extra=inner, colour=Colour.RED), inner)
        | st.builds(lambda inner: Document("text", metadata={"inner": inner}), inner)
        | st.builds(lambda inner: AIMessage("text", additional_kwargs={"inner": inner}), inner)
    ),
    max_leaves=12,
)


@given(values)
def test_what_comes_back_is_the_same(value: Any) -> None:
    assert told(from_json(to_json(value))) == told(value)
    assert digest_of_data([value]) == digest_of_data([from_json(to_json(value))])


@pytest.mark.parametrize(
    "value",
    [
        AIMessage("text", id="1", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
        AIMessage([{"type": "text", "text": "a"}], tool_calls=[{"name": "f", "args": {"x": 1}, "id": "2"}]),
        AIMessageChunk("text", response_metadata={"model_name": "m", "logprobs": None}),
        ToolMessage("text", tool_call_id="3", artifact=(1, 2)),
        ChatPromptValue(messages=[HumanMessage("a"), AIMessage("b")]),
        AgentFinish({"output": "a"}, "log"),
        Document("half a character: \ud800", metadata={"read": datetime(2026, 1, 1, tzinfo=UTC)}),
        StrOutputParser().invoke(AIMessage("text")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_chains_give(value: Any) -> None:
    assert told(from_json(to_json(value))) == told(value)
    assert from_json(to_json(value)) == value


def test_what_is_private_and_what_was_set() -> None:
    model = Found(text="none")
    model._seen = 9
    found = from_json(to_json(model))
    assert (found._seen, found.model_fields_set) == (9, {"text"})


def test_what_is_no_data() -> None:
    class Local(BaseModel):
        text: str = ""

    deep: list[Any] = []
    deep.append(deep)
    times = [datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")), datetime(2026, 1, 1, fold=1)]
    refused = [
        *times,
        np.array([1]),
        np.datetime64("2026"),
        np.str_("text"),
        {1, 2},
        object(),
        ValueError("no"),
        Local(),
        Copied(),
        Named("text"),
        print,
        Found,
        1j,
    ]
    refused += ["\ud83d\ude00", deep, 10**5000, Access.READ | Access.WRITE]
    for value in refused:
        for held in (
            value,
            [value],
            {"key": value},
            {value: 1} if isinstance(value, str) else (value,),
            Found(inner=value),
        ):
            with pytest.raises(NoDataError, match="is no plain data"):
                to_json(held)
            assert len(digest_of_data([held])) == 16


def test_the_class_of_what_is_no_data_tells() -> None:
    assert digest_of_data([object()]) == digest_of_data([object()])
    assert digest_of_data([object()]) != digest_of_data([{1}])
    assert digest_of_data(["a", "b"]) != digest_of_data(["ab"])


@pytest.mark.parametrize("name", ["no_such_module:Found", "builtins:NoSuch", "builtins:dict", "os:system", "os:no"])
def test_a_class_that_is_not_there(name: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        from_json(json.dumps({"$": "model", "c": name, "v": {"__pydantic_fields_set__": []}}).encode())
