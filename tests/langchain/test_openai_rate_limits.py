"""Models that share their endpoint's limit against the native ones: real clients, a real server that refuses."""

from __future__ import annotations

import asyncio
import copy
import gc
import itertools
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import httpx as httpx1
import openai
import openai._base_client as base_client
import pytest
from aiohttp import web
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings, ChatOpenAI, OpenAIEmbeddings

from aaflow_plugins import Executor, accelerate
from aaflow_plugins.rate_limits import RateLimiter, limiter_of
from benchmarks.openai_server import Connection, Fault, OpenAIServer, Settings
from langchain_aaflow import aingest, ingest, openai_rate_limits
from langchain_aaflow.openai_conditions import native_reason
from langchain_aaflow.openai_rate_limits import limited

#: Minutes of waiting for a server: not again with every set of versions.
pytestmark = pytest.mark.slow

#: The HTTP library of the installed openai release; it takes clients of the older one too.
httpx: Any = vars(base_client)["httpx2" if hasattr(base_client, "httpx2") else "httpx"]

_numbers = itertools.count()
QUESTIONS = [f"question {number}" for number in range(200)]


@pytest.fixture
def key() -> str:
    """An account of its own, so that nothing learnt in another test counts."""
    return f"key-{next(_numbers)}"


@pytest.fixture
def limiters(monkeypatch: pytest.MonkeyPatch) -> list[RateLimiter]:
    """The limiters that requests have passed, each once."""
    seen: list[RateLimiter] = []

    def spy(endpoint: Any) -> RateLimiter:
        limiter = limiter_of(endpoint)
        if limiter not in seen:
            seen.append(limiter)
        return limiter

    monkeypatch.setattr(openai_rate_limits, "limiter_of", spy)
    return seen


def model_of(owner: type, url: str, key: str, **settings: Any) -> Any:
    # langchain-openai shares connections between models of the same timeout; those of another test's loop are dead.
    settings = {"api_key": key, "model": "text-embedding-3-small", "timeout": 1000 + next(_numbers), **settings}
    if issubclass(owner, AzureChatOpenAI | AzureOpenAIEmbeddings):
        return owner(azure_endpoint=url, azure_deployment="deployed", api_version="2024-06-01", **settings)
    return owner(base_url=f"{url}/v1", **settings)


MODELS = [ChatOpenAI, AzureChatOpenAI, OpenAIEmbeddings, AzureOpenAIEmbeddings]


def call(model: Any, text: str) -> Any:
    return model.invoke(text).content if isinstance(model, BaseChatModel) else model.embed_query(text)


async def acall(model: Any, text: str) -> Any:
    if isinstance(model, BaseChatModel):
        return (await model.ainvoke(text)).content
    return await model.aembed_query(text)


# -- the same object ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", MODELS)
def test_the_copy_is_the_same_but_for_its_clients(owner: type, key: str) -> None:
    """Class, settings, representation and serialization; the model handed in keeps its own clients."""
    model = model_of(owner, "http://127.0.0.1:1", key, max_retries=5, timeout=7, default_headers={"X-Test": "1"})
    before = dict(vars(model))
    copied = limited(model)
    assert type(copied) is owner
    assert dict(vars(model)) == before
    changed = {name for name, value in vars(copied).items() if value is not before[name]}
    assert changed == {name for name in before if name.endswith("client") and "http" not in name}
    assert re.sub("0x[0-9a-f]+", "", repr(copied)) == re.sub("0x[0-9a-f]+", "", repr(model))
    assert re.sub("0x[0-9a-f]+", "", str(dumpd(copied))) == re.sub("0x[0-9a-f]+", "", str(dumpd(model)))
    assert copied.model_dump() == model.model_dump()
    assert copied.model_fields_set == model.model_fields_set
    for name in changed:
        ours, native = vars(copied)[name], vars(model)[name]
        assert type(ours) is type(native)
        if isinstance(native, openai.OpenAI | openai.AsyncOpenAI):
            assert ours._client._http is native._client
            assert ours.chat.completions._client is ours
            assert native.chat.completions._client is native
        elif isinstance(model, BaseChatModel):
            assert ours._client is vars(copied)[f"root_{name}"]
        else:
            assert ours._client._client._http is native._client._client
            assert (ours._client.max_retries, ours._client.timeout) == (5, 7)


