"""Where an ingestion ends: a vector store, or a class of which one has to be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import pyarrow as pa
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from aaflow_plugins.dataplane import schemas
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.embedding import Vectors
from aaflow_plugins.operators import EXACT, Upsert, vectors_of
from aaflow_plugins.plugins import load_for
from aaflow_plugins.storing import VectorSink
from langchain_aaflow import vectorstores
from langchain_aaflow.plans import CHUNKS

S = TypeVar("S", bound=VectorStore)


class Target(Generic[S]):
    """The store that an ingestion fills.

    Attributes:
        embedding: The embeddings whose vectors the store gets; None where the store embeds by itself.
    """

    def __init__(self, vectorstore: S | type[S], embedding: Embeddings | None, *, asynchronous: bool) -> None:
        """Check the arguments; nothing is made or changed.

        Raises:
            TypeError: If `vectorstore` or `embedding` is of the wrong kind, or `embedding` is missing.
            ValueError: If the store has other embeddings of its own.
        """
        if embedding is not None and not isinstance(embedding, Embeddings):
            raise TypeError(f"embedding must be a LangChain Embeddings object, not a {type(embedding).__name__}")
        self._asynchronous = asynchronous
        self._class: type[S] | None = None
        self._store: S | None = None
        self._sink: VectorSink | None
        if isinstance(vectorstore, type) and issubclass(vectorstore, VectorStore):
            if embedding is None:
                raise TypeError(f"embedding is needed to make a new {vectorstore.__name__}")
            self._class = vectorstore
            self._sink = vectorstores.sink_for_class(vectorstore, embedding)
        elif isinstance(vectorstore, VectorStore):
            self._store = vectorstore
            own = vectorstore.embeddings
            _check_same(embedding, own, vectorstore)
            embedding = own if embedding is None else embedding
            self._sink = load_for(vectorstore).aaflow_sink(store=vectorstore) if embedding is not None else None
        else:
            raise TypeError(f"vectorstore must be a LangChain VectorStore or such a class, not {vectorstore!r}")
        self.embedding = embedding

    @property
    def takes_vectors(self) -> bool:
        """Whether the store takes finished vectors; else it embeds by itself, through its own calls."""
        return self._sink is not None

    @property
    def takes_buffer(self) -> bool:
        """Whether those are float32 in one buffer; else rows that float32 does not carry are kept as they are."""
        return self._sink is not None and self._sink.takes_buffer

    @property
    def name(self) -> str:
        """Name of the store's class."""
        return (self._class or type(self._store)).__name__

    def upsert(self, *, given_ids: bool) -> Upsert:
        """The operator that fills the store.

        Args:
            given_ids: Whether the caller gave ids; else the store goes by its own rules.
        """
        if self._sink is not None:
            reads = pa.schema([*CHUNKS, schemas.vector("vector"), *([] if self.takes_buffer else [EXACT])])
            return Upsert(name=self.name, reads=reads, keeps=True, call=self._upsert_vectors)

        def call(batch: Batch) -> Batch:
            self.add_natively(list(batch.native("document")), _ids(batch, given_ids))
            return replace(batch, bytes_copied=0)

        async def acall(batch: Batch) -> Batch:
            await self.aadd_natively(list(batch.native("document")), _ids(batch, given_ids))
            return replace(batch, bytes_copied=0)

        reason = f"{self.name} has no fast path; it embeds and stores through its own calls"
        return Upsert(
            name=self.name,
            reads=CHUNKS,
            keeps=True,
            native=reason,
            call=call,
            acall=acall if self._asynchronous else None,
        )

    def finished(self) -> S:
        """The filled store.

        Raises:
            ValueError: If nothing came, and no store could be made of it.
        """
        made = getattr(self._sink, "store", None) if self._store is None else self._store
        if made is None:
            raise ValueError(
                f"source: no documents, so no {self.name} could be made; "
                "give a store instead of a class where that may happen"
            )
        store: S = made
        return store

    def add_natively(self, chunks: list[Document], ids: list[str] | None) -> S:
        """Add chunks through the native calls."""
        options = self._options(chunks, ids)
        if not chunks:
            pass  # a store may refuse to add nothing, and nothing is to be added
        elif self._store is not None:
            self._store.add_documents(chunks, **options)
        elif self._class and self.embedding is not None:
            self._store = self._class.from_documents(chunks, self.embedding, **options)
        return self.finished()

    async def aadd_natively(self, chunks: list[Document], ids: list[str] | None) -> S:
        """Add chunks through the native asynchronous calls."""
        options = self._options(chunks, ids)
        if not chunks:
            pass
        elif self._store is not None:
            await self._store.aadd_documents(chunks, **options)
        elif self._class and self.embedding is not None:
            self._store = await self._class.afrom_documents(chunks, self.embedding, **options)
        return self.finished()

    def add_vectors(self, chunks: Sequence[Document], ids: Sequence[str | None], vectors: Vectors) -> int:
        """Hand rows with finished vectors to a store that takes them; returns the bytes copied.

        Raises:
            ValueError: If the store would refuse the vectors' dimension or the ids. Nothing is stored then.
        """
        sink = self._sink
        assert sink
        width = vectors.matrix.shape[1]
        if sink.dimension not in (None, width):
            raise ValueError(
                f"embedding: {type(self.embedding).__name__} gives vectors of {width} floats, "
                f"but {self.name} holds vectors of {sink.dimension}"
            )
        self._check_ids(ids)
        sink.upsert([chunk.page_content for chunk in chunks], [chunk.metadata for chunk in chunks], ids, vectors)
        return 0 if sink.takes_buffer else vectors.matrix.nbytes

    def _upsert_vectors(self, batch: Batch) -> Batch:
        copied = self.add_vectors(batch.native("document"), batch.native("id"), vectors_of(batch))
        return replace(batch, bytes_copied=copied)

    def _options(self, chunks: Sequence[Document], ids: list[str] | None) -> dict[str, Any]:
        self._check_ids([chunk.id for chunk in chunks] if ids is None else ids)
        return {} if ids is None else {"ids": ids}

    def _check_ids(self, ids: Sequence[str | None]) -> None:
        # Some stores find out only when half of the work is done.
        if self._sink is not None and (refusal := self._sink.refusal(ids)):
            raise ValueError(f"ids: {refusal}")


def _ids(batch: Batch, given: bool) -> list[str] | None:
    return list(batch.native("id")) if given else None


def _check_same(embedding: Embeddings | None, own: Embeddings | None, store: VectorStore) -> None:
    """Refuse to mix the vectors of two models in one store."""
    if embedding is None or own is None or embedding is own:
        return
    # An accelerated object is of a subclass of its native class, and has the same settings and clients.
    related = isinstance(embedding, type(own)) or isinstance(own, type(embedding))
    if not related or vars(embedding) != vars(own):
        raise ValueError(
            f"embedding is not what the {type(store).__name__} embeds queries with, a {type(own).__name__} of its "
            "own: leave `embedding` out"
        )
