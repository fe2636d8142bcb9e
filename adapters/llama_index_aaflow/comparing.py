"""Native LlamaIndex against the accelerated objects, on the user's own: what to run, and how results are compared."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any, Final
from uuid import UUID

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import Response
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import NodeParser, SentenceSplitter
from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeWithScore
from llama_index.core.storage.kvstore import SimpleKVStore

from aaflow_plugins.comparison import Comparison, Run
from aaflow_plugins.plugins import accelerate

#: Queries that engines and retrievers are given at the most, and how many are under way at once.
_QUERIES, _AT_ONCE = 100, 16

#: What LlamaIndex makes ids of, where nobody gives one.
_RANDOM: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def comparison(make: Callable[[], Any], documents: Sequence[tuple[str, str]]) -> Comparison | None:
    """Compare what the user's object does natively with what it does accelerated.

    Args:
        make: Gives the user's object, for each run anew where it is a function of theirs: a node parser, an embedding
            model, an `IngestionPipeline`, `VectorStoreIndex`, or a query engine or a retriever over an index of theirs.
        documents: `(source, text)` of each document. Engines and retrievers are asked their first lines.

    Returns:
        The comparison, or None if the object is not known.

    Raises:
        ValueError: If every run would fill the same stores.
    """
    first = make()
    name = (first if isinstance(first, type) else type(first)).__name__
    source = [Document(text=text, id_=source, metadata={"source": source}) for source, text in documents]

    def compared(title: str, act: Callable[[Any, bool], Any]) -> Comparison:
        return Comparison(
            f"{title}: {name}",
            lambda: _run(lambda: act(make(), False)),
            lambda: _run(lambda: act(accelerate(make()), True)),
            difference,
        )

    if isinstance(first, NodeParser):
        return compared(f"parse {len(source):,} documents", lambda parser, _: parser.get_nodes_from_documents(source))
    if isinstance(first, BaseEmbedding):
        texts = [node.get_content(MetadataMode.EMBED) for node in accelerate(SentenceSplitter())(source)]
        return compared(f"embed {len(texts):,} texts", lambda model, _: model.get_text_embedding_batch(texts))
    if isinstance(first, IngestionPipeline):
        if make() is first:
            if first.vector_store or first.docstore:
                raise ValueError("the pipeline's stores would be filled twice: name a function that returns a new one")
            make = _with_own_cache(first)
        return compared(f"ingest {len(source):,} documents", lambda pipeline, _: pipeline.run(documents=source))
    if isinstance(first, type) and issubclass(first, VectorStoreIndex):
        return compared(f"index {len(source):,} documents", lambda index_class, _: index_class.from_documents(source))
    if isinstance(first, BaseQueryEngine | BaseRetriever):
        queries = [text.strip().partition("\n")[0][:200] or source for source, text in documents[:_QUERIES]]
        return compared(f"answer {len(queries):,} queries", lambda asked, fast: _answers(asked, queries, fast=fast))
    return None


def difference(native: Any, accelerated: Any) -> str | None:
    """The first difference between two results in words, or None."""
    if isinstance(native, VectorStoreIndex) and isinstance(accelerated, VectorStoreIndex):
        return _first_difference(_index(native), _index(accelerated))
    if isinstance(native, BaseException) or isinstance(accelerated, BaseException):
        return _first_difference([_plain(native)], [_plain(accelerated)])
    numbers = [_numbers(result) for result in (native, accelerated)]
    return _first_difference(
        [_plain(each, numbers[0]) for each in native], [_plain(each, numbers[1]) for each in accelerated]
    )


def _answers(asked: Any, queries: list[str], *, fast: bool) -> list[Any]:
    """All answers, natively by concurrent calls, as LlamaIndex advises."""
    if fast and hasattr(asked, "batch"):
        answers: list[Any] = asked.batch(queries, max_concurrency=_AT_ONCE)
        return answers

    async def all_of() -> list[Any]:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(query: str) -> Any:
            async with turn:
                return await (asked.aquery(query) if isinstance(asked, BaseQueryEngine) else asked.aretrieve(query))

        return await asyncio.gather(*map(one, queries))

    return asyncio.run(all_of())


def _with_own_cache(pipeline: IngestionPipeline) -> Callable[[], IngestionPipeline]:
    """Gives the pipeline with what is in its cache now: with one cache, all runs but the first would only look there.

    Raises:
        ValueError: If that is kept outside of the process.
    """
    cache = pipeline.cache
    if pipeline.disable_cache or cache is None:
        return lambda: pipeline
    if type(cache.cache) is not SimpleKVStore:
        raise ValueError("the first run would fill the pipeline's cache: name a function that returns a new one")
    kept = deepcopy(cache.cache.to_dict())

    def make() -> IngestionPipeline:
        own = IngestionCache(cache=SimpleKVStore.from_dict(deepcopy(kept)), collection=cache.collection)
        return pipeline.model_copy(update={"cache": own})

    return make


def _run(call: Callable[[], Any]) -> Run:
    try:
        return Run(call())
    except Exception as error:
        return Run(error)


def _numbers(result: Any) -> dict[str, int]:
    """Numbers for the random ids in a result: of nodes, and of what they are related to, as they come."""
    return {id_: number for number, id_ in enumerate(dict.fromkeys(filter(_RANDOM.fullmatch, _ids(result))))}


def _ids(result: Any) -> Iterator[str]:
    if isinstance(result, BaseNode):
        yield result.node_id
        for related in result.relationships.values():
            yield from (each.node_id for each in (related if isinstance(related, list) else [related]))
    elif isinstance(result, NodeWithScore):
        yield from _ids(result.node)
    elif isinstance(result, Response):
        yield from _ids(result.source_nodes)
    elif isinstance(result, list | tuple):
        for each in result:
            yield from _ids(each)


def _index(index: VectorStoreIndex) -> list[Any]:
    """An index's nodes in their order, their vectors where the store tells, and its struct."""
    kept = index.docstore.docs  # made anew at each look
    ids = list(index.index_struct.nodes_dict.values()) or list(kept)
    numbers = {node_id: number for number, node_id in enumerate(ids)}
    stored = getattr(getattr(index.vector_store, "data", None), "embedding_dict", {})
    nodes = [(kept.get(node_id), stored.get(node_id)) for node_id in ids]
    return [_plain(each, numbers) for each in nodes]


