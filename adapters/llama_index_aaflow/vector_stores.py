"""Which vector stores are accelerated.

A store's module, and with it faiss, is imported only when such a store is handed over.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from llama_index.core.vector_stores.simple import SimpleVectorStore

from llama_index_aaflow.native_classes import sharing

_FAISS_MODULES = ("llama_index.vector_stores.faiss.base", "llama_index_aaflow.faiss_vector_store")


def accelerate_store(store_or_class: Any) -> Any:
    """Give a vector store, or a class of stores, that does the same sooner.

    Args:
        store_or_class: Any vector store, or the class of one.

    Returns:
        For a class its accelerated subclass. For an object one of that subclass which shares every attribute with it:
        what is added to, deleted from or set on one shows in the other. The native object itself is not touched.
        Anything that `native_reason` gives a reason for is returned as it is.
    """
    known = _module_of(store_or_class)
    if known is None or native_reason(store_or_class) is not None:
        return store_or_class
    accelerated = known[1]
    if isinstance(store_or_class, type):
        return accelerated
    return store_or_class if type(store_or_class) is accelerated else sharing(store_or_class, accelerated)


def native_reason(store_or_class: Any) -> str | None:
    """Why this store, or class of stores, is left to its native methods; None if it is accelerated."""
    known = _module_of(store_or_class)
    if known is None:
        store_class = store_or_class if isinstance(store_or_class, type) else type(store_or_class)
        return f"{store_class.__name__} has no fast path"
    reason: str | None = known[0].native_reason(store_or_class)
    return reason


def _module_of(store_or_class: Any) -> tuple[ModuleType, Any] | None:
    """The module that knows a store's class or one of its bases, and its accelerated class."""
    store_class: type = store_or_class if isinstance(store_or_class, type) else type(store_or_class)
    if issubclass(store_class, SimpleVectorStore):
        from llama_index_aaflow import simple_vector_store

        return simple_vector_store, simple_vector_store.AcceleratedSimpleVectorStore
    if any(base.__module__ in _FAISS_MODULES and base.__name__ == "FaissVectorStore" for base in store_class.__mro__):
        from llama_index_aaflow import faiss_vector_store

        return faiss_vector_store, faiss_vector_store.AcceleratedFaissVectorStore
    return None
