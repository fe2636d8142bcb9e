"""`IngestionPipeline` whose known transformations do the same sooner.

`run` and `arun` are the installed version's own code: what is warned of, what the document store and the vector store
are asked, and in which order, is decided there. A few names that this code uses stand for something else: the native
functions that apply transformations get accelerated ones, and worker processes may be this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, wraps
from inspect import signature
from typing import Any, Final

from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion import pipeline as native_module
from llama_index_instrumentation import get_dispatcher

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.event_loop import OnLoop, in_thread
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import engine_of, ranks_of
from llama_index_aaflow.carried_nodes import nodes_on_all
from llama_index_aaflow.carried_stores import shared_reason, stores_on_all
from llama_index_aaflow.embeddings import is_openai
from llama_index_aaflow.extractors import calls_at_once
from llama_index_aaflow.extractors_ahead import ahead, ahead_on_loop
from llama_index_aaflow.incremental_runs import Keeping, begun
from llama_index_aaflow.ingestion_beside import may_run_beside, run_beside
from llama_index_aaflow.ingestion_cache import quick_cache, with_quick_keys
from llama_index_aaflow.ingestion_overlap import run_overlapping
from llama_index_aaflow.ingestion_ranks import help_of_ranks, run_on
from llama_index_aaflow.ingestion_turns import arun_overlapping
from llama_index_aaflow.ingestion_workers import Multiprocessing, WorkerPool
from llama_index_aaflow.known_code import changed, plain
from llama_index_aaflow.native_classes import StandsFor, found, with_class, with_names
from llama_index_aaflow.sharded_ingestion import run_sharded
from llama_index_aaflow.transformations import sooner

#: What runs natively but for the names it uses, and what of those is used by worker processes.
_METHODS: Final = ("run", "arun")
_WORKERS: Final = ("_run_transformations_worker", "_arun_transformations_worker", "arun_transformations_wrapper")


def accelerate_pipeline(pipeline: Any, executor: Executor | None = None) -> Any:
    """A pipeline of the same class that gives the same nodes, and leaves the same behind, sooner.

    Args:
        pipeline: Any `IngestionPipeline`. It is not changed; the accelerated one shares its transformations, cache,
            document store and vector store.
        executor: Its `max_concurrency` bounds embedding requests in flight.

    Returns:
        The accelerated pipeline; `pipeline` itself where `native_reason` has something to say.
    """
    reason = native_reason(pipeline)
    if reason is not None and executor is not None and executor.gather != "root":
        raise ValueError(f"gather={executor.gather!r}: the pipeline runs natively, as {reason}")
    if isinstance(pipeline, Sooner) or reason is not None:
        return pipeline
    return with_class(pipeline, Sooner.aaflow_class(type(pipeline), executor))


def native_reason(pipeline: Any) -> str | None:
    """Why a pipeline, accelerated or not, runs natively; None if its known transformations are accelerated."""
    return changed(pipeline, IngestionPipeline, dict.fromkeys(_METHODS, native_module))


class Sooner(StandsFor):
    """What stands for an `IngestionPipeline`."""

    @classmethod
    def aaflow_methods(cls, native: Any, executor: Executor | None, setting: Keeping | None) -> dict[str, Any]:
        """The native `run` and `arun`, with other names around them."""
        names, _ = _names(executor, setting)
        elsewhere = native_module if setting is None else _Elsewhere(executor, setting)
        names["multiprocessing"] = Multiprocessing(elsewhere)
        names["ProcessPoolExecutor"] = partial(WorkerPool, elsewhere)
        span = get_dispatcher(native_module.__name__).span
        methods = {name: span(with_names(plain(found(native, name)), names)) for name in _METHODS}
        return {**methods, "run": _Run(methods["run"]), "arun": _Arun(methods["arun"])}


class _Run(property):
    """`run`, which in a job of several ranks is rank 0's, with the help of the others.

    In one process it is the method itself: natively warnings name the caller by counting frames, and one more would be
    seen. (To pydantic it has to be a property.)
    """

    def __init__(self, alone: Any) -> None:
        super().__init__()
        self._alone = alone

    def __get__(self, pipeline: Any, owner: type | None = None) -> Any:
        """The method; with the other ranks if there are any."""
        alone = self._alone.__get__(pipeline, owner)
        if pipeline is None:
            return alone
        ranks = ranks_of(pipeline._executor or Executor())
        if ranks.size == 1:
            return alone

        @wraps(alone)
        def run(*given: Any, **settings: Any) -> Any:
            return _on(ranks, pipeline, self._alone, given, settings)

        return run


class _Arun(property):
    """`arun`, likewise. Other ranks are waited for in a thread."""

    def __init__(self, alone: Any) -> None:
        super().__init__()
        self._alone = alone

    def __get__(self, pipeline: Any, owner: type | None = None) -> Any:
        """The method; with the other ranks if there are any."""
        alone = self._alone.__get__(pipeline, owner)
        if pipeline is None or engine_of(executor := pipeline._executor or Executor()) == "local":
            return alone

        @wraps(alone)
        async def arun(*given: Any, **settings: Any) -> Any:
            def together(on_loop: OnLoop) -> Any:
                ranks = ranks_of(executor)
                if ranks.size == 1:
                    return on_loop(alone, *given, **settings)
                return _on(ranks, pipeline, self._alone, given, settings, on_loop)

            return await in_thread(together)

        return arun


def _on(
    ranks: Communicator, pipeline: Any, alone: Any, given: Any, settings: Any, on_loop: OnLoop | None = None
) -> Any:
    """Run a pipeline on several ranks.

    Args:
        ranks: The ranks.
        pipeline: The pipeline.
        alone: `run` in one process; with a loop `arun`.
        given: Its arguments.
        settings: Its keyword arguments.
        on_loop: Runs coroutines of this process.
    """
    executor = pipeline._executor or Executor()

    def of(owner: Any, *given: Any, **settings: Any) -> Any:
        # Bound: spans bear the name of the class.
        return alone.__get__(owner, type(owner))(*given, **settings)

    native = of if on_loop is None else partial(on_loop, of)
    arguments = signature(alone).bind(pipeline, *given, **settings).arguments
    del arguments["self"]
    if executor.gather == "shards":
        arguments.update(arguments.pop("kwargs", {}))
        return run_sharded(ranks, pipeline, executor, arguments, native, on_loop)
    if executor.gather == "all" and (reason := shared_reason(pipeline)) is not None:
        raise ValueError(f"gather='all': {reason}: with gather='root' rank 0 fills it, once")
    documents = arguments.get("documents") or arguments.get("nodes") or pipeline.documents
    nodes = run_on(
        ranks, pipeline, pipeline._executor, documents, lambda: native(pipeline, *given, **settings), on_loop
    )
    if executor.gather == "root":
        return nodes
    nodes = nodes_on_all(ranks, nodes)
    stores_on_all(ranks, pipeline)
    return nodes


def _names(executor: Executor | None, keeping: Keeping | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The names around `run` and `arun`, and those around what worker processes call."""
    names = dict(vars(native_module))
    names["run_transformations"] = _named("run_transformations", partial(_run, executor, keeping))
    names["arun_transformations"] = _named("arun_transformations", partial(_arun, executor, keeping))
    workers = {**names, "arun_transformations": partial(_arun_and_close, executor, keeping)}
    for name in _WORKERS:
        if name in names:
            names[name] = workers[name] = with_names(names[name], workers)
    return names, workers


