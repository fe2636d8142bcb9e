"""LlamaIndex's metadata extractors with as many calls of the model in flight as an executor says.

The native code runs, but for the `run_jobs` that it calls. Natively that has four workers, unless the extractor's own
`num_workers` says otherwise, which then holds here, too; `TitleExtractor` has four whatever that says.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from llama_index.core.async_utils import DEFAULT_NUM_WORKERS
from llama_index.core.extractors import BaseExtractor, TitleExtractor
from llama_index.core.extractors import metadata_extractors as native_module

from aaflow_plugins.executor import Executor
from aaflow_plugins.known_code import is_from
from llama_index_aaflow.extractors_ahead import jobs_ahead
from llama_index_aaflow.known_code import plain
from llama_index_aaflow.native_classes import StandsFor, found, overridden, sharing, with_names

#: Methods that may run jobs.
_METHODS: Final = ("aextract", "extract_titles")


def seen_within_bound(extractor: Any, executor: Executor | None) -> Any:
    """The very extractor, with the executor's bound on its calls; `extractor` itself if there is none, or is not known.

    Args:
        extractor: Any extractor.
        executor: Its `max_concurrency` is the bound.
    """
    native = type(extractor)
    if executor is None or executor.resources.max_concurrency is None or not _is_known(native):
        return extractor
    return sharing(extractor, _WithinBound.aaflow_class(native, executor))


def calls_at_once(extractor: Any) -> int | None:
    """How many calls an extractor with an executor's bound has in flight; None for everything else."""
    if not isinstance(extractor, _WithinBound) or extractor._executor is None:
        return None
    # Natively this one is never asked.
    workers = DEFAULT_NUM_WORKERS if isinstance(extractor, TitleExtractor) else extractor.num_workers  # type: ignore[attr-defined]
    found: int | None = _within(extractor._executor.resources.max_concurrency, workers)
    return found


def _is_known(native: Any) -> bool:
    return (
        overridden(native, BaseExtractor) is None
        and is_from(plain(found(native, "aextract")), native_module)
        and bool(_methods_with_jobs(native))
    )


def _methods_with_jobs(native: Any) -> dict[str, Any]:
    methods = {name: plain(method) for name in _METHODS if (method := found(native, name)) is not None}
    return {
        name: method
        for name, method in methods.items()
        if is_from(method, native_module) and "run_jobs" in method.__code__.co_names
    }


class _WithinBound(StandsFor):
    """What stands for an extractor."""

    @classmethod
    def aaflow_methods(cls, native: Any, executor: Executor | None, setting: Any) -> dict[str, Any]:
        """The native methods, with another `run_jobs`."""
        names: dict[str, Any] = dict(vars(native_module))
        names["run_jobs"] = partial(_run_jobs, executor.resources.max_concurrency if executor else None)
        return {name: with_names(method, names) for name, method in _methods_with_jobs(native).items()}


async def _run_jobs(limit: int | None, jobs: list[Any], **kwargs: Any) -> Any:
    native: Any = native_module
    if (begun := jobs_ahead(jobs)) is not None:
        return await native.run_jobs(begun, **{**kwargs, "workers": max(1, len(begun))})
    workers = _within(limit, kwargs.get("workers", DEFAULT_NUM_WORKERS))
    return await native.run_jobs(jobs, **{**kwargs, "workers": workers})


def _within(limit: int | None, workers: Any) -> Any:
    return limit if limit is not None and (workers == DEFAULT_NUM_WORKERS or workers > limit) else workers
