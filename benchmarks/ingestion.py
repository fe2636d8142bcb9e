"""From documents to a filled FAISS store: the framework's default, what users write instead, and us.

One set of contenders for two workloads: a local static model, where the model's own work is most of it, and hosted
embeddings with latency, by the real OpenAI client against a loopback server that is the same for all.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import read_documents
from benchmarks.digests import of_faiss_store
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.openai_server import Connection, serving
from benchmarks.results import CaseResult, ContenderResult, Spread

if TYPE_CHECKING:
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_text_splitters import TextSplitter

#: Calls in flight of every contender that has several.
IN_FLIGHT = 16
_DIMENSION = 1536
#: A warm-up takes documents of so many characters: enough that no contender takes a way for tiny inputs.
_WARM_UP = 40_000
_DEFAULT, _ADVISED, _TWENTY_LINES, _OURS = (
    "native default",
    "native, as its docs advise (async)",
    "twenty lines of asyncio",
    "ours (ingest)",
)
_SPLITTER, _REQUESTS = "the splitter alone", "the requests alone"

Way = Callable[["list[Document]", "TextSplitter", "Embeddings", int], "FAISS"]


# -- the contenders --------------------------------------------------------------------------------------


def native_default(documents: list[Document], splitter: TextSplitter, embeddings: Embeddings, size: int) -> FAISS:
    """The line in every tutorial."""
    from langchain_community.vectorstores import FAISS

    return FAISS.from_documents(splitter.split_documents(documents), embeddings)


def as_advised(documents: list[Document], splitter: TextSplitter, embeddings: Embeddings, size: int) -> FAISS:
    """The asynchronous calls, a bounded number of them at once; then one call for the store."""
    from langchain_community.vectorstores import FAISS

    async def embed_all(texts: list[str]) -> list[list[float]]:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def embed(part: list[str]) -> list[list[float]]:
            async with slots:
                return await embeddings.aembed_documents(part)

        parts = await asyncio.gather(*(embed(texts[i : i + size]) for i in range(0, len(texts), size)))
        return [vector for part in parts for vector in part]

    chunks = splitter.split_documents(documents)
    texts = [chunk.page_content for chunk in chunks]
    vectors = asyncio.run(embed_all(texts))
    return FAISS.from_embeddings(
        list(zip(texts, vectors, strict=True)), embeddings, [chunk.metadata for chunk in chunks]
    )


def twenty_lines(documents: list[Document], splitter: TextSplitter, embeddings: Embeddings, size: int) -> FAISS:
    """The same, but what has come is stored, in order, while the rest is under way."""
    from langchain_community.vectorstores import FAISS

    async def run() -> FAISS:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def embed(part: list[Document]) -> list[tuple[str, list[float]]]:
            texts = [chunk.page_content for chunk in part]
            async with slots:
                vectors = await embeddings.aembed_documents(texts)
            return list(zip(texts, vectors, strict=True))

        chunks = splitter.split_documents(documents)
        parts = [chunks[i : i + size] for i in range(0, len(chunks), size)]
        tasks = [asyncio.create_task(embed(part)) for part in parts]
        store = None
        for part, task in zip(parts, tasks, strict=True):
            metadatas = [chunk.metadata for chunk in part]
            if store is None:
                store = FAISS.from_embeddings(await task, embeddings, metadatas)
            else:
                store.add_embeddings(await task, metadatas)
        assert store is not None
        return store

    return asyncio.run(run())


def ours(documents: list[Document], splitter: TextSplitter, embeddings: Embeddings, size: int) -> FAISS:
    """One call; requests, their sizes and their number in flight are the embeddings' own."""
    from langchain_community.vectorstores import FAISS

    from langchain_aaflow import ingest

    return ingest(documents, splitter=splitter, embedding=embeddings, vectorstore=FAISS)


def _splitter() -> TextSplitter:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)


def _splitter_alone(parameters: Mapping[str, Any]) -> Work:
    from langchain_aaflow import accelerate

    documents = read_documents(parameters["corpus"])
    splitter = accelerate(_splitter())
    return Work(
        run=lambda _: splitter.split_documents(documents),
        warm_up=lambda: splitter.split_documents(documents[:3]),
        facts=lambda chunks: {"chunks": float(len(chunks))},
    )


