"""LlamaIndex's `IngestionPipeline`, from documents to nodes with embeddings: as documented, by hand, and us.

One set of contenders for two workloads: hosted embeddings with latency, by the real OpenAI client against a loopback
server that is the same for all, and a static model on this CPU.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.corpus import llama_documents, read_sample
from benchmarks.digests import of_nodes
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.ingestion import IN_FLIGHT
from benchmarks.measure import Work
from benchmarks.openai_server import Connection, serving
from benchmarks.results import CaseResult

_DIMENSION = 384
#: Texts a call of the local model.
LOCAL_BATCH = 256
#: A warm-up takes documents of so many characters.
_WARM_UP = 40_000
_RUN, _ARUN, _TWENTY_LINES, _OURS = (
    "native `run`",
    f"native `arun`, {IN_FLIGHT} workers",
    "twenty lines of asyncio",
    "ours (`run`)",
)
_OUR_ARUN = f"ours (`arun`), {IN_FLIGHT} workers"
_OUR_PARSER, _OUR_MODEL = "ours, the parser alone", "ours, the model alone"

#: Documents to nodes with embeddings, by a parser and an embedding model.
Way = Callable[[list[Any], Any, Any], Sequence[Any]]


# -- the contenders --------------------------------------------------------------------------------------


def _pipeline(parser: Any, model: Any) -> Any:
    from llama_index.core.ingestion import IngestionPipeline

    return IngestionPipeline(transformations=[parser, model])


def native_run(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """The line in every tutorial."""
    nodes: Sequence[Any] = _pipeline(parser, model).run(documents=documents)
    return nodes


def native_arun(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """The asynchronous call, as many requests at once as the model's `num_workers` says."""
    model.num_workers = IN_FLIGHT
    nodes: Sequence[Any] = asyncio.run(_pipeline(parser, model).arun(documents=documents))
    return nodes


def twenty_lines(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """Batches of documents, embedded while the next are parsed in a thread."""
    from llama_index.core.schema import MetadataMode

    async def run() -> list[Any]:
        slots = asyncio.Semaphore(IN_FLIGHT)
        size = model.embed_batch_size

        async def embed(batch: list[Any]) -> None:
            async with slots:
                texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in batch]
                for node, row in zip(batch, await model.aget_text_embedding_batch(texts), strict=True):
                    node.embedding = row

        nodes: list[Any] = []
        tasks = []
        for document in documents:
            nodes += await asyncio.to_thread(parser.get_nodes_from_documents, [document])
            while len(nodes) - size * len(tasks) >= size:
                tasks.append(asyncio.create_task(embed(nodes[size * len(tasks) : size * (len(tasks) + 1)])))
        await asyncio.gather(*tasks, embed(nodes[size * len(tasks) :]))
        return nodes

    return asyncio.run(run())


