"""Real text through LlamaIndex's IngestionPipeline on 1, 2 and 4 workers, beside Ray, Dask and worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from aaflow_plugins.engines.launching import rank_environment
from aaflow_plugins.prediction import costs_of
from aaflow_plugins.shards import blocks
from benchmarks.corpus import read_sample
from benchmarks.digests import of_nodes
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.results import CaseResult, ContenderResult
from benchmarks.scaling_fit import compared, efficiency, report_of
from benchmarks.scaling_peers import dask_cluster, start_ray
from benchmarks.scaling_shape import WORKERS, Done, count, digest, warm

#: Texts a call of the model, for all contenders.
_BATCH = 256
#: One text of so many is in the smaller run, which tells what a rank takes whatever its share.
_FEWER = 5
#: Characters that a warm-up takes of a text.
_WARM_UP = 20_000

Way = Callable[[list[Any], list[Any]], Sequence[Any]]


def transformations() -> list[Any]:
    """The parser and the model of all contenders."""
    from llama_index.core.node_parser import SentenceSplitter

    from llama_index_aaflow.wordllama import WordLlamaEmbedding

    return [SentenceSplitter(chunk_size=256, chunk_overlap=20), WordLlamaEmbedding(embed_batch_size=_BATCH)]


def documents(path: str) -> list[Any]:
    """A sample as LlamaIndex's documents."""
    from llama_index.core.schema import Document

    return [Document(text=text, id_=name, metadata={"source": name}) for name, text in read_sample(path)]


def by_document(nodes: Sequence[Any]) -> list[bytes]:
    """A checksum for the nodes of each document."""
    groups: dict[str, list[Any]] = {}
    for node in nodes:
        groups.setdefault(node.ref_doc_id, []).append(node)
    return [f"{name} {of_nodes(group)}".encode() for name, group in groups.items()]


# -- the contenders --------------------------------------------------------------------------------------


def _pipeline(steps: list[Any]) -> Any:
    from llama_index.core.ingestion import IngestionPipeline

    return IngestionPipeline(transformations=steps, disable_cache=True)


def native(given: list[Any], steps: list[Any]) -> Sequence[Any]:
    """The line in every tutorial."""
    nodes: Sequence[Any] = _pipeline(steps).run(documents=given)
    return nodes


def on_two_processes(given: list[Any], steps: list[Any]) -> Sequence[Any]:
    """The native pipeline with two worker processes."""
    nodes: Sequence[Any] = _pipeline(steps).run(documents=given, num_workers=2)
    return nodes


def ours(gather: str) -> Way:
    """The accelerated pipeline; rank 0 leads, or each rank takes a block of the documents."""

    def run(given: list[Any], steps: list[Any]) -> Sequence[Any]:
        from aaflow_plugins.executor import Executor
        from llama_index_aaflow import accelerate

        nodes: Sequence[Any] = accelerate(_pipeline(steps), executor=Executor(gather=gather)).run(documents=given)
        return nodes

    return run


def our_parser(given: list[Any], steps: list[Any]) -> Sequence[Any]:
    """The first stage alone."""
    return ours("shards")(given, steps[:1])


def _share_cores(parameters: Mapping[str, Any], workers: int) -> None:
    """Leave as many cores as there are workers, where the case says so, and share them out as `aaflow launch` does.

    This process and what it starts from now on keep to it.
    """
    if parameters["core_a_worker"]:
        cores = sorted(os.sched_getaffinity(0))[:workers]
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)
    os.environ.update(rank_environment(workers))


def _work(way: Way, workers: int = 1, every: int = 1) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        _share_cores(parameters, workers)
        given = documents(parameters["corpus"])[::every]
        few = [type(each)(text=each.text[:_WARM_UP], id_=each.id_) for each in given[:8]]

        def warm_up() -> None:
            warm()
            way(few, transformations())

        return Work(
            run=lambda steps: way(given, steps),
            digest=lambda nodes: digest(Done(by_document(nodes))),
            warm_up=warm_up,
            before=transformations,
            facts=lambda nodes: {"rows": float(count(len(nodes)))},
        )

    return prepare


def _part(way: Way, workers: int = 1, every: int = 1) -> Callable[[Mapping[str, Any]], Work]:
    return lambda parameters: replace(_work(way, workers, every)(parameters), digest=None)


