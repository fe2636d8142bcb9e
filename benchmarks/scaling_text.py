"""Real text through LlamaIndex's IngestionPipeline on 1, 2 and 4 workers, beside Ray, Dask and worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import ceil
from typing import Any

from aaflow_plugins.prediction import Costs, costs_of
from benchmarks.corpus import llama_documents, read_sample
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.ingestion import IN_FLIGHT
from benchmarks.llama_ingestion import LOCAL_BATCH, serve
from benchmarks.measure import Work
from benchmarks.results import CaseResult, ContenderResult, Metric
from benchmarks.scaling_fit import compared, efficiency, report_of
from benchmarks.scaling_shape import WORKERS, Done, count, digest, warm
from benchmarks.text_peers import dask, peer, ray
from benchmarks.text_pipeline import (
    WARM_UP,
    Way,
    by_document,
    is_hosted,
    native,
    pipeline,
    share_cores,
    transformations,
)

#: One text of so many is in the smaller run, which tells what a rank takes whatever its share.
_FEWER = 5
#: The latency of a request, and of each of its items.
_BASE_MS, _ITEM_MS = 20.0, 1.5
_LATENCY = {"base_ms": _BASE_MS, "item_ms": _ITEM_MS}


# -- the contenders --------------------------------------------------------------------------------------


def on_two_processes(given: list[Any], steps: list[Any], _: Mapping[str, Any]) -> Sequence[Any]:
    """The native pipeline with two worker processes."""
    nodes: Sequence[Any] = pipeline(steps).run(documents=given, num_workers=2)
    return nodes


def ours(gather: str) -> Way:
    """The accelerated pipeline; rank 0 leads, or each rank takes a block of the documents."""

    def run(given: list[Any], steps: list[Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
        from aaflow_plugins.executor import Executor
        from llama_index_aaflow import accelerate

        executor = Executor(gather=gather, max_concurrency=parameters["in_flight"] or None)
        nodes: Sequence[Any] = accelerate(pipeline(steps), executor=executor).run(documents=given)
        return nodes

    return run


def our_parser(given: list[Any], steps: list[Any], parameters: Mapping[str, Any]) -> Sequence[Any]:
    """The first stage alone."""
    return ours("shards")(given, steps[:1], parameters)


def _work(way: Way, workers: int = 1, every: int = 1) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        share_cores(parameters, workers)
        given = llama_documents(read_sample(parameters["corpus"]))[::every]
        few = [type(each)(text=each.text[:WARM_UP], id_=each.id_) for each in given[:8]]

        def warm_up() -> None:
            warm()
            way(few, transformations(parameters), parameters)

        return Work(
            run=lambda steps: way(given, steps, parameters),
            digest=lambda nodes: digest(Done(by_document(nodes))),
            warm_up=warm_up,
            before=lambda: transformations(parameters),
            facts=lambda nodes: {"rows": float(count(len(nodes)))},
        )

    return prepare


def _part(way: Way, workers: int = 1, every: int = 1) -> Callable[[Mapping[str, Any]], Work]:
    return lambda parameters: replace(_work(way, workers, every)(parameters), digest=None)


_NATIVE, _ARUN, _TWO_PROCESSES = "native `run`", "native `arun`", "native `run`, 2 processes"


def _ours(workers: int, gather: str = "shards") -> str:
    return f"ours ({gather}), {workers} ranks" if workers > 1 else "ours, 1 rank"


def _parsed(workers: int) -> str:
    return f"the parser alone, {_ours(workers)}"


def _fewer(name: str) -> str:
    return f"{name}, one text of {_FEWER}"


def _ray(workers: int) -> str:
    return f"Ray, {workers} actors"


def _dask(workers: int) -> str:
    return f"Dask, {workers} workers"


def _contenders() -> tuple[Contender, ...]:
    found = [
        Contender(_NATIVE, "native", _work(native)),
        Contender(_ARUN, "native", _work(native)),
        Contender(_ours(1), "ours", _work(ours("shards"))),
        Contender(_parsed(1), "part", _part(our_parser)),
        Contender(_fewer(_ours(1)), "part", _part(ours("shards"), every=_FEWER)),
        Contender(_fewer(_parsed(1)), "part", _part(our_parser, every=_FEWER)),
        Contender(_TWO_PROCESSES, "native", _work(on_two_processes, 2)),
    ]
    for workers in WORKERS[1:]:
        found += [
            Contender(_ray(workers), "native", peer(ray, workers)),
            Contender(_dask(workers), "native", peer(dask, workers)),
            Contender(_ours(workers, "root"), "ours", _work(ours("root"), workers), ranks=workers),
            Contender(_ours(workers), "ours", _work(ours("shards"), workers), ranks=workers),
            Contender(_parsed(workers), "part", _part(our_parser, workers), ranks=workers),
        ]
    return tuple(found)


# -- the cases -------------------------------------------------------------------------------------------


def _cases(scale: Scale) -> list[Case]:
    local, hosted = "SentenceSplitter 256/20, WordLlama (256 floats)", "SentenceSplitter 256/20, OpenAIEmbedding"
    alone = [_NATIVE, _ours(1), _parsed(1), _fewer(_ours(1)), _fewer(_parsed(1))]
    together = [name for n in WORKERS[1:] for name in (_ours(n), _parsed(n))]
    led = [_ours(n, "root") for n in WORKERS[1:]]
    peers = [name(n) for n in WORKERS[1:] for name in (_ray, _dask)]

    def case(title: str, megabytes: int, contenders: Sequence[str], **own: Any) -> Case:
        texts = scale.corpora.sample("all", 300_000 if scale.quick else megabytes * 1_000_000)
        # No number of workers: the texts are the same for all.
        parameters = {"core_a_worker": False, "in_flight": 0, "workers": 0, **own}
        return Case(title, {**parameters, **texts.parameters}, tuple(contenders), texts.megabytes)

    if scale.quick:  # starting what takes part takes most of the time
        return [
            case(local, 20, [*alone, _ray(2), _ours(2, "root"), _ours(2), _parsed(2)]),
            case(hosted, 10, [_ARUN, _ours(1), _ours(2, "root"), _ours(2)], in_flight=IN_FLIGHT, **_LATENCY),
        ]
    found = [case(local, 20, [*alone, _TWO_PROCESSES, *peers, *led, *together])]
    if hasattr(os, "sched_setaffinity"):
        found.append(case(f"{local}; a core a worker", 20, [*alone, *together], core_a_worker=True))
        for n in WORKERS:
            if n <= (os.cpu_count() or 1):
                title = f"{local}; weak, a core and 10 MB a worker; {n}"
                found.append(case(title, 10 * n, [_ours(n)], core_a_worker=True, workers=n))
    found.append(case(hosted, 10, [_ARUN, *peers, *led, *map(_ours, WORKERS)], in_flight=IN_FLIGHT, **_LATENCY))
    for n in WORKERS:
        beside = [_ray(n), _dask(n), _ours(n, "root")] if n > 1 else [_ARUN]
        title = f"{hosted}; weak, 4 MB and {IN_FLIGHT} requests at once a worker; {n}"
        found.append(case(title, 4 * n, [*beside, _ours(n)], in_flight=n * IN_FLIGHT, workers=n, **_LATENCY))
    return found


@contextmanager
def _serve(case: Case) -> Iterator[dict[str, Any]]:
    with serve(case) if is_hosted(case.parameters) else nullcontext({}) as given:
        yield given


# -- notes -----------------------------------------------------------------------------------------------


def _notes(case: CaseResult, results: Sequence[CaseResult]) -> list[str]:
    by_name = {each.name: each for each in case.contenders}
    first = by_name.get(_ours(1))
    lines = [f"{case.contenders[-1].fact('rows'):,.0f} nodes."]
    lines += _weak_notes(case, results) if case.parameters["workers"] else _strong_notes(case, by_name)
    peaks = [
        f"{each.name} {peak / 2**20:,.0f} MiB"
        for each in case.contenders
        if (peak := each.fact("largest_peak") or (each is first and each.peak_extra and each.peak_extra.median))
    ]
    return [*lines, f"Largest extra peak of memory of a rank: {', '.join(peaks)}."]


def _weak_notes(case: CaseResult, results: Sequence[CaseResult]) -> list[str]:
    """Efficiency against the case on one worker, by nodes: texts of so many bytes are not of as many."""
    workers = case.parameters["workers"]
    if workers == 1:
        return []
    alone = next(each for each in results if each.parameters["workers"] == 1 and _a_worker(each) == _a_worker(case))
    first = alone.contenders[-1]
    gains = [
        efficiency(first, each, workers, (each.fact("rows") or 0) / (first.fact("rows") or 1))
        for each in case.contenders
    ]
    return [f"Parallel efficiency, nodes a second and worker against {first.name}: {', '.join(gains)}."]


def _a_worker(case: CaseResult) -> float:
    return float(case.parameters["in_flight"] / case.parameters["workers"])


def _strong_notes(case: CaseResult, by_name: Mapping[str, ContenderResult]) -> list[str]:
    first = by_name[_ours(1)]
    costs = _costs(case, by_name)
    lines = [f"On 1 rank ours has {costs.cores:.2f} cores at work while it embeds."] if costs else []
    for workers in WORKERS[1:]:
        found = {gather: by_name.get(_ours(workers, gather)) for gather in ("shards", "root")}
        measured = {gather: each for gather, each in found.items() if each is not None}
        if not measured:
            continue
        gains = [f"{efficiency(first, each, workers)}, {_gain(first, each):.2f}x" for each in measured.values()]
        lines.append(f"Parallel efficiency and gain against ours on 1 rank: {'; '.join(gains)}.")
        if costs is None:
            continue
        for gather, each in measured.items():
            stages = _stages(each, by_name[_parsed(workers)]) if gather == "shards" else {}
            lines.append(compared(costs, case.parameters["corpus_files"], workers, gather, stages, each))
    return lines


def _costs(case: CaseResult, by_name: Mapping[str, ContenderResult]) -> Costs | None:
    """What the runs on one rank tell, where the parser was measured alone."""
    if _parsed(1) not in by_name:
        return None
    files = case.parameters["corpus_files"]
    sizes = {_ours(1): (_parsed(1), files), _fewer(_ours(1)): (_fewer(_parsed(1)), ceil(files / _FEWER))}
    return costs_of(
        [
            report_of(
                _stages(by_name[whole], by_name[parsed]),
                by_name[whole],
                count,
                LOCAL_BATCH,
                cpu=_stages(by_name[whole], by_name[parsed], "cpu"),
            )
            for whole, (parsed, count) in sizes.items()
        ]
    )


def _stages(whole: ContenderResult, parser: ContenderResult, metric: Metric = "wall") -> dict[str, float]:
    split = parser.spread(metric).median
    return {"split": split, "embed": whole.spread(metric).median - split}


def _gain(first: ContenderResult, each: ContenderResult) -> float:
    return first.spread("wall").median / each.spread("wall").median


BENCHMARK = Benchmark(
    name="scaling-text",
    home="benchmarks.scaling_text:BENCHMARK",
    title="LlamaIndex's IngestionPipeline on 1, 2 and 4 workers",
    protocol=(
        "Timed: from a list of documents in memory to nodes with embeddings, without the pipeline's cache. The model "
        f"is static and computes in the worker, {LOCAL_BATCH} texts a call; or it is `OpenAIEmbedding`, 100 texts a "
        f"request, and a server, a process of its own on the same machine, takes {_BASE_MS:g} ms + {_ITEM_MS:g} ms an "
        f"item for every request of everybody, of which {IN_FLIGHT} are in flight for all workers together. With "
        "shards, and with Ray and Dask, the nodes stay with their workers; at root, and with native worker processes, "
        "they come to the caller. Ranks, actors and workers begin before anything is timed, native worker processes "
        "with each call, as they always do. Ray and Dask run the native pipeline (its asynchronous call where there is "
        "a server), and are given four blocks of texts for each worker; so a batch of texts may be composed otherwise, "
        "which changes nothing about these vectors. The static model's tokenizer has threads, and one worker alone has "
        "all cores for them; several share the cores out, as `aaflow launch` has them do (RAYON_NUM_THREADS). *A core "
        "a worker*: as many cores of the machine as there are workers are used, where there are so many. *Weak*: each "
        "worker has as much to do, however many there are. CPU and memory are the calling process's, or rank 0's, "
        "alone. The embedding's share is what the parser alone leaves of the whole. Predictions come from the runs on "
        f"one rank, on all texts and on one of {_FEWER}."
    ),
    metric="wall",
    contenders=_contenders(),
    cases=_cases,
    service=_serve,
    notes=_notes,
)
