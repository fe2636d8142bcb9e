"""One rank's part of a sharded store: what differs between the native stores whose parts are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from aaflow_plugins.divided_batches import NoDataError
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.shards import Manifest, all_counts, vector_columns, vectors_in
from langchain_aaflow.plain_data import from_json, to_json
from langchain_aaflow.vectorstores import native_reason

#: Of one query: documents, best first, each with the score that the native search gives.
Results = list[tuple[Document, Any]]


#: Classes whose stores can be parts, by name.
KINDS: Final = ("FAISS", "InMemoryVectorStore")


@dataclass(frozen=True)
class Place:
    """Where a part stands among all.

    Attributes:
        ranks: The ranks, this one among them.
        counts: Rows of each rank.
    """

    ranks: Communicator
    counts: list[int]

    @classmethod
    def of(cls, ranks: Communicator, rows: int) -> Place:
        """The place of a part of so many rows; all ranks make this call."""
        return cls(ranks, all_counts(ranks, rows))

    @property
    def first(self) -> int:
        """The number of this rank's first row."""
        return sum(self.counts[: self.ranks.rank])

    @property
    def total(self) -> int:
        """Rows of all ranks."""
        return sum(self.counts)

    def all(self, able: bool) -> bool:
        """Whether something holds on all ranks; all ranks make this call."""
        return b"no" not in self.ranks.agree(b"yes" if able else b"no")


class Part(ABC):
    """A rank's own native store."""

    store: Any

    @property
    @abstractmethod
    def rows(self) -> int:
        """How many there are."""

    @property
    @abstractmethod
    def width(self) -> int | None:
        """Floats a vector; None where there is none."""

    @abstractmethod
    def documents(self, rows: Sequence[int]) -> list[Document]:
        """The documents of some rows of this part, as the native search gives them."""

    @abstractmethod
    def vectors(self) -> list[Any]:
        """The vectors as the store holds them, one a row."""

    @abstractmethod
    def refill(self, documents: list[Document], vectors: list[Any]) -> None:
        """Have the store hold exactly these rows."""

    @abstractmethod
    def emptied(self) -> Part:
        """Another part with the same settings, and without rows."""

    @abstractmethod
    def embed_query(self, query: str) -> list[float]:
        """A query's vector, by the store's own embeddings."""

    @abstractmethod
    def search(self, place: Place, queries: list[Any], k: int, options: dict[str, Any]) -> list[Results] | None:
        """What the native search of all ranks' rows in one store finds; None, on all ranks, where that isn't known.

        All ranks make this call.

        Args:
            place: Where this part stands.
            queries: The queries' vectors.
            k: Results a query.
            options: Other arguments of the native search.
        """

    def native_search(self, queries: list[Any], k: int, options: dict[str, Any]) -> list[Results]:
        """What the native search of this store alone finds."""
        return [self.store.similarity_search_with_score_by_vector(query, k=k, **options) for query in queries]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the store, in its own format."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What its own format does not keep, as plain values."""


def documents_of(place: Place, part: Part, rows: Sequence[int]) -> dict[int, Document]:
    """The documents of some rows, numbered over all ranks, wherever they are; all ranks make this call."""
    first = place.first
    own = sorted({row for row in rows if first <= row < first + part.rows})
    documents = dict(zip(own, part.documents([row - first for row in own]), strict=True))
    held = pa.array(map(packed, documents.values()), pa.large_binary())
    found = place.ranks.all_gather(pa.table({"row": pa.array(own, pa.int64()), "document": held}))
    others = zip(found["row"].to_pylist(), found["document"].to_pylist(), strict=True)
    return documents | {row: from_json(held) for row, held in others if row not in documents}


def packed(document: Document) -> bytes:
    """A document as it goes to another rank.

    Raises:
        TypeError: If it would not be the same there; the message says why.
    """
    try:
        return to_json(document)
    except NoDataError as error:
        name = document.id or document.page_content[:40]
        raise TypeError(
            f"document {name!r} can't go to another rank: {error}; in metadata keep text, numbers, dates "
            "(without a time zone, or with that of UTC), lists and dicts"
        ) from error


def gathered(place: Place, part: Part) -> tuple[list[Document], list[Any]]:
    """The documents and vectors of all parts, in order, on every rank; all ranks make this call."""
    documents, vectors = part.documents(range(part.rows)), part.vectors()
    held = pa.array(map(packed, documents), pa.large_binary())
    found = place.ranks.all_gather(pa.table({"document": held, **vector_columns(vectors)}))
    all_documents = list(map(from_json, found["document"].to_pylist()))
    all_documents[place.first : place.first + part.rows] = documents
    return all_documents, vectors_in(found)


def refusal(vectorstore: Any) -> str | None:
    """Why a store, or a class of stores, can't be kept in shards; None if it can."""
    reason = native_reason(vectorstore)
    if reason is not None:
        return reason
    if isinstance(vectorstore, type):
        return None
    if isinstance(vectorstore, InMemoryVectorStore):
        return "it is not empty" if vectorstore.store else None
    from langchain_aaflow.sharded_faiss import refusal as faiss_refusal

    return faiss_refusal(vectorstore)


def part_of(store: VectorStore) -> Part:
    """A rank's store, which `refusal` had nothing against while it was empty, as a part."""
    if isinstance(store, InMemoryVectorStore):
        from langchain_aaflow.sharded_in_memory import InMemoryPart

        return InMemoryPart(store)
    from langchain_aaflow.sharded_faiss import FaissPart

    return FaissPart(store)


def empty_part(store_class: type[VectorStore], embedding: Embeddings, width: int) -> Part:
    """What a class makes of no rows at all."""
    if issubclass(store_class, InMemoryVectorStore):
        return part_of(store_class(embedding))
    from langchain_aaflow.sharded_faiss import empty

    return empty(store_class, embedding, width)


def load_part(
    manifest: Manifest, folder: Path, shards: Sequence[int], embedding: Embeddings, options: dict[str, Any]
) -> Part:
    """Some consecutive shards of a folder as one part."""
    if manifest.kind == InMemoryVectorStore.__name__:
        from langchain_aaflow.sharded_in_memory import load as load_in_memory

        return load_in_memory(folder, shards, embedding, options)
    from langchain_aaflow.sharded_faiss import load as load_faiss

    return load_faiss(manifest, folder, shards, embedding, options)
