"""A pipeline that knows from earlier runs what became of documents that have not changed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from llama_index.core.ingestion import IngestionPipeline

from aaflow_plugins.executor import Executor
from llama_index_aaflow.incremental_runs import Alone, Keeping, Prefix, prefix_of, with_one_id
from llama_index_aaflow.ingestion import Sooner, native_reason
from llama_index_aaflow.native_classes import found, with_class
from llama_index_aaflow.transformations import sooner

T = TypeVar("T")


def incremental(
    pipeline: T, folder: str | PathLike[str], *, keep_days: float = 30, executor: Executor | None = None
) -> T:
    """An accelerated `IngestionPipeline` that computes new and changed documents alone.

    The native cache has one entry for a whole run: a document that changes makes all be computed again. Here each
    document has one. A run gives the nodes that a run without it gives: same order, text, metadata, relationships,
    hashes and embeddings. The ids of an unchanged document's nodes are those it was given first, which an index that
    was filled by an earlier run knows already.

    It is a function of its own, and not a setting of `accelerate`, because no other object has one like it. The
    folder is named, and not `persist`ed with the pipeline: every run leaves it complete, and several processes may
    use it at once.

    - Kept are the results of the first transformations, as far as each treats every document by itself:
      `SentenceSplitter`, `TokenTextSplitter`, `SentenceWindowNodeParser`, `MarkdownNodeParser`, and embedding models,
      whose vectors are taken to depend on their text alone. What follows (other parsers, extractors, transformations of
      your own) is applied to all nodes, as natively.
    - A document is the same if all its fields are, and if the transformations are. Its id is one of the fields: give
      documents ids that last, as readers do that take file names for ids.
    - A parser is the same if its class and all its settings are, the code of functions included; a model if its class
      and fields are, as the native cache tells them (by `str`, without the API key and addresses in memory). Classes
      and functions of installed distributions are told by name and version, what somebody has put in place of
      their methods by its code. Code of your own is told by all that it reaches: its compiled form, defaults,
      closures, decorators, bases, attributes of classes, private attributes of a model, and globals, through functions,
      classes and attributes of modules, by value or by code in turn. If any of that can't be told (an object, `eval`,
      a file that is read by `open`, by a path's methods or by numpy, a module imported by a name made at run time), a
      `ValueError` names it; make it a field of the model then, with a `str` that tells it from others, or one with
      `exclude=True` if vectors do not depend on it. Not told are attributes looked up by a name made at run time on
      installed modules, their settings, the environment, what is behind a model's name, and what installed code reads
      by other means: if one of them changes, take another folder.
    - Callbacks, events and spans tell of what is computed. What was finished is kept if a later transformation fails.
    - The pipeline's own cache is asked only for what follows, `disable_cache` concerns it alone. Document stores
      and vector stores see what they see natively. With `num_workers` each batch is a run of its own; nothing is kept,
      or taken, if several inputs have one id.
    - Inputs that are neither `Document` nor `TextNode`, that hold themselves, lone surrogates or objects without a
      value are computed each time; so are all where the inputs are not a list, hold a class of somebody's own, or
      where `run` is given further arguments.
    - Entries that no run has used for `keep_days`, and one more, are dropped when files are merged, each 32 or so.
    - Of processes that compute a new document at the same time, each gives ids of its own; later runs find either's.

    Args:
        pipeline: Any `IngestionPipeline`, accelerated or not. It is not changed.
        folder: Where entries are kept; made by the first run. Pipelines may share one.
        keep_days: Days that an entry outlasts its last use.
        executor: Its `max_concurrency` bounds embedding requests in flight; None for an accelerated pipeline's own.

    Returns:
        A pipeline of the same class.

    Raises:
        TypeError: If `pipeline` is not an `IngestionPipeline`.
        ValueError: If nothing of the pipeline can be kept, or `keep_days` is not positive; the message says why.
    """
    if not isinstance(pipeline, IngestionPipeline):
        raise TypeError(f"pipeline: an IngestionPipeline is needed, not {type(pipeline).__name__}")
    if not keep_days > 0:
        raise ValueError(f"keep_days must be positive, not {keep_days!r}")
    given: Any = pipeline
    reason = native_reason(given)
    if reason is None:
        prefix = _prefix(given)
        reason = None if prefix.length else prefix.reason or "it has no transformations"
    if reason is not None:
        raise ValueError(f"pipeline: nothing of it can be kept by document: {reason}")
    accelerated = isinstance(given, Sooner)
    native = given.aaflow_native if accelerated else type(given)
    if executor is None and accelerated:
        executor = given._executor
    keeping = Keeping(str(Path(folder).absolute()), keep_days)
    made: T = with_class(given, _Incremental.aaflow_class(native, executor, keeping))
    return made


class _Incremental(Sooner):
    """What stands for an `IngestionPipeline`, and keeps what it makes."""

    @classmethod
    def aaflow_methods(cls, native: Any, executor: Executor | None, setting: Keeping | None) -> dict[str, Any]:
        """Those of an accelerated one, and batches that know of one another."""
        methods = super().aaflow_methods(native, executor, setting)
        return {**methods, "_node_batcher": staticmethod(partial(_batches, found(native, "_node_batcher").__func__))}


def _batches(batches: Any, num_batches: int, nodes: Any) -> Iterator[Any]:
    """The native batches of `num_workers`, in which nothing is kept if inputs of one id may be in several."""
    doubled = with_one_id(nodes)
    for batch in batches(num_batches, nodes):
        yield Alone(batch) if doubled else batch


def kept_by_document(pipeline: Any) -> Iterator[dict[str, str]]:
    """What to tell of each transformation of a pipeline, and of any that follow: whether its results are kept."""
    if isinstance(pipeline, Sooner) and pipeline._setting is not None:
        prefix = _prefix(pipeline)
        yield from [{"kept": "by document"}] * prefix.length
        if prefix.reason is not None:
            yield {"not kept": prefix.reason}
    while True:
        yield {}


def _prefix(pipeline: Any) -> Prefix:
    transformations = pipeline.transformations
    return prefix_of(transformations, [sooner(one) for one in transformations])
