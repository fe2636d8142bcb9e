"""Which documents of its block a rank is to run: what one process's document store would say, found out by all ranks.

Each rank has a document store of its own. Whether a document is new is asked of all of them: keys meet at the rank
that a hash of theirs names, and are compared there as they are.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from llama_index.core.ingestion import DocstoreStrategy
from llama_index.core.storage.docstore import SimpleDocumentStore

from aaflow_plugins.dedupe import meeting_number
from aaflow_plugins.engines.communicator import Communicator

_HELD: Final = "held "
_WANTED: Final = "wanted "
_EXISTS: Final = "exists "
_KEPT: Final = "kept"
_GONE: Final = "gone"

#: By key: who has it, in the order of the ranks, and what they say of it.
Met = Mapping[str, list[tuple[int, str]]]


class RefusedError(ValueError):
    """Raised by all ranks at the same place."""


def check_apart(ranks: Communicator, nodes: Sequence[Any]) -> None:
    """Raise on all ranks if documents of one id are in blocks of several ranks.

    Within one process they would be told from one another by their order, or be neighbours.

    Raises:
        RefusedError: Naming an id.
    """
    _refuse(
        ranks,
        _of_several(ranks, {key for node in nodes for key in (node.id_, _source(node))}),
        "documents with the id {} are in the blocks of several ranks, which one process would take for neighbours or "
        "replace by one another: give each document an id of its own, or use Executor(gather='root')",
    )


def check_nodes_apart(ranks: Communicator, nodes: Sequence[Any]) -> None:
    """Raise on all ranks if nodes of one id were made on several ranks.

    Within one process the last of them would replace the others in the stores.

    Raises:
        RefusedError: Naming an id.
    """
    _refuse(
        ranks,
        _of_several(ranks, {node.id_ for node in nodes}),
        "nodes with the id {} were made of documents in the blocks of several ranks, of which one process would keep "
        "the last: use an id_func that tells documents apart, or Executor(gather='root')",
    )


def drop_replaced(ranks: Communicator, nodes: Sequence[Any], store: Any) -> None:
    """Have each node in the store of one rank alone: the last of those that have just stored one of its id.

    Within one process it has replaced the others. All ranks make this call together, once they have stored theirs.

    Args:
        ranks: The ranks.
        nodes: What this rank has stored.
        store: This rank's `SimpleVectorStore`.
    """
    stored = {node.id_ for node in nodes}
    entries = [(key, _WANTED if key in stored else _HELD) for key in store.data.embedding_dict]
    answers = []
    for key, who in _met(ranks, entries).items():
        last = max((rank for rank, said in who if said == _WANTED), default=None)
        answers += [(rank, key, _GONE) for rank, _ in who if last is not None and rank != last]
    if gone := [key for key, _ in _told(ranks, answers)]:
        store.delete_nodes(gone)


def documents_seen(
    ranks: Communicator, pipeline: Any, nodes: Sequence[Any], delete: Callable[[str], Any] | None
) -> Any:
    """The document store of a pipeline as its native code is to see it on this rank; all ranks make this call together.

    What has changed is deleted from the stores of other ranks, as it is natively from the one store.

    Args:
        ranks: The ranks.
        pipeline: The pipeline, with a `SimpleDocumentStore`.
        nodes: This rank's input.
        delete: Deletes what came of a document from this rank's vector store; None where there is none.

    Raises:
        RefusedError: Before anything is deleted, if documents to be run have one id and are in blocks of several ranks,
            or if what is to be deleted or replaced depends on what other ranks have of it.
    """
    store = pipeline.docstore
    if delete is None or pipeline.docstore_strategy == DocstoreStrategy.DUPLICATES_ONLY:
        taken = _taken(ranks, store, nodes)
        to_run = [node for node in nodes if node.hash not in taken]
        check_apart(ranks, to_run)
        _check_replaced(ranks, store, to_run)
        return _Seen(store, {}, taken, frozenset())
    held = _held(store)
    if pipeline.docstore_strategy == DocstoreStrategy.UPSERTS_AND_DELETE:
        _check_deletions(ranks, held)
    entries = [(key, _HELD + digest) for key, digest in held.items()]
    entries += [(_source(node), _WANTED + node.hash) for node in nodes]
    answers = [answer for key, who in _met(ranks, entries).items() for answer in _upserted(key, who)]
    told = _told(ranks, answers)
    exists = {key: said.removeprefix(_EXISTS) for key, said in told if said.startswith(_EXISTS)}
    seen = _Seen(store, exists, frozenset(), frozenset(key for key, said in told if said == _KEPT))
    gone = dict.fromkeys(key for key, said in told if said == _GONE)
    # What is deleted here for another rank is to be run here, too, if it is this rank's input as it was.
    check_apart(
        ranks,
        [node for node in nodes if (key := _source(node)) in gone or seen.get_document_hash(key) != node.hash],
    )
    for key in gone:
        store.delete_ref_doc(key, raise_error=False)
        store.delete_document(key, raise_error=False)
        delete(key)
    return seen


class _Seen:
    """This rank's document store, with what the other ranks' have of its documents."""

    def __init__(
        self, store: SimpleDocumentStore, exists: Mapping[str, str], taken: frozenset[str], kept: frozenset[str]
    ) -> None:
        """Set up.

        Args:
            store: This rank's.
            exists: Hashes by id, of documents in other ranks' stores.
            taken: Hashes that other ranks' stores have, or documents that come before this rank's.
            kept: Ids in this rank's store of documents that are other ranks' input.
        """
        self._store, self._exists, self._taken, self._kept = store, exists, taken, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_document_hash(self, doc_id: str) -> str | None:
        """The hash under which a document is in anyone's store."""
        return self._store.get_document_hash(doc_id) or self._exists.get(doc_id)

    async def aget_document_hash(self, doc_id: str) -> str | None:
        """As `get_document_hash`: the store is in memory."""
        return self.get_document_hash(doc_id)

    async def aget_all_document_hashes(self) -> dict[str, str]:
        """As `get_all_document_hashes`."""
        return self.get_all_document_hashes()

    def get_all_document_hashes(self) -> dict[str, str]:
        """Ids by hash, of what a document is compared with, or what may be deleted."""
        own = self._store.get_all_document_hashes().items()
        return {**dict.fromkeys(self._taken, ""), **{digest: key for digest, key in own if key not in self._kept}}


