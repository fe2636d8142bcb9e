"""The LangChain adapter of aaflow-plugins: `accelerate` native objects, `ingest` documents into a native store."""

from aaflow_plugins.plugins import accelerate
from langchain_aaflow.chains.order import any_order, in_order
from langchain_aaflow.ingestion import aingest, ingest
from langchain_aaflow.sharded_store import ShardedVectorStore

__all__ = ["ShardedVectorStore", "accelerate", "aingest", "any_order", "in_order", "ingest"]
