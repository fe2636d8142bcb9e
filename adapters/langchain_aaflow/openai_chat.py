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

    def answer(self, value: Any, kwargs: Kwargs) -> tuple[Any, Any]:
        """The HTTP client, and the response or the exception that came of a request; None if the native call is to ask.

        Args:
            value: The model's input.
            kwargs: Further arguments of its `invoke`.
        """
        try:
            asked = Asked(self._model, value, kwargs)
            with self._lock:
                if asked.key not in self._patterns:
                    self._patterns[asked.key] = pattern_of(self._model, asked.parameters)
            http = self._model.root_client._client
            request, options = asked.request(http, self._patterns[asked.key])
        except Exception:
            # What is wrong with it, or what else it is, the native call knows.
            return None, None
        try:
            return http, http.send(request, **options)
        except Exception as error:
            return http, error

    async def aanswer(self, value: Any, kwargs: Kwargs) -> tuple[Any, Any]:
        """The same for the asynchronous client."""
        try:
            asked = Asked(self._model, value, kwargs)
            async with self._alock:
                if asked.key not in self._apatterns:
                    self._apatterns[asked.key] = await apattern_of(self._model, asked.parameters)
            http = self._model.root_async_client._client
            request, options = asked.request(http, self._apatterns[asked.key])
        except Exception:
            return None, None
        try:
            return http, await http.send(request, **options)
        except Exception as error:
            return http, error

    def going_on(self, http: Any, answer: Any) -> ChatOpenAI:
        """The model to call natively after `answer`, for which its first request has come to that already."""
        return self._model if answer is None else sending_through(self._model, Answered(http, answer))

    def agoing_on(self, http: Any, answer: Any) -> ChatOpenAI:
        """The same after `aanswer`."""
        if answer is None:
            return self._model
        return sending_through(self._model, AsyncAnswered(http, answer), asynchronous=True)


class LeanChat(_Requests):
    """Calls a model whose runs nobody sees."""

    def invoke(self, value: Any, config: RunnableConfig | None, kwargs: Kwargs) -> AIMessage:
        """What `model.invoke(value, config, **kwargs)` returns.

        Raises:
            Exception: What that raises.
        """
        http, answer = self.answer(value, kwargs)
        message = message_of(self._model, answer, config)
        return self.going_on(http, answer).invoke(value, config, **kwargs) if message is None else message

    async def ainvoke(self, value: Any, config: RunnableConfig | None, kwargs: Kwargs) -> AIMessage:
        """What `await model.ainvoke(value, config, **kwargs)` returns.

        Raises:
            Exception: What that raises.
        """
        http, answer = await self.aanswer(value, kwargs)
        message = message_of(self._model, answer, config)
        return await self.agoing_on(http, answer).ainvoke(value, config, **kwargs) if message is None else message


class _LeanResults(_Requests):
    """Results for a model's native calls, which tell of their runs themselves."""

    def generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        """What `model._generate` returns."""
        http, answer = self.answer(messages, {"stop": stop, **kwargs})
        result = result_of(self._model, answer)
        if result is None:
            return self.going_on(http, answer)._generate(messages, stop=stop, run_manager=run_manager, **kwargs)
        return result

    async def agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Any:
        """What `await model._agenerate` returns."""
        http, answer = await self.aanswer(messages, {"stop": stop, **kwargs})
        result = result_of(self._model, answer)
        if result is None:
            model = self.agoing_on(http, answer)
            return await model._agenerate(messages, stop=stop, run_manager=run_manager, **kwargs)
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