def _held(store: SimpleDocumentStore) -> dict[str, str]:
    """Hashes by id, of all that a store has."""
    held = store._kvstore.get_all(collection=store._metadata_collection)
    return {key: digest for key, about in held.items() if (digest := about.get("doc_hash"))}


def _taken(ranks: Communicator, store: SimpleDocumentStore, nodes: Sequence[Any]) -> frozenset[str]:
    entries = [(digest, _HELD) for digest in store.get_all_document_hashes()]
    entries += [(digest, _WANTED) for digest in dict.fromkeys(node.hash for node in nodes)]
    answers = []
    for key, who in _met(ranks, entries).items():
        holders = [rank for rank, said in who if said == _HELD]
        wanting = [rank for rank, said in who if said == _WANTED]
        answers += [(rank, key, "") for rank in wanting if rank != wanting[0] or set(holders) - {rank}]
    return frozenset(key for key, _ in _told(ranks, answers))


def _check_replaced(ranks: Communicator, store: SimpleDocumentStore, nodes: Sequence[Any]) -> None:
    """Natively, what has changed replaces what is under its id, and its nodes those that are under theirs."""
    entries = [(key, _HELD) for key in _held(store)] + [(node.id_, _WANTED) for node in nodes]
    _refuse(
        ranks,
        [
            key
            for key, who in _met(ranks, entries).items()
            if len({rank for rank, _ in who}) > 1 and any(said == _WANTED for _, said in who)
        ],
        "the document {} has changed, and is in the store of another rank as it was, which one process would replace: "
        "use DocstoreStrategy.UPSERTS and a vector store, or Executor(gather='root')",
    )


