"""A `VectorStoreIndex` whose nodes are spread over the ranks: each keeps those of its own block of the documents."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

from llama_index.core import Settings, StorageContext
from llama_index.core.callbacks import CallbackManager
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.embeddings.utils import resolve_embed_model
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.schema import Document, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.index_store import SimpleIndexStore
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, NAMESPACE_SEP, SimpleVectorStoreData
from llama_index.core.vector_stores.types import DEFAULT_PERSIST_FNAME

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import ranks_of
from aaflow_plugins.shards import MANIFEST, Manifest, all_counts, blocks
from llama_index_aaflow.embeddings import embeds_natively
from llama_index_aaflow.indices import AcceleratedVectorStoreIndex
from llama_index_aaflow.ingestion_overlap import texts_of
from llama_index_aaflow.ingestion_ranks import fingerprint, fingerprints
from llama_index_aaflow.sharded_documents import RefusedError, check_apart, check_nodes_apart
from llama_index_aaflow.sharded_ingestion import ELSEWHERE, ShardedEmbedding, block_of, steps_on, steps_reason
from llama_index_aaflow.sharded_retrieval import ShardedRetriever
from llama_index_aaflow.simple_vector_store import AcceleratedSimpleVectorStore
from llama_index_aaflow.transformations import sooner
from llama_index_aaflow.vector_stores import accelerate_store

_KIND: Final = "llama_index.core.VectorStoreIndex over SimpleVectorStore"


class ShardedVectorStoreIndex(AcceleratedVectorStoreIndex):
    """This rank's part of an index; what it retrieves is found among all ranks' parts.

    `docstore`, `vector_store`, `index_struct` and `storage_context` are this rank's. `from_documents`, `load`, `save`
    and what a retriever or a query engine is asked are calls that all ranks make together. Documents are not inserted
    later. Deleting one concerns the rank that has it; the others, which make the call, too, delete nothing.
    """

    _executor: ClassVar[Executor] = Executor(gather="shards")

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
        """Create an index from documents, of which each rank keeps its own block.

        What all parts hold, one after the other, is what the native index holds.

        Args:
            documents: The same on all ranks; with `Executor(partitioned=True)` this rank's own.
            storage_context: This rank's, with a `SimpleVectorStore`.
            show_progress: As natively.
            callback_manager: As natively; events tell of this rank's block.
            transformations: As natively.
            **kwargs: As natively.

        Raises:
            ValueError: If it isn't known that the parts add up to the native index; the message says why.
            RankError: If another rank fails, or has other transformations or documents.
        """
        executor = cls._executor
        transformations = transformations or Settings.transformations
        model = resolve_embed_model(kwargs.get("embed_model") or Settings.embed_model, callback_manager)
        reason = steps_reason(transformations)
        if reason is None and not embeds_natively(sooner(model)):
            reason = f"{type(model).__name__} is not known to embed batches of a fixed number of texts"
        if storage_context is not None and type(accelerate_store(storage_context.vector_store)) is not (
            AcceleratedSimpleVectorStore
        ):
            reason = (
                f"vector_store: a {type(storage_context.vector_store).__name__} is not known to be searched in parts"
            )
        if reason is not None:
            raise ValueError(f"gather='shards': {reason}; {ELSEWHERE}")
        ranks = ranks_of(executor)
        size = kwargs.get("insert_batch_size", 2048)
        refused = None
        with ranks.together(
            "from_documents",
            **fingerprints(transformations),
            embed_model=fingerprint(model),
            partitioned=executor.partitioned,
            insert_batch_size=size,
        ):
            try:
                steps = steps_on(ranks, transformations, executor)
                own = block_of(ranks, list(documents), executor)
                check_apart(ranks, own)
                steps.append(_Embedding(sooner(model, executor.of_rank(ranks)), ranks, size))
                local = AcceleratedVectorStoreIndex.from_documents(
                    own, storage_context, show_progress, callback_manager, steps, **kwargs
                )
                local._transformations = transformations
                return cls._of(local)
            except RefusedError as error:
                refused = error  # by all ranks alike
        raise refused

    @classmethod
    def load(cls, folder: str | os.PathLike[str], **kwargs: Any) -> VectorStoreIndex:
        """Read what `save` has written, by any number of ranks: each takes some shards that follow one another.

        Args:
            folder: Where from: one that all ranks see.
            **kwargs: Those of `load_index_from_storage`, such as `embed_model`.

        Raises:
            FileNotFoundError: If there are no shards, or saving them never ended.
            ValueError: If they are damaged, or something else.
            RankError: If another rank fails.
        """
        ranks = ranks_of(cls._executor)
        with ranks.together("load"):
            manifest = Manifest.read(folder, [_KIND])
            ranks.compare(repr(manifest).encode(), "finds other shards than rank 0")
            mine = blocks(manifest.rows, ranks.size)[ranks.rank]
            context = _read([Manifest.shard(folder, number) for number in mine])
            store: Any = context.vector_store
            found, wanted = len(store.data.embedding_dict), sum(manifest.rows[mine.start : mine.stop])
            if found != wanted:
                raise ValueError(f"{folder}: shards {list(mine)} have {found} vectors, and not {wanted}")
            struct = _only_struct(context.index_store)
            made = AcceleratedVectorStoreIndex(index_struct=struct, storage_context=context, **kwargs)
            return cls._of(made)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all parts to a folder, each as `StorageContext.persist` does, and a manifest at the end.

        Args:
            folder: Where to: one that all ranks see. Shards that are there are replaced.

        Raises:
            ValueError: If the storage context holds other indexes, too.
            RankError: If another rank fails.
        """
        _only_struct(self.storage_context.index_store)
        ranks = ranks_of(self._executor)
        with ranks.together("save"):
            if ranks.rank == 0:
                Manifest.shard(folder, 0).mkdir(parents=True, exist_ok=True)
                (Path(folder) / MANIFEST).unlink(missing_ok=True)
            ranks.barrier()
            self.storage_context.persist(str(Manifest.shard(folder, ranks.rank)))
            store: Any = self._vector_store
            vectors = store.data.embedding_dict
            counts = all_counts(ranks, len(vectors))
            widths = [width - 1 for width in all_counts(ranks, 1 + len(next(iter(vectors.values()), []))) if width > 1]
            if ranks.rank == 0:
                Manifest(_KIND, counts, widths[0] if widths else None).write(folder)

    @property
    def local(self) -> VectorStoreIndex:
        """This rank's part, as an index by itself."""
        made = object.__new__(AcceleratedVectorStoreIndex)
        made.__dict__ = self.__dict__
        return made

    def as_retriever(self, **kwargs: Any) -> ShardedRetriever:
        """A retriever over all ranks' parts; its arguments are those of the native one."""
        return ShardedRetriever(
            self,
            executor=self._executor,
            node_ids=list(self.index_struct.nodes_dict.values()),
            callback_manager=self._callback_manager,
            object_map=self._object_map,
            **kwargs,
        )

    def insert_nodes(self, nodes: Any, **insert_kwargs: Any) -> NoReturn:
        """Refused: it isn't decided which rank would have them."""
        raise NotImplementedError("an index in shards takes no more documents: build it anew, or use gather='root'")

    async def ainsert_nodes(self, nodes: Any, **insert_kwargs: Any) -> NoReturn:
        """Refused as `insert_nodes` is."""
        self.insert_nodes(nodes)

    def update_ref_doc(self, document: Document, **update_kwargs: Any) -> NoReturn:
        """Refused before anything is deleted, as `insert_nodes` is."""
        self.insert_nodes([])

    async def aupdate_ref_doc(self, document: Document, **update_kwargs: Any) -> NoReturn:
        """Refused before anything is deleted, as `insert_nodes` is."""
        self.insert_nodes([])

    def refresh_ref_docs(self, documents: Sequence[Document], **update_kwargs: Any) -> NoReturn:
        """Refused on all ranks, whichever have the documents, as `insert_nodes` is."""
        self.insert_nodes([])

    async def arefresh_ref_docs(self, documents: Sequence[Document], **update_kwargs: Any) -> NoReturn:
        """Refused on all ranks, whichever have the documents, as `insert_nodes` is."""
        self.insert_nodes([])

    @classmethod
    def _of(cls, local: VectorStoreIndex) -> ShardedVectorStoreIndex:
        made = object.__new__(cls)
        made.__dict__ = local.__dict__
        return made


