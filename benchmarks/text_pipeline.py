"""The work of the benchmark of text on several workers: LlamaIndex's IngestionPipeline, and what it makes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aaflow_plugins.engines.launching import rank_environment
from benchmarks.digests import of_nodes
from benchmarks.llama_ingestion import hosted_model, local_model

#: Characters that a warm-up takes of a text.
WARM_UP = 20_000

#: Documents and transformations to nodes, as a case's parameters say.
Way = Callable[[list[Any], list[Any], Mapping[str, Any]], Sequence[Any]]


def transformations(parameters: Mapping[str, Any]) -> list[Any]:
    """The parser and the model of all contenders."""
    from llama_index.core.node_parser import SentenceSplitter

    model = hosted_model if is_hosted(parameters) else local_model
    return [SentenceSplitter(chunk_size=256, chunk_overlap=20), model(parameters)]


def is_hosted(parameters: Mapping[str, Any]) -> bool:
    """Whether the model is behind a server, which answers so many requests at once."""
    return parameters["in_flight"] > 0


def by_document(nodes: Sequence[Any]) -> list[bytes]:
    """A checksum for the nodes of each document."""
    groups: dict[str, list[Any]] = {}
    for node in nodes:
        groups.setdefault(node.ref_doc_id, []).append(node)
    return [f"{name} {of_nodes(group)}".encode() for name, group in groups.items()]


def share_cores(parameters: Mapping[str, Any], workers: int) -> None:
    """Leave as many cores as there are workers, where the case says so, and share them out as `aaflow launch` does.

    This process and what it starts from now on keep to it.
    """
    if parameters["core_a_worker"]:
        cores = sorted(os.sched_getaffinity(0))[:workers]
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)
    os.environ.update(rank_environment(workers))


def pipeline(steps: list[Any]) -> Any:
    """The native pipeline, without its cache."""
    from llama_index.core.ingestion import IngestionPipeline

    return IngestionPipeline(transformations=steps, disable_cache=True)


def native(given: list[Any], steps: list[Any], parameters: Mapping[str, Any], workers: int = 1) -> Sequence[Any]:
    """The line in every tutorial; with a model behind a server, its asynchronous twin with many requests at once."""
    nodes: Sequence[Any]
    if is_hosted(parameters):
        steps[1].num_workers = parameters["in_flight"] // workers
        nodes = asyncio.run(pipeline(steps).arun(documents=given))
    else:
        nodes = pipeline(steps).run(documents=given)
    return nodes
