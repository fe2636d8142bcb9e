"""`VectorStoreIndex.from_documents` in a job of several ranks: rank 0 builds the index, and all cut and embed texts.

With `gather="all"` the others get it afterwards, as if they had loaded it from where rank 0 has persisted it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from llama_index.core import Settings, StorageContext
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings.utils import resolve_embed_model
from llama_index.core.indices import base as index_base
from llama_index.core.indices.vector_store import VectorStoreIndex
from llama_index.core.schema import Document, TransformComponent
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import ranks_of
from llama_index_aaflow.carried_nodes import data_on_all
from llama_index_aaflow.indices import AcceleratedVectorStoreIndex
from llama_index_aaflow.ingestion_ranks import Help, led
from llama_index_aaflow.transformations import sooner
from llama_index_aaflow.vector_stores import accelerate_store


class LedVectorStoreIndex(AcceleratedVectorStoreIndex):
    """Builds an `AcceleratedVectorStoreIndex`: `from_documents` is a call that all ranks make together."""

    _executor: ClassVar[Executor] = Executor()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An index of this process, made of anything but documents."""
        return AcceleratedVectorStoreIndex(*args, **kwargs) if cls._is_led() else super().__new__(cls)

    @classmethod
    def from_documents(  # type: ignore[override]
        cls,
        documents: Sequence[Document],
        storage_context: StorageContext | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        **kwargs: Any,
    ) -> VectorStoreIndex | None:
        """Create an index from documents, as the native method does.

        Args:
            documents: Rank 0's count; the others may have the same, or none.
            storage_context: As natively; rank 0's is used. None with `gather="all"`.
            show_progress: As natively.
            callback_manager: As natively; rank 0's hears of all.
            transformations: As natively.
            **kwargs: As natively.

        Returns:
            The index at rank 0, and None elsewhere; with `gather="all"` the index.

        Raises:
            ValueError: If a storage context is to be filled on all ranks.
            TypeError: If all ranks are to have metadata that JSON doesn't carry.
            RankError: If another rank fails, or has other transformations or documents.
        """

        def build(steps: Any, **more: Any) -> VectorStoreIndex:
            return AcceleratedVectorStoreIndex.from_documents(
                documents, storage_context, show_progress, callback_manager, steps, **{**kwargs, **more}
            )

        if not cls._is_led():
            return super().from_documents(
                documents, storage_context, show_progress, callback_manager, transformations, **kwargs
            )
        executor = cls._executor
        ranks = ranks_of(executor)
        if ranks.size == 1:
            return build(transformations)
        if executor.gather == "all" and storage_context is not None:
            raise ValueError("storage_context: with gather='all' each rank gets an index in a storage of its own")
        transformations = transformations or Settings.transformations
        model = resolve_embed_model(kwargs.get("embed_model") or Settings.embed_model, callback_manager)

        def lead(helped: Help) -> VectorStoreIndex:
            embedding = helped.embedding(len(transformations), model)
            given = {"embed_model": kwargs["embed_model"]} if "embed_model" in kwargs else {}
            made = build([_Helped(helped, transformations, executor, given)], embed_model=embedding)
            made._transformations, made._embed_model = transformations, model
            return made

        index = led(ranks, [*transformations, model], executor, documents, lead)
        if executor.gather == "root":
            return index
        with ranks.together("an index for all"):
            storage = _storage_on_all(ranks, None if index is None else index.storage_context)
        if index is not None:
            return index
        kwargs |= {"transformations": transformations, "callback_manager": callback_manager}
        struct: Any = storage.index_store.index_structs()[0]
        return AcceleratedVectorStoreIndex(index_struct=struct, storage_context=storage, **kwargs)

    @classmethod
    def __subclasshook__(cls, subclass: type[Any]) -> Any:
        """An index that it has built is one of its own, too."""
        return (subclass is AcceleratedVectorStoreIndex and cls._is_led()) or NotImplemented

    @classmethod
    def _is_led(cls) -> bool:
        """Whether this is a class that `for_executor` has made, and not somebody's subclass, whose ways are its own."""
        return "_executor" in vars(cls)


def _storage_on_all(ranks: Communicator, storage: StorageContext | None) -> StorageContext:
    """The storage that rank 0 has, on all ranks; all make this call together."""
    held = {} if storage is None else storage.to_dict()
    vectors = {} if storage is None else held["vector_store"][DEFAULT_VECTOR_STORE].pop("embedding_dict")
    held, vectors = data_on_all(ranks, held, vectors)
    if storage is not None:
        return storage
    held["vector_store"][DEFAULT_VECTOR_STORE]["embedding_dict"] = vectors
    storage = StorageContext.from_dict(held)
    storage.vector_stores[DEFAULT_VECTOR_STORE] = accelerate_store(storage.vector_store)
    return storage


class _Helped:
    """An index's transformations, with what of them is shared done by all."""

    def __init__(self, helped: Help, transformations: Sequence[Any], executor: Executor, given: dict[str, Any]) -> None:
        self._helped, self._executor, self._given = helped, executor, given
        self._steps = [sooner(each, executor) for each in transformations]

    def __call__(self, documents: Sequence[Any], **kwargs: Any) -> Sequence[Any]:
        """Make nodes of documents."""
        native: Any = index_base
        # They are told of the user's model, if of any.
        del kwargs["embed_model"]
        kwargs |= self._given

        def apply(steps: list[Any]) -> Any:
            return native.run_transformations(documents, steps, **kwargs)

        nodes: Sequence[Any] = self._helped.run(apply, documents, self._steps, kwargs, self._executor)
        return nodes
