"""SimpleVectorStores to compare: native and accelerated over equal data, their answers to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult

from llama_index_aaflow.vector_stores import accelerate_store

DIM = 8


def filled(rows: int, dim: int = DIM, *, seed: int = 0, decimals: int | None = None) -> SimpleVectorStore:
    """A native store of random vectors, each of a document and with metadata to filter by."""
    store = SimpleVectorStore()
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    if decimals is not None:
        vectors = np.round(vectors, decimals)
    for row, vector in enumerate(vectors):
        store.data.embedding_dict[f"n{row}"] = vector.tolist()
        store.data.text_id_to_ref_doc_id[f"n{row}"] = f"doc {row // 7}"
        store.data.metadata_dict[f"n{row}"] = {"row": row, "third": row % 3, "text": f"é{row}\n", "none": None}
    return store


def accelerated(store: SimpleVectorStore) -> Any:
    return accelerate_store(store)


def native_over(store: SimpleVectorStore) -> SimpleVectorStore:
    """A native store of the very same data."""
    return SimpleVectorStore(store.data)


def query(vector: Sequence[float], top: Any = 5, **settings: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=vector, similarity_top_k=top, **settings)


def bits(result: VectorStoreQueryResult) -> Any:
    """A result with types and every bit of its scores."""
    similarities = [(type(value), np.float64(value).tobytes()) for value in result.similarities]
    nodes = None if result.nodes is None else [node.to_dict() for node in result.nodes]
    return type(result.similarities), similarities, result.ids, nodes


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the kind and text of its error."""
    try:
        result = call()
    except Exception as error:
        return type(error), str(error)
    return [bits(each) for each in result] if isinstance(result, list) else bits(result)


def assert_answers_equal(store: SimpleVectorStore, *queries: VectorStoreQuery, **settings: Any) -> None:
    """The accelerated store's single and joint answers are the native ones."""
    native = native_over(store)
    expected = [outcome(lambda each=each: native.query(copy.deepcopy(each), **settings)) for each in queries]
    assert [outcome(lambda each=each: store.query(each, **settings)) for each in queries] == expected
    failed = next((one for one in expected if type(one[0]) is type and issubclass(one[0], Exception)), None)
    joint = outcome(lambda: store.query_many(queries, **settings))  # type: ignore[attr-defined]
    assert joint == (failed or expected)