def test_it_is_idempotent_and_takes_other_objects_as_they_are(key: str) -> None:
    """A copy of a copy has the same clients; what isn't known comes back."""

    class Own(ChatOpenAI):
        pass

    once = limited(model_of(ChatOpenAI, "http://127.0.0.1:1", key))
    assert limited(once).root_client is once.root_client
    for other in (model_of(Own, "http://127.0.0.1:1", key), None, 1, ChatOpenAI):
        assert limited(other) is other


@pytest.mark.parametrize("copying", [copy.deepcopy, pickle.dumps])
def test_what_the_native_object_refuses_is_refused(copying: Callable[[Any], Any], key: str) -> None:
    """Clients hold locks: neither form of the object can be pickled or copied to the bottom."""
    for model in (native := model_of(ChatOpenAI, "http://127.0.0.1:1", key), limited(native)):
        with pytest.raises(TypeError, match="cannot pickle"):
            copying(model)


def test_clients_that_somebody_changed_stay_theirs(openai_server: Connection, key: str) -> None:
    """Instrumentation of one object, as tracing tools do it, goes on seeing every call."""
    model = model_of(ChatOpenAI, openai_server.url, key)
    seen = []
    create = model.root_client.chat.completions.with_raw_response.create
    model.client.create = lambda **arguments: seen.append(arguments) or create(**arguments).parse()
    copied = limited(model)
    assert copied.client is model.client
    assert copied.root_client is model.root_client
    assert copied.root_async_client is not model.root_async_client


def test_without_retries_the_refusal_is_the_users(openai_server: Connection, key: str) -> None:
    """A model with max_retries=0 keeps its clients; a fallback for it comes as soon as natively."""
    model = model_of(ChatOpenAI, openai_server.url, key, max_retries=0)
    assert limited(model).root_client is model.root_client
    assert limited(model).async_client is model.async_client


# -- the same requests and answers -------------------------------------------------------------------------------


def sent(server: Connection) -> list[tuple[bytes, list[list[str]]]]:
    """Bodies and headers received, but for a key that each request draws anew."""
    headers = [[header for header in headers if header[0] != "Idempotency-Key"] for headers in server.headers()]
    return list(zip(server.bodies(), headers, strict=True))


@pytest.mark.parametrize("owner", MODELS)
async def test_requests_are_the_same(owner: type, openai_server: Connection, key: str) -> None:
    """Path, headers and body, to the byte, of calls and streams in both forms."""

    async def use(model: Any) -> list[Any]:
        openai_server.configure(record=True)
        results = [call(model, "one"), await acall(model, "two")]
        if isinstance(model, BaseChatModel):
            results += [chunk.content for chunk in model.stream("three")]
            results += [chunk.content async for chunk in model.astream("four")]
            results.append(str(model.bind(max_tokens=3).invoke("five").content))
        else:
            results += [model.embed_documents(["a", "b", "c"]), await model.aembed_documents(["d", "e"])]
        return [*results, sent(openai_server)]

    model = model_of(owner, openai_server.url, key, default_headers={"X-Test": "1"})
    assert await use(limited(model)) == await use(model)


@pytest.mark.parametrize("library", sorted({httpx1, httpx}, key=lambda library: library.__name__))
async def test_the_users_own_http_clients_are_used(library: Any, openai_server: Connection, key: str) -> None:
    """Their hooks see the requests, their classes' methods are called, and they stay open when the copy goes."""
    seen: list[str] = []

    class Client(library.Client):  # type: ignore[misc, name-defined]
        def send(self, *arguments: Any, **options: Any) -> Any:
            seen.append("send")
            return super().send(*arguments, **options)

    async def note(_: Any) -> None:
        seen.append("async hook")

    with Client(event_hooks={"request": [lambda _: seen.append("hook")]}) as client:
        async with library.AsyncClient(event_hooks={"request": [note]}) as async_client:
            model = model_of(ChatOpenAI, openai_server.url, key, http_client=client, http_async_client=async_client)
            copied = limited(model)
            assert copied.invoke("one").content == model.invoke("one").content
            assert (await copied.ainvoke("two")).content == (await model.ainvoke("two")).content
            del copied
            gc.collect()
            assert not client.is_closed
            assert not async_client.is_closed
    assert seen == ["send", "hook"] * 2 + ["async hook"] * 2


async def test_each_outlives_the_other(openai_server: Connection, key: str) -> None:
    """Connections are shared: collecting the copy leaves the model's open, and the other way round."""
    model = model_of(OpenAIEmbeddings, openai_server.url, key)
    limited(model)
    gc.collect()
    vector = model.embed_query("text")
    copied = limited(model)
    del model
    gc.collect()
    assert copied.embed_query("text") == await copied.aembed_query("text") == vector