def _cases(scale: Scale, cases: Mapping[str, Mapping[str, Any]], contenders: Sequence[Contender]) -> list[Case]:
    sample = scale.corpora.sample("all", 1_000_000 if scale.quick else 16_000_000)
    names = tuple(contender.name for contender in contenders)
    return [Case(name, {**own, **sample.parameters}, names, sample.megabytes) for name, own in cases.items()]


# -- a local model ---------------------------------------------------------------------------------------


def _local(way: Way) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        from langchain_aaflow.wordllama import WordLlamaEmbeddings

        documents = read_documents(parameters["corpus"])
        few = read_documents(parameters["corpus"], _WARM_UP)
        splitter, embeddings, size = _splitter(), WordLlamaEmbeddings(), parameters["texts_a_call"]
        return Work(
            run=lambda _: way(documents, splitter, embeddings, size),
            digest=of_faiss_store,
            warm_up=lambda: way(few, splitter, embeddings, size),
            facts=lambda store: {"chunks": float(store.index.ntotal)},
        )

    return prepare


def _local_cases(scale: Scale) -> list[Case]:
    megabytes = 1 if scale.quick else 16
    name = f"{megabytes} MB of text, WordLlama (256 floats), FAISS"
    return _cases(scale, {name: {"texts_a_call": 1000}}, LOCAL.contenders)


def _local_notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    return [f"{case.default.fact('chunks'):,.0f} chunks. The model itself works on the CPU and is the same for all."]


LOCAL = Benchmark(
    name="ingest-local",
    home="benchmarks.ingestion:LOCAL",
    title="Ingestion with a local model",
    protocol=(
        "Timed: from a list of documents in memory to the filled store (RecursiveCharacterTextSplitter 1000/200, the "
        "static model inside the `wordllama` package, FAISS). Before that: reading, the objects, and a warm-up over "
        f"{_WARM_UP:,} characters, which loads the model. The asynchronous contenders embed 1,000 texts a call, "
        f"{IN_FLIGHT} at once, on threads."
    ),
    metric="wall",
    contenders=(
        Contender(_DEFAULT, "native", _local(native_default)),
        Contender(_ADVISED, "native", _local(as_advised)),
        Contender(_TWENTY_LINES, "native", _local(twenty_lines)),
        Contender(_OURS, "ours", _local(ours)),
        Contender(_SPLITTER, "part", _splitter_alone),
    ),
    cases=_local_cases,
    notes=_local_notes,
)


# -- hosted embeddings -----------------------------------------------------------------------------------


def _embeddings(parameters: Mapping[str, Any]) -> Any:
    from langchain_openai import OpenAIEmbeddings
    from pydantic import SecretStr

    return OpenAIEmbeddings(
        base_url=f"{parameters['url']}/v1",
        api_key=SecretStr("none"),
        model="text-embedding-3-small",
        chunk_size=parameters["texts_a_request"],
    )


def _server(parameters: Mapping[str, Any]) -> Connection:
    return Connection(parameters["url"])


def _reset(parameters: Mapping[str, Any]) -> float:
    """Count the server's requests from here on; returns its CPU seconds so far."""
    _server(parameters).configure()
    return float(_server(parameters).stats()["cpu_seconds"])


def _hosted(way: Way) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        documents = read_documents(parameters["corpus"])
        few = read_documents(parameters["corpus"], _WARM_UP)
        splitter, embeddings, size = _splitter(), _embeddings(parameters), parameters["texts_a_request"]
        server_cpu = 0.0

        def before() -> None:
            nonlocal server_cpu
            server_cpu = _reset(parameters)

        def facts(store: FAISS) -> dict[str, float]:
            stats = _server(parameters).stats()
            return {
                "chunks": float(store.index.ntotal),
                "requests": float(stats["requests"]),
                "items": float(stats["items"]),
                "most_in_flight": float(stats["max_in_flight"]),
                "server_cpu": stats["cpu_seconds"] - server_cpu,
            }

        return Work(
            run=lambda _: way(documents, splitter, embeddings, size),
            digest=of_faiss_store,
            # With embeddings of its own: an asynchronous client does not outlive the loop it was first used on.
            warm_up=lambda: way(few, splitter, _embeddings(parameters), size),
            before=before,
            facts=facts,
        )

    return prepare


