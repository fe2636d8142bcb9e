"""`ChatOpenAI` in batches: the same requests and messages, for less than half of the CPU where nobody listens.

A native call spends more on configurations, callback managers, parameters and typed replies than on the connection.
Here the model's own conversion makes the messages, a pattern taken from one native request makes the rest of what is
sent, the client's HTTP client sends it, and langchain-openai's own code reads the reply, as a dict. Where somebody
listens, the native call does all that is seen of it, and asks for its result here.

That is for the plain answer. Whatever else comes of a request (a refusal, a failed connection, a reply of another
form) is handed to the native call as what its first request came to: retries, waiting, errors and all other replies
are native.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any, TypeVar, cast

from langchain_core.callbacks import CallbackManager
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI

from langchain_aaflow.openai_chat_conditions import native_reason
from langchain_aaflow.openai_chat_replies import message_of, result_of
from langchain_aaflow.openai_chat_requests import (
    Answered,
    Asked,
    AsyncAnswered,
    Pattern,
    apattern_of,
    pattern_of,
    sending_through,
)

M = TypeVar("M")
Kwargs = dict[str, Any]


class _Requests:
    """Requests of one batch, any number of them at once."""

    def __init__(self, model: ChatOpenAI) -> None:
        self._model = model
        self._patterns: dict[str, Pattern | None] = {}
        self._apatterns: dict[str, Pattern | None] = {}
        # Calls that begin together wait for the first to make the pattern.
        self._lock, self._alock = threading.Lock(), asyncio.Lock()

    def prepared(self, value: Any, kwargs: Kwargs) -> tuple[Any, Any, Kwargs]:
        """The HTTP client, what it is to send, and how; without a request where the native call is to make it."""
        try:
            asked = Asked(self._model, value, kwargs)
            with self._lock:
                if asked.key not in self._patterns:
                    self._patterns[asked.key] = pattern_of(self._model, asked.parameters)
            http = self._model.root_client._client
            return http, *asked.request(http, self._patterns[asked.key])
        except Exception:
            # What is wrong with it, or what else it is, the native call knows.
            return None, None, {}

    async def aprepared(self, value: Any, kwargs: Kwargs) -> tuple[Any, Any, Kwargs]:
        """The same for the asynchronous client."""
        try:
            asked = Asked(self._model, value, kwargs)
            async with self._alock:
                if asked.key not in self._apatterns:
                    self._apatterns[asked.key] = await apattern_of(self._model, asked.parameters)
            http = self._model.root_async_client._client
            return http, *asked.request(http, self._apatterns[asked.key])
        except Exception:
            return None, None, {}


class LeanChat(_Requests):
    """Calls a model whose runs nobody sees."""

    def invoke(self, value: Any, config: RunnableConfig | None, kwargs: Kwargs) -> AIMessage:
        """What `model.invoke(value, config, **kwargs)` returns.

        Raises:
            Exception: What that raises.
        """
        model = self._model
        http, request, options = self.prepared(value, kwargs)
        if request is None:
            return model.invoke(value, config, **kwargs)
        answer: Any
        try:
            answer = http.send(request, **options)
        except Exception as error:
            answer = error
        message = message_of(model, answer, config)
        if message is None:
            return sending_through(model, Answered(http, answer)).invoke(value, config, **kwargs)
        return message

    async def ainvoke(self, value: Any, config: RunnableConfig | None, kwargs: Kwargs) -> AIMessage:
        """What `await model.ainvoke(value, config, **kwargs)` returns.

        Raises:
            Exception: What that raises.
        """
        model = self._model
        http, request, options = await self.aprepared(value, kwargs)
        if request is None:
            return await model.ainvoke(value, config, **kwargs)
        answer: Any
        try:
            answer = await http.send(request, **options)
        except Exception as error:
            answer = error
        message = message_of(model, answer, config)
        if message is None:
            answered = sending_through(model, AsyncAnswered(http, answer), asynchronous=True)
            return await answered.ainvoke(value, config, **kwargs)
        return message


class _LeanResults(_Requests):
    """Results for a model's native calls, which tell of their runs themselves."""

    def generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        """What `model._generate` returns."""
        model = self._model
        http, request, options = self.prepared(messages, {"stop": stop, **kwargs})
        if request is None:
            return model._generate(messages, stop=stop, run_manager=run_manager, **kwargs)
        answer: Any
        try:
            answer = http.send(request, **options)
        except Exception as error:
            answer = error
        result = result_of(model, answer)
        if result is None:
            answered = sending_through(model, Answered(http, answer))
            return answered._generate(messages, stop=stop, run_manager=run_manager, **kwargs)
        return result

    async def agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        """What `await model._agenerate` returns."""
        model = self._model
        http, request, options = await self.aprepared(messages, {"stop": stop, **kwargs})
        if request is None:
            return await model._agenerate(messages, stop=stop, run_manager=run_manager, **kwargs)
        answer: Any
        try:
            answer = await http.send(request, **options)
        except Exception as error:
            answer = error
        result = result_of(model, answer)
        if result is None:
            answered = sending_through(model, AsyncAnswered(http, answer), asynchronous=True)
            return await answered._agenerate(messages, stop=stop, run_manager=run_manager, **kwargs)
        return result


def lean_chat(model: Any) -> LeanChat | str:
    """The lean way to call a model for one batch; or, as a text, why its calls are native.

    Args:
        model: Any chat model. It is not changed. Its own callbacks, cache and verbosity are looked at now; that nobody
            listens to the batch through its configuration is for the caller to know.
    """
    reason = native_reason(model)
    if reason is None and CallbackManager.configure(None, model.callbacks, model.verbose).handlers:
        reason = "its runs are listened to"
    return reason or LeanChat(model)


def with_lean_results(model: M) -> M:
    """A copy of a model for one batch, whose native calls have their results the lean way.

    Args:
        model: Any chat model. It is not changed, and comes back itself where that would not be exact.
    """
    if native_reason(model) is not None:
        return model
    results = _LeanResults(cast(ChatOpenAI, model))
    copied = copy.copy(model)
    vars(copied).update(_generate=results.generate, _agenerate=results.agenerate)
    return copied