# -- the same on Ray and Dask ----------------------------------------------------------------------------


class Ingesting:
    """What a worker has: the native pipeline, and the nodes it has made."""

    def __init__(self) -> None:
        self._steps = transformations()
        self._nodes: list[Any] = []

    def ingest(self, given: list[tuple[str, str]]) -> int:
        """Make nodes of texts, which stay here."""
        from llama_index.core.schema import Document

        made = [Document(text=text, id_=name, metadata={"source": name}) for name, text in given]
        self._nodes += native(made, self._steps)
        return len(self._nodes)

    def checksums(self) -> list[bytes]:
        """Of what is here."""
        return by_document(self._nodes)

    def forget(self) -> None:
        """Begin anew."""
        self._nodes.clear()


def _peer(call: Callable[[int], tuple[Callable[[list[Any]], object], Callable[[str], list[Any]]]], workers: int) -> Any:
    """A contender with workers that begin before anything is timed.

    Args:
        call: For a number of workers: what has blocks of texts ingested, and what calls a method of all workers.
        workers: How many.
    """

    def prepare(parameters: Mapping[str, Any]) -> Work:
        _share_cores(parameters, workers)
        texts = read_sample(parameters["corpus"])
        own = blocks([len(text) for _, text in texts], 4 * workers)
        parts = [texts[part.start : part.stop] for part in own if part]
        ingest, everywhere = call(workers)
        few = [[(name, text[:_WARM_UP]) for name, text in texts[:4]] for _ in range(2 * workers)]
        return Work(
            run=lambda _: ingest(parts),
            digest=lambda _: digest(Done([each for found in everywhere("checksums") for each in found])),
            warm_up=lambda: ingest(few),
            before=lambda: everywhere("forget"),
        )

    return prepare


def _ray(workers: int) -> tuple[Callable[[list[Any]], object], Callable[[str], list[Any]]]:
    ray = start_ray(workers)
    actors = [ray.remote(Ingesting).remote() for _ in range(workers)]

    def ingest(parts: list[Any]) -> object:
        pool = ray.util.ActorPool(actors)
        return list(pool.map_unordered(lambda actor, part: actor.ingest.remote(part), parts))

    return ingest, lambda method: ray.get([getattr(actor, method).remote() for actor in actors])


_here: list[Ingesting] = []


def at_worker(method: str, *given: Any) -> Any:
    """A call of this process's own worker, which begins with the first."""
    if not _here:
        _here.append(Ingesting())
    return getattr(_here[0], method)(*given)


def _dask(workers: int) -> tuple[Callable[[list[Any]], object], Callable[[str], list[Any]]]:
    from dask import compute, delayed

    client = dask_cluster(workers)
    ingested = delayed(at_worker, pure=False, traverse=False)

    def ingest(parts: list[Any]) -> object:
        return compute(*[ingested("ingest", part) for part in parts], scheduler=client)

    return ingest, lambda method: list(client.run(at_worker, method).values())


# -- the cases -------------------------------------------------------------------------------------------

_NATIVE = "native `run`"


def _ours(workers: int, gather: str = "shards") -> str:
    return f"ours ({gather}), {workers} ranks" if workers > 1 else "ours, 1 rank"


def _parsed(workers: int) -> str:
    return f"the parser alone, {_ours(workers)}"


def _fewer(name: str) -> str:
    return f"{name}, one text of {_FEWER}"


def _contenders() -> tuple[Contender, ...]:
    found = [
        Contender(_NATIVE, "native", _work(native)),
        Contender(_ours(1), "ours", _work(ours("shards"))),
        Contender(_parsed(1), "part", _part(our_parser)),
        Contender(_fewer(_ours(1)), "part", _part(ours("shards"), every=_FEWER)),
        Contender(_fewer(_parsed(1)), "part", _part(our_parser, every=_FEWER)),
    ]
    found.append(Contender("native `run`, 2 processes", "native", _work(on_two_processes, 2)))
    for workers in WORKERS[1:]:
        found += [
            Contender(f"Ray, {workers} actors", "native", _peer(_ray, workers)),
            Contender(f"Dask, {workers} workers", "native", _peer(_dask, workers)),
            Contender(_ours(workers, "root"), "ours", _work(ours("root"), workers), ranks=workers),
            Contender(_ours(workers), "ours", _work(ours("shards"), workers), ranks=workers),
            Contender(_parsed(workers), "part", _part(our_parser, workers), ranks=workers),
        ]
    return tuple(found)


