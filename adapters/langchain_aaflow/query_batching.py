"""Which embeddings give queries the very vectors of single calls when many go into one call."""

from __future__ import annotations

from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.embeddings import embeddings as base_module
from langchain_core.embeddings import fake as fake_module

from aaflow_plugins.plugins import load_for
from langchain_aaflow import wordllama as wordllama_module
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
    module = _KNOWN.get(type(embeddings))
    if module is None or replaced_methods(embeddings, _METHODS, [module, base_module]):
        return None
    return True
