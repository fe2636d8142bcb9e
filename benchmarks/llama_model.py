"""A LlamaIndex model that is the openai package's client of the loopback server."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from openai import AsyncOpenAI, OpenAI
from pydantic import PrivateAttr

_MODEL = "gpt-4o-mini"


class ServedModel(CustomLLM):
    """Completes a prompt by one chat message."""

    url: str
    _client: Any = PrivateAttr()
    _aclient: Any = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._client = OpenAI(base_url=self.url, api_key="none")
        self._aclient = AsyncOpenAI(base_url=self.url, api_key="none")

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=16_384, model_name=_MODEL)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        said = self._client.chat.completions.create(model=_MODEL, messages=[{"role": "user", "content": prompt}])
        return CompletionResponse(text=said.choices[0].message.content or "")

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        said = await self._aclient.chat.completions.create(model=_MODEL, messages=[{"role": "user", "content": prompt}])
        return CompletionResponse(text=said.choices[0].message.content or "")

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError


def served_model(url: str) -> ServedModel:
    """The model behind a server's address."""
    return ServedModel(url=url)
