"""A pipeline's stores, of which each rank has its own: what rank 0 has put into its own is put into all."""

from __future__ import annotations

from typing import Any

from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore

from aaflow_plugins.engines.communicator import Communicator
from llama_index_aaflow.carried_nodes import data_on_all
from llama_index_aaflow.simple_vector_store import AcceleratedSimpleVectorStore
from llama_index_aaflow.vector_stores import accelerate_store


def shared_reason(pipeline: Any) -> str | None:
    """Why a pipeline's stores may be the same for all ranks, as one outside the process is; None if they are not."""
    documents, vectors = pipeline.docstore, pipeline.vector_store
    if documents is not None and not (
        type(documents) is SimpleDocumentStore and type(documents._kvstore) is SimpleKVStore
    ):
        return f"docstore: {type(documents).__name__} is not known to be each process's own"
    if vectors is not None and type(accelerate_store(vectors)) is not AcceleratedSimpleVectorStore:
        return f"vector_store: {type(vectors).__name__} is not known to be each process's own"
    return None


def stores_on_all(ranks: Communicator, pipeline: Any) -> None:
    """Have all ranks' stores hold what rank 0's do; all make this call together.

    Raises:
        TypeError: If JSON doesn't carry what they hold as it is.
        RankError: If another rank fails, or has other stores.
    """
    documents = None if pipeline.docstore is None else pipeline.docstore._kvstore._collections_mappings
    data = None if pipeline.vector_store is None else pipeline.vector_store.data
    with ranks.together("stores for all", docstore=documents is not None, vector_store=data is not None):
        beside = [] if data is None else [data.text_id_to_ref_doc_id, data.metadata_dict]
        held, vectors = data_on_all(ranks, [documents, beside], {} if data is None else data.embedding_dict)
        if ranks.rank and documents is not None:
            documents.clear()
            documents.update(held[0])
        if ranks.rank and data is not None:
            data.embedding_dict = vectors
            data.text_id_to_ref_doc_id, data.metadata_dict = held[1]
