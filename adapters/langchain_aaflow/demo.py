"""The demo: a folder of real text through LangChain, natively and accelerated, and a question to the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from langchain_text_splitters import RecursiveCharacterTextSplitter

from aaflow_plugins.comparison import Comparison, Run
from aaflow_plugins.demonstration import Demo
from aaflow_plugins.embedding import Vectors
from langchain_aaflow.comparing import comparison, difference
from langchain_aaflow.vectorstores import sink_for_class
from langchain_aaflow.wordllama import WordLlamaEmbeddings


def demo(documents: Sequence[tuple[str, str]]) -> Demo:
    """Split at 1,000 characters, embed with WordLlama, store in FAISS: the framework's parts alone, then the whole.

    Args:
        documents: `(source, text)` of each document.

    Raises:
        ImportError: If langchain-community, faiss or wordllama are not installed.
    """
    from langchain_community.vectorstores import FAISS

    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells of every variant it tries
    embedding = WordLlamaEmbeddings()
    embedding.embed_query("loads the model before anything is timed")
    splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)

    def make() -> dict[str, Any]:
        return {"splitter": splitter, "embedding": embedding, "vectorstore": FAISS}

    parts = (
        comparison(lambda: splitter, documents),
        _storing(FAISS, embedding, splitter, documents),
        comparison(make, documents),
    )
    return Demo(tuple(part for part in parts if part), _answer)


def _storing(store_class: Any, embedding: Any, splitter: Any, documents: Sequence[tuple[str, str]]) -> Comparison:
    """Finished vectors into a store: natively as the lists the embeddings return, here as their matrix."""
    chunks = splitter.create_documents([text for _, text in documents], [{"source": name} for name, _ in documents])
    texts, metadatas = [chunk.page_content for chunk in chunks], [chunk.metadata for chunk in chunks]
    matrix = np.random.default_rng(0).standard_normal((len(texts), 256), dtype=np.float32)
    rows = matrix.tolist()

    def native() -> Run:
        pairs = zip(texts, rows, strict=True)
        return Run(store_class.from_embeddings(pairs, embedding, metadatas=metadatas))

    def accelerated() -> Run:
        sink: Any = sink_for_class(store_class, embedding)
        sink.upsert(texts, metadatas, [None] * len(texts), Vectors(matrix))
        return Run(sink.store)

    title = f"store {len(texts):,} finished vectors: {store_class.__name__}"
    return Comparison(title, native, accelerated, difference)


def _answer(store: Any, question: str) -> tuple[str, str]:
    (found,) = store.similarity_search(question, k=1)
    return found.metadata["source"], found.page_content
