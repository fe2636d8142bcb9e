"""The LangChain adapter of aaflow-plugins: `accelerate` native objects, `ingest` documents into a native store."""

from aaflow_plugins.plugins import accelerate
from langchain_aaflow.chains.order import any_order, in_order
from langchain_aaflow.ingestion import aingest, ingest

__all__ = ["accelerate", "aingest", "any_order", "in_order", "ingest"]
