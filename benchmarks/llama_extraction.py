"""LlamaIndex's four metadata extractors one after the other: as documented, by hand, and us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from aaflow_plugins.hookspecs import hookimpl
from aaflow_plugins.plugins import plugin_manager
from benchmarks.chat_completions import Latency
from benchmarks.corpus import read_sample
from benchmarks.digests import of_nodes
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.openai_server import Connection, serving
from benchmarks.results import CaseResult

_RUN, _ARUN, _BY_HAND = "native `run`", "native `arun`", "twenty lines of asyncio"
_OURS, _OUR_ARUN = "ours (`run`)", "ours (`arun`)"
#: Half of the answers take longer than so many milliseconds; the standard deviation of the logarithm: 9 of 10 take
#: 50 to 500 ms.
_LATENCY = ("lognormal", 158, 0.7)
_NODES = 10

#: Nodes with their metadata, by nodes, extractors and a bound.
Way = Callable[[list[Any], list[Any], int], Sequence[Any]]


def native_run(nodes: list[Any], extractors: list[Any], _: int) -> Sequence[Any]:
    """The line in every tutorial."""
    made: Sequence[Any] = _pipeline(extractors).run(nodes=nodes)
    return made


def native_arun(nodes: list[Any], extractors: list[Any], _: int) -> Sequence[Any]:
    """The asynchronous call."""
    made: Sequence[Any] = asyncio.run(_pipeline(extractors).arun(nodes=nodes))
    return made


def by_hand(nodes: list[Any], extractors: list[Any], bound: int) -> Sequence[Any]:
    """Each document's title, and then each of its nodes through the rest, within one bound."""

    async def run() -> None:
        slots = asyncio.Semaphore(bound)
        title, *others = extractors

        async def node(one: Any) -> None:
            for extractor in others:
                async with slots:
                    await extractor.acall([one])

        async def document(some: list[Any]) -> None:
            async with slots:
                await title.acall(some)
            await asyncio.gather(*map(node, some))

        documents: dict[str, list[Any]] = {}
        for one in nodes:
            documents.setdefault(one.ref_doc_id, []).append(one)
        await asyncio.gather(*map(document, documents.values()))

    asyncio.run(run())
    return nodes


def ours(nodes: list[Any], extractors: list[Any], bound: int) -> Sequence[Any]:
    """The same pipeline, accelerated."""
    made: Sequence[Any] = _accelerated(extractors, bound).run(nodes=nodes)
    return made


def our_arun(nodes: list[Any], extractors: list[Any], bound: int) -> Sequence[Any]:
    """The asynchronous call of the same pipeline, accelerated."""
    made: Sequence[Any] = asyncio.run(_accelerated(extractors, bound).arun(nodes=nodes))
    return made


class _KnowsModel:
    """A plug-in that says of the model what is known of LlamaIndex's own client of OpenAI."""

    @hookimpl
    def aaflow_independent_answers(self, model: Any) -> bool | None:
        from benchmarks.llama_model import ServedModel

        return True if type(model) is ServedModel else None


def _pipeline(extractors: list[Any]) -> Any:
    from llama_index.core.ingestion import IngestionPipeline

    return IngestionPipeline(transformations=extractors)


def _accelerated(extractors: list[Any], bound: int) -> Any:
    from aaflow_plugins.executor import Executor
    from llama_index_aaflow import accelerate

    return accelerate(_pipeline(extractors), executor=Executor(max_concurrency=bound))


def _extractors(parameters: Mapping[str, Any]) -> list[Any]:
    from llama_index.core.extractors import (
        KeywordExtractor,
        QuestionsAnsweredExtractor,
        SummaryExtractor,
        TitleExtractor,
    )

    from benchmarks.llama_model import served_model

    kinds = (TitleExtractor, QuestionsAnsweredExtractor, SummaryExtractor, KeywordExtractor)
    model = served_model(f"{parameters['url']}/v1")
    return [kind(llm=model, num_workers=parameters["bound"], show_progress=False) for kind in kinds]


