"""The adapter as pluggy sees it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import NodeParser

from aaflow_plugins.executor import Executor
from aaflow_plugins.hookspecs import hookimpl
from llama_index_aaflow.embeddings import accelerate_embedding
from llama_index_aaflow.node_parsers import accelerate_parser


@hookimpl
def aaflow_accelerate(obj: Any, executor: Executor | None) -> Any:
    """Accelerate a node parser or an embedding model."""
    if isinstance(obj, NodeParser):
        return accelerate_parser(obj)
    if isinstance(obj, BaseEmbedding):
        return accelerate_embedding(obj, executor)
    return None


@hookimpl
def aaflow_capabilities() -> list[tuple[str, str, str]]:
    """What this adapter can do with what is installed."""
    faster = "ready" if find_spec("splintr") else "not installed: pip install 'aaflow-plugins[tokens]'"
    return [("node parsers", "llama_index.core", "ready"), ("tokens", "splintr-rs", faster)]
