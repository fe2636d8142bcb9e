"""The plan of a chain: what `explain` shows of it."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
from langchain_core.runnables import Runnable

from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.dataplane.schemas import native
from aaflow_plugins.operators import Apply, Load
from aaflow_plugins.plan import Plan
from langchain_aaflow.chains.composite_nodes import Steps
from langchain_aaflow.chains.leaf_nodes import Retrieve
from langchain_aaflow.chains.nodes import Node
from langchain_aaflow.chains.translate import translate

_ITEM = pa.schema([native("item", "object")])


def chain_plan(chain: Runnable[Any, Any], *, batch_queries: bool = False) -> Plan:
    """The plan that a batch of inputs through `chain` follows.

    Args:
        chain: Any runnable. It is not changed.
        batch_queries: Whether queries may be embedded in one call, whatever the embeddings' class.
    """
    return plan_of(translate(chain, batch_queries=batch_queries))


def plan_of(node: Node) -> Plan:
    """The plan of a step, or of several in sequence, for many inputs."""
    steps = node.steps if isinstance(node, Steps) else [node]
    load = Load(name="inputs", adds=_ITEM, size_of=sys.getsizeof, batch_of=_batch_of)
    return Plan([load, *map(_operator, steps)])


def _operator(node: Node) -> Apply:
    config: dict[str, Any] = {}
    if isinstance(node, Retrieve):
        config["queries"] = "embedded and searched together" if node.retrieval.embeds_together else "searched together"
    return Apply(
        name=f"{node.kind} {node.native.get_name()}",
        native=node.reason,
        inner={role: _operator(inner) for role, inner in node.inner.items()},
        meets=node.meets(listening=False),
        config=config,
    )


def _batch_of(items: list[Any]) -> Batch:
    return Batch(_ITEM, {"item": items}, len(items))