class _Elsewhere:
    """What worker processes call, by its native name, where documents are kept."""

    def __init__(self, executor: Executor | None, keeping: Keeping) -> None:
        self._made_for = executor, keeping

    def __getattr__(self, name: str) -> Any:
        return partial(_in_worker, *self._made_for, name)


def _in_worker(executor: Executor | None, keeping: Keeping, name: str, *given: Any, **settings: Any) -> Any:
    _, workers = _names(executor, keeping)
    return workers[name](*given, **settings)


def _named(name: str, function: Any) -> Any:
    function.__name__ = name
    return function


def _run(
    executor: Executor | None,
    keeping: Keeping | None,
    nodes: Any,
    transformations: Sequence[Any],
    *given: Any,
    **settings: Any,
) -> Any:
    # To worker processes the oldest versions give these by position.
    settings.update(zip(("in_place", "cache", "cache_collection"), given, strict=False))
    steps = [sooner(transformation, executor) for transformation in transformations]
    native: Any = native_module.run_transformations
    quick = _quick(settings)
    run = begun(keeping, nodes, transformations, steps, settings) if keeping else None
    if run is None:
        loop = with_quick_keys(native, quick.get("cache"))

        def loop_of(steps: list[Any], **more: Any) -> Any:
            with ahead(steps, list(map(calls_at_once, steps)), settings) as stages:
                return loop(nodes, stages, **{**quick, **more})

        if (helped := help_of_ranks()) is not None:
            return helped.run(loop_of, nodes, steps, settings, executor)
        if may_run_beside(steps, settings):
            return run_beside(loop_of, steps, quick.get("cache"), executor)
        return run_overlapping(loop_of, steps, settings, executor, quick.get("cache"))
    loop, quick = run.applied(native), run.settings(quick)

    def apply(steps: list[Any]) -> Any:
        return loop(nodes, run.steps(steps), **quick)

    # The native cache isn't asked for what overlaps.
    return run_overlapping(apply, steps, {**settings, "cache": None}, executor) if run.overlaps else apply(steps)


async def _arun(
    executor: Executor | None, keeping: Keeping | None, nodes: Any, transformations: Sequence[Any], **settings: Any
) -> Any:
    steps = [sooner(transformation, executor) for transformation in transformations]
    native: Any = native_module.arun_transformations
    quick = _quick(settings)
    run = begun(keeping, nodes, transformations, steps, settings) if keeping else None
    if run is None:
        loop = with_quick_keys(native, quick.get("cache"))

        async def loop_of(steps: list[Any], **more: Any) -> Any:
            async with ahead_on_loop(steps, list(map(calls_at_once, steps)), settings) as stages:
                return await loop(nodes, stages, **{**quick, **more})

        if (helped := help_of_ranks()) is not None:
            return await helped.arun(loop_of, nodes, steps, settings)
        return await arun_overlapping(loop_of, steps, settings, executor, quick.get("cache"))
    loop, quick = run.applied(native), run.settings(quick)

    async def apply(steps: list[Any]) -> Any:
        return await loop(nodes, run.steps(steps), **quick)

    # The native cache isn't asked for what overlaps.
    return await (
        arun_overlapping(apply, steps, {**settings, "cache": None}, executor) if run.overlaps else apply(steps)
    )


async def _arun_and_close(
    executor: Executor | None, keeping: Keeping | None, nodes: Any, transformations: Sequence[Any], **settings: Any
) -> Any:
    """As a worker process does, whose clients end with it."""
    try:
        return await _arun(executor, keeping, nodes, transformations, **settings)
    finally:
        for transformation in transformations:
            if is_openai(transformation) and transformation._aclient is not None:
                await transformation._aclient.close()


def _quick(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "cache": quick_cache(settings["cache"])} if settings.get("cache") is not None else settings