def _requests_alone(parameters: Mapping[str, Any]) -> Work:
    """The very requests, made by the client and not decoded: what latency and client cost if nothing else does."""
    from langchain_aaflow.openai_embedder import OpenAIEmbedder
    from openai_aaflow.requests import native_input

    embeddings = _embeddings(parameters)
    texts = [chunk.page_content for chunk in _splitter().split_documents(read_documents(parameters["corpus"]))]
    inputs = [native_input(request.payload.items) for request in OpenAIEmbedder(embeddings).compose([texts])]
    options = {"model": embeddings.model, "encoding_format": "base64"}

    async def send(client: Any, chosen: list[Any]) -> None:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def one(items: Any) -> None:
            async with slots:
                await client.with_raw_response.create(input=items, **options)

        await asyncio.gather(*map(one, chosen))

    latencies = [parameters["base_ms"] / 1000 + parameters["item_ms"] / 1000 * len(items) for items in inputs]
    facts = {"requests": float(len(inputs)), "latency": sum(latencies), "waves": makespan(latencies, IN_FLIGHT)}
    return Work(
        run=lambda _: asyncio.run(send(embeddings.async_client, inputs)),
        warm_up=lambda: asyncio.run(send(_embeddings(parameters).async_client, [inputs[0][:10]])),
        facts=lambda _: facts,
    )


def makespan(durations: Sequence[float], slots: int) -> float:
    """Seconds until all are done if at any time `slots` of them run, started in order."""
    free = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def _hosted_cases(scale: Scale) -> list[Case]:
    latencies = [(20, 1.5)] if scale.quick else [(20, 1.5), (50, 0.5)]
    sizes = [64] if scale.quick else [1000, 256]
    cases = {
        f"{base} ms + {item} ms an item, {size:,} texts a request": {
            "base_ms": base,
            "item_ms": item,
            "texts_a_request": size,
        }
        for base, item in latencies
        for size in sizes
    }
    return _cases(scale, cases, HOSTED.contenders)


@contextmanager
def _serve(case: Case) -> Iterator[Mapping[str, Any]]:
    with serving(case.parameters["base_ms"], case.parameters["item_ms"], _DIMENSION) as connection:
        yield {"url": connection.url}


def _hosted_notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    splitter, requests = case.named(_SPLITTER), case.named(_REQUESTS)
    assert splitter is not None
    assert requests is not None
    latency = (requests.fact("latency") or 0.0) / IN_FLIGHT
    parts = [splitter.spread("cpu").median, requests.spread("cpu").median]
    floor = latency + sum(parts)
    made = [f"{each.name} {each.fact('requests'):,.0f}" for each in case.contenders if each.fact("items") is not None]
    return [
        f"{case.default.fact('chunks'):,.0f} chunks; requests: {', '.join(made)}.",
        f"Floor: {requests.fact('latency'):.2f} s of latency / {IN_FLIGHT} in flight = {latency:.2f} s, + the "
        f"splitter's CPU {parts[0]:.2f} s, + the client's CPU {parts[1]:.2f} s = {floor:.2f} s. Requests are not "
        f"divisible: {IN_FLIGHT} at a time, the latency alone takes {requests.fact('waves'):.2f} s.",
        "Wall time over the floor: " + "; ".join(_over(each, floor) for each in case.contenders if each.role != "part"),
    ]


def _over(contender: ContenderResult, floor: float) -> str:
    wall: Spread = contender.spread("wall")
    return f"{contender.name} {wall.median / floor:.2f}x"


HOSTED = Benchmark(
    name="ingest-openai",
    home="benchmarks.ingestion:HOSTED",
    title="Ingestion with hosted embeddings",
    protocol=(
        "Timed: from a list of documents in memory to the filled store (RecursiveCharacterTextSplitter 1000/200, "
        f"OpenAIEmbeddings with vectors of {_DIMENSION} floats, FAISS). The server is a process of its own on the "
        "same machine, one for all contenders and repeats of a case, with the latency that the case states for every "
        f"request of everybody; it bounds no one's concurrency. Before that: reading, the objects, and a warm-up over "
        f"{_WARM_UP:,} characters by the same contender. All contenders have the same embeddings settings; those "
        f"with several requests in flight have {IN_FLIGHT}. CPU is the client process's alone."
    ),
    metric="wall",
    contenders=(
        Contender(_DEFAULT, "native", _hosted(native_default)),
        Contender(_ADVISED, "native", _hosted(as_advised)),
        Contender(_TWENTY_LINES, "native", _hosted(twenty_lines)),
        Contender(_OURS, "ours", _hosted(ours)),
        Contender(_SPLITTER, "part", _splitter_alone),
        Contender(_REQUESTS, "part", _requests_alone),
    ),
    cases=_hosted_cases,
    service=_serve,
    notes=_hosted_notes,
)
