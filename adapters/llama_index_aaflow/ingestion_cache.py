"""`IngestionCache` as `run_transformations` uses it: the same entries, written sooner."""

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
    return _QuickCache(cache) if known else cache


class _QuickCache:
    def __init__(self, cache: IngestionCache) -> None:
        self._cache = cache
        self.get = cache.get

    def put(self, key: str, nodes: Sequence[Any], collection: str | None = None) -> None:
        """Put nodes under a key, as `IngestionCache.put` does."""
        cache = self._cache
        with paused_collector():
            value = {cache.nodes_key: [_written(node) for node in nodes]}
        cache.cache.put(key, value, collection=collection or cache.collection)


_TYPE = TextNode.get_type()


def _written(node: Any) -> dict[str, Any]:
    if not is_plain(node):
        return doc_to_json(node)
    data = dumped(node)
    embedding = node.embedding
    if embedding is not None:
        if not {float}.issuperset(map(type, embedding)):
            return doc_to_json(node)
        data["embedding"] = embedding.copy()
    return {DATA_KEY: data, TYPE_KEY: _TYPE}
