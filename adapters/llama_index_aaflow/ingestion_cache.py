"""`IngestionCache` as `run_transformations` uses it: the same keys and entries, written sooner.

Natively the key is taken of one string of all that the nodes say. Here they are hashed one after the other, which needs
a fraction of the memory. Where a parser's nodes are embedded next, their two entries differ in the vectors alone: what
the second says of a node is what the first says, and its vector. All but the vectors can be written, and the key of the
second entry taken, while nodes are still made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from types import FunctionType
from typing import Any

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.ingestion import IngestionCache
from llama_index.core.ingestion import cache as native_module
from llama_index.core.ingestion import pipeline as pipeline_module
from llama_index.core.schema import Document, MetadataMode, TextNode
from llama_index.core.storage.docstore.utils import doc_to_json

from aaflow_plugins.collector import paused_collector
from llama_index_aaflow.known_code import is_known
from llama_index_aaflow.native_classes import with_names
from llama_index_aaflow.parsing.nodes import is_text
from llama_index_aaflow.storage.plain_nodes import are_floats, assigned, plain_form, plain_nodes_are_known

#: A node as the cache holds it.
Entry = dict[str, Any]


def quick_cache(cache: Any) -> Any:
    """What stands for a cache while transformations run; `cache` itself if it may do something of its own."""
    known = (
        type(cache) is IngestionCache
        and vars(cache).keys() == IngestionCache.model_fields.keys()
        and is_known(IngestionCache.put)
        and vars(native_module)["doc_to_json"] is doc_to_json
        and is_known(doc_to_json)
        and plain_nodes_are_known()
    )
    return QuickCache(cache) if known else cache


def with_quick_keys(native: Any, cache: Any) -> Any:
    """A native function that applies transformations, with keys for `cache` taken sooner.

    Args:
        native: The function.
        cache: What it is to be given for a cache.
    """
    names = vars(pipeline_module)
    if (
        isinstance(cache, QuickCache)
        and type(native) is FunctionType
        and native.__globals__ is names
        and is_known(names["get_transformation_hash"])
    ):
        return with_names(native, {**names, "get_transformation_hash": cache.key})
    return native


class QuickCache:
    """Stands for an `IngestionCache`."""

    def __init__(self, cache: IngestionCache) -> None:
        """Set up.

        Args:
            cache: The native cache, which gets the entries.
        """
        self._cache = cache
        self.get = cache.get
        self._made = Made(cached=False)
        self._entries: list[Callable[[], list[Entry]]] = []

    def expect(self, made: Made) -> None:
        """Be told of what comes next: these nodes are put, get their vectors and no other change, and are put again."""
        self._made = made
        self._entries = [made.entries_with_vectors, made.entries]

    def key(self, nodes: Sequence[Any], transformation: Any) -> str:
        """The key of what a transformation makes of nodes, as `get_transformation_hash` gives it."""
        # Once the second entry is put, what follows may have changed the nodes.
        is_made = nodes is self._made.nodes and len(self._entries) == 1
        state = self._made.hashed() if is_made else _hashed(nodes, sha256())
        if state is not None:
            settings = pipeline_module.remove_unstable_values(str(transformation.to_dict()))
            if is_text(settings):
                state.update(settings.encode())
                return str(state.hexdigest())
        return pipeline_module.get_transformation_hash(nodes, transformation)

    def put(self, key: str, nodes: Sequence[Any], collection: str | None = None) -> None:
        """Put nodes under a key, as `IngestionCache.put` does."""
        cache = self._cache
        with paused_collector():
            expected = self._entries.pop() if self._entries else None
            entries = expected() if expected and nodes is self._made.nodes else list(map(_written, nodes))
        cache.cache.put(key, {cache.nodes_key: entries}, collection=collection or cache.collection)


class Made:
    """Nodes while they are made, and what a cache is to hold of them.

    Attributes:
        nodes: The nodes, in order.
    """

    def __init__(self, *, cached: bool) -> None:
        """Set up.

        Args:
            cached: Whether there is a cache that has to be told.
        """
        self.nodes: list[Any] = []
        self._cached = cached
        #: Without vectors; None for what has to be written natively, when its turn comes.
        self._entries: list[Entry | None] = []
        #: With vectors, by the number of the node: of those that `give` gave theirs.
        self._full: dict[int, Entry] = {}
        self._hash: Any = sha256()

    def add(self, nodes: list[Any]) -> None:
        """Add nodes as their parser leaves them."""
        self.nodes += nodes
        if self._cached:
            # Nodes have the vectors of documents that come with one.
            self._entries += [_entry(node) if node.embedding is None else None for node in nodes]
            self._hash = self._hash and _hashed(nodes, self._hash)

    def give(self, start: int, vectors: list[Any]) -> list[tuple[int, Any]]:
        """Give nodes their vectors before the cache is told of them without, where nobody can change these any more.

        Args:
            start: The number of the first.
            vectors: A vector for each of a run of nodes; emptied.

        Returns:
            The vectors that have to be given natively, each with the number of its node.
        """
        left = []
        vectors.reverse()
        for number in range(start, start + len(vectors)):
            vector = vectors.pop()
            entry = self._entries[number] if self._cached else None
            if (self._cached and entry is None) or not assigned(self.nodes[number], vector, copying=False):
                left.append((number, vector))
            elif entry is not None:
                self._full[number] = _extended(entry, vector)
        return left

    def entries(self) -> list[Entry]:
        """The entries of the nodes, which have no vectors yet, or were given them by `give`."""
        return [entry or doc_to_json(node) for entry, node in zip(self._entries, self.nodes, strict=True)]

    def entries_with_vectors(self) -> list[Entry]:
        """The entries of the nodes, which have got their vectors and no other change."""
        entries: list[Entry] = []
        for number, (entry, node) in enumerate(zip(self._entries, self.nodes, strict=True)):
            full = self._full.get(number)
            entries.append(full or (_with_vector(entry, node) if entry else doc_to_json(node)))
        return entries

    def hashed(self) -> Any:
        """What has taken in all that the nodes say; None if that can't be."""
        return self._hash and self._hash.copy()


_TYPE = TextNode.get_type()


def _written(node: Any) -> Entry:
    """What `doc_to_json` gives."""
    entry = _entry(node)
    return _with_vector(entry, node) if entry else doc_to_json(node)


def _entry(node: Any) -> Entry | None:
    """What `doc_to_json` gives of a node that has a `plain_form`, but without a vector; None for any other."""
    form = plain_form(node)
    return None if form is None else {DATA_KEY: form, TYPE_KEY: _TYPE}


def _with_vector(entry: Entry, node: Any) -> Entry:
    """What `doc_to_json` gives of a node that has an entry without a vector."""
    vector = node.embedding
    if vector is None:
        return entry
    return _extended(entry, vector) if are_floats(vector) else doc_to_json(node)


def _extended(entry: Entry, vector: list[float]) -> Entry:
    """An entry without a vector, with one."""
    return {DATA_KEY: {**entry[DATA_KEY], "embedding": vector.copy()}, TYPE_KEY: _TYPE}


def _hashed(nodes: Sequence[Any], state: Any) -> Any:
    """A hash that takes in what nodes say; None if they are of unknown classes, or what they say is no Unicode."""
    if type(nodes) is not list or not {TextNode, Document}.issuperset(map(type, nodes)):
        return None
    try:
        for node in nodes:
            state.update(node.get_content(metadata_mode=MetadataMode.ALL).encode())
    except UnicodeEncodeError:
        return None
    return state
