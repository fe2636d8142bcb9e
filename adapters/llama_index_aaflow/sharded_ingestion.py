"""A pipeline whose documents are spread over the ranks: each runs it over its own block, and keeps what comes of it.

On each rank `run`, or `arun`, is the native one. What it would know of the whole input in one process, and does not in
a block, it is told: which texts a batch of the embedding model has, what the other ranks' document stores hold, and
whether all ranks find in their caches what it finds in its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import MetadataMode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.event_loop import OnLoop, called_on, in_thread
from aaflow_plugins.engines.tasks import compare_samples
from aaflow_plugins.executor import Executor
from aaflow_plugins.remote import sample_of
from aaflow_plugins.shards import blocks, check_same_texts, embed_evenly
from llama_index_aaflow.embeddings import embeds_natively, is_blocking, is_openai
from llama_index_aaflow.ingestion_cache import quick_cache
from llama_index_aaflow.ingestion_overlap import parses_by_document, parses_when_awaited, texts_of
from llama_index_aaflow.ingestion_ranks import Helping, fingerprints, helping
from llama_index_aaflow.native_classes import with_class
from llama_index_aaflow.sharded_documents import RefusedError, check_apart, documents_seen, drop_replaced
from llama_index_aaflow.transformations import sooner

ELSEWHERE = "use Executor(gather='root')"


def run_sharded(
    ranks: Communicator,
    pipeline: Any,
    executor: Executor,
    arguments: Mapping[str, Any],
    native: Callable[..., Sequence[Any]],
    on_loop: OnLoop | None = None,
) -> Sequence[Any]:
    """Run a pipeline on all ranks, each over its own block of the documents.

    Args:
        ranks: The ranks, of which there are several.
        pipeline: The pipeline.
        executor: Its executor.
        arguments: What `run` was given, by name.
        native: `run` in this process: takes a pipeline and keyword arguments.
        on_loop: Runs coroutines of this process, where `native` stands for `arun`.

    Returns:
        The nodes of this rank's block. Those of all ranks, one after the other, are what one process returns.

    Raises:
        ValueError: If that cannot be known; the message says why.
        RankError: If another rank fails, or has other transformations or documents.
    """
    given = dict(arguments)
    reason = _reason(pipeline, given) or steps_reason(pipeline.transformations, asynchronous=on_loop is not None)
    if reason is not None:
        raise ValueError(f"gather='shards': {reason}; {ELSEWHERE}")
    store = pipeline.vector_store
    same = {
        **fingerprints(pipeline.transformations),
        "partitioned": executor.partitioned,
        "docstore": pipeline.docstore is not None,
        "docstore_strategy": pipeline.docstore_strategy,
        "vector_store": None if store is None else isinstance(store, SimpleVectorStore),
        "disable_cache": pipeline.disable_cache,
    }
    refused = None
    with ranks.together("run" if on_loop is None else "arun", **same):
        try:
            return _run(ranks, pipeline, executor, given, native, on_loop)
        except RefusedError as error:
            refused = error  # by all ranks alike: it is raised when they have left the block, so that no one fails
    raise refused


def _run(
    ranks: Communicator,
    pipeline: Any,
    executor: Executor,
    given: dict[str, Any],
    native: Callable[..., Sequence[Any]],
    on_loop: OnLoop | None,
) -> Sequence[Any]:
    steps = steps_on(ranks, pipeline.transformations, executor, on_loop)
    nodes = called_on(on_loop, pipeline._prepare_inputs)(given.pop("documents", None), given.pop("nodes", None))
    mine = with_class(pipeline, type(pipeline))
    mine.__dict__.update(documents=None, readers=None)
    own = block_of(ranks, nodes, executor)
    store = pipeline.vector_store
    if pipeline.docstore is not None:
        delete = None
        if store is not None:
            delete = store.delete if on_loop is None else partial(on_loop, store.adelete)
        mine.__dict__["docstore"] = documents_seen(ranks, pipeline, own, delete)
    with helping(_Together(ranks, steps, apart=pipeline.docstore is None)):
        made = native(mine, documents=own, **given)
    if isinstance(store, SimpleVectorStore):
        drop_replaced(ranks, [node for node in made if node.embedding is not None], store)
    pipeline.__dict__["docstore_strategy"] = mine.docstore_strategy  # the oldest versions change it
    return made


def block_of(ranks: Communicator, nodes: Sequence[Any], executor: Executor) -> list[Any]:
    """This rank's block of documents that all ranks have; all ranks make this call together.

    Raises:
        RankError: If they have not the same, and it isn't said that they are spread already.
    """
    if executor.partitioned:
        return list(nodes)
    texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
    check_same_texts(ranks, texts)
    mine = blocks(list(map(len, texts)), ranks.size)[ranks.rank]
    return list(nodes[mine.start : mine.stop])


def _reason(pipeline: Any, given: Mapping[str, Any]) -> str | None:
    """Why a pipeline's blocks are not known to add up to what one process makes; None if they do."""
    if pipeline._setting is not None:
        return "a pipeline that keeps documents between runs does so in one process"
    if (given.get("num_workers") or 1) > 1:
        return "num_workers: each rank is a worker"
    if pipeline.docstore is not None and type(pipeline.docstore) is not SimpleDocumentStore:
        return f"docstore: {type(pipeline.docstore).__name__} is not known to be this rank's alone"
    return None


