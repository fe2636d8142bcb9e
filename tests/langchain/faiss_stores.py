"""Embeddings for FAISS stores that tests fill, and what to compare of two stores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings

faiss = pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.docstore.in_memory import InMemoryDocstore  # noqa: E402
from langchain_community.vectorstores import FAISS  # noqa: E402

from langchain_aaflow.faiss_store import AcceleratedFAISS  # noqa: E402

DIM = 12


class HashEmbeddings(Embeddings):
    """Vectors from a digest of the text: the same text always gets the same vector, a query another."""

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim

    def vector(self, text: str) -> list[float]:
        seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
        return np.random.default_rng(seed).standard_normal(self.dim).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.vector("query: " + text)


class ArrayEmbeddings(HashEmbeddings):
    """What some embeddings objects return instead of lists."""

    def embed_documents(self, texts: list[str]) -> Any:
        return [np.array(self.vector(text), dtype=np.float32) for text in texts]


def contents(store: FAISS) -> Any:
    """All that a store holds, in order, down to the bits."""
    docs = store.docstore._dict.items() if isinstance(store.docstore, InMemoryDocstore) else []
    return (
        type(store.index).__name__,
        store.index.reconstruct_n(0, store.index.ntotal).tobytes() if store.index.ntotal else b"",
        [(key, list(doc.__dict__.items()), doc.model_fields_set, doc.__reduce_ex__(4)[2]) for key, doc in docs],
        list(store.index_to_docstore_id.items()),
        store._normalize_L2,
        store.distance_strategy,
    )


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns or raises, comparable."""
    try:
        return "returned", call()
    except Exception as error:
        return type(error).__name__, str(error)


def empty(store_class: type[FAISS], dim: int = DIM, **options: Any) -> FAISS:
    return store_class(HashEmbeddings(dim), faiss.IndexFlatL2(dim), InMemoryDocstore(), {}, **options)


def both(act: Callable[[FAISS], Any], **options: Any) -> None:
    """Do the same to a native and an accelerated store: same outcome, same contents."""
    native, ours = empty(FAISS, **options), empty(AcceleratedFAISS, **options)
    assert outcome(lambda: act(ours)) == outcome(lambda: act(native))
    assert contents(ours) == contents(native)
