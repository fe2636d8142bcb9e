"""WordLlama's static embedding model as a LlamaIndex model, for the demo and for tests without a network."""

from __future__ import annotations

from llama_index.core.base.embeddings.base import BaseEmbedding

from wordllama_aaflow import embed


class WordLlamaEmbedding(BaseEmbedding):
    """Embeddings by the model inside the `wordllama` package; nothing is downloaded."""

    model_name: str = "wordllama"

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = embed(texts).tolist()
        return rows

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)