def _upserted(key: str, who: list[tuple[int, str]]) -> Iterable[tuple[int, str, str]]:
    """What to tell whom of a document that is held, or to be run."""
    holders = [(rank, said.removeprefix(_HELD)) for rank, said in who if said.startswith(_HELD)]
    wanting = [(rank, said.removeprefix(_WANTED)) for rank, said in who if said.startswith(_WANTED)]
    for holder, digest in holders:
        others = [wanted for rank, wanted in wanting if rank != holder]
        if others:
            yield holder, key, _GONE if set(others) - {digest} else _KEPT
        for rank in dict.fromkeys(rank for rank, _ in wanting if rank != holder):
            yield rank, key, _EXISTS + digest


def _check_deletions(ranks: Communicator, held: Mapping[str, str]) -> None:
    """Natively, of documents with one hash only the last one that is missing is deleted."""
    met = _met(ranks, ((digest, key) for key, digest in held.items())).values()
    twins = [who for who in met if len({rank for rank, _ in who}) > 1 and len({key for _, key in who}) > 1]
    _refuse(
        ranks,
        [key for who in twins for _, key in who],
        "the document {} has the text and metadata of another: which of them is deleted when it is missing depends on "
        "one process's order; use DocstoreStrategy.UPSERTS, or Executor(gather='root')",
    )


def _of_several(ranks: Communicator, keys: Iterable[str]) -> list[str]:
    """Those of all ranks' keys that several have, each at one rank."""
    return [key for key, who in _met(ranks, ((key, "") for key in keys)).items() if len(who) > 1]


def _source(node: Any) -> str:
    return str(node.ref_doc_id or node.id_)


# -- meeting ---------------------------------------------------------------------------------------------


def _met(ranks: Communicator, entries: Iterable[tuple[str, str]]) -> Met:
    """Bring together what the ranks say of the same key; each key at one rank."""
    rows = list(entries)
    keys, said = _written(key for key, _ in rows), _written(said for _, said in rows)
    numbers = [meeting_number(hashlib.blake2b(key, digest_size=8).digest()) for key in keys]
    met = defaultdict(list)
    came = ranks.shuffle(_table(number=numbers, rank=[ranks.rank] * len(rows), key=keys, said=said), "number")
    for rank, key, what in zip(came["rank"].to_pylist(), _read(came["key"]), _read(came["said"]), strict=True):
        met[key].append((rank, what))
    return met


def _told(ranks: Communicator, answers: Sequence[tuple[int, str, str]]) -> list[tuple[str, str]]:
    """Tell ranks something of keys; what this one is told."""
    keys, said = _written(key for _, key, _ in answers), _written(said for _, _, said in answers)
    came = ranks.shuffle(_table(rank=[rank for rank, _, _ in answers], key=keys, said=said), "rank")
    return list(zip(_read(came["key"]), _read(came["said"]), strict=True))


def _table(*, key: list[bytes], said: list[bytes], **numbers: list[int]) -> pa.Table:
    texts = {"key": pa.array(key, pa.large_binary()), "said": pa.array(said, pa.large_binary())}
    return pa.table({**{name: pa.array(column, pa.int64()) for name, column in numbers.items()}, **texts})


def _written(texts: Iterable[str]) -> list[bytes]:
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _read(column: pa.ChunkedArray) -> list[str]:
    return [text.decode("utf-8", "surrogatepass") for text in column.to_pylist()]


def _refuse(ranks: Communicator, found: list[str], what: str) -> None:
    """Raise on all ranks what has been found on any."""
    first = _written(sorted(found)[:1])
    all_found = _read(ranks.all_gather(pa.table({"key": pa.array(first, pa.large_binary())}))["key"])
    if all_found:
        raise RefusedError(what.format(repr(all_found[0])))
