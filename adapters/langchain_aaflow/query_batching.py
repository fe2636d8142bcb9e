"""Queries embedded together: which embeddings give them the very vectors of single calls, and the joint call."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.embeddings import embeddings as base_module
from langchain_core.embeddings import fake as fake_module

from aaflow_plugins.plugins import load_for
from langchain_aaflow import wordllama as wordllama_module
from langchain_aaflow.embeddings import accelerate_embeddings
from langchain_aaflow.native_stores import replaced_methods
from langchain_aaflow.wordllama import WordLlamaEmbeddings

_KNOWN = {DeterministicFakeEmbedding: fake_module, WordLlamaEmbeddings: wordllama_module}

#: Methods that a joint call of `embed_documents` or `aembed_documents` stands for.
_METHODS = {"embed_query", "aembed_query", "embed_documents", "aembed_documents"}


def queries_batch_exactly(embeddings: Embeddings) -> bool:
    """Whether some plug-in knows that `embed_documents` of queries gives what `embed_query` gives for each alone."""
    return bool(load_for(embeddings).aaflow_query_batching(embeddings=embeddings))


def known_to_batch(embeddings: Embeddings) -> bool | None:
    """True for classes whose vectors were compared bit by bit; None for all others.

    WordLlama adds up a text's token vectors in order. Padding adds zeros after them, and no entry of its matrix is
    zero itself: the sum stays as it is. Hosted models are not known: what they return may depend on the batch.
    """
    native = getattr(type(embeddings), "aaflow_native_class", type(embeddings))
    module = _KNOWN.get(native)
    if (
        module is None
        or replaced_methods(native, _METHODS, [module, base_module])
        or _METHODS & vars(embeddings).keys()
    ):
        return None
    return True


def embed_together(embeddings: Embeddings, queries: Sequence[str]) -> list[list[float]]:
    """The queries' vectors by one call of `embed_documents`.

    Raises:
        ValueError: If there are not as many vectors as queries.
        Exception: What `embed_documents` raises.
    """
    return _one_each(_sooner(embeddings).embed_documents(list(queries)), queries)


async def aembed_together(embeddings: Embeddings, queries: Sequence[str]) -> list[list[float]]:
    """The queries' vectors by one call of `aembed_documents`; otherwise as `embed_together`."""
    return _one_each(await _sooner(embeddings).aembed_documents(list(queries)), queries)


def _sooner(embeddings: Embeddings) -> Embeddings:
    # What is accelerated already has settings of its own.
    return embeddings if getattr(embeddings, "aaflow_accelerated", False) else accelerate_embeddings(embeddings)


def _one_each(vectors: list[list[float]], queries: Sequence[str]) -> list[list[float]]:
    if len(vectors) != len(queries):
        raise ValueError(f"embed_documents returned {len(vectors)} vectors for {len(queries)} queries")
    return vectors
