"""The adapter as pluggy sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from langchain_core.documents import BaseDocumentTransformer
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.vectorstores import VectorStore
from langchain_text_splitters import MarkdownHeaderTextSplitter
from pydantic import SecretStr

from aaflow_plugins.comparison import Comparison
from aaflow_plugins.demonstration import Demo
from aaflow_plugins.embedding import Embedder
from aaflow_plugins.executor import Executor
from aaflow_plugins.hookspecs import hookimpl
from aaflow_plugins.joins import IN_BLOCKS, Joins
from aaflow_plugins.plan import Plan
from aaflow_plugins.storing import VectorSink
from langchain_aaflow import comparing, embedders, vectorstores
from langchain_aaflow.chains.accelerated import accelerate_chain
from langchain_aaflow.chains.nodes import Call
from langchain_aaflow.chains.plans import chain_plan, plan_of
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.joining import joining_embeddings, joining_model
from langchain_aaflow.query_batching import known_to_batch
from langchain_aaflow.rewriting import Rewriting
from langchain_aaflow.splitters import accelerate_splitter
from langchain_aaflow.wordllama import WordLlamaEmbedder, WordLlamaEmbeddings


@hookimpl
def aaflow_accelerate(obj: Any, executor: Executor | None, batching: bool, batch_queries: bool) -> Any:
    """Accelerate a splitter, embeddings, a vector store or its class, a model, a graph, a chain, any runnable."""
    joins = Joins(batching, batch_queries) if batching or batch_queries else IN_BLOCKS
    if isinstance(obj, BaseDocumentTransformer | MarkdownHeaderTextSplitter):
        return accelerate_splitter(obj)
    if isinstance(obj, Embeddings):
        accelerated = accelerate_embeddings(obj, executor)
        # An object of a class that is not known stays the very object, unless the user asks for more.
        return joining_embeddings(accelerated, joins) if batching or accelerated is not obj else obj
    if isinstance(obj, VectorStore) or (isinstance(obj, type) and issubclass(obj, VectorStore)):
        return vectorstores.accelerate_store(obj, joins)
    if isinstance(obj, BaseChatModel):
        return joining_model(obj) if batching else obj
    if _is_graph(obj):
        from langchain_aaflow.graphs import accelerate_graph

        return accelerate_graph(obj, batch_queries=batch_queries)
    if isinstance(obj, Runnable):
        joined = Rewriting(joins, obj.get_name()).of(obj) if batching or isinstance(obj, BaseRetriever) else obj
        return accelerate_chain(joined, executor, batch_queries=batch_queries)
    return None


def _is_graph(obj: Any) -> bool:
    # Looking at names imports nothing.
    return any(base.__module__ == "langgraph.pregel.main" and base.__name__ == "Pregel" for base in type(obj).__mro__)


@hookimpl
def aaflow_embedder(embeddings: Any) -> Embedder | None:
    """The fast path of a known embeddings class."""
    if type(embeddings) is WordLlamaEmbeddings:
        return WordLlamaEmbedder()
    return embedders.fast_path(embeddings)[0] if isinstance(embeddings, Embeddings) else None


@hookimpl
def aaflow_query_batching(embeddings: Any) -> bool | None:
    """Whether the class is one of those compared bit by bit."""
    return known_to_batch(embeddings)


@hookimpl
def aaflow_sink(store: Any) -> VectorSink | None:
    """The zero-copy way into a known vector store."""
    return vectorstores.sink_for(store) if isinstance(store, VectorStore) else None


@hookimpl
def aaflow_plan(obj: Any) -> Plan | None:
    """The plan of a chain, or of an ingestion with these objects."""
    if _is_graph(obj):
        from langchain_aaflow.graphs import explain_graph

        return plan_of(Call(obj, "; ".join(explain_graph(obj))))
    if isinstance(obj, Runnable) and not isinstance(obj, BaseDocumentTransformer):
        return chain_plan(obj)
    pipeline = comparing.pipeline_of(obj)
    return pipeline.plan() if pipeline else None


@hookimpl
def aaflow_comparison(make: Callable[[], Any], documents: Sequence[tuple[str, str]]) -> Comparison | None:
    """Native against accelerated."""
    return comparing.comparison(make, documents)


@hookimpl
def aaflow_demo(documents: Sequence[tuple[str, str]]) -> Demo | None:
    """Text files into FAISS."""
    from langchain_aaflow.demo import demo

    return demo(documents)


@hookimpl
def aaflow_capabilities() -> list[tuple[str, str, str]]:
    """What this adapter can do with what is installed."""
    return [
        ("splitters", "langchain_text_splitters", "ready"),
        ("tokens", "splintr-rs", _state("splintr", "pip install 'aaflow-plugins[tokens]'")),
        ("tokens", "tiktoken", _state("tiktoken", "pip install tiktoken")),
        ("embeddings", "OpenAIEmbeddings", _state("langchain_openai", "pip install langchain-openai")),
        ("embeddings", "HuggingFaceEmbeddings", _state("sentence_transformers", "pip install langchain-huggingface")),
        ("stores", "InMemoryVectorStore", "ready"),
        ("stores", "FAISS", _state("faiss", "pip install 'aaflow-plugins[faiss]'")),
        ("chains", "batch, abatch", "ready"),
        ("chains", "lean ChatOpenAI", _lean_state()),
        ("graphs", "LangGraph", _state("langgraph", "pip install langgraph")),
    ]


def _state(module: str, remedy: str) -> str:
    return "ready" if find_spec(module) else f"not installed: {remedy}"


def _lean_state() -> str:
    state = _state("langchain_openai", "pip install langchain-openai")
    if state != "ready":
        return state
    from langchain_openai import ChatOpenAI

    from langchain_aaflow.openai_chat import lean_chat

    lean = lean_chat(ChatOpenAI(model="any", api_key=SecretStr("none")))
    return f"native: {lean}" if isinstance(lean, str) else "ready"
