"""Ray Data and Dask at the scaling benchmark's work, as their documentation advises.

Ray Data: stateless steps as tasks, the model and the store in an actor pool by `map_batches`. Ray without its datasets:
an actor a worker, to which blocks of files are given. Dask: `delayed` functions over partitions, `traverse=False`, on a
cluster of single-threaded worker processes. The clusters run before anything is timed; Ray Data starts the actors of a
pool whenever a dataset is executed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aaflow_plugins.shards import blocks
from benchmarks.measure import Work
from benchmarks.scaling_shape import BATCH, Done, add, digest, embeddings, empty_store, facts, load, splitter, stored

#: Partitions of the files for each worker: enough that none waits long for the last.
_PARTITIONS_A_WORKER = 4


# -- Ray Data --------------------------------------------------------------------------------------------


def split_files(batch: dict[str, Any]) -> dict[str, list[Any]]:
    """A task: some files' chunks."""
    chunks = splitter().split_documents(load(list(batch["path"])))
    return {
        "text": [chunk.page_content for chunk in chunks],
        "source": [chunk.metadata["source"] for chunk in chunks],
        "start": [chunk.metadata["start_index"] for chunk in chunks],
    }


class EmbedAndStore:
    """An actor: a model and a store."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._began = time.time()
        self._model = embeddings(parameters)
        self._store = empty_store(self._model, parameters["dimension"])

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        from langchain_core.documents import Document

        columns = (batch[name].tolist() for name in ("text", "source", "start"))
        chunks = [
            Document(page_content=text, metadata={"source": source, "start_index": start})
            for text, source, start in zip(*columns, strict=True)
        ]
        first = self._store.index.ntotal
        add(self._store, chunks, self._model.embed_documents([chunk.page_content for chunk in chunks]))
        rows = stored(self._store, first)
        return {"row": rows, "began": [self._began] * len(rows)}


def start_ray(workers: int) -> Any:
    """A Ray of this process's own, on this machine."""
    import ray

    # Tasks and actors each have a place of their own for every worker.
    ray.init(
        num_cpus=2 * workers,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=2**28,
    )
    return ray


def ray_data(workers: int) -> Any:
    """Ray Data's contender with so many actors."""

    def prepare(parameters: Mapping[str, Any]) -> Work:
        ray = start_ray(workers)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        own = _model_of(parameters)

        def run(paths: list[str]) -> Done:
            start = time.time()
            chunks = ray.data.from_items(
                [{"path": path} for path in paths], override_num_blocks=min(len(paths), _PARTITIONS_A_WORKER * workers)
            ).map_batches(split_files, batch_size=None)
            rows = chunks.map_batches(
                EmbedAndStore,
                batch_size=BATCH,
                compute=ray.data.ActorPoolStrategy(size=workers),
                fn_constructor_args=[own],
                num_cpus=1,
            ).take_all()
            began = max(row["began"] for row in rows) - start
            return Done([row["row"] for row in rows], {"until the last actor began": began})

        return Work(run, digest, lambda: run(parameters["paths"][:4]), lambda: parameters["paths"], facts)

    return prepare


class Ingesting:
    """An actor: a model and a store, for whole blocks of files."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._model = embeddings(parameters)
        self._store = empty_store(self._model, parameters["dimension"])

    def ingest(self, paths: list[str]) -> list[bytes]:
        first = self._store.index.ntotal
        chunks = split_partition(paths)
        add(self._store, chunks, embed_partition(self._model, chunks))
        return stored(self._store, first)


def ray_actors(workers: int) -> Any:
    """Ray's contender without a dataset: actors that have been started before."""

    def prepare(parameters: Mapping[str, Any]) -> Work:
        ray = start_ray(workers)
        actor = ray.remote(Ingesting)
        actors = [actor.remote(_model_of(parameters)) for _ in range(workers)]

        def run(paths: list[str]) -> Done:
            pool = ray.util.ActorPool(actors)
            found = pool.map_unordered(lambda actor, block: actor.ingest.remote(block), _parts(paths, workers))
            return Done([row for rows in found for row in rows])

        few = parameters["paths"][: _PARTITIONS_A_WORKER * workers]
        return Work(run, digest, lambda: run(few), lambda: parameters["paths"], facts)

    return prepare


def _model_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: parameters[name] for name in ("dimension", "request_ms", "item_ms")}


def _parts(paths: list[str], workers: int) -> list[list[str]]:
    parts = blocks([1] * len(paths), min(len(paths), _PARTITIONS_A_WORKER * workers))
    return [paths[part.start : part.stop] for part in parts]


# -- Dask ------------------------------------------------------------------------------------------------

_stores: dict[str, Any] = {}


def split_partition(paths: list[str]) -> list[Any]:
    """A task: some files' chunks."""
    chunks: list[Any] = splitter().split_documents(load(paths))
    return chunks


def embed_partition(model: Any, chunks: list[Any]) -> list[list[float]]:
    """A task: the chunks' vectors."""
    rows: list[list[float]] = model.embed_documents([chunk.page_content for chunk in chunks])
    return rows


def store_partition(run: str, parameters: Mapping[str, Any], chunks: list[Any], rows: list[list[float]]) -> list[bytes]:
    """A task: chunks and vectors into the store of this worker."""
    store = _stores.get(run)
    if store is None:
        store = _stores[run] = empty_store(embeddings(parameters), parameters["dimension"])
    first = store.index.ntotal
    add(store, chunks, rows)
    return stored(store, first)


def dask_cluster(workers: int) -> Any:
    """The client of a cluster of single-threaded processes on this machine."""
    from dask.distributed import Client, LocalCluster

    return Client(LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None))


def dask(workers: int) -> Any:
    """Dask's contender with so many worker processes."""

    def prepare(parameters: Mapping[str, Any]) -> Work:
        from dask import compute, delayed

        client = dask_cluster(workers)
        own = _model_of(parameters)

        def run(paths: list[str]) -> Done:
            split, embed, store = (
                delayed(function, pure=False, traverse=False)
                for function in (split_partition, embed_partition, store_partition)
            )
            name = f"{time.time()}"
            model = delayed(embeddings(parameters), traverse=False)
            tasks = []
            for part in _parts(paths, workers):
                chunks = split(part)
                tasks.append(store(name, own, chunks, embed(model, chunks)))
            return Done([row for rows in compute(*tasks, scheduler=client) for row in rows])

        # As many files as there are workers' partitions: each worker is warm.
        few = parameters["paths"][: _PARTITIONS_A_WORKER * workers]
        return Work(run, digest, lambda: run(few), lambda: parameters["paths"], facts)

    return prepare
