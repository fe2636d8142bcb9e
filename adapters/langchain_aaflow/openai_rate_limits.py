"""Models of OpenAI's API whose requests share what their endpoint has refused.

Natively each call learns for itself that an endpoint is overrun: it is refused, waits, and is refused again among all
the others. Here every request, a retry too, first passes the limiter that all callers of its endpoint share.

What is replaced is one call of the HTTP client, `send`: everything else is the client's own, so that its connections,
proxies, hooks, timeouts, credentials and errors are. For the limiter a request ends when its answer begins; a streamed
answer is then still on its way. Whoever reads one may make the next request meanwhile, and would else wait for itself.
"""

from __future__ import annotations

import copy
import email.utils
import hashlib
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import openai
import openai._base_client as base_client
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI, OpenAIEmbeddings

from aaflow_plugins.rate_limits import Answer, RateLimiter, limiter_of
from openai_aaflow.clients import StandIn, client_of, is_patched, moved, through

M = TypeVar("M")

_MODELS = (ChatOpenAI, AzureChatOpenAI, OpenAIEmbeddings, AzureOpenAIEmbeddings)
_CLIENTS = (openai.OpenAI, openai.AzureOpenAI, openai.AsyncOpenAI, openai.AsyncAzureOpenAI)

#: The longest wait, in seconds, that the installed client grants an endpoint. What asks for more is none to wait for.
_LONGEST_WAIT: float = getattr(base_client, "MAX_RETRY_AFTER_DELAY", 60)

#: Headers that say on whose account a request goes; an endpoint limits each account by itself.
_ACCOUNT = ("authorization", "api-key", "openai-organization", "openai-project")


def limited(model: M) -> M:
    """A copy of `model` whose requests pass the limiter of their endpoint; `model` itself is not changed.

    Settings, connections and results are the same. Clients that are not the openai package's own, that somebody has
    instrumented, or that don't retry (their user wants the refusal) stay as they are.

    Args:
        model: A `ChatOpenAI`, `OpenAIEmbeddings`, or Azure's counterpart of these, or an accelerated one; any other
            object is returned as it is.
    """
    accelerated = isinstance(model, _MODELS) and getattr(type(model), "aaflow_accelerated", False)
    if not accelerated and type(model) not in _MODELS:
        return model
    name = getattr(model, "model_name", None) or getattr(model, "model", None)
    clients = {
        attribute: client
        for attribute in ("root_client", "root_async_client", "client", "async_client")
        if (client := vars(model).get(attribute)) is not None
    }
    # A client and the resources made from it go on belonging together.
    roots = {id(root): _limited_client(root, name) for root in map(client_of, clients.values())}
    result = copy.copy(model)
    for attribute, client in clients.items():
        vars(result)[attribute] = moved(client, roots[id(client_of(client))])
    return result


def _limited_client(client: Any, model: str | None) -> Any:
    if type(client) not in _CLIENTS or not client.max_retries or is_patched(client):
        return client
    if type(client._client) in (_Sender, _AsyncSender):
        return client
    sender = _AsyncSender if isinstance(client, openai.AsyncOpenAI) else _Sender
    return through(client, sender(client._client, model))


class _Sender(StandIn):
    """An HTTP client whose requests wait for the limiter of their endpoint."""

    def __init__(self, http: Any, model: str | None) -> None:
        super().__init__(http)
        self._model = model

    def send(self, request: Any, **options: Any) -> Any:
        """The client's own `send`, once the endpoint's limiter admits it."""
        limiter = self._limiter(request)
        started = limiter.acquire()
        answer, retry_after = Answer.FAILED, 0.0
        try:
            response = self._http.send(request, **options)
            answer, retry_after = _judged(response)
        finally:
            limiter.release(started, answer, retry_after)
        return response

    def _limiter(self, request: Any) -> RateLimiter:
        url, headers = request.url, request.headers
        account = repr([headers.get(name) for name in _ACCOUNT]).encode()
        # A digest, so that no key is kept here.
        return limiter_of((url.scheme, url.host, url.port, url.path, self._model, hashlib.sha256(account).digest()))


class _AsyncSender(_Sender):
    """The stand-in of an asynchronous HTTP client."""

    async def send(self, request: Any, **options: Any) -> Any:
        """The client's own `send`, once the endpoint's limiter admits it."""
        limiter = self._limiter(request)
        started = await limiter.aacquire()
        answer, retry_after = Answer.FAILED, 0.0
        try:
            response = await self._http.send(request, **options)
            answer, retry_after = _judged(response)
        finally:
            limiter.release(started, answer, retry_after)
        return response


def _judged(response: Any) -> tuple[Answer, float]:
    """What an HTTP response says about the rate of requests, and the seconds for which it wants none."""
    if response.is_success:
        return Answer.SUCCEEDED, 0.0
    retry_after = _retry_after(response.headers)
    # An account that is used up is refused with 429 too, and told not to try again.
    refused = response.status_code == 429 and response.headers.get("x-should-retry") != "false"
    if refused or (response.status_code == 503 and retry_after):
        return Answer.LIMITED, retry_after
    return Answer.FAILED, 0.0


def _retry_after(headers: Any) -> float:
    """Seconds, as the openai client reads them; 0 if not said, or if it would not wait that long."""
    readers: list[tuple[str, Callable[[str], float]]] = [
        ("retry-after-ms", lambda value: float(value) / 1000),
        ("retry-after", float),
        ("retry-after", lambda value: email.utils.parsedate_to_datetime(value).timestamp() - time.time()),
    ]
    for name, read in readers:
        try:
            seconds = read(headers.get(name, ""))
        except (ValueError, OverflowError, OSError):
            continue
        return seconds if math.isfinite(seconds) and 0 < seconds <= _LONGEST_WAIT else 0.0
    return 0.0
