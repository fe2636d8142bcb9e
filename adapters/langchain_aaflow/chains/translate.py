"""From a tree of runnables to a tree of steps.

A class counts as known if its methods are the very ones that this module was written for: not overridden in a
subclass, not wrapped by an instrumentation, not replaced on the object. All else is one step that runs natively.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import (
    BaseGenerationOutputParser,
    BaseOutputParser,
    CommaSeparatedListOutputParser,
    JsonOutputParser,
    StrOutputParser,
)
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, PromptTemplate
from langchain_core.prompts.message import BaseMessagePromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    RouterRunnable,
    Runnable,
    RunnableAssign,
    RunnableBinding,
    RunnableBranch,
    RunnableGenerator,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableEach
from langchain_core.runnables.configurable import RunnableConfigurableAlternatives, RunnableConfigurableFields
from langchain_core.runnables.retry import RunnableRetry
from langchain_core.runnables.utils import accepts_config, accepts_run_manager

from langchain_aaflow.chains import composite_nodes as composites
from langchain_aaflow.chains import leaf_nodes as leaves
from langchain_aaflow.chains.nodes import Call, Node
from langchain_aaflow.chains.order import is_in_order, order_reason
from langchain_aaflow.retrieval import batched_retrieval

_INVOKING = ("invoke", "ainvoke")
_BATCHING = ("batch", "abatch")

#: Methods that a step does the work of, by class; as they were when this module was imported.
_METHODS: dict[type, dict[str, Any]] = {
    owner: {name: getattr(owner, name) for name in (*_INVOKING, *_BATCHING, *others)}
    for owner, others in {
        RunnableSequence: (),
        RunnableParallel: (),
        RunnableAssign: ("_invoke", "_ainvoke"),
        RunnableBranch: (),
        RunnableBinding: ("_merge_configs",),
        RunnableEach: ("_invoke", "_ainvoke"),
        RunnableWithFallbacks: (),
        RunnableRetry: ("_batch", "_abatch", "_patch_config_list", "_sync_retrying", "_async_retrying"),
        RouterRunnable: (),
        RunnableConfigurableFields: ("prepare", "_prepare"),
        RunnableConfigurableAlternatives: ("prepare", "_prepare"),
        RunnableLambda: ("_invoke", "_ainvoke"),
        RunnablePassthrough: (),
        RunnablePick: ("_pick", "_ainvoke"),
        BasePromptTemplate: ("_format_prompt_with_error_handling", "_aformat_prompt_with_error_handling"),
        BaseOutputParser: (),
        BaseGenerationOutputParser: (),
        BaseRetriever: (),
    }.items()
}
#: Parsers that run no code of a user's.
_PARSERS = (StrOutputParser, JsonOutputParser, CommaSeparatedListOutputParser)
_PER_INPUT = {name: getattr(Runnable, name) for name in _BATCHING}


def translate(native: Any, *, batch_queries: bool = False) -> Node:
    """The step that stands for a runnable.

    Args:
        native: Any runnable. It is not changed.
        batch_queries: Whether the user says that queries of any retriever may be embedded together.
    """

    def step(inner: Any) -> Node:
        return translate(inner, batch_queries=batch_queries)

    if _is(native, RunnableSequence):
        return composites.Steps(
            native, {f"seq:step:{number}": step(inner) for number, inner in enumerate(native.steps, 1)}
        )
    if _is(native, RunnableParallel):
        return composites.Parallel(native, {key: step(inner) for key, inner in native.steps__.items()})
    if _is(native, RunnableAssign):
        return composites.Assign(native, {"mapper": step(native.mapper)})
    if _is(native, RunnableBranch):
        inner = {}
        for number, (condition, branch) in enumerate(native.branches, 1):
            inner[f"condition:{number}"] = step(condition)
            inner[f"branch:{number}"] = step(branch)
        return composites.Branch(native, {**inner, "branch:default": step(native.default)})
    if _is(native, RunnableEach):
        return composites.Each(native, {"bound": step(native.bound)})
    if _is(native, RunnableBinding):
        binding = composites.Bind(native, {"bound": step(native.bound)})
        binding.sees_runs = bool(native.config.get("callbacks") or native.config_factories)
        return binding
    if _is(native, RunnableWithFallbacks):
        tried = {
            f"fallback:{number}" if number else "runnable": step(inner) for number, inner in enumerate(native.runnables)
        }
        return composites.Fallbacks(native, tried)
    if _is(native, RunnableRetry):
        return composites.Retry(native, step(native.bound))
    if _is(native, RouterRunnable):
        return composites.Route(native, {key: step(inner) for key, inner in native.runnables.items()})
    if _is(native, RunnableConfigurableFields):
        return composites.Configure(native, {"default": step(native.default)})
    if _is(native, RunnableConfigurableAlternatives) and all(
        isinstance(a, Runnable) for a in native.alternatives.values()
    ):
        others = {key: step(inner) for key, inner in native.alternatives.items()}
        return composites.Configure(native, {"default": step(native.default), **others})
    if isinstance(native, RunnableLambda):
        return _function(native)
    if _is(native, RunnablePassthrough) and native.func is None and native.afunc is None:
        return leaves.Pass(native)
    if _is(native, RunnablePick):
        return leaves.Pick(native)
    if isinstance(native, BasePromptTemplate):
        return _prompt(native)
    if isinstance(native, BaseOutputParser | BaseGenerationOutputParser):
        owner: Any = BaseOutputParser if isinstance(native, BaseOutputParser) else BaseGenerationOutputParser
        if _is(native, owner) and type(native) in _PARSERS and getattr(native, "pydantic_object", None) is None:
            return leaves.Parse(native)
        return _call(native, f"{type(native).__name__} may run code of its own", sees_runs=False)
    if isinstance(native, BaseRetriever):
        retrieval = batched_retrieval(native, batch_queries=batch_queries) if _is(native, BaseRetriever) else None
        if isinstance(retrieval, str) or retrieval is None:
            return _call(native, retrieval or "it is not invoked as retrievers are", sees_runs=False)
        return leaves.Retrieve(native, retrieval)
    if isinstance(native, BaseChatModel):
        # Handlers of its own are told the run above.
        told = bool(native.callbacks) or native.verbose
        return leaves.Generate(native, None, batches=not _per_input(native), sees_runs=told)
    if isinstance(native, RunnableGenerator):
        return _call(native, "it is a generator", ordered=True)
    return _call(native, f"{type(native).__name__} is not known")


def _function(native: Any) -> Node:
    if not _is(native, RunnableLambda):
        return _call(native, f"{type(native).__name__} is a subclass of RunnableLambda")
    functions = [getattr(native, name) for name in ("func", "afunc") if hasattr(native, name)]
    for function in functions:
        if reason := order_reason(function):
            call = Call(native, reason, ordered=True)
            call.one_by_one = any(map(is_in_order, functions))
            return call
    if any(accepts_config(function) or accepts_run_manager(function) for function in functions):
        return Call(native, "its function is given its run's configuration")
    if not hasattr(native, "func"):
        # Invoked natively, `invoke` says that it can't; `ainvoke` needs nothing else.
        return Call(native, "it has no synchronous function", sees_runs=False)
    return leaves.Function(native)


def _prompt(native: BasePromptTemplate[Any]) -> Node:
    if (
        type(native) in (PromptTemplate, ChatPromptTemplate)
        and _is(native, BasePromptTemplate)
        and not any(map(callable, native.partial_variables.values()))
        and all(map(_is_plain_message, getattr(native, "messages", ())))
    ):
        return leaves.Prompt(native)
    return _call(native, f"{type(native).__name__} may run code of its own", sees_runs=False)


def _is_plain_message(message: Any) -> bool:
    return isinstance(message, BaseMessage | BaseMessagePromptTemplate) and type(message).__module__.startswith(
        "langchain_core."
    )


def _call(native: Runnable[Any, Any], reason: str, *, ordered: bool = False, sees_runs: bool = True) -> Node:
    return Call(native, reason, batches=not _per_input(native), ordered=ordered, sees_runs=sees_runs)


def _per_input(native: Runnable[Any, Any]) -> bool:
    """Whether a batch of it is one `invoke` an input."""
    return _unchanged(native, _PER_INPUT)


def _is(native: Any, owner: type) -> bool:
    return isinstance(native, owner) and _unchanged(native, _METHODS[owner])


def _unchanged(native: Any, methods: dict[str, Any]) -> bool:
    from langchain_aaflow.chains.accelerated import Batching

    kind, own = type(native), getattr(native, "__dict__", {})
    return all(
        name not in own
        and (getattr(kind, name) is method or (name in _BATCHING and getattr(kind, name) is getattr(Batching, name)))
        for name, method in methods.items()
    )
