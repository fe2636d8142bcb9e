"""Connections of an `openai` client's pool, lent to the calls of one batch.

At the beginning and at the end of every request httpcore's pool looks at all of its connections. With 64 calls in
flight that is a fifth of what a call costs (0.3 of 1.5 ms), with a thousand more than half. The calls of one batch all
go to one place, so any idle connection will do. They take the pool's idle ones, have it make more, keep them between
themselves, and give them all back as soon as none of them is under way: before and after, the pool is as it would
natively be.
"""

from __future__ import annotations

import copy
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import openai
from langchain_openai import ChatOpenAI
from openai.resources.chat.completions import AsyncCompletions, Completions

from aaflow_plugins.known_code import is_from
from langchain_aaflow.openai_chat_requests import sending_through
from openai_aaflow.clients import HTTP_LIBRARY, is_patched

M = TypeVar("M")


def borrowing(model: M) -> M:
    """A copy of `model` for the calls of one batch; the model itself where its connections aren't known.

    Args:
        model: Any chat model. It is not changed.
    """
    if type(model) is not ChatOpenAI:
        return model
    result: Any = model
    for side in (_SYNC, _ASYNC):
        root: Any = getattr(model, f"root_{side.client}", None)
        resource = getattr(model, side.client, None)
        if (type(root), type(resource)) != (side.openai_class, side.resource_class):
            continue
        if not is_patched(root) and not is_patched(resource) and side.knows(root._client):
            http = side.http_client(root._client)
            result = sending_through(result, http, asynchronous=side is _ASYNC)
    copied: M = result
    return copied


class _Lender:
    """A pool's connections to one place, and those of them that nobody uses at the moment.

    What it has is no longer the pool's, whose limit is lowered by as much.
    """

    def __init__(self, pool: Any, http: Any) -> None:
        self._pool, self._http = pool, http
        self._origin: Any = None
        self._idle: deque[Any] = deque()
        self._in_use = 0

    def take(self, url: Any) -> tuple[Any, list[Any]]:
        """A connection, idle or new, or None where the pool is to see to the request; and expired ones to be closed."""
        pool, expired = self._pool, []
        if url.scheme not in (b"http", b"https"):
            return None, []
        # Of threads; for an asynchronous pool it does nothing, nor does it need to.
        with pool._optional_thread_lock:
            self._origin = self._origin or url.origin
            if url.origin != self._origin:
                return None, []
            # The oldest first, as the pool does it: those that an event loop has left behind are found out.
            while (connection := self._idle.popleft() if self._idle else self._borrow()) is not None:
                if not connection.has_expired():
                    break
                expired.append(connection)
                pool._max_connections += 1
            if connection is None and len(pool._connections) < pool._max_connections:
                connection = pool.create_connection(self._origin)
                pool._max_connections -= 1
            if connection is not None:
                self._in_use += 1
        return connection, expired

    def _borrow(self) -> Any:
        pool = self._pool
        reserved = {id(request.connection) for request in pool._requests}
        for number, connection in enumerate(pool._connections):
            if connection.is_idle() and id(connection) not in reserved and connection.can_handle_request(self._origin):
                pool._max_connections -= 1
                return pool._connections.pop(number)
        return None

    def give_back(self, connection: Any) -> list[Any]:
        """Take a connection back whose request has ended, one way or another; those that are to be closed."""
        pool = self._pool
        with pool._optional_thread_lock:
            self._in_use -= 1
            waited_for = any(request.is_queued() for request in pool._requests)
            most = 0 if self._http.is_closed else pool._max_keepalive_connections
            closing = []
            if connection.is_idle() and not connection.is_closed() and len(self._idle) < most:
                self._idle.append(connection)
            else:
                closing.append(connection)
                pool._max_connections += 1
            if not self._in_use or waited_for:
                self._return_all()
            if waited_for:
                closing += pool._assign_requests_to_connections()
        return [each for each in closing if not each.is_closed()]

    def _return_all(self) -> None:
        self._pool._connections.extend(self._idle)
        self._pool._max_connections += len(self._idle)
        self._idle.clear()


class _Pool:
    """Passes for the pool."""

    def __init__(self, pool: Any, http: Any) -> None:
        self._pool, self._lender = pool, _Lender(pool, http)

    def handle_request(self, request: Any) -> Any:
        """What the pool's own method does."""
        connection, expired = self._lender.take(request.url)
        try:
            for old in expired:
                old.close()
            if connection is None:
                return self._pool.handle_request(request)
            response = connection.handle_request(request)
        except BaseException:
            if connection is not None:
                self.release(connection)
            raise
        return _with_content(response, _Content(response.stream, self, connection))

    def release(self, connection: Any) -> None:
        """Note that its request has ended."""
        for each in self._lender.give_back(connection):
            each.close()

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


