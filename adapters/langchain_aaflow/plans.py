"""Native objects as operators of a plan: what a splitter, embeddings or a loader do, in the core's terms."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from langchain_core.documents import BaseDocumentTransformer, Document
from langchain_core.embeddings import Embeddings
from langchain_text_splitters import TextSplitter

from aaflow_plugins.dataplane import schemas
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.embedding import REQUEST_BYTES, Embedder
from aaflow_plugins.operators import Embed, Load, Split
from aaflow_plugins.plugins import load_for
from aaflow_plugins.remote import RemoteCall
from langchain_aaflow.documents import documents, metadata_copier
from langchain_aaflow.embedders import NativeEmbedder
from langchain_aaflow.embedders import native_reason as embedder_reason
from langchain_aaflow.embeddings import limited_embeddings
from langchain_aaflow.splitters import accelerate_splitter
from langchain_aaflow.splitters import native_reason as splitter_reason

DOCUMENT: Final = schemas.native("document", "langchain_core.documents.Document")
ID: Final = schemas.native("id", "str | None")
DOCUMENTS: Final = pa.schema([DOCUMENT])
CHUNKS: Final = pa.schema([DOCUMENT, schemas.text("text"), ID])

#: Texts a call, for embeddings that are not known and a source that can be read only once.
STREAMED_TEXTS_A_CALL: Final = 1000


def size_of(document: Document) -> int:
    """Characters of a document's text, which is what a batch is cut by."""
    return len(document.page_content)


def check_document(document: Any, position: int) -> None:
    """Refuse what is not a document.

    Raises:
        TypeError: Naming the position in the source.
    """
    if not isinstance(document, Document):
        kind, home = type(document).__name__, type(document).__module__.partition(".")[0]
        of = "" if home == "builtins" else f" of {home}"
        raise TypeError(
            f"source[{position}] is a {kind}{of}, not a Document of langchain_core: wrap text as "
            "Document(page_content=...)"
        )


def check_splitter(splitter: Any) -> None:
    """Refuse what cannot split.

    Raises:
        TypeError: If it is neither None nor has one of the methods of a splitter.
    """
    if isinstance(splitter, type):
        raise TypeError(f"splitter is the class {splitter.__name__}: give an object of it")
    if splitter is not None and not any(
        hasattr(splitter, method) for method in ("split_documents", "split_text", "transform_documents")
    ):
        raise TypeError(f"splitter must be a LangChain text splitter or None, not a {type(splitter).__name__}")


def split_documents(splitter: Any, source: Sequence[Document]) -> list[Document]:
    """The chunks of documents, as the splitter's own interface gives them."""
    if splitter is None:
        return list(source)
    if hasattr(splitter, "split_documents"):
        return list(splitter.split_documents(source))
    if isinstance(splitter, BaseDocumentTransformer):
        return list(splitter.transform_documents(source))
    chunks = []
    for document in source:
        for chunk in splitter.split_text(document.page_content):
            if not isinstance(chunk, Document):
                chunk = Document(page_content=chunk)
            chunk.metadata = {**copy.deepcopy(document.metadata), **chunk.metadata}
            chunks.append(chunk)
    return chunks


def ids_of(chunks: Sequence[Document], ids: Any) -> list[str] | None:
    """The ids for all chunks, or None where the native call is given none.

    Raises:
        ValueError: If a sequence of ids has another length than the chunks.
        TypeError: If the function gives something else than a string.
    """
    if ids is None:
        return None
    if callable(ids):
        made = [ids(chunk) for chunk in chunks]
        for id_ in made:
            if not isinstance(id_, str):
                raise TypeError(f"ids: the function gave a {type(id_).__name__}, not a string")
        return made
    if len(ids) != len(chunks):
        raise ValueError(f"ids: {len(ids)} ids for {len(chunks)} chunks")
    return list(ids)


def load() -> Load:
    """Documents, as they come from the source."""

    def batch_of(documents: list[Document]) -> Batch:
        return Batch(DOCUMENTS, {"document": documents}, len(documents))

    return Load(name="documents", adds=DOCUMENTS, size_of=size_of, batch_of=batch_of)


