"""What tells queries, and searches, from others: the same on all ranks."""

from __future__ import annotations

from typing import Any

from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.schema import QueryBundle


def told_of_query(query: Any) -> str:
    """What a query asks for; of one of an unknown class, the class alone."""
    if not isinstance(query, QueryBundle):
        return repr(query) if isinstance(query, str) else type(query).__qualname__
    # Its vector, once it has one, is set in it, by those ranks that have answered it.
    return repr((query.query_str, query.image_path, query.custom_embedding_strs))


def told_of_search(retriever: VectorIndexRetriever) -> list[str]:
    """How a retriever searches."""
    return [repr(getattr(retriever, name)) for name in ("_similarity_top_k", "_filters", "_doc_ids")]
