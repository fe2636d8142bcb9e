"""The `openai` client: what it writes and sends with, and copies of a user's that send through something else."""

from __future__ import annotations

import copy
import json
from functools import cached_property
from types import FunctionType
from typing import Any, TypeVar

import openai._base_client as base_client
from openai._resource import AsyncAPIResource, SyncAPIResource

C = TypeVar("C")

#: The HTTP library of the installed openai release; a client given an older `httpx` sends with that.
HTTP_LIBRARY: Any = vars(base_client)["httpx2" if hasattr(base_client, "httpx2") else "httpx"]

_RESOURCES = (SyncAPIResource, AsyncAPIResource)


class StandIn:
    """Stands before an HTTP client and passes for it, but for what a subclass does otherwise.

    Pickling and copying see the client alone.
    """

    def __init__(self, http: Any) -> None:
        self._http = http

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # the openai client tells its kinds of client by isinstance
        return type(self._http)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_http"), name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._http.__reduce_ex__(protocol)


def json_bytes(value: Any) -> bytes:
    """A value as the client writes it into a request. Releases may differ: who relies on it compares.

    Raises:
        TypeError, ValueError: If it can't be written as JSON.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def client_of(client: Any) -> Any:
    """The client of a resource (`client.embeddings`); a client itself as it is."""
    return client._client if isinstance(client, _RESOURCES) else client


def through(client: C, http: Any) -> C:
    """A copy of an `openai` client, all settings the same, that sends through `http`."""
    # The client's own `copy` asks the environment again, and may forget an Azure endpoint's deployment.
    result = copy.copy(client)
    for attribute in list(vars(result)):
        if isinstance(getattr(type(client), attribute, None), cached_property):
            del vars(result)[attribute]  # resources, which send through the client that they were made for
    vars(result)["_client"] = http
    return result


def moved(client: Any, root: Any) -> Any:
    """What stands for `client`, a client or one of its resources, where `root` stands for the client."""
    if client_of(client) is client:
        return root
    return client if root is client._client or is_patched(client) else type(client)(root)


def is_patched(client: Any) -> bool:
    """True if a method was replaced on this very client or resource, or on a resource that it holds."""
    return any(
        isinstance(getattr(type(client), name, None), FunctionType)
        or (isinstance(value, _RESOURCES) and is_patched(value))
        for name, value in vars(client).items()
    )