# -- transformations -------------------------------------------------------------------------------------


def steps_reason(transformations: Sequence[Any], *, asynchronous: bool = False) -> str | None:
    """Why transformations are not known to treat a block as part of the whole input; None if they do.

    Args:
        transformations: The transformations.
        asynchronous: Whether they are applied by their coroutines.
    """
    for position, transformation in enumerate(transformations):
        step = sooner(transformation)
        if isinstance(step, BaseEmbedding):
            if not embeds_natively(step, asynchronous=asynchronous):
                what = "embed batches of a fixed number of texts, without a cache or a limiter of its own"
                return f"transformations[{position}], {type(step).__name__}, is not known to {what}"
        elif not parses_by_document(step) or (asynchronous and not parses_when_awaited(step)):
            return f"transformations[{position}], {type(step).__name__}, is not known to treat each document by itself"
    return None


def steps_on(
    ranks: Communicator, transformations: Sequence[Any], executor: Executor, on_loop: OnLoop | None = None
) -> list[Any]:
    """What stands for transformations, each of which treats a block as part of the whole input.

    All ranks make this call together.

    Args:
        ranks: The ranks.
        transformations: Transformations for which `steps_reason` finds no reason.
        executor: What of its bounds this rank has a share of.
        on_loop: Runs coroutines of this process, where transformations are applied by theirs.

    Raises:
        RankError: If a model is another one than rank 0's.
    """
    own = executor.of_rank(ranks)
    accelerated = [sooner(transformation, own) for transformation in transformations]
    return [
        ShardedEmbedding(each, ranks, on_loop=on_loop) if isinstance(each, BaseEmbedding) else each
        for each in accelerated
    ]