def test_a_closed_client_is_closed_for_both(openai_server: Connection, key: str) -> None:
    """And says so in the same words, whatever the openai release makes of it."""
    model = model_of(OpenAIEmbeddings, openai_server.url, key, max_retries=1)
    copied = limited(model)
    copied.client._client.close()
    assert model.client._client.is_closed()
    assert copied.client._client.is_closed()
    errors = []
    for each in (model, copied):
        with pytest.raises((RuntimeError, openai.APIConnectionError)) as caught:
            each.embed_query("text")
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


async def test_a_connection_that_fails_raises_the_same(key: str, limiters: list[RateLimiter]) -> None:
    """Nobody listens there; nothing is left in flight, and nothing is learnt."""
    model = limited(model_of(ChatOpenAI, "http://127.0.0.1:1", key, max_retries=1))
    with pytest.raises(openai.APIConnectionError):
        model.invoke("text")
    with pytest.raises(openai.APIConnectionError):
        await model.ainvoke("text")
    assert [(limiter.bound, limiter.in_flight) for limiter in limiters] == [(None, 0)]


async def test_who_is_cancelled_leaves_nothing_in_flight(
    openai_server: Connection, key: str, limiters: list[RateLimiter]
) -> None:
    """A call under way, and one that waits for its endpoint."""
    openai_server.configure(faults=[Fault([1, 2], status=429, retry_after=60, api="chat")])
    model = limited(model_of(ChatOpenAI, openai_server.url, key, max_retries=1))
    tasks = [asyncio.create_task(model.ainvoke("text")) for _ in range(2)]
    while not limiters or limiters[0].bound is None:
        await asyncio.sleep(0.001)
    tasks.append(asyncio.create_task(model.ainvoke("text")))
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    assert all(isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*tasks, return_exceptions=True))
    assert limiters[0].in_flight == 0
    assert not limiters[0]._lines


def test_other_accounts_models_and_apis_have_limits_of_their_own(
    openai_server: Connection, key: str, limiters: list[RateLimiter]
) -> None:
    """Two objects for the same account and model share one."""
    for account, model, owner in [
        (key, "a", ChatOpenAI),
        (key, "a", ChatOpenAI),
        (key, "b", ChatOpenAI),
        (key + "'", "a", ChatOpenAI),
        (key, "a", OpenAIEmbeddings),
    ]:
        call(limited(owner(base_url=openai_server.base_url, api_key=account, model=model)), "text")
    assert len(limiters) == 4


# -- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("max_retries", [1, 3])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_retries_run_out_as_natively(
    asynchronous: bool, max_retries: int, status: int, openai_server: Connection, key: str
) -> None:
    """As many requests, and the same error with the same text."""
    outcomes = []
    model = model_of(ChatOpenAI, openai_server.url, key, max_retries=max_retries)
    for each in (model, limited(model)):
        openai_server.configure(faults=[Fault(list(range(1, 100)), status=status, retry_after=0.01, api="chat")])
        with pytest.raises(openai.APIStatusError) as caught:
            await acall(each, "text") if asynchronous else call(each, "text")
        outcomes.append((type(caught.value), str(caught.value), openai_server.stats()["chat"]["requests"]))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2] == max_retries + 1


def response(status: int, **headers: str) -> Any:
    return httpx.Response(status, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_what_counts_as_a_refusal() -> None:
    """Too many requests, unless trying again is said to be in vain; and a pause that is asked for."""
    judged = {
        "succeeded": [response(200), response(204, retry_after="5")],
        "failed": [response(400), response(500), response(503), response(429, x_should_retry="false")],
        "limited": [response(429), response(429, retry_after="2"), response(503, retry_after="2")],
    }
    for answer, responses in judged.items():
        for one in responses:
            assert openai_rate_limits._judged(one)[0].name.lower() == answer


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry_after": "2"},
        {"retry_after": "0.25"},
        {"retry_after_ms": "250"},
        {"retry_after_ms": "250", "retry_after": "9"},
        {"retry_after_ms": "soon", "retry_after": "9"},
        {"retry_after": "0"},
        {"retry_after": "-1"},
        {"retry_after": "59"},
        {"retry_after": "100000"},
        {"retry_after": "1e999"},
        {"retry_after": "nan"},
        {"retry_after": "soon"},
        {"retry_after": formatdate(time.time() + 30, usegmt=True)},
        {"retry_after": formatdate(time.time() - 30, usegmt=True)},
        {"retry_after": formatdate(time.time() + 7200, usegmt=True)},
    ],
)
def test_waits_are_read_as_the_client_reads_them(headers: dict[str, str]) -> None:
    """The client's own wait, where it is the server's; nothing where the client goes by a rule of its own."""
    client = openai.OpenAI(api_key="none")
    options = base_client.FinalRequestOptions(method="post", url="/")
    answer = response(429, **headers)
    natively = {client._calculate_retry_timeout(2, options, answer.headers) for _ in range(2)}
    ours = openai_rate_limits._retry_after(answer.headers)
    # A rule of its own draws at random.
    if len(natively) == 2 and max(natively) < 1:
        assert ours == 0
    else:
        assert ours == pytest.approx(max(natively), abs=1)