class _Embedding:
    """Gives nodes the vectors that the index would ask for, in the batches of one process's index."""

    def __init__(self, model: Any, ranks: Communicator, size: int) -> None:
        self._model, self._ranks = ShardedEmbedding(model, ranks, size), ranks

    def __call__(self, nodes: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        check_nodes_apart(self._ranks, nodes)
        full = [(node, text) for node, text in zip(nodes, texts_of(nodes), strict=True) if text != ""]
        state = b" ".join(sorted({b"without" if node.embedding is None else b"with" for node, _ in full}))
        states = set(self._ranks.agree(state)) - {b""}
        if states > {b"with"} or states > {b"without"} or b"with without" in states:
            raise RefusedError("some nodes come with embeddings and some without: give all, or none")
        rows = self._model.embed([text for node, text in full if node.embedding is None])
        for (node, _), row in zip(full, rows or [node.embedding for node, _ in full], strict=True):
            node.embedding = row
        return nodes


def _only_struct(store: Any) -> Any:
    """The structure of the index that a store of indexes holds.

    Raises:
        ValueError: If it holds others, too: their nodes are in the same stores.
    """
    structs = store.index_structs()
    if len(structs) != 1:
        raise ValueError(
            f"Expected a single index, but got {len(structs)} instead: an index in shards is saved and loaded with a "
            "storage_context of its own"
        )
    return structs[0]


def _read(folders: Iterable[Path]) -> StorageContext:
    """Shards as `StorageContext.persist` has written them, one after the other."""
    nodes: dict[str, dict[str, Any]] = {}
    vectors, struct = SimpleVectorStoreData(), IndexDict()
    for folder in folders:
        for name, held in SimpleDocumentStore.from_persist_dir(str(folder)).to_dict().items():
            nodes.setdefault(name, {}).update(held)
        path = folder / f"{DEFAULT_VECTOR_STORE}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}"
        own = AcceleratedSimpleVectorStore.from_persist_path(str(path)).data
        vectors.embedding_dict.update(own.embedding_dict)
        vectors.text_id_to_ref_doc_id.update(own.text_id_to_ref_doc_id)
        vectors.metadata_dict.update(own.metadata_dict)
        struct.nodes_dict.update(_only_struct(SimpleIndexStore.from_persist_dir(str(folder))).nodes_dict)
    store = AcceleratedSimpleVectorStore(data=vectors)
    context = StorageContext.from_defaults(docstore=SimpleDocumentStore.from_dict(nodes), vector_store=store)
    context.index_store.add_index_struct(struct)
    return context
