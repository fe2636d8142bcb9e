"""Calls over borrowed connections against native ones: the same answers, and the pool left as it was."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import openai
import openai._base_client as base_client
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from aaflow_plugins import accelerate
from langchain_aaflow.openai_connections import borrowing

httpx: Any = vars(base_client)["httpx2" if hasattr(base_client, "httpx2") else "httpx"]

_numbers = itertools.count()
QUESTIONS = [f"question {number}" for number in range(60)]


class Server:
    """Answers each question with itself, after some milliseconds; counts connections.

    "close ..." closes the connection after the answer, "drop ..." in the middle of it, once for each such question.
    """

    def __init__(self) -> None:
        self.open = self.opened = self.most = 0
        self.asked: list[str] = []
        self.delay = 0.005
        self.url = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.opened += 1
        self.most = max(self.most, self.open)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                question = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
                await asyncio.sleep(self.delay)
                message = {"role": "assistant", "content": question}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                reply = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                body = json.dumps(reply).encode()
                first = question not in self.asked
                self.asked.append(question)
                closes = question.startswith("close")
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    + (b"Connection: close\r\n" if closes else b"")
                    + f"Content-Length: {len(body)}\r\n\r\n".encode()
                )
                if question.startswith("drop") and first:
                    writer.write(body[:10])
                    return
                writer.write(body)
                await writer.drain()
                if closes:
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


def model_at(url: str, **settings: Any) -> ChatOpenAI:
    # langchain-openai shares a client between models of the same timeout: this one is the test's own.
    return ChatOpenAI(base_url=url, api_key="key", model="m", timeout=900 + next(_numbers), **settings)


def pool_of(model: ChatOpenAI) -> Any:
    return model.root_async_client._client._transport._pool


async def ask(model: ChatOpenAI, questions: list[str], at_once: int = 20) -> list[str]:
    slots = asyncio.Semaphore(at_once)

    async def one(question: str) -> str:
        async with slots:
            return str((await model.ainvoke(question)).content)

    return await asyncio.gather(*map(one, questions))


def with_server(test: Callable[[Server], Any]) -> None:
    async def run() -> None:
        async with Server().serving() as server:
            await test(server)

    asyncio.run(run())


def test_the_pool_lends_what_is_idle_and_has_it_back() -> None:
    """Connections of a native batch serve ours, and ours the next native one."""

    async def test(server: Server) -> None:
        model = model_at(server.url)
        pool = pool_of(model)
        assert await ask(model, QUESTIONS) == QUESTIONS
        assert server.opened == len(pool._connections) == 20
        borrower = borrowing(model)
        assert borrower is not model
        for _ in range(2):
            calls = asyncio.create_task(ask(borrower, QUESTIONS))
            left = []
            while not calls.done():
                left.append(len(pool._connections))
                await asyncio.sleep(0.001)
            assert min(left) == 0
            assert calls.result() == QUESTIONS
            assert len(pool._connections) == 20
            assert all(connection.is_idle() for connection in pool._connections)
        assert await ask(model, QUESTIONS) == QUESTIONS
        assert server.opened == server.most == 20
        assert not pool._requests

    with_server(test)


def test_native_calls_at_the_same_time_keep_theirs() -> None:
    async def test(server: Server) -> None:
        model = model_at(server.url)
        both = await asyncio.gather(ask(model, QUESTIONS), ask(borrowing(model), QUESTIONS), ask(model, QUESTIONS))
        assert both == [QUESTIONS] * 3
        assert server.most <= 60
        assert len(pool_of(model)._connections) == server.open

    with_server(test)


@pytest.mark.parametrize("borrowed", [False, True])
def test_connections_that_the_server_closes(borrowed: bool) -> None:
    """After an answer, in the middle of one, and while they are idle: as natively, call by call."""

    async def test(server: Server) -> None:
        model = model_at(server.url, max_retries=2)
        caller = borrowing(model) if borrowed else model
        questions = [f"{'close' if n % 3 == 0 else 'drop' if n % 7 == 0 else 'plain'} {n}" for n in range(40)]
        assert await ask(caller, questions, 8) == questions
        dropped = sum(question.startswith("drop") for question in questions)
        assert len(server.asked) == len(questions) + dropped
        assert len(pool_of(model)._connections) == server.open <= 8

    with_server(test)


def test_an_idle_connection_that_the_server_has_closed_is_not_used() -> None:
    async def test(server: Server) -> None:
        model = model_at(server.url, max_retries=0)
        await ask(model, QUESTIONS)
        for connection in pool_of(model)._connections:
            raw = connection._connection._network_stream.get_extra_info("socket")
            raw.shutdown(2)
        await asyncio.sleep(0.01)
        assert await ask(borrowing(model), QUESTIONS) == QUESTIONS
        assert server.opened == 40

    with_server(test)


def test_the_pools_limits_hold() -> None:
    async def test(server: Server) -> None:
        limits = httpx.Limits(max_connections=7, max_keepalive_connections=3)
        client = httpx.AsyncClient(limits=limits)
        model = model_at(server.url, http_async_client=client)
        both = await asyncio.gather(ask(borrowing(model), QUESTIONS), ask(model, QUESTIONS))
        assert both == [QUESTIONS] * 2
        await asyncio.sleep(0.01)
        three = await asyncio.gather(*(ask(borrowing(model), QUESTIONS) for _ in range(3)))
        assert three == [QUESTIONS] * 3
        await asyncio.sleep(0.01)
        assert server.most <= 7
        assert server.open <= 3
        assert client._transport._pool._max_connections == 7
        await client.aclose()
        await asyncio.sleep(0.01)
        assert server.open == 0

    with_server(test)


def test_the_limits_hold_for_threads() -> None:
    async def test(server: Server) -> None:
        with httpx.Client(limits=httpx.Limits(max_connections=5)) as client:
            model = model_at(server.url, http_client=client)

            def answers(caller: ChatOpenAI) -> list[str]:
                with ThreadPoolExecutor(12) as pool:
                    return [str(answer.content) for answer in pool.map(caller.invoke, QUESTIONS)]

            callers = (borrowing(model), model, borrowing(model))
            found = await asyncio.gather(*(asyncio.to_thread(answers, caller) for caller in callers))
            assert found == [QUESTIONS] * 3
            assert server.most <= 5
            assert client._transport._pool._max_connections == 5

    with_server(test)


@pytest.mark.parametrize("borrowed", [False, True])
def test_a_client_that_is_closed_meanwhile(borrowed: bool) -> None:
    async def test(server: Server) -> None:
        server.delay = 0.1
        client = httpx.AsyncClient()
        model = model_at(server.url, http_async_client=client, max_retries=0)
        calls = asyncio.create_task(ask(borrowing(model) if borrowed else model, QUESTIONS))
        await asyncio.sleep(0.05)
        await client.aclose()
        # Which of them it is depends on the release of the openai package; natively, what is under way ends too.
        with pytest.raises((RuntimeError, openai.APIConnectionError)) as raised:
            await calls
        assert not borrowed or "has been closed" in f"{raised.value} {raised.value.__cause__}"
        await asyncio.sleep(0.3)
        assert server.open == 0 or not borrowed  # natively some stay open

    with_server(test)


@pytest.mark.parametrize("url", ["localhost:99/v1", "ftp://localhost/v1", "/v1"])
def test_addresses_that_are_none(url: str) -> None:
    model = model_at(url, max_retries=0)
    errors = []
    for caller in (model, borrowing(model)):
        for call in (lambda: caller.invoke("?"), lambda: asyncio.run(caller.ainvoke("?"))):  # noqa: B023
            with pytest.raises(openai.APIConnectionError) as raised:
                call()
            errors.append((type(raised.value), str(raised.value), repr(raised.value.__cause__)))
    assert errors[:2] == errors[2:]


def test_cancelled_calls_leave_no_connection_open_but_the_pools() -> None:
    async def test(server: Server) -> None:
        server.delay = 0.05
        model = model_at(server.url)
        calls = asyncio.create_task(ask(borrowing(model), QUESTIONS))
        await asyncio.sleep(0.12)
        calls.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls
        await asyncio.sleep(0.1)
        pool = pool_of(model)
        assert not pool._requests
        assert len(pool._connections) == server.open
        assert await ask(model, QUESTIONS[:5]) == QUESTIONS[:5]

    with_server(test)


def test_a_server_that_is_not_there() -> None:
    async def test(server: Server) -> None:
        model = model_at("http://127.0.0.1:1/v1", max_retries=1)
        errors = []
        for caller in (model, borrowing(model)):
            with pytest.raises(openai.APIConnectionError) as raised:
                await caller.ainvoke("anybody?")
            errors.append((type(raised.value), str(raised.value), type(raised.value.__cause__)))
        assert errors[0] == errors[1]
        assert not pool_of(model)._connections

    with_server(test)


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_a_batch_borrows(way: str) -> None:
    """An accelerated chain's connections are back in the pool of the user's model at its end."""

    async def test(server: Server) -> None:
        model = model_at(server.url)
        native = RunnableLambda(str) | model
        http = model.root_client._client if way == "batch" else model.root_async_client._client
        for chain in (accelerate(native), native, accelerate(native)):
            bound: Any = {"max_concurrency": 10}
            if way == "batch":
                answers = await asyncio.to_thread(chain.batch, QUESTIONS, bound)
            else:
                answers = await chain.abatch(QUESTIONS, bound)
            assert [answer.content for answer in answers] == QUESTIONS
            assert len(http._transport._pool._connections) == server.open == server.opened == server.most <= 10
            assert not http._transport._pool._requests

    with_server(test)


def test_threads_borrow_while_others_have_native_calls() -> None:
    async def test(server: Server) -> None:
        model = model_at(server.url, max_retries=2)
        borrower = borrowing(model)
        questions = [f"{'close' if n % 3 == 0 else 'drop' if n % 7 == 0 else 'plain'} {n}" for n in range(200)]

        def answers(caller: ChatOpenAI, number: int) -> list[str]:
            asked = [f"{question} of {number}" for question in questions]
            with ThreadPoolExecutor(8) as pool:
                return [str(answer.content).split(" of ")[0] for answer in pool.map(caller.invoke, asked)]

        callers = enumerate((model, borrower, borrower, borrowing(model)))
        found = await asyncio.gather(*(asyncio.to_thread(answers, caller, number) for number, caller in callers))
        assert found == [questions] * 4
        await asyncio.sleep(0.02)
        assert len(model.root_client._client._transport._pool._connections) == server.open <= 32

    with_server(test)


class OwnClient(httpx.AsyncClient):  # type: ignore[misc]
    async def send(self, *args: Any, **kwargs: Any) -> Any:
        return await super().send(*args, **kwargs)


class SigningClient(httpx.AsyncClient):  # type: ignore[misc]
    def build_request(self, *args: Any, **kwargs: Any) -> Any:
        request = super().build_request(*args, **kwargs)
        request.headers["x-sign"] = "yes"
        return request


class OwnTransport(httpx.AsyncHTTPTransport):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    "client",
    [
        OwnClient,
        SigningClient,
        lambda: httpx.AsyncClient(transport=OwnTransport()),
        lambda: httpx.AsyncClient(proxy="http://127.0.0.1:1"),
        lambda: httpx.AsyncClient(mounts={"http://": httpx.AsyncHTTPTransport()}),
        lambda: httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200))),
    ],
)
def test_other_clients_are_left_alone(client: Callable[[], Any]) -> None:
    model = model_at("http://127.0.0.1:1/v1", http_async_client=client())
    borrower = borrowing(model)
    assert borrower.root_async_client is model.root_async_client
    assert borrower.root_client is not model.root_client


def test_other_models_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    azure = AzureChatOpenAI(azure_endpoint="http://x", azure_deployment="d", api_version="2024-06-01", api_key="k")
    assert borrowing(azure) is azure
    model = model_at("http://127.0.0.1:1/v1")

    async def answered(*_: Any) -> Any:
        raise AssertionError

    # What answers in the place of servers is asked.
    monkeypatch.setattr(type(pool_of(model)), "handle_async_request", answered)
    assert borrowing(model).root_async_client is model.root_async_client
