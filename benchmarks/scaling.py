"""Strong and weak scaling of the AAFLOW paper's synthetic shape, beside Ray Data and Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.scaling_fit import notes
from benchmarks.scaling_peers import dask, ray_actors, ray_data
from benchmarks.scaling_shape import (
    BATCH,
    CHUNK,
    WORKERS,
    Done,
    Stages,
    add,
    digest,
    embeddings,
    empty_store,
    facts,
    files,
    load,
    splitter,
    stored,
    warm,
)

#: Simulated cost of the model, for all contenders: milliseconds a request and a text.
_REQUEST_MS, _ITEM_MS = 20.0, 1.5

#: Files a worker for a warm-up: requests enough that each rank gets one.
_WARM_UP = 48

Way = Callable[[list[str], Mapping[str, Any]], Done]


# -- the contenders --------------------------------------------------------------------------------------


def native(paths: list[str], parameters: Mapping[str, Any]) -> Done:
    """The lines in every tutorial, in one process."""
    from langchain_community.vectorstores import FAISS

    return Done(stored(FAISS.from_documents(splitter().split_documents(load(paths)), embeddings(parameters))))


def shards(paths: list[str], parameters: Mapping[str, Any]) -> Done:
    """Each rank reads, splits, embeds and stores a block of the files."""
    from langchain_community.vectorstores import FAISS

    from aaflow_plugins.executor import Executor
    from aaflow_plugins.plugins import ranks_of
    from aaflow_plugins.prediction import at_work
    from aaflow_plugins.shards import blocks
    from langchain_aaflow import ingest

    stages = Stages()
    executor = Executor(batch_size=BATCH, gather="shards", partitioned=True)
    ranks = ranks_of(executor)
    own = blocks(list(map(_size, paths)), ranks.size)[ranks.rank]
    documents = load([paths[number] for number in own])
    stages.mark("load")
    store = ingest(
        documents, splitter=splitter(), embedding=embeddings(parameters), vectorstore=FAISS, executor=executor
    )
    stages.mark("ingest")
    rows = stored(getattr(store, "local", store))
    stages.mark("checksum")
    report = executor.report
    assert report
    # A splitter and a store of this process wait for nothing: all that they take beside their CPU time is waiting for
    # the interpreter, or for a core that ranks share.
    work = {
        each.kind: seconds if report.calls_of(index).items else each.cpu_seconds
        for index, (each, seconds) in enumerate(zip(report.operators, at_work(report), strict=True))
    }
    cpu = {name: stages.cpu[name] for name in ("load", "checksum")}
    return Done(rows, {**work, **cpu, "ingest": stages.seconds["ingest"], "runs": report.wall_seconds})


def root(paths: list[str], parameters: Mapping[str, Any]) -> Done:
    """Rank 0 reads and stores, and has all ranks split and embed."""
    from langchain_community.vectorstores import FAISS

    from aaflow_plugins.executor import Executor
    from aaflow_plugins.plugins import ranks_of
    from langchain_aaflow import ingest

    executor = Executor(batch_size=BATCH)
    leads = ranks_of(executor).rank == 0
    documents = load(paths) if leads else []
    store = ingest(
        documents, splitter=splitter(), embedding=embeddings(parameters), vectorstore=FAISS, executor=executor
    )
    return Done(stored(store) if leads else [])


def in_step(paths: list[str], parameters: Mapping[str, Any]) -> Done:
    """As bulk-synchronous programs are: the same fast paths, and no stage begins before all ranks are there."""
    from aaflow_plugins.executor import Executor
    from aaflow_plugins.plugins import accelerate, ranks_of
    from aaflow_plugins.shards import blocks

    ranks = ranks_of(Executor())
    model = embeddings(parameters)
    with ranks.together("in step"):
        stages = Stages(ranks.barrier)
        own = blocks(list(map(_size, paths)), ranks.size)[ranks.rank]
        documents = load([paths[number] for number in own])
        stages.mark("load")
        chunks = accelerate(splitter()).split_documents(documents)
        stages.mark("split")
        rows = model.embed_documents([chunk.page_content for chunk in chunks])
        stages.mark("embed")
        store = accelerate(empty_store(model, parameters["dimension"]))
        if chunks:
            add(store, chunks, rows)
        stages.mark("upsert")
    return Done(stored(store), stages.seconds)


def _size(path: str) -> int:
    from pathlib import Path

    return Path(path).stat().st_size


def _work(way: Way) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        paths = parameters["paths"]
        few = paths[: _WARM_UP * parameters["workers"]]

        def warm_up() -> None:
            warm()
            way(few, parameters)

        return Work(lambda given: way(given, parameters), digest, warm_up, lambda: paths, facts)

    return prepare


def _one_process(workers: int) -> str:
    return "native, one process"


def _ours(workers: int) -> str:
    return f"ours (shards), {_ranks(workers)}"


def _led(workers: int) -> str:
    return f"ours (root), {_ranks(workers)}"


def _stepped(workers: int) -> str:
    return f"ours in step, {_ranks(workers)}"


def _ray(workers: int) -> str:
    return f"Ray Data, {workers} actor{'s' * (workers > 1)}"


def _ray_actors(workers: int) -> str:
    return f"Ray, actors at hand, {workers}"


def _dask(workers: int) -> str:
    return f"Dask, {_workers(workers)}"


def _workers(workers: int) -> str:
    return f"{workers} workers" if workers > 1 else "1 worker"


def _ranks(workers: int) -> str:
    return f"{workers} ranks" if workers > 1 else "1 rank"


def _contenders() -> tuple[Contender, ...]:
    found = [Contender(_one_process(1), "native", _work(native))]
    for workers in WORKERS:
        found += [
            Contender(_ray(workers), "native", ray_data(workers)),
            Contender(_ray_actors(workers), "native", ray_actors(workers)),
            Contender(_dask(workers), "native", dask(workers)),
            Contender(_ours(workers), "ours", _work(shards), ranks=workers),
            Contender(_stepped(workers), "part", _work(in_step), ranks=workers),
        ]
        if workers > 1:
            found.append(Contender(_led(workers), "ours", _work(root), ranks=workers))
    return tuple(found)


# -- the cases -------------------------------------------------------------------------------------------


def _cases(scale: Scale) -> list[Case]:
    few = 16 if scale.quick else 1
    sample = scale.corpora.sample("all", 1_000_000 if scale.quick else 8_000_000)
    simulated = {"request_ms": _REQUEST_MS, "item_ms": _ITEM_MS}
    free = {"request_ms": 0.0, "item_ms": 0.0}

    def case(title: str, workers: int, shape: Mapping[str, Any], *names: Callable[[int], str]) -> Case:
        sizes = {**shape, "files": shape["files"] // few, "batch": BATCH, "workers": workers}
        contenders = [name(workers) for name in names]
        return Case(f"{title}; {_workers(workers)}", {**sizes, **sample.parameters}, tuple(contenders))

    strong = {"files": 256, "chunks_a_file": 4, "dimension": 128, **simulated}
    large = {"files": 4096, "chunks_a_file": 4, "dimension": 256, **free}
    if scale.quick:  # starting what takes part takes most of the time, and Ray most of that
        return [
            case("strong, 256 files", 1, strong, _one_process, _ours),
            case("strong, 256 files", 2, strong, _led, _dask, _ours, _stepped),
        ]
    found = []
    for workers in WORKERS:
        apart = (_led,) if workers > 1 else (_one_process,)
        found.append(case("strong, 256 files", workers, strong, *apart, _ray, _ray_actors, _dask, _ours, _stepped))
    for workers in WORKERS[1:]:
        shape = {**strong, "files": 256 * workers}
        found.append(case("weak, 256 files a worker", workers, shape, _ray_actors, _dask, _ours))
    found.append(case("4,096 files", 4, {**large, **simulated, "chunks_a_file": 1}, _ray_actors, _dask, _ours))
    for workers in WORKERS:
        apart = (_led,) if workers > 1 else (_one_process,)
        found.append(case("strong, no cost of a model", workers, large, *apart, _ray_actors, _dask, _ours))
    return found


BENCHMARK = Benchmark(
    name="scaling",
    home="benchmarks.scaling:BENCHMARK",
    title="Ingestion on 1, 2 and 4 workers",
    protocol=(
        f"The shape of the AAFLOW paper's experiments: files of real text, chunks of up to {CHUNK} characters "
        f"(RecursiveCharacterTextSplitter), hash embeddings in requests of {BATCH} texts, LangChain's FAISS store, one "
        f"a worker. THE MODEL'S COST IS SIMULATED: each request of every contender sleeps for {_REQUEST_MS:g} ms + "
        f"{_ITEM_MS:g} ms a text, where the case doesn't say that there is no cost. A worker has one request under "
        "way. Timed: from the paths of the files to filled stores, and a checksum of every row in them, which all "
        "contenders make in the same way. Before that: processes, ranks and clusters are started, and a run on a few "
        "files. Ray Data starts the actors of a pool within each execution, and that is timed; *Ray, actors at hand* "
        "is one task a block of files for actors that are there before. *In step* is ours with a barrier between "
        "stages (a part: it is no call that we offer). Stages of ours, of the rank that has most of each, are seconds "
        "at work: its CPU time, and its waiting for the model, but not for the interpreter, of which a process has "
        "one, nor for a core that ranks share. Of the time outside an executor's runs, what each rank spends is the "
        "exchange; what some spend more than others is waiting for those. CPU and memory are the calling process's, or "
        "rank 0's, alone."
    ),
    metric="wall",
    contenders=_contenders(),
    cases=_cases,
    service=files,
    notes=notes,
)
