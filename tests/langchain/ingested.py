"""Embeddings and a store that tests ingest with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

EMBEDDING = DeterministicFakeEmbedding(size=12)


class ByText(Embeddings):
    """Some class of the user's: vectors from the text alone, calls counted."""

    def __init__(self, fail_at: int = -1, answer: Callable[[list[str]], Any] | None = None) -> None:
        self.calls: list[int] = []
        self.fail_at = fail_at
        self.answer = answer

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if len(self.calls) == self.fail_at:
            raise ConnectionError("the model is gone")
        self.calls.append(len(texts))
        if self.answer:
            return self.answer(texts)  # type: ignore[no-any-return]
        return EMBEDDING.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return EMBEDDING.embed_query(text)


class CountingStore(InMemoryVectorStore):
    """A store of the user's."""

    added = 0

    def add_documents(self, documents: Any, ids: Any = None, **kwargs: Any) -> list[str]:
        self.added += 1
        return super().add_documents(documents, ids, **kwargs)