class ShardedEmbedding:
    """An embedding model, as the native code applies it, whose batches are those of one process."""

    def __init__(
        self, embedding: Any, ranks: Communicator, block: int | None = None, on_loop: OnLoop | None = None
    ) -> None:
        """Set up; all ranks make this call together.

        Args:
            embedding: The model, as this process uses it; it embeds natively.
            ranks: The ranks.
            block: How many texts the model is given at once; None for all.
            on_loop: Where the model is to be called, if not in this thread.

        Raises:
            RankError: If the model is another one than rank 0's.
        """
        # A request would be paid for; what a client's model is, its settings say.
        if not is_openai(embedding):
            compare_samples(ranks, sample_of(called_on(on_loop, embedding._get_text_embeddings)))
        self._embedding, self._ranks = embedding, ranks
        size = embedding.embed_batch_size
        self._at_once = block if block and block % size else size

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the model by."""
        return self._embedding.to_dict(**kwargs)

    def __call__(self, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Give nodes their vectors, as the native call does; all ranks make this call together."""
        for node, row in zip(nodes, self.embed(texts_of(nodes), **kwargs), strict=True):
            node.embedding = row
        return nodes

    async def acall(self, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Give nodes their vectors, as the native coroutine does; all ranks make this call together."""
        texts = texts_of(nodes)
        native = partial(self._embedding.aget_text_embedding_batch, **kwargs)
        # A model that blocks the loop gives it back after each batch.
        one = is_blocking(self._embedding)
        rows = await in_thread(lambda on_loop: self._rows(texts, partial(on_loop, native), one_by_one=one))
        for node, row in zip(nodes, rows, strict=True):
            node.embedding = row
        return nodes

    def embed(self, texts: list[str], **kwargs: Any) -> list[Any]:
        """The vectors of this rank's texts; all ranks make this call together."""
        return self._rows(texts, partial(self._embedding.get_text_embedding_batch, **kwargs))

    def _rows(
        self, texts: list[str], native: Callable[[list[str]], list[Any]], *, one_by_one: bool = False
    ) -> list[Any]:
        def embed(batch: list[str]) -> list[Any]:
            self._ranks.check()
            rows = native(batch)
            if len(rows) != len(batch):
                raise ValueError(f"{type(self._embedding).__name__} gave {len(rows)} vectors for {len(batch)} texts")
            return rows

        def embed_run(run: list[str]) -> list[Any]:
            several = self._at_once == self._embedding.embed_batch_size and not one_by_one
            whole = len(run) if several else self._at_once
            return [row for start in range(0, len(run), whole) for row in embed(run[start : start + whole])]

        return embed_evenly(self._ranks, texts, self._at_once, embed_run)


# -- one run ---------------------------------------------------------------------------------------------


class _Together(Helping):
    """What this rank's transformations are to know of the others'."""

    def __init__(self, ranks: Communicator, steps: list[Any], *, apart: bool) -> None:
        """Set up.

        Args:
            ranks: The ranks.
            steps: What stands for the pipeline's transformations.
            apart: Whether it is to be seen that no parser gets documents of one id on several ranks.
        """
        self._ranks, self._steps = ranks, steps
        self._apart = apart and any(not isinstance(step, ShardedEmbedding) for step in steps)

    def run(
        self,
        native: Callable[..., Any],
        nodes: Sequence[Any],
        steps: list[Any],
        settings: dict[str, Any],
        executor: Executor | None,
    ) -> Any:
        """Apply the steps to this rank's nodes."""
        if self._apart:
            check_apart(self._ranks, nodes)
        if (cache := settings.get("cache")) is not None:
            return native(self._steps, cache=_SharedCache(quick_cache(cache), self._ranks))
        return native(self._steps)

    async def arun(
        self, native: Callable[..., Any], nodes: Sequence[Any], steps: list[Any], settings: dict[str, Any]
    ) -> Any:
        """As `run`."""
        return await in_thread(lambda on_loop: self.run(partial(on_loop, native), nodes, steps, settings, None))


class _SharedCache:
    """A rank's cache, that has what a block became only if all ranks' have what became of theirs.

    An entry is for a block beside the others' blocks: with others, a batch of texts may have been another.
    """

    def __init__(self, cache: Any, ranks: Communicator) -> None:
        self._cache, self._ranks = cache, ranks
        self._keys: dict[str, str] = {}

    def get(self, key: str, collection: str | None = None) -> Any:
        """What the native `get` returns if all ranks have something; all make this call together."""
        all_keys = b" ".join([key.encode(), *self._ranks.agree(key.encode())])
        self._keys[key] = hashlib.sha256(all_keys).hexdigest()
        found = self._cache.get(self._keys[key], collection=collection)
        answers = self._ranks.agree(b"missing" if found is None else b"kept")
        return found if set(answers) == {b"kept"} else None

    def put(self, key: str, nodes: Sequence[Any], collection: str | None = None) -> None:
        """Put nodes under a key that `get` was asked for."""
        self._cache.put(self._keys[key], nodes, collection=collection)
