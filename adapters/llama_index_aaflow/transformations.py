"""What a native transformation is run as where its owner is accelerated, and stays what its owner holds."""

from __future__ import annotations

from typing import Any

from llama_index.core.extractors import BaseExtractor
from llama_index.core.node_parser import NodeParser

from aaflow_plugins.executor import Executor
from llama_index_aaflow.embeddings import is_openai, seen_accelerated
from llama_index_aaflow.extractors import seen_within_bound
from llama_index_aaflow.native_classes import sharing
from llama_index_aaflow.node_parsers import accelerate_parser
from llama_index_aaflow.side_by_side import SideBySide


def sooner(transformation: Any, executor: Executor | None = None) -> Any:
    """The transformation, as it does the same sooner; to a cache, and to whoever is told of it, it is the same.

    Args:
        transformation: Any transformation, an embedding model among them. It keeps the clients that are made.
        executor: Its `max_concurrency` bounds the requests of an embedding model, and those of an extractor; None for
            the defaults.
    """
    if isinstance(transformation, NodeParser):
        return accelerate_parser(transformation)
    if isinstance(transformation, BaseExtractor):
        return seen_within_bound(transformation, executor)
    if is_openai(transformation):
        return seen_accelerated(transformation, executor)
    if isinstance(transformation, SideBySide):
        return sharing(transformation, transformation.aaflow_native)  # a pipeline has threads of its own for it
    return transformation
