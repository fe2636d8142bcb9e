"""A pipeline that knows from earlier runs what became of documents that have not changed."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from llama_index.core.ingestion import IngestionPipeline

from aaflow_plugins.executor import Executor
from llama_index_aaflow.incremental_runs import Keeping, Prefix, prefix_of
from llama_index_aaflow.ingestion import Sooner, native_reason
from llama_index_aaflow.native_classes import with_class
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

    - Kept are the results of the first transformations, as far as each treats every document by itself: the node
      parsers that `accelerate` knows, and embedding models, whose vectors are taken to depend on their text alone.
      What follows (extractors, transformations of your own) is applied to all nodes, as natively.
    - A document is the same if all its fields are, and if the transformations have the same settings and code, and
      LlamaIndex the same version. Its id is one of the fields: give documents ids that last, as readers do that take
      file names for ids. A model that changes behind its name is not noticed: take another folder.
    - Callbacks, events and spans tell of what is computed. What was finished is kept if a later transformation fails.
    - The pipeline's own cache is asked only for what follows, `disable_cache` concerns it alone. Document stores
      and vector stores see what they see natively. With `num_workers` each batch is a run of its own.
    - Inputs that are neither `Document` nor `TextNode`, or whose metadata JSON can't hold as it is, are computed
      each time; so are all where the inputs are not a list, hold a class of somebody's own, or where `run` is given
      further arguments.
    - Entries that no run has used for `keep_days` are dropped when files are merged, each 32 files or so.

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
    made: T = with_class(given, Sooner.aaflow_class(native, executor, keeping))
    return made


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
