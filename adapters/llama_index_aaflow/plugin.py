"""The adapter as pluggy sees it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from llama_index.core.node_parser import NodeParser

from aaflow_plugins.hookspecs import hookimpl
from llama_index_aaflow.node_parsers import accelerate_parser


@hookimpl
def aaflow_accelerate(obj: Any) -> Any:
    """Accelerate a node parser."""
    return accelerate_parser(obj) if isinstance(obj, NodeParser) else None


@hookimpl
def aaflow_capabilities() -> list[tuple[str, str, str]]:
    """What this adapter can do with what is installed."""
    faster = "ready" if find_spec("splintr") else "not installed: pip install 'aaflow-plugins[tokens]'"
    return [("node parsers", "llama_index.core", "ready"), ("tokens", "splintr-rs", faster)]