def _nodes(parameters: Mapping[str, Any]) -> list[Any]:
    """As many nodes of each document, real text."""
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.schema import Document

    def id_of(number: int, document: Any) -> str:
        return str(uuid5(NAMESPACE_URL, f"{document.node_id} {number}"))

    parser, nodes = SentenceSplitter(chunk_size=256, chunk_overlap=20, id_func=id_of), []
    for name, text in read_sample(parameters["corpus"]):
        made = parser.get_nodes_from_documents([Document(text=text, id_=name, metadata={"source": name})])
        if len(made) >= _NODES:
            nodes += made[:_NODES]
        if len(nodes) >= parameters["nodes"]:
            break
    return nodes


def _prepared(way: Way) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        if not plugin_manager().has_plugin("benchmark"):
            plugin_manager().register(_KnowsModel(), name="benchmark")
        bound, server = parameters["bound"], Connection(parameters["url"])

        def before() -> tuple[list[Any], list[Any]]:
            state = _nodes(parameters), _extractors(parameters)
            server.configure()
            return state

        def facts(nodes: Sequence[Any]) -> dict[str, float]:
            chat = server.stats()["chat"]
            if chat["max_in_flight"] > bound:
                raise RuntimeError(f"{chat['max_in_flight']} calls of the model were in flight, {bound} allowed")
            return {"nodes": float(len(nodes)), "calls": float(chat["requests"]), "floor": chat["latency"] / bound}

        return Work(
            run=lambda made: way(*made, bound),
            digest=of_nodes,
            # With a model of its own: an asynchronous client does not outlive the loop it was first used on.
            warm_up=lambda: way(_nodes(parameters)[:_NODES], _extractors(parameters), bound),
            before=before,
            facts=facts,
        )

    return prepare


@contextmanager
def _serve(case: Case) -> Iterator[Mapping[str, Any]]:
    with serving() as connection:
        connection.configure(chat_latency=Latency(*case.parameters["llm"]))
        yield {"url": connection.url}


def _cases(scale: Scale) -> list[Case]:
    sample = scale.corpora.sample("all", 300_000 if scale.quick else 3_000_000)
    count, bounds = (40, [8]) if scale.quick else (200, [16, 64])
    return [
        Case(
            f"{count} nodes, {bound} at once",
            {"nodes": count, "bound": bound, "llm": [*_LATENCY], **sample.parameters},
            tuple(contender.name for contender in BENCHMARK.contenders),
        )
        for bound in bounds
    ]


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    return [
        f"{case.default.fact('nodes'):,.0f} nodes, {case.default.fact('calls'):,.0f} calls of the model; all their "
        f"latency / {case.parameters['bound']} at once is {case.default.fact('floor'):.1f} s."
    ]


BENCHMARK = Benchmark(
    name="llama-extract",
    home="benchmarks.llama_extraction:BENCHMARK",
    title="LlamaIndex's metadata extractors, one after the other",
    protocol=(
        "TitleExtractor, QuestionsAnsweredExtractor, SummaryExtractor and KeywordExtractor in a pipeline with "
        "an empty cache. Timed: from nodes in memory to nodes with metadata. Before that: objects, and a warm-up on "
        f"{_NODES} nodes. There are {_NODES} nodes of each document. `num_workers` is the bound for all; natively "
        "TitleExtractor has four documents under way whatever it says. The model is a CustomLLM that calls the openai "
        "package's own client; a loopback server in a process of its own answers each prompt after a time drawn by its "
        f"hash, lognormal with a median of {_LATENCY[1]} ms, 9 of 10 within 50 to 500. More calls in flight than the "
        "bound fail the run. A plug-in says of this model what is known of LlamaIndex's OpenAI: answers depend on "
        "prompts alone. CPU is the client process's alone."
    ),
    metric="wall",
    contenders=(
        Contender(_RUN, "native", _prepared(native_run)),
        Contender(_ARUN, "native", _prepared(native_arun)),
        Contender(_BY_HAND, "native", _prepared(by_hand)),
        Contender(_OURS, "ours", _prepared(ours)),
        Contender(_OUR_ARUN, "ours", _prepared(our_arun)),
    ),
    cases=_cases,
    service=_serve,
    notes=_notes,
)
