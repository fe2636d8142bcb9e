"""Native calls with their results made the lean way, against native ones: all that handlers are told."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import threading
from typing import Any

import openai._base_client as base_client
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from wrapt import FunctionWrapper

from aaflow_plugins import accelerate
from langchain_aaflow.openai_chat import with_lean_results
from langchain_aaflow.openai_chat_conditions import native_reason
from tests.langchain.openai_chat.calls import PLAIN_REPLIES, Server, model_at, outcome, reply_of
from tests.langchain.openai_chat.test_other_calls import ANSWERS
from tests.langchain.openai_chat.test_plain_calls import KWARGS

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow

_ID = re.compile(
    "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|0x[0-9a-f]+|[0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)


class Seen(BaseCallbackHandler):
    """Notes what it is told, without ids, addresses and the time of day."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def _note(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        self.events.append((event, *(_ID.sub("", repr(each)) for each in (args, kwargs))))

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._note("start", *args, **kwargs)

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self._note("end", *args, **kwargs)

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self._note("error", *args, **kwargs)


def compare_seen(
    server: Server, runner: asyncio.Runner, model: ChatOpenAI, value: Any, kwargs: Any, *answers: Any
) -> None:
    """Both forms of the call, natively and with lean results, in outcome, requests and events."""
    lean = with_lean_results(model)
    assert lean is not model
    found = []
    for called in (model, lean):
        for asynchronous in (False, True):
            server.told(*answers)
            for client in (model.root_client, model.root_async_client):
                client._client.cookies.clear()
            seen = Seen()
            config: Any = {"callbacks": [seen], "tags": ["t"], "metadata": {"m": 1}, "run_name": "r"}
            before = copy.deepcopy((value, kwargs))
            if asynchronous:
                result = outcome(lambda: runner.run(called.ainvoke(value, config, **kwargs)))  # noqa: B023
            else:
                result = outcome(lambda: called.invoke(value, config, **kwargs))  # noqa: B023
            assert (value, kwargs) == before
            assert len(seen.events) == 2
            found.append((result, server.seen, seen.events))
    assert found[2] == found[0]
    assert found[3] == found[1]