def ours(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """The same pipeline, accelerated."""
    from llama_index_aaflow import accelerate

    nodes: Sequence[Any] = accelerate(_pipeline(parser, model)).run(documents=documents)
    return nodes


def our_arun(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """The asynchronous call of the same pipeline, accelerated."""
    from llama_index_aaflow import accelerate

    model.num_workers = IN_FLIGHT
    nodes: Sequence[Any] = asyncio.run(accelerate(_pipeline(parser, model)).arun(documents=documents))
    return nodes


def our_parser(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """The native pipeline with an accelerated parser: what the parser gives."""
    from llama_index_aaflow import accelerate

    return native_run(documents, accelerate(parser), model)


def our_model(documents: list[Any], parser: Any, model: Any) -> Sequence[Any]:
    """The native pipeline with an accelerated model: what requests side by side give."""
    from llama_index_aaflow import accelerate

    return native_run(documents, parser, accelerate(model))


def _work(way: Way, model: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        from llama_index.core.node_parser import SentenceSplitter
        from llama_index.core.schema import Document

        texts = read_sample(parameters["corpus"])
        documents = llama_documents(texts)
        longest = max((text for _, text in texts), key=len)
        few = [*documents[:3], Document(text=longest[:_WARM_UP])]

        def parser() -> Any:
            return SentenceSplitter(chunk_size=parameters["size"], chunk_overlap=parameters["overlap"])

        def facts(nodes: Sequence[Any]) -> dict[str, float]:
            own = {"nodes": float(len(nodes))}
            if "url" in parameters:
                stats = Connection(parameters["url"]).stats()
                own |= {"requests": float(stats["requests"]), "most_in_flight": float(stats["max_in_flight"])}
            if "floor" in parameters:
                own["model_alone"] = _model_alone(nodes, model(parameters))
            return own

        return Work(
            run=lambda made: way(documents, *made),
            digest=of_nodes,
            # With a model of its own: an asynchronous client does not outlive the loop it was first used on.
            warm_up=lambda: way(few, parser(), model(parameters)),
            before=lambda: (_reset(parameters), (parser(), model(parameters)))[1],
            facts=facts,
        )

    return prepare


def _model_alone(nodes: Sequence[Any], model: Any) -> float:
    """Seconds that the model takes for the batches of a pipeline, one after another, with nothing beside it."""
    from llama_index.core.schema import MetadataMode

    texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    start = time.perf_counter()
    for first in range(0, len(texts), model.embed_batch_size):
        model.get_text_embedding_batch(texts[first : first + model.embed_batch_size])
    return time.perf_counter() - start


def _reset(parameters: Mapping[str, Any]) -> None:
    if "url" in parameters:
        Connection(parameters["url"]).configure()


def _contenders(model: Callable[[Mapping[str, Any]], Any]) -> tuple[Contender, ...]:
    return (
        Contender(_RUN, "native", _work(native_run, model)),
        Contender(_ARUN, "native", _work(native_arun, model)),
        Contender(_TWENTY_LINES, "native", _work(twenty_lines, model)),
        Contender(_OURS, "ours", _work(ours, model)),
        Contender(_OUR_ARUN, "ours", _work(our_arun, model)),
        Contender(_OUR_PARSER, "ours", _work(our_parser, model)),
        Contender(_OUR_MODEL, "ours", _work(our_model, model)),
    )


def _cases(scale: Scale, cases: Mapping[str, Mapping[str, Any]], contenders: Sequence[str]) -> list[Case]:
    sample = scale.corpora.sample("all", 300_000 if scale.quick else 10_000_000)
    sizes = {"size": 256, "overlap": 20}
    return [
        Case(name, {**own, **sizes, **sample.parameters}, tuple(contenders), sample.megabytes)
        for name, own in cases.items()
    ]


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    return [f"{case.default.fact('nodes'):,.0f} nodes."]


_PROTOCOL = (
    "Timed: from a list of documents in memory to nodes with embeddings (SentenceSplitter 256/20, the pipeline's cache "
    "as it is by default, empty; the twenty lines have none). Before that: reading, the objects, and a warm-up on "
    f"three documents and {_WARM_UP:,} characters. "
)


# -- hosted embeddings -----------------------------------------------------------------------------------


def hosted_model(parameters: Mapping[str, Any]) -> Any:
    """The real client of the case's server."""
    from llama_index.embeddings.openai import OpenAIEmbedding

    return OpenAIEmbedding(
        model="text-embedding-3-small", api_base=f"{parameters['url']}/v1", api_key="none", max_retries=1
    )


@contextmanager
def serve(case: Case) -> Iterator[dict[str, Any]]:
    """The server of a case's hosted model."""
    with serving(case.parameters["base_ms"], case.parameters["item_ms"], _DIMENSION) as connection:
        yield {"url": connection.url}


def _hosted_cases(scale: Scale) -> list[Case]:
    latencies = [(20, 1.5)] if scale.quick else [(20, 1.5), (50, 0.5)]
    cases = {f"{base} ms + {item} ms an item": {"base_ms": base, "item_ms": item} for base, item in latencies}
    return _cases(scale, cases, [contender.name for contender in HOSTED.contenders])


HOSTED = Benchmark(
    name="llama-ingest-openai",
    home="benchmarks.llama_ingestion:HOSTED",
    title="LlamaIndex's IngestionPipeline with hosted embeddings",
    protocol=(
        _PROTOCOL + f"`OpenAIEmbedding` with vectors of {_DIMENSION} floats, 100 texts a request. The server is a "
        "process of its own on the same machine, with the latency that the case states for every request of "
        f"everybody. Who has several requests in flight has {IN_FLIGHT}. CPU is the client process's alone."
    ),
    metric="wall",
    contenders=_contenders(hosted_model),
    cases=_hosted_cases,
    service=serve,
    notes=_notes,
)


# -- a local model ---------------------------------------------------------------------------------------


def local_model(_: Mapping[str, Any]) -> Any:
    """A static model, which computes in this process."""
    from llama_index_aaflow.wordllama import WordLlamaEmbedding

    return WordLlamaEmbedding(embed_batch_size=LOCAL_BATCH)


def _local_cases(scale: Scale) -> list[Case]:
    # The model's asynchronous calls are its blocking ones, and nothing of it is accelerated.
    return _cases(scale, {"WordLlama (256 floats)": {"floor": True}}, (_RUN, _ARUN, _OURS))


def _walls(case: CaseResult) -> dict[str, float]:
    return {each.name: each.spread("wall").median for each in case.contenders}


def _local_notes(case: CaseResult, results: Sequence[CaseResult]) -> list[str]:
    walls = _walls(case)
    alone = case.default.fact("model_alone")
    return [
        *_notes(case, results),
        f"The model alone, called for the same batches one after another in the same processes afterwards, takes "
        f"{alone:.2f} s: a pipeline that costs nothing is {walls[_RUN] / alone:.2f}x as fast as native `run`. Ours "
        f"takes {walls[_OURS] / alone:.2f} times as long as the model.",
    ]


LOCAL = Benchmark(
    name="llama-ingest-local",
    home="benchmarks.llama_ingestion:LOCAL",
    title="LlamaIndex's IngestionPipeline with a local model",
    protocol=(
        _PROTOCOL
        + f"The static model inside the `wordllama` package, {LOCAL_BATCH} texts a call; it is the same for all."
    ),
    metric="wall",
    contenders=_contenders(local_model),
    cases=_local_cases,
    notes=_local_notes,
)
