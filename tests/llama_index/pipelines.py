"""Pipelines to run natively and accelerated, and everything that can be seen of a run."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.embeddings.openai import OpenAIEmbedding
from pydantic import Field

from aaflow_plugins.hookspecs import hookimpl
from aaflow_plugins.plugins import plugin_manager
from benchmarks.openai_server import Connection
from llama_index_aaflow import accelerate
from tests.llama_index.parsing_outcomes import numbered, visible


class Lengths(BaseEmbedding):
    """An embedding model that nobody knows."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(len(text)), 1.0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(len(query)), 1.0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return [float(len(query)), 1.0]


class Counting(Lengths):
    """Vectors that float32 does not hold; every text asked for is noted."""

    model_name: str = "counting"  # The native cache takes one model for another of the same name.
    asked: list[str] = Field(default_factory=list, exclude=True)  # no part of what the model is

    def _get_text_embedding(self, text: str) -> list[float]:
        self.asked.append(text)
        return [len(text) / 3, -0.0]


class Shouting(TransformComponent):
    """A transformation of somebody's own."""

    mark: str = "!"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        for node in nodes:
            node.metadata["shout"] = self.mark + kwargs.get("more", "")
        return nodes


class Failing(TransformComponent):
    """A transformation that fails at a node."""

    at: int = 3

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        for number, _ in enumerate(nodes):
            if number == self.at:
                raise LookupError(f"node {number}")
        return nodes


def embedding(server: Connection, **settings: Any) -> OpenAIEmbedding:
    """OpenAI's embeddings as the loopback server gives them."""
    given: dict[str, Any] = {"model": "text-embedding-3-small", "api_key": "none", "max_retries": 1, **settings}
    return OpenAIEmbedding(api_base=server.base_url, **given)


def splitter(**settings: Any) -> SentenceSplitter:
    """A splitter whose nodes have the same ids each time."""
    return SentenceSplitter(**{"chunk_size": 64, "chunk_overlap": 8, "id_func": numbered, **settings})


def documents(texts: Sequence[str]) -> list[Document]:
    """A document of each text."""
    return [Document(text=text, id_=f"doc {i}", metadata={"n": i}) for i, text in enumerate(texts)]


def nodes_of(pipeline: IngestionPipeline, given: list[Any], asynchronous: bool = False) -> Any:
    """All that can be seen of a run's nodes."""
    result = asyncio.run(pipeline.arun(nodes=given)) if asynchronous else pipeline.run(nodes=given)
    return visible(list(result))


def left(pipeline: IngestionPipeline) -> Any:
    """What a run has left behind."""
    docstore, store = pipeline.docstore, pipeline.vector_store
    return (
        pipeline.docstore_strategy,
        visible(pipeline.cache.cache.to_dict()),
        docstore.to_dict() if isinstance(docstore, SimpleDocumentStore) else None,
        store.to_dict() if isinstance(store, SimpleVectorStore) else None,
    )


def ran(pipeline: IngestionPipeline, call: Callable[[IngestionPipeline], Any]) -> Any:
    """What a call gives or raises, what is warned of and where, and what is left behind."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = call(pipeline)
            if asyncio.iscoroutine(result):
                result = asyncio.run(result)
            result = visible(list(result))
        except Exception as error:
            result = type(error), str(error)
    told = [(w.category, str(w.message), w.filename, w.lineno) for w in warned if w.category is UserWarning]
    return result, told, left(pipeline)


def assert_same(make: Callable[[], IngestionPipeline], *calls: Callable[[IngestionPipeline], Any]) -> Any:
    """Assert that calls of a pipeline and of its accelerated form come to the same, one after the other.

    Each is given objects of its own. Gives the last outcome.
    """
    native, ours = make(), make()
    fast = accelerate(ours)
    assert fast is not ours
    assert type(fast).__name__ == type(ours).__name__
    outcome = None
    for call in calls:
        outcome = ran(native, call)
        assert ran(fast, call) == outcome
    return outcome


@contextmanager
def said_independent(*classes: type) -> Iterator[None]:
    """Within the block a plug-in says of models of exactly these classes that their answers are independent."""

    class Says:
        @hookimpl
        def aaflow_independent_answers(self, model: Any) -> bool | None:
            return True if type(model) in classes else None

    plugin_manager().register(says := Says())
    try:
        yield
    finally:
        plugin_manager().unregister(says)
