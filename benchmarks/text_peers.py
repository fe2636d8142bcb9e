"""Ray and Dask at the work of `text_pipeline`: workers that each run the native pipeline over blocks of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aaflow_plugins.shards import blocks
from benchmarks.corpus import llama_documents, read_sample
from benchmarks.measure import Work
from benchmarks.scaling_peers import dask_cluster, start_ray
from benchmarks.scaling_shape import Done, count, digest
from benchmarks.text_pipeline import WARM_UP, by_document, is_hosted, native, share_cores, transformations

#: Blocks of texts for each worker: enough that none waits long for the last.
_BLOCKS_A_WORKER = 4

#: What has blocks of texts ingested, and what calls a method of all workers.
_Calls = tuple[Callable[[list[Any]], object], Callable[[str], list[Any]]]


class Ingesting:
    """What a worker has: the native pipeline, and the nodes it has made."""

    def __init__(self, parameters: Mapping[str, Any], workers: int) -> None:
        self._parameters, self._workers = parameters, workers
        self._nodes: list[Any] = []
        self._steps = transformations(parameters)

    def ingest(self, texts: list[tuple[str, str]]) -> int:
        """Make nodes of texts, which stay here."""
        # An asynchronous client does not outlive the loop it was first used on.
        steps = transformations(self._parameters) if is_hosted(self._parameters) else self._steps
        self._nodes += native(llama_documents(texts), steps, self._parameters, self._workers)
        return len(self._nodes)

    def checksums(self) -> list[bytes]:
        """Of what is here."""
        return by_document(self._nodes)

    def held(self) -> int:
        """How many nodes are here."""
        return len(self._nodes)

    def forget(self) -> None:
        """Begin anew."""
        self._nodes.clear()


def peer(calls: Callable[[Mapping[str, Any], int], _Calls], workers: int) -> Callable[[Mapping[str, Any]], Work]:
    """A contender with workers that begin before anything is timed."""

    def prepare(parameters: Mapping[str, Any]) -> Work:
        share_cores(parameters, workers)
        texts = read_sample(parameters["corpus"])
        own = blocks([len(text) for _, text in texts], _BLOCKS_A_WORKER * workers)
        parts = [texts[part.start : part.stop] for part in own if part]
        ingest, everywhere = calls(parameters, workers)
        few = [[(name, text[:WARM_UP]) for name, text in texts[:4]] for _ in range(2 * workers)]
        return Work(
            run=lambda _: ingest(parts),
            digest=lambda _: digest(Done([each for found in everywhere("checksums") for each in found])),
            warm_up=lambda: ingest(few),
            before=lambda: everywhere("forget"),
            facts=lambda _: {"rows": float(count(sum(everywhere("held"))))},
        )

    return prepare


def ray(parameters: Mapping[str, Any], workers: int) -> _Calls:
    """Actors of Ray's, to which blocks are given as they are free."""
    own_ray = start_ray(workers)
    actors = [own_ray.remote(Ingesting).remote(dict(parameters), workers) for _ in range(workers)]

    def ingest(parts: list[Any]) -> object:
        pool = own_ray.util.ActorPool(actors)
        return list(pool.map_unordered(lambda actor, part: actor.ingest.remote(part), parts))

    return ingest, lambda method: own_ray.get([getattr(actor, method).remote() for actor in actors])


_here: list[Ingesting] = []


def at_worker(parameters: Mapping[str, Any], workers: int, method: str, *given: Any) -> Any:
    """A call of this process's own worker, which begins with the first."""
    if not _here:
        _here.append(Ingesting(parameters, workers))
    return getattr(_here[0], method)(*given)


def dask(parameters: Mapping[str, Any], workers: int) -> _Calls:
    """Dask's `delayed` calls, a block each, on single-threaded worker processes."""
    from dask import compute, delayed

    client = dask_cluster(workers)
    own = dict(parameters)
    ingested = delayed(at_worker, pure=False, traverse=False)

    def ingest(parts: list[Any]) -> object:
        return compute(*[ingested(own, workers, "ingest", part) for part in parts], scheduler=client)

    return ingest, lambda method: list(client.run(at_worker, own, workers, method).values())
