"""The adapter as pluggy sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

from llama_index.core import SimpleDirectoryReader
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import NodeParser
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from aaflow_plugins.comparison import Comparison
from aaflow_plugins.demonstration import Demo
from aaflow_plugins.executor import Executor
from aaflow_plugins.hookspecs import hookimpl
from aaflow_plugins.joins import IN_BLOCKS, Joins
from aaflow_plugins.plan import Plan
from llama_index_aaflow.embeddings import accelerate_embedding
from llama_index_aaflow.indices import accelerate_index, is_index
from llama_index_aaflow.ingestion import accelerate_pipeline
from llama_index_aaflow.node_parsers import accelerate_parser
from llama_index_aaflow.query.accelerated import accelerate_engine, accelerate_retriever
from llama_index_aaflow.readers import accelerate_reader
from llama_index_aaflow.vector_stores import accelerate_store

#: Models that keep nothing from one call for the next.
_INDEPENDENT: Final = (
    ("llama_index.llms.openai.base", "OpenAI"),
    ("llama_index.core.llms.mock", "MockLLM"),
    ("llama_index_aaflow.wordllama", "WordLlamaEmbedding"),
)


@hookimpl
def aaflow_accelerate(obj: Any, executor: Executor | None, batching: bool, batch_queries: bool) -> Any:
    """Accelerate a store, a parser, a reader, an embedding model, a pipeline, an index, a query engine, a retriever."""
    if isinstance(obj, NodeParser):
        return accelerate_parser(obj)
    if isinstance(obj, SimpleDirectoryReader):
        return accelerate_reader(obj)
    if issubclass(obj if isinstance(obj, type) else type(obj), BasePydanticVectorStore):
        return accelerate_store(obj)
    if isinstance(obj, BaseEmbedding):
        return accelerate_embedding(obj, executor)
    if isinstance(obj, IngestionPipeline):
        return accelerate_pipeline(obj, executor)
    if is_index(obj):
        return accelerate_index(obj, executor)
    joins = Joins(batching, batch_queries) if batching or batch_queries else IN_BLOCKS
    if isinstance(obj, BaseQueryEngine):
        return accelerate_engine(obj, joins, executor)
    if isinstance(obj, BaseRetriever):
        return accelerate_retriever(obj, joins, executor)
    return None


@hookimpl
def aaflow_independent_answers(model: Any) -> bool | None:
    """True for clients of OpenAI's endpoints, for the mock model and for WordLlama."""
    return True if (type(model).__module__, type(model).__qualname__) in _INDEPENDENT else None


@hookimpl
def aaflow_plan(obj: Any) -> Plan | None:
    """The steps that work takes through an object."""
    from llama_index_aaflow.plans import plan_of

    return plan_of(obj)


@hookimpl
def aaflow_comparison(make: Callable[[], Any], documents: Sequence[tuple[str, str]]) -> Comparison | None:
    """Compare native and accelerated LlamaIndex."""
    from llama_index_aaflow.comparing import comparison

    return comparison(make, documents)


@hookimpl
def aaflow_demo(documents: Sequence[tuple[str, str]]) -> Demo:
    """Real text through LlamaIndex, natively and accelerated."""
    from llama_index_aaflow.demo import demo

    return demo(documents)


@hookimpl
def aaflow_capabilities() -> list[tuple[str, str, str]]:
    """What this adapter can do with what is installed."""
    faster = "ready" if find_spec("splintr") else "not installed: pip install 'aaflow-plugins[tokens]'"
    has_openai = _has("llama_index.embeddings.openai")
    openai = "ready" if has_openai else "not installed: pip install llama-index-embeddings-openai"
    has_faiss = _has("faiss") and _has("llama_index.vector_stores.faiss")
    faiss = "ready" if has_faiss else "not installed: pip install llama-index-vector-stores-faiss faiss-cpu"
    return [
        ("readers", "SimpleDirectoryReader", "ready"),
        ("node parsers", "llama_index.core", "ready"),
        ("tokens", "splintr-rs", faster),
        ("embeddings", "OpenAIEmbedding", openai),
        ("pipelines", "IngestionPipeline", "ready"),
        ("indexes", "VectorStoreIndex", "ready"),
        ("query engines", "RetrieverQueryEngine", "ready"),
        ("stores", "SimpleVectorStore", "ready"),
        ("stores", "FaissVectorStore", faiss),
    ]


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # none of the packages around it either
        return False