def _plain(value: Any, numbers: Mapping[str, int] | None = None) -> Any:
    """A value with all that can be compared; random ids as the number of the node that has them."""
    numbers = numbers or {}
    if isinstance(value, BaseNode):
        return (type(value).__name__, value.hash, _plain(value.to_dict(), numbers))
    if isinstance(value, NodeWithScore):
        return (_plain(value.node, numbers), value.score)
    if isinstance(value, Response):
        return (value.response, [_plain(node, numbers) for node in value.source_nodes], _plain(value.metadata, numbers))
    if isinstance(value, dict):
        return [(_plain(key, numbers), _plain(item, numbers)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [item if type(item) is float else _plain(item, numbers) for item in value]
    if isinstance(value, str):
        return numbers.get(value, value)
    return value if value is None or isinstance(value, bool | int | float | UUID) else f"{type(value).__name__} {value}"


def _first_difference(native: Sequence[Any], accelerated: Sequence[Any]) -> str | None:
    if len(native) != len(accelerated):
        return f"{len(native):,} results against {len(accelerated):,}"
    for position, (one, other) in enumerate(zip(native, accelerated, strict=True)):
        if repr(one) != repr(other):
            told, other_told = str(one), str(other)
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(told, other_told, strict=False)))
            start = max(0, same - 20)
            return f"result {position:,}: {told[start:]:.100} against {other_told[start:]:.100}"
    return None