class RefusingServer(OpenAIServer):
    """The loopback server with an endpoint that takes `cap` requests at once and refuses more."""

    def __init__(self, cap: int, retry_after: float | None = None) -> None:
        super().__init__(Settings(base_ms=5, item_ms=0, dim=8))
        self.cap = cap
        self.retry_after = retry_after
        self.taken = self.refused = 0
        self.arrivals: list[float] = []
        self.last_refusal = 0.0
        self.url = ""

    def application(self) -> web.Application:
        app = super().application()
        app.middlewares.append(self.refuse)
        return app

    @web.middleware
    async def refuse(self, request: web.Request, handler: Any) -> Any:
        self.arrivals.append(time.monotonic())
        if self.taken >= self.cap:
            self.refused += 1
            self.last_refusal = time.monotonic()
            headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
            return web.json_response({"error": {"message": "too many requests"}}, status=429, headers=headers)
        self.taken += 1
        try:
            await asyncio.sleep(0.05)
            return await handler(request)
        finally:
            self.taken -= 1


@contextmanager
def serving(server: RefusingServer) -> Iterator[RefusingServer]:
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.application(), access_log=None)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=256).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def in_threads(model: Any) -> list[Any]:
    with ThreadPoolExecutor(64) as pool:
        return list(pool.map(lambda text: call(model, text), QUESTIONS))


def on_a_loop(model: Any) -> list[Any]:
    async def run() -> list[Any]:
        slots = asyncio.Semaphore(64)

        async def one(text: str) -> Any:
            async with slots:
                return await acall(model, text)

        return await asyncio.gather(*map(one, QUESTIONS))

    return asyncio.run(run())


def both_at_once(model: Any) -> list[Any]:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(in_threads, model), pool.submit(on_a_loop, model)
        return first.result() + second.result()


@pytest.mark.parametrize(
    ("owner", "run"), [(ChatOpenAI, in_threads), (ChatOpenAI, on_a_loop), (OpenAIEmbeddings, both_at_once)]
)
def test_refusals_become_few(owner: type, run: Callable[[Any], list[Any]], key: str) -> None:
    """64 callers of an endpoint that takes 8: a quarter of native's after the first burst, and the same results."""
    refused, results = [], []
    for prepare in (lambda model: model, limited):
        with serving(RefusingServer(cap=8, retry_after=0.02)) as server:
            results.append(run(prepare(model_of(owner, server.url, key, max_retries=1000))))
            refused.append(server.refused)
    assert results[0] == results[1]
    assert refused[1] > 0
    assert refused[1] - (64 - 8) <= refused[0] / 4


def test_all_callers_wait_when_one_is_refused(key: str, limiters: list[RateLimiter]) -> None:
    """After the refusals of the first burst nobody asks before the time that the endpoint named."""
    with serving(RefusingServer(cap=0, retry_after=0.4)) as server:
        model = limited(model_of(ChatOpenAI, server.url, key, max_retries=5))
        with ThreadPoolExecutor(8) as pool:
            burst = [pool.submit(call, model, text) for text in QUESTIONS[:4]]
            while server.refused < 4 or limiters[0].in_flight:
                time.sleep(0.001)
            server.cap = 100
            later = [pool.submit(call, model, text) for text in QUESTIONS[4:8]]
            for future in burst + later:
                future.result()
        assert len(server.arrivals) == 12
        assert sorted(server.arrivals)[4] >= server.last_refusal + 0.4


def test_a_stream_being_read_holds_nobody_up(key: str, limiters: list[RateLimiter]) -> None:
    """Neither a call made while reading, nor anybody when the reading is given up."""
    with serving(RefusingServer(cap=0, retry_after=0.01)) as server:
        model = limited(model_of(ChatOpenAI, server.url, key))
        with pytest.raises(openai.RateLimitError):
            model.invoke("teaches a bound of 1")
        assert limiters[0].bound == 1
        server.cap = 100
        began = time.monotonic()
        for _, _ in zip(model.stream("outer"), range(2), strict=False):
            model.invoke("inner")
        assert time.monotonic() - began < 5
    assert limiters[0].in_flight == 0


