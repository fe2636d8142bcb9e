"""A batch of a query engine or a retriever in a job of several ranks: each rank answers a block of the queries.

Over shards all ranks find the nodes of all queries together, before each answers its block: such a batch is a call of
all ranks, whatever the executor. Answers travel as JSON, where that gives them back the same.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import Response
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.tools import BaseTool

from aaflow_plugins.divided_batches import Job, NoDataError, Outcome, aranks_for, batch_on, is_for_ranks, ranks_for
from aaflow_plugins.engines.communicator import Communicator, within_a_block
from aaflow_plugins.engines.event_loop import in_thread
from aaflow_plugins.engines.tasks import digest_of
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import share_of
from llama_index_aaflow.carried_nodes import node_from_json, node_to_json, to_json
from llama_index_aaflow.query.running import Batch
from llama_index_aaflow.query.told import told_of_query, told_of_search
from llama_index_aaflow.sharded_retrieval import TOGETHER, Found, ShardedRetriever


def run_batch(owner: Any, batch: Batch, one: Callable[[Any], Any]) -> list[Any]:
    """The results of `one` for the queries of a batch, in order; on several ranks those that this rank is to have.

    Args:
        owner: The accelerated engine or retriever.
        batch: The batch.
        one: Its `query` or `retrieve`, or one that does the same.
    """
    executor = owner._aaflow.settings.executor
    ranks = _ranks_over_shards(owner, batch) or ranks_for(executor)
    if ranks is None:
        return batch.run(one)

    def run(part: _Part) -> list[Any]:
        def answer(number: int) -> Any:
            with part.known(number):
                return one(batch.queries[number])

        return part.batch.run(one if part.found is None else answer)

    return _answers(ranks, executor, owner, batch, run)


async def arun_batch(owner: Any, batch: Batch, one: Callable[[Any], Awaitable[Any]]) -> list[Any]:
    """As `run_batch`, with `aquery` or `aretrieve`, in tasks of the running loop."""
    executor = owner._aaflow.settings.executor
    ranks = _ranks_over_shards(owner, batch) or await aranks_for(executor)
    if ranks is None:
        return await batch.arun(one)

    async def run(part: _Part) -> list[Any]:
        async def answer(number: int) -> Any:
            with part.known(number):
                return await one(batch.queries[number])

        return await part.batch.arun(one if part.found is None else answer)

    return await in_thread(lambda on_loop: _answers(ranks, executor, owner, batch, partial(on_loop, run)))


def _ranks_over_shards(owner: Any, batch: Batch) -> Communicator | None:
    """The ranks that search together for what a batch asks; None if it asks nothing of shards.

    Raises:
        ValueError: If shards would be asked for some queries at once, by an engine within this one.
    """
    retriever = batch.retriever
    if within_a_block():
        return None
    if isinstance(retriever, ShardedRetriever):
        return retriever.ranks if retriever.ranks.size > 1 else None
    if (batch.limit > 1 or is_for_ranks(owner._aaflow.settings.executor)) and _asks_shards(owner):
        raise ValueError(TOGETHER)
    return None


def _asks_shards(owner: Any) -> bool:
    """Whether there is a retriever over shards of several ranks in an engine, or in an engine that it asks."""
    seen: set[int] = set()
    parts = [owner]
    while parts:
        part = parts.pop()
        if isinstance(part, ShardedRetriever) and part.ranks.size > 1:
            return True
        if isinstance(part, list | tuple | dict):
            # A retriever has the ids of all nodes of its index.
            parts += [each for each in (part.values() if isinstance(part, dict) else part) if type(each) is not str]
        elif isinstance(part, BaseQueryEngine | BaseRetriever | BaseTool) and id(part) not in seen:
            seen.add(id(part))
            parts += vars(part).values()
    return False


@dataclass(frozen=True)
class _Part:
    """The queries that one rank answers.

    Attributes:
        batch: They, or over shards their numbers.
        found: Over shards what was found for all queries.
        retriever: Over shards who is to know it.
    """

    batch: Batch
    found: Sequence[Found] | None
    retriever: Any

    def known(self, number: int) -> Any:
        """While it is entered, the retriever knows what was found for a query."""
        assert self.found is not None
        return self.retriever.knowing(self.found[number])


def _answers(
    ranks: Communicator, executor: Executor | None, owner: Any, batch: Batch, run_here: Callable[[_Part], list[Any]]
) -> list[Any]:
    queries, retriever, found = batch.queries, batch.retriever, None
    if isinstance(retriever, ShardedRetriever):
        bundles = [QueryBundle(query) if isinstance(query, str) else query for query in queries]
        found = retriever.find(bundles, batch.limit)
    of_rank = replace(batch, limit=share_of(batch.limit, ranks), retriever=retriever if found is None else None)

    def run(numbers: Sequence[int], outcome: Outcome | None) -> list[Any]:
        own = list(numbers) if found is not None else [queries[number] for number in numbers]
        return run_here(_Part(replace(of_rank, queries=own, outcome=outcome), found, retriever))

    job = Job(
        count=len(queries),
        inputs=digest_of(map(told_of_query, queries)),
        settings=digest_of(_told_of(owner, batch)),
        alone=None,
        run=run,
        write=_written,
        read=_read,
    )
    return batch_on(ranks, executor or Executor(), job)


# -- what tells batches from others ----------------------------------------------------------------------


def _told_of(owner: Any, batch: Batch) -> list[str]:
    """What an engine or a retriever is, as far as ranks can compare it: classes, settings and prompts."""
    parts = [owner, batch.retriever, getattr(owner, "_response_synthesizer", None)]
    parts += getattr(owner, "_node_postprocessors", [])
    told = [type(part).__qualname__ for part in parts]
    if isinstance(batch.retriever, VectorIndexRetriever):
        told += told_of_search(batch.retriever)
    if hasattr(owner, "get_prompts"):
        told += [f"{name} {getattr(prompt, 'template', None)}" for name, prompt in owner.get_prompts().items()]
    return [*told, repr(batch.return_exceptions), repr(batch.limit)]


# -- answers on their way --------------------------------------------------------------------------------


def _written(answer: Any) -> bytes:
    """A response, or the nodes that were retrieved, as JSON.

    Raises:
        NoDataError: If it would not come back equal, of the same types.
    """
    is_response = type(answer) is Response
    nodes = answer.source_nodes if is_response else answer
    if not (type(nodes) is list and set(map(type, nodes)) <= {NodeWithScore}):
        raise NoDataError(answer)
    try:
        told: dict[str, Any] = {"nodes": [[node_to_json(each.node), each.score] for each in nodes]}
        if is_response:
            told |= {"text": answer.response, "metadata": answer.metadata}
        return to_json(told).encode()
    except TypeError:
        raise NoDataError(answer) from None


def _read(written: bytes) -> Any:
    told = json.loads(written)
    nodes = [NodeWithScore(node=node_from_json(node), score=score) for node, score in told["nodes"]]
    return Response(told["text"], source_nodes=nodes, metadata=told["metadata"]) if "text" in told else nodes
