"""`IngestionCache` as `run_transformations` uses it: the same entries, written sooner.

Where a parser's nodes are embedded next, their two entries differ in the vectors alone. So the nodes are written once:
what the second entry says of a node is what the first says, and its vector. The first can be written while nodes are
still made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.ingestion import IngestionCache
from llama_index.core.ingestion import cache as native_module
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore.utils import doc_to_json

from aaflow_plugins.collector import paused_collector
from llama_index_aaflow.known_code import is_known
from llama_index_aaflow.storage.plain_nodes import dumped, is_plain, plain_nodes_are_known


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


class QuickCache:
    """Stands for an `IngestionCache`."""

    def __init__(self, cache: IngestionCache) -> None:
        """Set up.

        Args:
            cache: The native cache, which gets the entries.
        """
        self._cache = cache
        self.get = cache.get
        self._expected: list[tuple[Sequence[Any], list[Written]]] = []

    def expect(self, parsed: Sequence[Any], written: list[Written]) -> None:
        """Be told of what comes next: these nodes are put, get their vectors and no other change, and are put again.

        Args:
            parsed: The nodes.
            written: `written_node` of each.
        """
        self._expected = [(parsed, written)] * 2

    def put(self, key: str, nodes: Sequence[Any], collection: str | None = None) -> None:
        """Put nodes under a key, as `IngestionCache.put` does."""
        cache = self._cache
        with paused_collector():
            parsed, written = self._expected.pop() if self._expected else (None, [])
            if nodes is parsed:
                entry = [_entry(node, data and data.copy()) for node, data in zip(nodes, written, strict=True)]
            else:
                entry = [_entry(node, written_node(node)) for node in nodes]
        cache.cache.put(key, {cache.nodes_key: entry}, collection=collection or cache.collection)


#: The data of a node without its vector; None for a node that has to be written natively.
Written = dict[str, Any] | None

_TYPE = TextNode.get_type()


def written_node(node: Any) -> Written:
    """What is written of a node beside its vector."""
    return dumped(node) if is_plain(node) else None


def _entry(node: Any, written: Written) -> dict[str, Any]:
    if written is None:
        return doc_to_json(node)
    embedding = node.embedding
    if embedding is not None:
        if type(embedding) is not list or not {float}.issuperset(map(type, embedding)):
            return doc_to_json(node)
        written["embedding"] = embedding.copy()
    return {DATA_KEY: written, TYPE_KEY: _TYPE}
