"""A chain's batch on several ranks: whether its inputs can be divided among them, and what tells it from others.

`invoke`, `stream` and `batch_as_completed` of a chain stay in their process.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType, FunctionType
from typing import Any

from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.shards import share_of
from langchain_aaflow.chains.composite_nodes import Retry, Steps
from langchain_aaflow.chains.nodes import Node
from langchain_aaflow.chains.plans import plan_of
from langchain_aaflow.sharded_store import ShardedRetriever


def check_retrievers(node: Node) -> None:
    """Refuse a retriever that all ranks have to ask together, as they are about to ask different things.

    Raises:
        ValueError: If there is one.
    """
    if any(isinstance(step.native, ShardedRetriever) and step.native.ranks.size > 1 for step in node.walk()):
        raise ValueError(
            "a retriever over shards is asked by all ranks together, not for each input of a batch by itself: retrieve "
            "first, by `retriever.batch(queries)`, and give the chain what comes of it"
        )


def undivided_reason(node: Node, *, return_exceptions: bool) -> str | None:
    """Why blocks of inputs may give something else than all of them together; None if they do not.

    Args:
        node: The chain's step, without the bindings around it.
        return_exceptions: Whether an input's exception is its output.
    """
    steps = node.walk()
    if any(getattr(step.native, "rate_limiter", None) is not None for step in steps):
        return "a model's limit of requests a second is for all inputs"
    if return_exceptions and any(isinstance(step, Retry) for step in steps):
        return "with return_exceptions a step that is tried again may fail all inputs"
    if any(step.ordered for step in steps):
        return "a step takes the inputs in their order"
    if any(step.meets(listening=False) for step in (node.steps if isinstance(node, Steps) else [node])):
        return "a step takes all inputs together, or has a limit of its own"
    return None


def shared_configs(configs: Sequence[RunnableConfig], limit: int | None, ranks: Communicator) -> list[RunnableConfig]:
    """The configurations of inputs on this rank, which has its share of the calls at once.

    Args:
        configs: Of all inputs.
        limit: Calls at once where a configuration does not say it.
        ranks: The ranks.
    """
    shared = []
    for config in configs:
        calls = config.get("max_concurrency")
        calls = limit if calls is None else calls
        # One that is refused is refused as it is.
        shared.append(config if not calls or calls < 1 else {**config, "max_concurrency": share_of(calls, ranks)})
    return shared


def told_of(node: Node) -> list[Any]:
    """What tells a chain from others: its plan, the texts of its prompts, and the code of its functions."""
    told: list[Any] = [plan_of(node).fingerprint()]
    for step in node.walk():
        if isinstance(step.native, BasePromptTemplate):
            told.append(step.native)
        elif isinstance(step.native, RunnableLambda):
            told += [_told_of_function(vars(step.native).get(name)) for name in ("func", "afunc")]
    return told


def _told_of_function(function: Any) -> list[Any]:
    """What a function's code is. What it encloses may be each rank's own: a counter, a device."""
    return _told_of_code(function.__code__) if isinstance(function, FunctionType) else [type(function).__qualname__]


def _told_of_code(code: CodeType) -> list[Any]:
    constants = [_told_of_code(each) if isinstance(each, CodeType) else _told(each) for each in code.co_consts]
    return [code.co_code.hex(), *code.co_names, *constants]


def _told(constant: Any) -> str:
    # The order of a set of strings is another one in each process.
    return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
