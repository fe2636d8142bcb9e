"""Requests to OpenAI's embeddings API: the client's own, with its input written into the body without detours.

The client prepares each request for its native `create`, and is then asked to post it for the HTTP response itself
in place of a parsed one: the same bytes, address, headers and retries. Asking by `with_raw_response` would add a
header to what is sent.

For a thousand chunks of text the client walks a list of 250,000 Python ints twice, to transform it and to write it as
JSON, which costs as much as everything else it does (26 ms; 2 ms here). A list of strings it walks as well (a third of
its own work). So a request is prepared for a placeholder, and posted with the real input.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import openai
import openai._base_client as base_client
import openai.resources.embeddings as client_module
from openai._models import FinalRequestOptions

from aaflow_plugins.known_code import is_from
from openai_aaflow.clients import HTTP_LIBRARY, json_bytes

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]


def post(resource: Any, items: Sequence[Any] | str, parameters: dict[str, Any]) -> Reply:
    """The reply to what `resource.create` sends for these items.

    Args:
        resource: The `embeddings` resource of an `openai` client.
        items: The API's `input`, where token ids may be arrays of uint32.
        parameters: All other arguments of `create`.

    Raises:
        openai.OpenAIError: As `create` does, but for what is wrong with the reply.
    """
    prepared = _Prepared(resource)
    if _writable(resource, items, parameters):
        prepared.resource.create(input=[[0]], **parameters)
        arguments = prepared.filled(items)
    else:
        prepared.resource.create(input=native_input(items), **parameters)
        arguments = prepared.arguments
    return prepared.reply(resource._post(prepared.path, **{**arguments, "cast_to": HTTP_LIBRARY.Response}))


async def apost(resource: Any, items: Sequence[Any] | str, parameters: dict[str, Any]) -> Reply:
    """Like `post`, for the resource of an asynchronous client."""
    prepared = _Prepared(resource)
    prepared.resource._post = prepared.acapture
    if _writable(resource, items, parameters):
        await prepared.resource.create(input=[[0]], **parameters)
        arguments = prepared.filled(items)
    else:
        await prepared.resource.create(input=native_input(items), **parameters)
        arguments = prepared.arguments
    return prepared.reply(await resource._post(prepared.path, **{**arguments, "cast_to": HTTP_LIBRARY.Response}))


def resource_reason(resource: Any, known: Any) -> str | None:
    """Why the requests of an `embeddings` resource are the client's own affair; None if they may be posted here.

    Args:
        resource: The `embeddings` of a client.
        known: The class that it has natively.
    """
    if type(resource) is not known or "create" in vars(resource) or not is_from(vars(known)["create"], client_module):
        return "its client is not the openai package's own"
    if getattr(resource._client, "_strict_response_validation", True):
        return "its client validates replies strictly"
    return None


def native_input(items: Sequence[Any] | str) -> Any:
    """The `input` that the native call passes: lists of ints, or strings."""
    if isinstance(items, str):
        return items
    return [item if isinstance(item, (str, list)) else item.tolist() for item in items]


@dataclass(frozen=True)
class Reply:
    """A reply whose body has arrived.

    Attributes:
        http: The HTTP response, of status 200.
        parse: What `create` does with it: what it returns, or raises. An awaitable for an asynchronous client.
    """

    http: Any
    parse: Callable[[], Any]


class _Prepared:
    """A request that the client has prepared but not sent."""

    def __init__(self, resource: Any) -> None:
        self.resource = copy.copy(resource)
        self.resource._post = self.capture

    def capture(self, path: str, **arguments: Any) -> None:
        self.path, self.arguments = path, arguments

    async def acapture(self, path: str, **arguments: Any) -> None:
        self.capture(path, **arguments)

    def filled(self, items: Sequence[Any]) -> dict[str, Any]:
        """The arguments of the client's `post`, with the items in their place and all of it as JSON."""
        fields = [
            json_bytes(name) + b":" + (_dump(items) if name == "input" else json_bytes(value))
            for name, value in self.arguments["body"].items()
        ]
        others = {name: value for name, value in self.arguments.items() if name != "body"}
        return {**others, "content": b"{" + b",".join(fields) + b"}"}

    def reply(self, http: Any) -> Reply:
        def parse() -> Any:
            options = FinalRequestOptions.construct(method="post", url=self.path, **self.arguments["options"])
            return self.resource._client._process_response(
                cast_to=self.arguments["cast_to"], options=options, response=http, stream=False, stream_cls=None
            )

        return Reply(http, parse)


def _dump(items: Sequence[Any]) -> bytes:
    if isinstance(items[0], str):
        return json_bytes(items)
    return orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)


def _writable(resource: Any, items: Sequence[Any] | str, parameters: dict[str, Any]) -> bool:
    if "extra_body" in parameters or isinstance(items, str) or not _can_dump(items):
        return False
    # Lone surrogates are the client's own affair, here as among the texts.
    if not all(_is_unicode(value) for value in parameters.values() if isinstance(value, str)):
        return False
    # Azure's client looks into the body for the deployment.
    if type(resource._client) not in (openai.OpenAI, openai.AsyncOpenAI):
        return False
    if not all(type(value) in (str, int, bool) for name, value in parameters.items() if not name.startswith("extra_")):
        return False
    post = getattr(resource._post, "__func__", None)
    return post is type(resource._client).post and is_from(post, base_client) and _takes_bytes(resource._client)


def _can_dump(items: Sequence[Any]) -> bool:
    if not isinstance(items[0], str):
        return orjson is not None
    return {str}.issuperset(map(type, items)) and type(items) is list and _is_unicode("".join(items))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_take_bytes: dict[type, bool] = {}


def _takes_bytes(client: Any) -> bool:
    """Whether this release makes the same request of a body that is JSON already."""
    owner = type(client)
    if owner not in _take_bytes:
        body: dict[str, Any] = {"model": "é", "input": [[1, 2], [3], 'é\u2028"\\/\n\x7f']}
        try:
            by_client, by_us = (
                client._build_request(FinalRequestOptions.construct(method="post", url="/embeddings", **given))
                for given in ({"json_data": body}, {"content": json_bytes(body)})
            )
            _take_bytes[owner] = (
                "content" in inspect.signature(owner.post).parameters
                and by_client.content == by_us.content
                and by_client.url == by_us.url
                and by_client.headers.multi_items() == by_us.headers.multi_items()
            )
        except Exception:
            # An earlier release, or other internals: the client's own way is slower, and right.
            _take_bytes[owner] = False
    return _take_bytes[owner]