def _cases(scale: Scale) -> list[Case]:
    sample = scale.corpora.sample("all", 300_000 if scale.quick else 20_000_000)
    names = [contender.name for contender in BENCHMARK.contenders]

    def case(title: str, *left_out: str, core_a_worker: bool = False) -> Case:
        return Case(
            f"SentenceSplitter 256/20, WordLlama (256 floats){title}",
            {"batch": _BATCH, "core_a_worker": core_a_worker, **sample.parameters},
            tuple(name for name in names if not any(word in name for word in left_out)),
            sample.megabytes,
        )

    if scale.quick:  # starting what takes part takes most of the time
        return [case("", "processes", "Dask", "4 ")]
    if not hasattr(os, "sched_setaffinity"):
        return [case("")]
    return [case(""), case("; a core a worker", "processes", "Ray", "Dask", "root", core_a_worker=True)]


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    documents = case.parameters["corpus_files"]
    by_name = {each.name: each for each in case.contenders}
    first = by_name[_ours(1)]
    fewer, parsed = by_name[_fewer(_ours(1))], by_name[_fewer(_parsed(1))]
    costs = costs_of(
        [
            report_of(_stages(first, by_name[_parsed(1)]), first, documents, _BATCH),
            report_of(_stages(fewer, parsed), fewer, ceil(documents / _FEWER), _BATCH),
        ]
    )
    lines = [f"{first.fact('rows'):,.0f} nodes. On 1 rank ours has {costs.cores:.2f} cores at work."]
    for workers in WORKERS[1:]:
        found = {gather: by_name.get(_ours(workers, gather)) for gather in ("shards", "root")}
        measured = {gather: each for gather, each in found.items() if each is not None}
        if not measured:
            continue
        gains = [f"{efficiency(first, each, workers)}, {_gain(first, each):.2f}x" for each in measured.values()]
        lines.append(f"Parallel efficiency and gain against ours on 1 rank: {'; '.join(gains)}.")
        for gather, each in measured.items():
            stages = _stages(each, by_name[_parsed(workers)]) if gather == "shards" else {}
            lines.append(compared(costs, documents, workers, gather, stages, each))
    peaks = [
        f"{each.name} {peak / 2**20:,.0f} MiB"
        for each in case.contenders
        if (peak := each.fact("largest_peak") or (each is first and each.peak_extra and each.peak_extra.median))
    ]
    return [*lines, f"Largest extra peak of memory of a rank: {', '.join(peaks)}."]


def _stages(whole: ContenderResult, parser: ContenderResult) -> dict[str, float]:
    split = parser.spread("wall").median
    return {"split": split, "embed": whole.spread("wall").median - split}


def _gain(first: ContenderResult, each: ContenderResult) -> float:
    return first.spread("wall").median / each.spread("wall").median


BENCHMARK = Benchmark(
    name="scaling-text",
    home="benchmarks.scaling_text:BENCHMARK",
    title="LlamaIndex's IngestionPipeline on 1, 2 and 4 workers",
    protocol=(
        "Timed: from a list of documents in memory to nodes with embeddings, by a parser and a static model that both "
        f"compute in the worker, {_BATCH} texts a call, without the pipeline's cache. With shards, and with Ray and "
        "Dask, the nodes stay with their workers; at root, and with native worker processes, they come to the caller. "
        "Ranks, actors and workers begin before anything is timed, native worker processes with each call, as they "
        "always do. Ray and Dask run the native pipeline, and are given four blocks of texts for each worker; so a "
        "batch of texts may be composed otherwise, which changes nothing about these vectors. The model's tokenizer "
        "has threads, and one worker alone has all cores for them; several share the cores out, as `aaflow launch` "
        "has them do (RAYON_NUM_THREADS). *A core a worker*: as many cores of the machine as there are workers are "
        "used, where there are so many. CPU and memory are the calling process's, or rank 0's, alone. The embedding's "
        "share is what the parser alone leaves of the whole. Predictions come from the runs on one rank, on all texts "
        f"and on one of {_FEWER}."
    ),
    metric="wall",
    contenders=_contenders(),
    cases=_cases,
    notes=_notes,
)
