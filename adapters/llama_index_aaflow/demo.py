"""The demo: a folder of real text through LlamaIndex, natively and accelerated, and a question to the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter

from aaflow_plugins.demonstration import Demo
from llama_index_aaflow.carried_files import use_copy_of_nltk_data
from llama_index_aaflow.comparing import comparison
from llama_index_aaflow.wordllama import WordLlamaEmbedding


def demo(documents: Sequence[tuple[str, str]]) -> Demo:
    """Split at 1,024 tokens, embed with WordLlama, index: the framework's parts alone, then the whole.

    Args:
        documents: `(source, text)` of each document.

    Raises:
        ImportError: If wordllama is not installed.
    """
    use_copy_of_nltk_data()
    embedding = WordLlamaEmbedding(embed_batch_size=64)
    embedding.get_query_embedding("loads the model before anything is timed")
    Settings.embed_model, Settings.transformations = embedding, [SentenceSplitter()]
    # Loads what sentences are told by.
    SentenceSplitter(chunk_size=64, chunk_overlap=0).split_text(documents[0][1][:5_000] if documents else "")

    def pipeline() -> IngestionPipeline:
        return IngestionPipeline(transformations=[SentenceSplitter(), embedding])

    parts = [comparison(make, documents) for make in (SentenceSplitter, pipeline, lambda: VectorStoreIndex)]
    return Demo(tuple(part for part in parts if part), _answer)


def _answer(index: Any, question: str) -> tuple[str, str]:
    (found,) = index.as_retriever(similarity_top_k=1).retrieve(question)
    return found.node.metadata["source"], found.node.get_content()
