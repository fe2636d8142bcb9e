"""The loopback server's chat API: what benchmarks and tests of chains take for granted about it."""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import time
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from benchmarks.chat_completions import Completion, Latency
from benchmarks.openai_server import Connection, Fault


def model(server: Connection, **settings: Any) -> ChatOpenAI:
    # LangChain's default asynchronous client is one for the whole process: it would not outlive a test's event loop.
    own = openai.DefaultAsyncHttpxClient()
    settings = {"max_retries": 0, "http_async_client": own, **settings}
    return ChatOpenAI(base_url=server.base_url, api_key="none", model="chat", **settings)


def messages(text: str) -> bytes:
    return Completion({"messages": [{"role": "user", "content": text}]}, 0).messages


@tool
def look_up(query: str) -> str:
    """Find something."""
    return f"found {query}"


# -- answers ---------------------------------------------------------------------------------------------


def test_an_answer_depends_on_the_messages_alone(openai_server: Connection) -> None:
    """The same in any order, sync and async; another for other messages."""
    questions = [f"question {number}" for number in range(30)]
    chat = model(openai_server)
    expected = {question: chat.invoke(question).text for question in questions}
    assert len(set(expected.values())) == 30
    shuffled = random.Random(0).sample(questions, 30)

    async def at_once() -> list[str]:
        return [answer.text for answer in await asyncio.gather(*map(model(openai_server).ainvoke, shuffled))]

    assert asyncio.run(at_once()) == [expected[question] for question in shuffled]


@pytest.mark.parametrize("usage", [True, False])
def test_a_streamed_answer_is_the_whole_one_in_pieces(openai_server: Connection, usage: bool) -> None:
    """Text, id and, if asked for, usage add up to those of the answer that is not streamed."""
    chat = model(openai_server, stream_usage=usage)
    pieces = list(chat.stream("a question"))
    assert len([piece for piece in pieces if piece.text]) > 3
    joined = pieces[0]
    for piece in pieces[1:]:
        joined += piece
    whole = chat.invoke("a question")
    assert joined.text == whole.text
    assert joined.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"] == "stop"
    assert joined.usage_metadata == (whole.usage_metadata if usage else None)


def test_a_streamed_answer_arrives_over_its_latency(openai_server: Connection) -> None:
    openai_server.configure(chat_latency=Latency("uniform", 400, 400))
    start = time.monotonic()
    moments = [time.monotonic() - start for _ in model(openai_server).stream("a question")]
    assert moments[0] < 0.25
    assert moments[-1] >= 0.35


# -- tools -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [True, False])
def test_tools_are_called_for_as_many_rounds_as_told(openai_server: Connection, streaming: bool) -> None:
    """A call of the first tool, each round with a query of its own; then a text."""
    openai_server.configure(tool_rounds=2)
    chat = model(openai_server, streaming=streaming).bind_tools([look_up])
    history: list[Any] = [HumanMessage("what is it?")]
    for number in (1, 2):
        answer = chat.invoke(history)
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("look_up", {"query": f"what is it? ({number})"})
        history += [answer, ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"])]
    ids = {message.tool_calls[0]["id"] for message in history if getattr(message, "tool_calls", None)}
    assert len(ids) == 2
    last = chat.invoke(history)
    assert last.text
    assert not last.tool_calls
    assert not model(openai_server).invoke("no tools offered").tool_calls


# -- latency ---------------------------------------------------------------------------------------------


def test_latencies_have_the_stated_distribution() -> None:
    """By the messages: the same ones always wait as long, another seed draws anew."""
    draws = [messages(f"question {number}") for number in range(4000)]
    uniform = [Latency("uniform", 50, 500).seconds(draw) for draw in draws]
    assert 0.050 <= min(uniform) < 0.052
    assert 0.498 < max(uniform) <= 0.5
    assert statistics.mean(uniform) == pytest.approx(0.275, rel=0.03)
    heavy = [Latency("lognormal", 100, 1.0).seconds(draw) for draw in draws]
    assert statistics.median(heavy) == pytest.approx(0.1, rel=0.06)
    assert statistics.stdev(map(math.log, heavy)) == pytest.approx(1.0, rel=0.05)
    assert heavy == [Latency("lognormal", 100, 1.0).seconds(draw) for draw in draws]
    assert uniform != [Latency("uniform", 50, 500, seed=1).seconds(draw) for draw in draws]


def test_requests_wait_side_by_side_each_its_latency(openai_server: Connection) -> None:
    """And the server says what their latencies come to."""
    latency = Latency("uniform", 400, 900)
    openai_server.configure(chat_latency=latency, record=True)

    async def at_once() -> float:
        chat = model(openai_server)
        start = time.monotonic()
        await asyncio.gather(*(chat.ainvoke(f"question {number}") for number in range(20)))
        return time.monotonic() - start

    elapsed = asyncio.run(at_once())
    stats = openai_server.stats()["chat"]
    expected = [latency.seconds(Completion(json.loads(body), 0).messages) for body in openai_server.bodies()]
    assert stats["latency"] == pytest.approx(sum(expected))
    assert stats["longest"] == pytest.approx(max(expected))
    assert max(expected) <= elapsed < sum(expected)
    assert (stats["requests"], stats["in_flight"]) == (20, 0)
    assert stats["max_in_flight"] > 10


# -- what goes wrong -------------------------------------------------------------------------------------


def test_faults_are_counted_for_each_api(openai_server: Connection) -> None:
    """A fault of chats hits no request for embeddings, and is answered at once, with `Retry-After` if it has one."""
    openai_server.configure(
        faults=[Fault([1], status=429, retry_after=7, api="chat"), Fault([2], api="chat"), Fault([2])]
    )
    client = openai.OpenAI(base_url=openai_server.base_url, api_key="none", max_retries=0)
    client.embeddings.create(input=["a"], model="m")
    chat = model(openai_server)
    with pytest.raises(openai.RateLimitError) as limited:
        chat.invoke("a question")
    assert limited.value.response.headers["retry-after"] == "7"
    with pytest.raises(openai.InternalServerError):
        chat.invoke("a question")
    assert chat.invoke("a question").text
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(input=["a"], model="m")
    stats = openai_server.stats()
    assert (stats["requests"], stats["chat"]["requests"]) == (2, 3)


def test_retries_are_the_clients_own(openai_server: Connection) -> None:
    openai_server.configure(faults=[Fault([1], status=429, retry_after=0.01, api="chat")])
    assert model(openai_server, max_retries=1).invoke("a question").text
    assert openai_server.stats()["chat"]["requests"] == 2


@pytest.mark.parametrize("body", [{"messages": "text"}, {}, {"messages": [], "tools": [{}]}])
def test_what_is_no_request_is_refused(openai_server: Connection, body: dict[str, Any]) -> None:
    """A body without usable messages or tools is a 400, not a crash."""
    openai_server.configure(tool_rounds=1)
    client = openai.OpenAI(base_url=openai_server.base_url, api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="must be"):
        client.post("/chat/completions", body=body, cast_to=object)