def split(splitter: Any, *, whole: bool = False, ids: Any = None) -> Split:
    """A splitter as an operator; with `whole`, all documents are split before the first chunk goes on.

    A `split_documents` of somebody's own may look at several documents at once: it gets all of them in one call,
    as natively.
    """
    fast = accelerate_splitter(splitter)
    known = splits_one_by_one(splitter)
    reason = None if splitter is None else splitter_reason(fast)

    def call(batch: Batch) -> Batch:
        return chunk_batch(split_documents(fast, batch.native("document")), ids)

    remote = None
    if known and ids is None and _same_in_a_worker(splitter, reason):
        remote = RemoteCall(_texts, SplitTexts(fast), _rebuild)
    return Split(
        name="none" if splitter is None else type(splitter).__name__,
        reads=DOCUMENTS,
        adds=CHUNKS,
        config=_configuration(splitter),
        native=reason,
        call=call,
        whole=whole or not known,
        remote=remote,
    )


def embedder(embedding: Embeddings, batch_size: int | None = None) -> Embedder:
    """The fast path that some plug-in provides for these embeddings, else their own calls.

    Args:
        embedding: The embeddings. Their requests share what their endpoint has refused.
        batch_size: Texts a call where the class has no grouping of its own; None for all in one.
    """
    embedding = limited_embeddings(embedding)
    found = load_for(embedding).aaflow_embedder(embeddings=embedding)
    if found is None:
        found = NativeEmbedder(embedding, reason=embedder_reason(embedding))
    if isinstance(found, NativeEmbedder):
        found.batch_size = batch_size
    way: Embedder = found
    return way


def embed(
    embedding: Embeddings, batch_size: int | None = None, *, exact: bool = True, asynchronous: bool = False
) -> Embed:
    """Embeddings as an operator; with `exact`, rows that float32 does not carry go along."""
    way = embedder(embedding, batch_size)
    return Embed(
        name=type(embedding).__name__,
        config={"requests": way.describe()},
        native=way.reason if isinstance(way, NativeEmbedder) else None,
        embedder=way,
        asynchronous=asynchronous and way.has_async,
        exact=exact,
        slots=way.max_concurrency,
        item_bytes=REQUEST_BYTES,
    )


def chunk_batch(chunks: list[Document], ids: Any) -> Batch:
    """Chunks as a batch: the documents, their texts, and their ids or None."""
    given = ids_of(chunks, ids)
    columns = {
        "document": chunks,
        "text": [chunk.page_content for chunk in chunks],
        "id": [chunk.id for chunk in chunks] if given is None else given,
    }
    return Batch(CHUNKS, columns, len(chunks))


@dataclass(frozen=True)
class SplitTexts:
    """Splits a column of texts into a column of lists of chunks; runs in a worker process."""

    splitter: Any

    def __call__(self, record: pa.RecordBatch) -> pa.RecordBatch:
        """One list of chunks a text."""
        chunks = [self.splitter.split_text(text) for text in record.column(0).to_pylist()]
        return pa.record_batch([pa.array(chunks, pa.list_(pa.large_utf8()))], names=["chunks"])


def _rebuild(batch: Batch, record: pa.RecordBatch) -> Batch:
    """The chunks' documents, from texts that a worker has split."""
    chunks: list[Document] = []
    for document, texts in zip(batch.native("document"), record.column(0).to_pylist(), strict=True):
        copied = metadata_copier(document.metadata)
        chunks += documents(texts, [copied() for _ in texts])
    return chunk_batch(chunks, None)


def _texts(batch: Batch) -> pa.RecordBatch:
    texts = [document.page_content for document in batch.native("document")]
    return pa.record_batch([pa.array(texts, pa.large_utf8())], names=["text"])


def _same_in_a_worker(splitter: Any, reason: str | None) -> bool:
    """Whether a copy of the splitter in another process splits alike: nothing of the user's has a part in it."""
    native = type(splitter).__module__.partition(".")[0] == "langchain_text_splitters"
    if not native or not isinstance(splitter, TextSplitter) or splitter._add_start_index:
        return False
    return reason is None or splitter._length_function is len


def splits_one_by_one(splitter: Any) -> bool:
    """Whether documents are split one after the other, each by itself, whatever else is in the call.

    Known of what the package of splitters brings, and of what has no method that takes several documents.
    """
    methods = ("split_documents", "create_documents", "transform_documents")
    definers = {_definer(type(splitter), method) for method in methods if hasattr(splitter, method)}
    return definers <= {"langchain_text_splitters", "langchain_aaflow"}


def _definer(owner: type, method: str) -> str:
    """Top-level package of the class that defines a method."""
    return next((base.__module__.partition(".")[0] for base in owner.__mro__ if method in vars(base)), "")


def _configuration(obj: Any) -> dict[str, Any]:
    """Plain attributes that decide what a native object does; part of the plan's fingerprint."""
    if obj is None:
        return {}
    plain = (str, int, float, bool, type(None), list, tuple)
    return {name.lstrip("_"): value for name, value in vars(obj).items() if isinstance(value, plain)}
