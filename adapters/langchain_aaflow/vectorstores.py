"""Which vector stores are accelerated, and how rows with finished vectors enter them.

A store's module, and with it langchain_community and faiss, is imported only when such a store is handed over.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeVar

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from aaflow_plugins.joins import Joins
from aaflow_plugins.storing import VectorSink
from langchain_aaflow.joining import joins_of
from langchain_aaflow.native_stores import shared_view

Store = TypeVar("Store", bound=VectorStore | type[VectorStore])

_FAISS_MODULES = ("langchain_community.vectorstores.faiss", "langchain_aaflow.faiss_store")


def accelerate_store(store_or_class: Store, joins: Joins | None = None) -> Store:
    """Return the accelerated form of a vector store or of its class.

    Args:
        store_or_class: `FAISS`, `InMemoryVectorStore`, or an object of exactly one of them.
        joins: How an object's concurrent searches are joined; None for what it was told before, or in `batching()`
            blocks only.

    Returns:
        For a class its accelerated subclass. For an object one of that subclass which shares every attribute
        with it: what is added to, deleted from or set on one shows in the other. The native object itself is not
        touched. Anything that `native_reason` gives a reason for is returned as it is.
    """
    known = _module_of(store_or_class)
    if known is None or native_reason(store_or_class) is not None:
        return store_or_class
    _, accelerated = known
    found: Store
    if isinstance(store_or_class, type):
        found = accelerated
        return found
    view: Any = shared_view(store_or_class, accelerated)
    if joins is not None and joins != joins_of(view):
        # Another view: the one that was handed over keeps what it was told.
        view = shared_view(shared_view(view, accelerated.__base__), accelerated)
        view._aaflow_joins = joins
    found = view
    return found


def native_reason(store_or_class: Any) -> str | None:
    """Why this store, or class of stores, is left to its native methods; None if it is accelerated."""
    store_class = store_or_class if isinstance(store_or_class, type) else type(store_or_class)
    if not issubclass(store_class, VectorStore):
        return f"{store_class.__name__} is no LangChain vector store"
    known = _module_of(store_or_class)
    if known is None:
        return f"{store_class.__name__} has no fast path"
    reason: str | None = known[0].native_reason(store_or_class)
    return reason


def sink_for(store: VectorStore) -> VectorSink | None:
    """The zero-copy way into this store, or None where `native_reason` gives a reason."""
    known = None if isinstance(store, type) else _module_of(store)
    if known is None or native_reason(store) is not None:
        return None
    module, _ = known
    sink: VectorSink = (module.InMemorySink if isinstance(store, InMemoryVectorStore) else module.FaissSink)(store)
    return sink


def sink_for_class(store_class: type[VectorStore], embedding: Embeddings) -> VectorSink | None:
    """A sink whose `store` is made as `store_class.from_documents` would make it; None without a fast path."""
    known = _module_of(store_class)
    if known is None or native_reason(store_class) is not None:
        return None
    if issubclass(store_class, InMemoryVectorStore):
        return sink_for(store_class(embedding))
    sink: VectorSink = known[0].FaissSink.for_class(store_class, embedding)
    return sink


def _module_of(store_or_class: Any) -> tuple[ModuleType, Any] | None:
    """The module that knows a store's class or one of its bases, and its accelerated class."""
    store_class: type = store_or_class if isinstance(store_or_class, type) else type(store_or_class)
    if issubclass(store_class, InMemoryVectorStore):
        from langchain_aaflow import in_memory_store

        return in_memory_store, in_memory_store.AcceleratedInMemoryVectorStore
    if any(base.__module__ in _FAISS_MODULES and base.__qualname__ == "FAISS" for base in store_class.__mro__):
        from langchain_aaflow import faiss_store

        return faiss_store, faiss_store.AcceleratedFAISS
    return None