@pytest.mark.parametrize("name", PLAIN_REPLIES)
def test_plain_replies(name: str, server: Server, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same results; and they are made the lean way."""
    model = model_at(server)
    compare_seen(server, runner, model, "A question?", {}, PLAIN_REPLIES[name])
    lean = with_lean_results(model)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("made natively")

    lean.invoke("once, for the pattern")
    runner.run(lean.ainvoke("once, for the pattern"))
    monkeypatch.setattr(ChatOpenAI, "_generate", refuse)
    monkeypatch.setattr(ChatOpenAI, "_agenerate", refuse)
    lean.invoke("A question?")
    runner.run(lean.ainvoke("A question?"))


@pytest.mark.parametrize("name", KWARGS)
def test_arguments(name: str, server: Server, runner: asyncio.Runner) -> None:
    messages = [SystemMessage("é"), HumanMessage('"quoted"\n\u2028')]
    compare_seen(server, runner, model_at(server), messages, KWARGS[name], reply_of())


@pytest.mark.parametrize("name", ANSWERS)
def test_unusual_answers(name: str, server: Server, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tries and errors, and the handlers are told of the same error."""
    monkeypatch.setattr(base_client, "INITIAL_RETRY_DELAY", 0.001)
    compare_seen(server, runner, model_at(server), "text", {}, *ANSWERS[name])


def test_a_models_own_handlers(server: Server, runner: asyncio.Runner) -> None:
    seen = Seen()
    compare_seen(server, runner, model_at(server, callbacks=[seen]), "text", {}, reply_of())
    assert seen.events[:4] == seen.events[4:]


def test_the_copy_is_the_same_to_everybody(server: Server) -> None:
    model = model_at(server)
    lean = with_lean_results(model)
    assert type(lean) is type(model)
    assert repr(lean) == repr(model)
    assert lean == model
    assert lean.model_dump() == model.model_dump()
    assert lean._serialized == model._serialized
    assert native_reason(lean) is not None  # its results are lean already
    assert with_lean_results(lean) is lean


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_a_batch_that_is_listened_to(way: str, server: Server, runner: asyncio.Runner) -> None:
    """An accelerated chain makes its results the lean way, and its handlers hear the same."""
    server.told(reply_of())
    found = []
    native = RunnableLambda(str) | model_at(server)
    for chain in (native, accelerate(native)):
        seen = Seen()
        inputs, config = ["one", "two", "three", "four"], {"callbacks": [seen]}
        answers = chain.batch(inputs, config) if way == "batch" else runner.run(chain.abatch(inputs, config))
        found.append(([answer.content for answer in answers], sorted(seen.events)))
    assert found[0] == found[1]


def test_instrumentation_of_the_native_code_is_run(
    server: Server, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper that has all attributes of what it wraps."""
    server.told(reply_of())
    calls: list[str] = []
    words = ["one", "two", "three"]

    def noting(method: Any, _: Any, args: Any, kwargs: Any) -> Any:
        calls.append(method.__name__)
        return method(*args, **kwargs)

    native = RunnableLambda(str) | model_at(server)
    runner.run(accelerate(native).abatch(words, {"callbacks": [Seen()]}))  # it is known what agenerate is
    monkeypatch.setattr(BaseChatModel, "agenerate", FunctionWrapper(BaseChatModel.agenerate, noting))
    found = []
    for chain in (native, accelerate(native)):
        calls.clear()
        seen = Seen()
        answers = runner.run(chain.abatch(words, {"callbacks": [seen]}))
        found.append(([answer.content for answer in answers], sorted(seen.events), list(calls)))
    assert found[1] == found[0]
    assert found[0][2]


class Old(Seen):
    """Is told of chat models as of others."""

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        self._note("llm start", *args, in_loop=in_loop, **kwargs)

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError


class Later(Seen, AsyncCallbackHandler):
    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._note("start", *args, **kwargs)

    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self._note("end", *args, **kwargs)

    async def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self._note("error", *args, **kwargs)


class Inline(Seen):
    run_inline = True


class Empties(Seen):
    """Changes the list that it is given, and what is in it."""

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        super().on_chat_model_start(serialized, messages, **kwargs)
        messages[0][-1].content = "redacted"
        messages.clear()


class Fails(Seen):
    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        super().on_chat_model_start(*args, **kwargs)
        raise KeyError("start")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_llm_end(*args, **kwargs)
        raise KeyError("end")


class Raises(Fails):
    raise_error = True


class RaisesAtTheEnd(Seen):
    raise_error = True

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        raise KeyError("end")


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(
    "kinds",
    [[Seen, Seen], [Old], [Later, Seen], [Inline, Old], [Empties, Seen], [Fails, Seen], [Raises], [RaisesAtTheEnd]],
)
def test_handlers_of_an_asynchronous_batch(
    kinds: list[type[Seen]], refused: bool, server: Server, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """They hear the same of the model, fail as natively, and change what is sent as natively."""
    found = []
    model = model_at(server, max_retries=0)
    for chain in (RunnableLambda(str) | model, accelerate(RunnableLambda(str) | model)):
        caplog.clear()
        server.told(400 if refused else reply_of())
        handlers = [kind() for kind in kinds]
        config: Any = {"callbacks": handlers, "tags": ["t"], "metadata": {"m": 1}, "max_concurrency": 1}
        with caplog.at_level(logging.WARNING, "langchain_core"):
            outputs = runner.run(chain.abatch(["one", "two", "three"], config, return_exceptions=True))
        told = [sorted(map(repr, each.events)) for each in handlers]
        sent = sorted(body for _, _, body in server.seen)
        found.append(([_ID.sub("", repr(each)) for each in outputs], told, sorted(map(repr, caplog.messages)), sent))
    assert found[1] == found[0]
