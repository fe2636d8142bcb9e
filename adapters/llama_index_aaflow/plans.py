"""The plan of a LlamaIndex object: what `aaflow explain` shows of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import NodeParser
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.dataplane.schemas import native
from aaflow_plugins.operators import Apply, Load
from aaflow_plugins.plan import Plan
from llama_index_aaflow import embeddings, indices, ingestion, node_parsers, vector_stores
from llama_index_aaflow.incremental_pipeline import kept_by_document

_ITEM = pa.schema([native("item", "object")])


def plan_of(obj: Any) -> Plan | None:
    """The steps that work takes through an object, and which of them are native, and why; None if it is not known."""
    steps = list(_steps(obj))
    if not steps:
        return None
    asked = isinstance(obj, BaseQueryEngine | BaseRetriever)
    load = Load(name="queries" if asked else "documents", adds=_ITEM, size_of=sys.getsizeof, batch_of=_batch_of)
    return Plan([load, *steps])


def _steps(obj: Any) -> Iterator[Apply]:
    if isinstance(obj, IngestionPipeline):
        reason = ingestion.native_reason(obj)
        told = kept_by_document(obj)
        for transformation in obj.transformations:
            yield replace(_transformation(transformation, reason), config=next(told))
        if obj.vector_store is not None:
            yield Apply(name=f"upsert {_name(obj.vector_store)}", native="the store's own call")
    elif indices.is_index(obj):
        if not isinstance(obj, type):
            for transformation in [*obj._transformations, getattr(obj, "_embed_model", None)]:
                if transformation is not None:
                    yield _transformation(transformation, None)
        yield Apply(name=f"index {_name(obj)}", native=indices.native_reason(obj))
    elif isinstance(obj, NodeParser | BaseEmbedding):
        yield _transformation(obj, None)
    elif issubclass(obj if isinstance(obj, type) else type(obj), BasePydanticVectorStore):
        yield Apply(name=f"store {_name(obj)}", native=vector_stores.native_reason(obj))
    elif isinstance(obj, BaseRetriever):
        yield _retriever(obj)
    elif isinstance(obj, BaseQueryEngine):
        if isinstance(obj, RetrieverQueryEngine):
            yield _retriever(obj._retriever)
        yield Apply(name=f"answer {_name(obj)}", config={"queries": "each natively, several in flight"})


def _transformation(transformation: Any, reason: str | None) -> Apply:
    name = _name(transformation)
    if isinstance(transformation, NodeParser):
        return Apply(name=f"parse {name}", native=reason or node_parsers.native_reason(transformation))
    if isinstance(transformation, BaseEmbedding):
        return Apply(name=f"embed {name}", native=reason or embeddings.native_reason(transformation))
    return Apply(name=f"transform {name}", native=reason or f"{name} is not known")


def _retriever(retriever: Any) -> Apply:
    if not isinstance(retriever, VectorIndexRetriever):
        return Apply(name=f"retrieve {_name(retriever)}", native=f"{_name(retriever)} is not known")
    reason = vector_stores.native_reason(retriever._vector_store)
    searches = "searched for one by one: " + reason if reason else "searched for together"
    return Apply(name=f"retrieve {_name(retriever)}", config={"queries": searches})


def _name(obj: Any) -> str:
    return (obj if isinstance(obj, type) else type(obj)).__name__


def _batch_of(items: list[Any]) -> Batch:
    return Batch(_ITEM, {"item": items}, len(items))
