"""The LangChain adapter of aaflow-plugins: `accelerate` native objects, `ingest` documents into a native store."""

from aaflow_plugins.plugins import accelerate
from langchain_aaflow.ingestion import aingest, ingest

__all__ = ["accelerate", "aingest", "ingest"]