class _AsyncPool:
    """Passes for an asynchronous pool."""

    def __init__(self, pool: Any, http: Any) -> None:
        self._pool, self._lender = pool, _Lender(pool, http)

    async def handle_async_request(self, request: Any) -> Any:
        """What the pool's own method does."""
        connection, expired = self._lender.take(request.url)
        try:
            for old in expired:
                await old.aclose()
            if connection is None:
                return await self._pool.handle_async_request(request)
            response = await connection.handle_async_request(request)
        except BaseException:
            if connection is not None:
                await self.release(connection)
            raise
        return _with_content(response, _AsyncContent(response.stream, self, connection))

    async def release(self, connection: Any) -> None:
        """Note that its request has ended."""
        for each in self._lender.give_back(connection):
            await each.aclose()

    async def aclose(self) -> None:
        """Close the pool."""
        await self._pool.aclose()


class _Content:
    """The body of a response; when it is closed, the connection is free."""

    def __init__(self, stream: Any, pool: Any, connection: Any) -> None:
        self._stream, self._pool, self._connection = stream, pool, connection
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        """Close it; more than once is allowed."""
        if not self._closed:
            self._closed = True
            try:
                self._stream.close()
            finally:
                self._pool.release(self._connection)


class _AsyncContent(_Content):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        """Close it; more than once is allowed."""
        if not self._closed:
            self._closed = True
            try:
                await self._stream.aclose()
            finally:
                await self._pool.release(self._connection)


def _with_content(response: Any, content: Any) -> Any:
    return type(response)(
        status=response.status, headers=response.headers, content=content, extensions=response.extensions
    )


def _own_classes(http: Any, http_class: type) -> list[type]:
    return [cls for cls in type(http).__mro__ if cls not in http_class.__mro__]


def _is_librarys(cls: type) -> bool:
    """Whether a class of clients is the openai package's or langchain-openai's, which add defaults and an end."""
    return cls.__module__.partition(".")[0] in ("openai", "langchain_openai")


class _Copied:
    """A copy of a client that is open and closed with it."""

    @property
    def _state(self) -> Any:
        return vars(self)["_original"]._state

    @_state.setter
    def _state(self, state: Any) -> None:
        vars(self)["_original"]._state = state


class _CopiedClient(_Copied, HTTP_LIBRARY.Client):  # type: ignore[misc]
    pass


class _CopiedAsyncClient(_Copied, HTTP_LIBRARY.AsyncClient):  # type: ignore[misc]
    pass


@dataclass(frozen=True)
class _Side:
    """The classes of synchronous clients, or of asynchronous ones."""

    client: str
    openai_class: type
    resource_class: type
    http_class: Any
    copy_class: Any
    transport_class: Any
    handle: str
    pool_class: type

    def knows(self, http: Any) -> bool:
        """Whether a client sends all its requests through a plain pool of HTTP/1.1 connections."""
        if not isinstance(http, self.http_class) or not all(map(_is_librarys, _own_classes(http, self.http_class))):
            return False
        transport = http._transport
        pool = getattr(transport, "_pool", None)
        handle = getattr(type(pool), self.handle, None)
        return (
            type(transport) is self.transport_class
            and not http._mounts
            and handle is not None
            and handle.__qualname__ in ("ConnectionPool.handle_request", "AsyncConnectionPool.handle_async_request")
            # Tools that answer requests in the place of servers put themselves here.
            and is_from(handle, sys.modules.get(handle.__module__))
            and not {self.handle, "send"} & {*vars(http), *vars(transport), *vars(pool)}
            and getattr(pool, "_http2", True) is False
            and getattr(pool, "_proxy", None) is None
            and hasattr(pool, "_optional_thread_lock")
            and isinstance(getattr(pool, "_connections", None), list)
            and isinstance(getattr(pool, "_requests", None), list)
            and hasattr(pool, "_assign_requests_to_connections")
        )

    def http_client(self, http: Any) -> Any:
        """A copy of a known client that borrows connections."""
        transport = copy.copy(http._transport)
        transport._pool = self.pool_class(transport._pool, http)
        # Not of the client's class, which closes what it sends through when nobody holds it any more.
        result = object.__new__(self.copy_class)
        result.__dict__ = {**vars(http), "_transport": transport, "_original": http}
        return result


_SYNC = _Side(
    client="client",
    openai_class=openai.OpenAI,
    resource_class=Completions,
    http_class=HTTP_LIBRARY.Client,
    copy_class=_CopiedClient,
    transport_class=HTTP_LIBRARY.HTTPTransport,
    handle="handle_request",
    pool_class=_Pool,
)
_ASYNC = _Side(
    client="async_client",
    openai_class=openai.AsyncOpenAI,
    resource_class=AsyncCompletions,
    http_class=HTTP_LIBRARY.AsyncClient,
    copy_class=_CopiedAsyncClient,
    transport_class=HTTP_LIBRARY.AsyncHTTPTransport,
    handle="handle_async_request",
    pool_class=_AsyncPool,
)
