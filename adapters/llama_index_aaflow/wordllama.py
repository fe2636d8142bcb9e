"""WordLlama's static embedding model as a LlamaIndex model, for the demo and for tests without a network.

The PyPI package `wordllama` carries the model in its wheel: 256 floats a text, thousands of texts a second on a CPU.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

from llama_index.core.base.embeddings.base import BaseEmbedding


class WordLlamaEmbedding(BaseEmbedding):
    """Embeddings by the model inside the `wordllama` package; nothing is downloaded."""

    model_name: str = "wordllama"

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = _model().embed(texts).tolist()
        return rows

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


_loading: Final = Lock()


def _model() -> Any:
    with _loading:  # once, whichever threads ask first
        return _loaded()


@cache
def _loaded() -> Any:
    import wordllama

    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
