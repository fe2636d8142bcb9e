"""What a native transformation is run as where its owner is accelerated, and stays what its owner holds."""

from __future__ import annotations

from typing import Any

from llama_index.core.extractors import BaseExtractor
from llama_index.core.node_parser import NodeParser

from aaflow_plugins.executor import Executor
from llama_index_aaflow.embeddings import is_openai
from llama_index_aaflow.extractors import seen_within_bound
from llama_index_aaflow.node_parsers import accelerate_parser


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
        from llama_index_aaflow.openai_embedding import seen_accelerated

        return seen_accelerated(transformation, executor)
    return transformation
