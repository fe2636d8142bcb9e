"""LlamaIndex's VectorStoreIndex, accelerated: the same index, its bookkeeping done in linear time.

`accelerate_index` gives the accelerated class for the class, and for an index an object of it that shares every
attribute with the native one: what is done through one shows in the other. Splitting, embedding and storing vectors
are native calls. What is replaced is how nodes reach the document store and how often the index struct is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Final

from llama_index.core import Settings, StorageContext
from llama_index.core.callbacks import CallbackManager
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.indices import base as index_base
from llama_index.core.indices.base import BaseIndex
from llama_index.core.indices.vector_store import base as vector_store_base
from llama_index.core.indices.vector_store.base import VectorStoreIndex
from llama_index.core.schema import BaseNode, Document, ImageNode, IndexNode, MetadataMode, TransformComponent
from llama_index.core.utils import iter_batch
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.collector import paused_collector
from aaflow_plugins.executor import Executor
from llama_index_aaflow.embeddings import seen_accelerated
from llama_index_aaflow.known_code import is_native
from llama_index_aaflow.storage import documents, simple_vectors
from llama_index_aaflow.storage.documents import Adding, Removing, without_embedding
from llama_index_aaflow.storage.index_structs import keep, show, write_soon
from llama_index_aaflow.storage.plain_nodes import (
    Form,
    assigning,
    plain_form,
    plain_nodes_are_known,
    surely_has_content,
    with_vector,
)
from llama_index_aaflow.transformations import sooner
from llama_index_aaflow.vector_stores import accelerate_store

#: Where the native methods look for what they call.
_names: Final[Any] = index_base
_vector_names: Final[Any] = vector_store_base

_METHODS: Final = (
    "from_documents",
    "insert_nodes",
    "ainsert_nodes",
    "delete_nodes",
    "adelete_nodes",
    "delete_ref_doc",
    "adelete_ref_doc",
    "_delete_from_docstore",
    "build_index_from_nodes",
    "_get_node_with_embedding",
    "_aget_node_with_embedding",
    "_add_nodes_to_index",
    "_async_add_nodes_to_index",
)
_NATIVE: Final = ((VectorStoreIndex, _METHODS),)
#: Those of the latest versions alone.
_INSERT: Final = ((VectorStoreIndex, ("insert", "ainsert")),)


def accelerate_index(index_or_class: Any, executor: Executor | None = None) -> Any:
    """Return the accelerated form of an index or of its class.

    Args:
        index_or_class: `VectorStoreIndex`, an object of exactly that class, or any other index or class of indices.
        executor: Whose ranks are to build an index of the class `VectorStoreIndex`: rank 0 with the help of the others
            (who get it, too, with `gather="all"`), or, with `gather="shards"`, each its own part. Without one every
            process builds its own.

    Returns:
        `AcceleratedVectorStoreIndex`, or a class that builds such indices on several ranks; an object of it that shares
        every attribute with the index; or, where `native_reason` gives a reason, what was handed over.

    Raises:
        ValueError: If something else than the known `VectorStoreIndex` is to be kept on several ranks.
    """
    if executor is not None and (index_or_class is VectorStoreIndex or executor.gather != "root"):
        return _on_ranks(index_or_class, executor)
    if native_reason(index_or_class) is not None or isinstance(index_or_class, AcceleratedVectorStoreIndex):
        return index_or_class
    if isinstance(index_or_class, type):
        return AcceleratedVectorStoreIndex
    view = object.__new__(AcceleratedVectorStoreIndex)
    view.__dict__ = index_or_class.__dict__
    return view


@lru_cache(maxsize=128)
def for_executor(family: type[VectorStoreIndex], executor: Executor) -> type[VectorStoreIndex]:
    """The class of a family whose ranks are those of an executor; it bears the native name."""
    names = {"_executor": executor, "__module__": family.__module__}
    made = type(VectorStoreIndex.__name__, (family,), names)
    made.__qualname__ = family.__qualname__
    return made


def _on_ranks(index_or_class: Any, executor: Executor) -> Any:
    if index_or_class is not VectorStoreIndex:
        raise ValueError(f"gather={executor.gather!r}: only the class VectorStoreIndex is kept on several ranks")
    if executor.gather == "shards":
        from llama_index_aaflow.sharded_index import ShardedVectorStoreIndex

        return for_executor(ShardedVectorStoreIndex, executor)
    if (reason := native_reason(index_or_class)) is None:
        from llama_index_aaflow.index_on_ranks import LedVectorStoreIndex

        return for_executor(LedVectorStoreIndex, executor)
    if executor.gather == "all":
        raise ValueError(f"gather='all': {reason}")
    return index_or_class


def native_reason(index_or_class: Any) -> str | None:
    """Why this index, or class of indices, is left to its native methods; None if it is accelerated."""
    cls = index_or_class if isinstance(index_or_class, type) else type(index_or_class)
    if cls not in (VectorStoreIndex, AcceleratedVectorStoreIndex):
        return f"{cls.__name__} keeps its nodes in a way of its own"
    if not is_native(_NATIVE):
        return "the installed llama-index-core has another VectorStoreIndex than known"
    return None


def is_index(obj: Any) -> bool:
    """Whether this is an index, or a class of indices."""
    return isinstance(obj, BaseIndex) or (isinstance(obj, type) and issubclass(obj, BaseIndex))


class AcceleratedVectorStoreIndex(VectorStoreIndex):
    """`VectorStoreIndex` whose bookkeeping takes the time that its nodes need, and not their square."""

    @property
    def index_struct(self) -> IndexDict:
        """The index struct."""
        struct = super().index_struct
        show(struct)
        return struct

    @classmethod
    def from_documents(  # type: ignore[override]
        cls,
        documents: Sequence[Document],
        storage_context: StorageContext | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        **kwargs: Any,
    ) -> VectorStoreIndex:
        """Create an index from documents, as the native method does.

        The index keeps the transformations that were given, for documents inserted later. Without a storage context
        its vector store is an accelerated SimpleVectorStore.
        """
        storage_context = storage_context or _default_context()
        if cls is not AcceleratedVectorStoreIndex or not is_native(_NATIVE):
            return super().from_documents(
                documents, storage_context, show_progress, callback_manager, transformations, **kwargs
            )
        callback_manager = callback_manager or Settings.callback_manager
        transformations = transformations or Settings.transformations
        with callback_manager.as_trace("index_construction"):
            for document in documents:
                storage_context.docstore.set_document_hash(document.id_, document.hash)
            nodes = _names.run_transformations(
                documents, _accelerated(transformations), show_progress=show_progress, **kwargs
            )
            return cls(
                nodes=nodes,
                storage_context=storage_context,
                callback_manager=callback_manager,
                show_progress=show_progress,
                transformations=transformations,
                **kwargs,
            )

    def insert(self, document: Document, **insert_kwargs: Any) -> None:
        """Insert a document, as the native method does."""
        if not _is_reproduced(self, _INSERT):
            super().insert(document, **insert_kwargs)
            return
        with self._callback_manager.as_trace("insert"):
            nodes = _names.run_transformations(
                [document], _accelerated(self._transformations), show_progress=self._show_progress, **insert_kwargs
            )
            self.insert_nodes(nodes, **insert_kwargs)
            self.docstore.set_document_hash(document.id_, document.hash)

    async def ainsert(self, document: Document, **insert_kwargs: Any) -> None:
        """Insert a document, as the native method does."""
        if not _is_reproduced(self, _INSERT):
            await super().ainsert(document, **insert_kwargs)
            return
        with self._callback_manager.as_trace("ainsert"):
            nodes = await _names.arun_transformations(
                [document], _accelerated(self._transformations), show_progress=self._show_progress, **insert_kwargs
            )
            await self.ainsert_nodes(nodes, **insert_kwargs)
            await self.docstore.aset_document_hash(document.id_, document.hash)

    def insert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes, as the native method does."""
        if not _is_reproduced(self):
            super().insert_nodes(nodes, **insert_kwargs)
            return
        self._validate_serializable(nodes)
        with self._callback_manager.as_trace("insert_nodes"):
            self._insert(nodes, **insert_kwargs)
            self._keep_struct()

    async def ainsert_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> None:
        """Insert nodes, as the native method does."""
        if not _is_reproduced(self):
            await super().ainsert_nodes(nodes, **insert_kwargs)
            return
        self._validate_serializable(nodes)
        with self._callback_manager.as_trace("insert_nodes"):
            await self._async_add_nodes_to_index(self._index_struct, nodes, **insert_kwargs)
            self._keep_struct()

    def delete_nodes(self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete nodes, as the native method does."""
        if not _is_reproduced(self) or not documents.is_reproduced(self._docstore):
            super().delete_nodes(node_ids, delete_from_docstore, **delete_kwargs)
            return
        self._vector_store.delete_nodes(node_ids, **delete_kwargs)
        if self._stores_nodes() and delete_from_docstore:
            with Removing(self._docstore) as removing:
                for node_id in node_ids:
                    self._index_struct.delete(node_id)
                    removing.remove(node_id)
            self._keep_struct()

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete nodes, as the native method does."""
        if not _is_reproduced(self):
            await super().adelete_nodes(node_ids, delete_from_docstore, **delete_kwargs)
            return
        await self._vector_store.adelete_nodes(node_ids, **delete_kwargs)
        if self._stores_nodes() and delete_from_docstore:
            for node_id in node_ids:
                self._index_struct.delete(node_id)
                await self._docstore.adelete_document(node_id, raise_error=False)
            self._keep_struct()

    def delete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete a document and its nodes, as the native method does."""
        if not _is_reproduced(self):
            super().delete_ref_doc(ref_doc_id, delete_from_docstore, **delete_kwargs)
            return
        self._vector_store.delete(ref_doc_id, **delete_kwargs)
        self._delete_from_index_struct(ref_doc_id)
        if delete_from_docstore:
            self._delete_from_docstore(ref_doc_id)
        self._keep_struct()

    async def adelete_ref_doc(self, ref_doc_id: str, delete_from_docstore: bool = False, **delete_kwargs: Any) -> None:
        """Delete a document and its nodes, as the native method does."""
        if not _is_reproduced(self):
            await super().adelete_ref_doc(ref_doc_id, delete_from_docstore, **delete_kwargs)
            return
        calls = [self._vector_store.adelete(ref_doc_id, **delete_kwargs), self._adelete_from_index_struct(ref_doc_id)]
        if delete_from_docstore:
            calls.append(self._adelete_from_docstore(ref_doc_id))
        await asyncio.gather(*calls)
        self._keep_struct()

    def _delete_from_docstore(self, ref_doc_id: str) -> None:
        if not _is_reproduced(self) or not documents.is_reproduced(self._docstore):
            super()._delete_from_docstore(ref_doc_id)
        elif self._stores_nodes():
            documents.delete_document(self._docstore, ref_doc_id)

    def build_index_from_nodes(self, nodes: Sequence[BaseNode], **insert_kwargs: Any) -> IndexDict:
        """Build the index struct, as the native method does."""
        if not _is_reproduced(self):
            return super().build_index_from_nodes(nodes, **insert_kwargs)
        known = plain_nodes_are_known()
        full = [
            node
            for node in nodes
            if (known and surely_has_content(node)) or node.get_content(metadata_mode=MetadataMode.EMBED) != ""
        ]
        if len(full) != len(nodes):
            print("Some nodes are missing content, skipping them...")  # noqa: T201
        struct = self._build_index_from_nodes(full, **insert_kwargs)
        if "_index_struct" not in vars(self):  # The constructor asks, and writes the struct next.
            write_soon(self._storage_context.index_store, struct)
        return struct

    def _add_nodes_to_index(
        self, index_struct: IndexDict, nodes: Sequence[BaseNode], show_progress: bool = False, **insert_kwargs: Any
    ) -> None:
        if not _is_reproduced(self):
            super()._add_nodes_to_index(index_struct, nodes, show_progress, **insert_kwargs)
            return
        if not nodes:
            return
        with _pause(nodes):
            for batch in iter_batch(nodes, self._insert_batch_size):
                model = seen_accelerated(self._embed_model)
                vectors = _vector_names.embed_nodes(batch, model, show_progress=show_progress)
                if simple_vectors.is_reproduced(self._vector_store):
                    self._add_simple(index_struct, batch, vectors)
                    continue
                embedded = _embedded(batch, vectors)
                self._keep_nodes(index_struct, embedded, self._vector_store.add(embedded, **insert_kwargs))

    async def _async_add_nodes_to_index(
        self, index_struct: IndexDict, nodes: Sequence[BaseNode], show_progress: bool = False, **insert_kwargs: Any
    ) -> None:
        if not _is_reproduced(self) or not documents.is_reproduced(self._docstore):
            await super()._async_add_nodes_to_index(index_struct, nodes, show_progress, **insert_kwargs)
            return
        if not nodes:
            return
        with _pause(nodes):
            for batch in iter_batch(nodes, self._insert_batch_size):
                model = seen_accelerated(self._embed_model)
                vectors = await _vector_names.async_embed_nodes(
                    nodes=batch, embed_model=model, show_progress=show_progress
                )
                if simple_vectors.is_reproduced(self._vector_store):
                    self._add_simple(index_struct, batch, vectors)
                    continue
                embedded = _embedded(batch, vectors)
                self._keep_nodes(index_struct, embedded, await self._vector_store.async_add(embedded, **insert_kwargs))

    def _add_simple(self, index_struct: IndexDict, nodes: Sequence[BaseNode], vectors: Mapping[str, Any]) -> None:
        """Put nodes into a vector store that is known, and what native keeps beside it."""
        with paused_collector():
            assigned = assigning()
            forms, embedded, own = [plain_form(node) for node in nodes], list(nodes), []
            for index, (node, form) in enumerate(zip(nodes, forms, strict=True)):
                vector = vectors[node.node_id]
                if form is None:
                    embedded[index] = with_vector(node, vector)
                # Natively each node is copied; that of a plain one is never seen, but for the list that it holds.
                own.append(vector if form is None else assigned(vector))
            new_ids = simple_vectors.add(self._vector_store, embedded, forms, own)
            self._keep_nodes(index_struct, embedded, new_ids, forms)

    def _keep_nodes(
        self,
        index_struct: IndexDict,
        nodes: Sequence[BaseNode],
        new_ids: Sequence[str],
        forms: Sequence[Form | None] | None = None,
    ) -> None:
        """Put what was added to the vector store into the struct and the document store, as far as native does."""
        stores_nodes = self._stores_nodes()
        adding = Adding(self._docstore) if documents.is_reproduced(self._docstore) else None
        with paused_collector():
            for index, (node, new_id) in enumerate(zip(nodes, new_ids, strict=False)):
                if not stores_nodes and not isinstance(node, ImageNode | IndexNode):
                    continue
                index_struct.add_node(node, text_id=new_id)
                if adding is not None:
                    adding.add(node, plain_form(node) if forms is None else forms[index])
                else:
                    self._docstore.add_documents([without_embedding(node)], allow_update=True)

    def _stores_nodes(self) -> bool:
        return not self._vector_store.stores_text or self._store_nodes_override

    def _keep_struct(self) -> None:
        keep(self._storage_context.index_store, self)


# Spans and representations bear the name of the native class. Pickle goes by `__qualname__`.
AcceleratedVectorStoreIndex.__name__ = VectorStoreIndex.__name__


def _default_context() -> StorageContext:
    return StorageContext.from_defaults(vector_store=accelerate_store(SimpleVectorStore()))


def _embedded(nodes: Sequence[BaseNode], vectors: Mapping[str, Any]) -> list[BaseNode]:
    with paused_collector():
        return [with_vector(node, vectors[node.node_id]) for node in nodes]


def _pause(nodes: Sequence[BaseNode]) -> AbstractContextManager[None]:
    """A pause of the collector for nodes that all have vectors, so that the model has nothing to do."""
    has_all = all(getattr(node, "embedding", None) is not None for node in nodes)
    return paused_collector() if has_all else nullcontext()


def _accelerated(transformations: Sequence[TransformComponent]) -> list[TransformComponent]:
    return [sooner(each) for each in transformations]


def _is_reproduced(index: VectorStoreIndex, methods: Any = ()) -> bool:
    """Whether an index works, at this moment, in the way known here: not a subclass, nothing patched."""
    return type(index) is AcceleratedVectorStoreIndex and is_native(_NATIVE) and is_native(methods)