def test_before_a_refusal_nothing_is_bounded(openai_server: Connection, key: str, limiters: list[RateLimiter]) -> None:
    """64 callers are 64 at once, as natively, and nobody waits in line."""
    openai_server.configure(base_ms=2000)
    model = limited(model_of(OpenAIEmbeddings, openai_server.url, key))
    with ThreadPoolExecutor(64) as pool:
        list(pool.map(model.embed_query, QUESTIONS[:64]))
    assert openai_server.stats()["max_in_flight"] > 32
    assert [(limiter.bound, limiter.in_flight) for limiter in limiters] == [(None, 0)]


# -- together with the fast path for embeddings --------------------------------------------------------------------


@pytest.mark.parametrize("owner", [OpenAIEmbeddings, AzureOpenAIEmbeddings])
@pytest.mark.parametrize("order", ["limited first", "accelerated first"])
async def test_accelerated_embeddings_pass_the_limiter(
    order: str, owner: type[OpenAIEmbeddings], openai_server: Connection, key: str, limiters: list[RateLimiter]
) -> None:
    """The fast path stays taken, its requests pass, and the vectors are the native ones."""
    native = model_of(owner, openai_server.url, key, chunk_size=10)
    model = accelerate(limited(native)) if order == "limited first" else limited(accelerate(native))
    assert native_reason(model) is None
    openai_server.configure(faults=[Fault([2, 3], status=429, retry_after=0.01)])
    assert model.embed_documents(QUESTIONS) == native.embed_documents(QUESTIONS)
    assert await model.aembed_documents(QUESTIONS) == await native.aembed_documents(QUESTIONS)
    (limiter,) = limiters
    assert limiter.bound is not None
    assert limiter.in_flight == 0


# -- together with stores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_queries", [False, True])
async def test_queries_of_a_batch_pass_the_limiter(
    batch_queries: bool, openai_server: Connection, key: str, limiters: list[RateLimiter]
) -> None:
    """One query a request or many: refusals are shared, the documents are the native ones, the object is untouched."""
    embeddings = model_of(OpenAIEmbeddings, openai_server.url, key, chunk_size=10)
    store = InMemoryVectorStore.from_texts(QUESTIONS[:100], embeddings)
    native = store.as_retriever(search_kwargs={"k": 2}) | RunnableLambda(repr)
    expected, before = native.batch(QUESTIONS[:50]), dict(vars(embeddings))
    assert not limiters
    for asynchronous in (False, True):
        fast = accelerate(native, batch_queries=batch_queries)
        openai_server.configure(faults=[Fault([2, 3], status=429, retry_after=0.01)])
        questions = QUESTIONS[:50]
        assert (await fast.abatch(questions) if asynchronous else fast.batch(questions)) == expected
    (limiter,) = limiters
    assert limiter.bound is not None
    assert limiter.in_flight == 0
    assert store.embeddings is embeddings
    assert dict(vars(embeddings)) == before


@pytest.mark.parametrize("skip_empty", [False, True], ids=["fast", "native"])
async def test_an_ingestion_passes_the_limiter(
    skip_empty: bool, openai_server: Connection, key: str, limiters: list[RateLimiter]
) -> None:
    """By the fast path and without one, tiny or planned; the store holds the very object that was handed over."""
    embeddings = model_of(OpenAIEmbeddings, openai_server.url, key, chunk_size=10, skip_empty=skip_empty)
    documents = [Document(text) for text in QUESTIONS]
    expected = [entry["vector"] for entry in InMemoryVectorStore.from_documents(documents, embeddings).store.values()]
    assert not limiters
    for executor in (None, Executor()):
        for asynchronous in (False, True):
            openai_server.configure(faults=[Fault([2, 3], status=429, retry_after=0.01)])
            arguments: Any = {"splitter": None, "embedding": embeddings, "executor": executor}
            arguments["vectorstore"] = InMemoryVectorStore
            store = await aingest(documents, **arguments) if asynchronous else ingest(documents, **arguments)
            assert [entry["vector"] for entry in store.store.values()] == expected
            assert store.embeddings is embeddings
    (limiter,) = limiters
    assert limiter.bound is not None
    assert limiter.in_flight == 0
