"""A vector store of which each rank has a part: searched by all together, with the results of one store.

The same lines run on every rank:

    store = ingest(
        documents, splitter=splitter, embedding=embedding, vectorstore=FAISS, executor=Executor(gather="shards")
    )
    answers = store.as_retriever(search_kwargs={"k": 4}).batch(questions)
    store.save("shards")
    store = ShardedVectorStore.load("shards", embedding, allow_dangerous_deserialization=True)

Every call is made by all ranks, with the same arguments, one call after the other; all of them get the result. A query
is embedded once, by rank 0. What is found goes from rank to rank as JSON, which has forms for the usual values of
metadata; others are an error. A saved folder is loaded by any number of ranks, or by one process.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, run_in_executor
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.tasks import digest_of
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import ranks_of
from aaflow_plugins.shards import MANIFEST, Manifest, blocks, vector_columns, vectors_in
from langchain_aaflow.sharded_parts import KINDS, Part, Place, Results, gathered, load_part

_log = logging.getLogger(__name__)


class ShardedVectorStore(VectorStore):
    """What `ingest` with `Executor(gather="shards")` returns, on every rank.

    Ids, scores and order are those of one native store with all rows. MMR, and searches whose result can't be told
    from the parts, gather all rows on each rank first, once, and say so in the log.
    """

    def __init__(self, part: Part, place: Place) -> None:
        """Set up; `ingest` and `load` make both."""
        self._part, self._place = part, place
        self._everything: Part | None = None

    @property
    def local(self) -> Any:
        """This rank's native store. Whoever changes it can search no more."""
        return self._part.store

    @property
    def counts(self) -> list[int]:
        """Rows of each rank."""
        return list(self._place.counts)

    def __len__(self) -> int:
        """Rows of all ranks."""
        return self._place.total

    @property
    def embeddings(self) -> Embeddings | None:
        """Those of the native store."""
        found: Embeddings | None = self.local.embeddings
        return found

    # -- searches ----------------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, *args: Any, **kwargs: Any) -> list[Document]:
        """What the native store's method of this name returns."""
        settings = self._settings("similarity_search", args, kwargs)
        return self.similarity_search_batch([query], k, **settings)[0]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *args: Any, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """What the native store's method of this name returns."""
        settings = self._settings("similarity_search_with_score", args, kwargs)
        return self.similarity_search_with_score_batch([query], k, **settings)[0]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *args: Any, **kwargs: Any
    ) -> list[Document]:
        """What the native store's method of this name returns."""
        settings = self._settings("similarity_search_by_vector", args, kwargs)
        return _documents(self.similarity_search_with_score_by_vector(embedding, k, **settings))

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, *args: Any, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """What the native store's method of this name returns."""
        settings = self._settings("similarity_search_with_score_by_vector", args, kwargs)
        return self.similarity_search_with_score_by_vectors([embedding], k, **settings)[0]

    def similarity_search_with_score_by_vectors(
        self, embeddings: Sequence[list[float]], k: int = 4, **kwargs: Any
    ) -> list[list[tuple[Document, float]]]:
        """Search for many vectors at once: for each what the native search returns for it."""
        vectors = list(embeddings)
        with self._together("search", map(repr, vectors), k, kwargs):
            return self._search(vectors, k, kwargs) if vectors else []

    def similarity_search_with_score_batch(
        self, queries: Sequence[str], k: int = 4, **kwargs: Any
    ) -> list[list[tuple[Document, float]]]:
        """Search for many queries at once: for each what `similarity_search_with_score` returns for it."""
        with self._together("search", queries, k, kwargs):
            return self._search(self._embedded(queries), k, kwargs) if queries else []

    def similarity_search_batch(self, queries: Sequence[str], k: int = 4, **kwargs: Any) -> list[list[Document]]:
        """Search for many queries at once: for each what `similarity_search` returns for it."""
        return list(map(_documents, self.similarity_search_with_score_batch(queries, k, **kwargs)))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """What the native store's method of this name returns."""
        settings = {"fetch_k": fetch_k, "lambda_mult": lambda_mult, **kwargs}
        with self._together("mmr", [query], k, settings):
            vector = self._embedded([query])[0]
            store = self._whole("a search by maximal marginal relevance").store
            found: list[Document] = store.max_marginal_relevance_search_by_vector(vector, k, **settings)
            return found

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """What the native store's method of this name returns."""
        settings = {"fetch_k": fetch_k, "lambda_mult": lambda_mult, **kwargs}
        with self._together("mmr", [repr(embedding)], k, settings):
            store = self._whole("a search by maximal marginal relevance").store
            found: list[Document] = store.max_marginal_relevance_search_by_vector(embedding, k, **settings)
            return found

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return self.local._select_relevance_score_fn()  # type: ignore[no-any-return]

    def as_retriever(self, **kwargs: Any) -> ShardedRetriever:
        """A retriever whose calls all ranks make together; `batch` is one search for all queries."""
        tags = kwargs.pop("tags", None) or []
        return ShardedRetriever(vectorstore=self, tags=[*tags, *self._get_retriever_tags()], **kwargs)

    def _settings(self, method: str, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments behind `k` by the names that the native store's method has for them."""
        if not args:
            return kwargs
        given = inspect.signature(getattr(self.local, method)).bind(None, None, *args, **kwargs).arguments
        return dict(list(given.items())[2 : 2 + len(args)]) | kwargs

    def _together(self, call: str, queries: Iterable[str], k: Any, settings: dict[str, Any]) -> Any:
        """The block of a call that all ranks make."""
        said = {name: _said(value) for name, value in sorted(settings.items())}
        asked = digest_of(queries).hex()
        return self._place.ranks.together(call, **{**said, "rows": len(self), "queries": asked, "k": repr(k)})

    def _embedded(self, queries: Sequence[str]) -> list[Any]:
        """The queries' vectors, by rank 0, one by one and in order."""
        ranks, table = self._place.ranks, None
        if not ranks.rank:
            table = pa.table(vector_columns([self._part.embed_query(query) for query in queries]))
        return vectors_in(ranks.broadcast(table))

    def _search(self, vectors: list[Any], k: int, options: dict[str, Any]) -> list[Results]:
        if self._part.rows != self._place.counts[self._place.ranks.rank]:
            raise RuntimeError("the native store of this rank has been changed: its rows are no longer those of all")
        found = self._part.search(self._place, vectors, k, options)
        return self._whole("this search").native_search(vectors, k, options) if found is None else found

    def _whole(self, why: str) -> Part:
        """All rows in one native store, on every rank."""
        if self._everything is None:
            _log.warning("%s needs all %d rows on each rank: they are gathered", why, len(self))
            whole = self._part.emptied()
            whole.refill(*gathered(self._place, self._part))
            self._everything = whole
        return self._everything

    # -- on disk -----------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write each rank's part as a folder of its own, then the manifest.

        Parts are in the native store's own format: for FAISS what `save_local` writes, an index and a pickle of the
        documents, for InMemoryVectorStore the JSON of `dump`. All ranks see the same folder.

        Raises:
            OSError: If it can't be written. Without a manifest nothing there is taken for saved.
        """
        ranks, path = self._place.ranks, Path(folder)
        with ranks.together("save", folder=os.fspath(folder)):
            if not ranks.rank:
                path.mkdir(parents=True, exist_ok=True)
                (path / MANIFEST).unlink(missing_ok=True)
            ranks.barrier()
            self._part.save(Manifest.shard(path, ranks.rank))
            width = pa.array([self._part.width], pa.int64())
            widths = ranks.all_gather(pa.table({"width": width}))["width"].drop_null().to_pylist()
            if not ranks.rank:
                kind = type(self.local).__name__
                Manifest(kind, self.counts, widths[0] if widths else None, self._part.settings).write(path)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        embedding: Embeddings,
        *,
        executor: Executor | None = None,
        **kwargs: Any,
    ) -> ShardedVectorStore:
        """What `save` wrote, on any number of ranks, or in one process.

        Args:
            folder: The folder.
            embedding: Embeddings for queries.
            executor: Whose engine's ranks take part.
            **kwargs: What the native store's own loading takes: for FAISS `allow_dangerous_deserialization=True`, as
                its documents are pickled.

        Raises:
            FileNotFoundError: If there is no manifest, or a shard is missing.
            ValueError: If the manifest is none of this class, or the shards are not what it says.
        """
        path, ranks = Path(folder), ranks_of(executor or Executor())
        with ranks.together("load", folder=os.fspath(folder)):
            manifest = Manifest.read(path, KINDS)
            ranks.compare(json.dumps(manifest.rows).encode(), "sees another manifest than rank 0")
            own = blocks(manifest.rows, ranks.size)[ranks.rank]
            for number in own:
                if not Manifest.shard(path, number).is_dir():
                    raise FileNotFoundError(f"{Manifest.shard(path, number)}: the manifest says that this shard exists")
            part = load_part(manifest, path, own, embedding, kwargs)
            said = sum(manifest.rows[number] for number in own)
            if part.rows != said:
                raise ValueError(f"{path}: shards {list(own)} have {part.rows} rows, where the manifest says {said}")
            return cls(part, Place.of(ranks, part.rows))

    # -- what parts have no place for --------------------------------------------------------------------

    def add_texts(self, texts: Iterable[str], metadatas: Any = None, *, ids: Any = None, **kwargs: Any) -> NoReturn:
        """Not possible: shards are filled by `ingest`.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a sharded store is filled by ingest(..., executor=Executor(gather='shards'))")

    @classmethod
    def from_texts(cls, texts: Any, embedding: Embeddings, metadatas: Any = None, **kwargs: Any) -> NoReturn:
        """Not possible: shards are made by `ingest`, or loaded.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a sharded store is made by ingest(..., executor=Executor(gather='shards'))")


#: A retriever's query whose documents have been found already, and those.
_found: ContextVar[tuple[str, list[Document]] | None] = ContextVar("_found", default=None)


class ShardedRetriever(VectorStoreRetriever):
    """Retrieves from a `ShardedVectorStore`: all ranks make each call."""

    @property
    def ranks(self) -> Communicator:
        """The ranks that have the shards."""
        store: Any = self.vectorstore
        ranks: Communicator = store._place.ranks
        return ranks

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """What the native method returns, with one search for all queries; callbacks are called in their order."""
        known: list[list[Document]] | None = None
        if self.search_type == "similarity" and not return_exceptions:
            store: Any = self.vectorstore
            known = store.similarity_search_batch(inputs, **(self.search_kwargs | kwargs))
        results: list[Any] = []
        for number, (query, own) in enumerate(zip(inputs, get_config_list(config, len(inputs)), strict=True)):
            token = _found.set(None if known is None else (query, known[number]))
            try:
                results.append(self.invoke(query, own, **kwargs))
            except Exception as error:
                if not return_exceptions:
                    raise
                results.append(error)
            finally:
                _found.reset(token)
        return results

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Like `batch`, in a thread."""
        return await run_in_executor(None, self.batch, inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _get_relevant_documents(self, query: str, *, run_manager: Any, **kwargs: Any) -> list[Document]:
        known = _found.get()
        if known is not None and known[0] == query:
            return known[1]
        return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)


def _documents(results: Results) -> list[Document]:
    return [document for document, _ in results]


def _said(value: Any) -> str:
    """A setting, as all ranks say it."""
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {_said(each)}' for name, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_said, value))}]"
    if isinstance(value, set | frozenset):
        # Their order is another one in each process.
        return f"{{{', '.join(sorted(map(_said, value)))}}}"
    # What has no text of its own has its address for one.
    has_no_text: Any = object.__repr__
    return type(value).__qualname__ if type(value).__repr__ is has_no_text else repr(value)
