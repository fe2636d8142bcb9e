"""For which `OpenAIEmbeddings` objects the fast path is exact: known code, known client, and a comparison with them."""

from __future__ import annotations

import copy
from typing import Any

import langchain_openai.embeddings.azure as azure_module
import langchain_openai.embeddings.base as native_module
import openai.resources.embeddings as client_module
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings

from aaflow_plugins.known_code import is_from
from langchain_aaflow.openai_embedder import OpenAIEmbedder, asks_for_empty
from openai_aaflow.replies import native_rows
from openai_aaflow.requests import native_input, resource_reason

#: Methods of the native classes that the fast path stands in for, or whose results it relies on.
_REPLACED = (
    "embed_documents",
    "aembed_documents",
    "_get_len_safe_embeddings",
    "_aget_len_safe_embeddings",
    "_tokenize",
    "_invocation_params",
)


def native_reason(embeddings: OpenAIEmbeddings) -> str | None:
    """Why this object's calls are left to the native code; None if the fast path is exact for it."""
    owner = type(embeddings)
    for name in _REPLACED:
        if not _is_native_method(owner, name) or name in vars(embeddings):
            return f"{owner.__name__} has a {name} of its own"
    if not hasattr(native_module, "_process_batched_chunked_embeddings"):
        return "this langchain-openai is not known"
    if embeddings.check_embedding_ctx_length and not embeddings.tiktoken_enabled:
        return "tiktoken is disabled"
    if embeddings.skip_empty:
        return "skip_empty makes the requests depend on the replies"
    for name in ("chunk_size", "embedding_ctx_length"):
        value = getattr(embeddings, name)
        if type(value) is not int or value < 1:
            return f"{name} is {value!r}"
    for client, known in (
        (embeddings.client, client_module.Embeddings),
        (embeddings.async_client, client_module.AsyncEmbeddings),
    ):
        reason = resource_reason(client, known)
        if reason:
            return reason
    return _disagreement(embeddings)


def _is_native_method(owner: type, name: str) -> bool:
    for base in owner.__mro__:
        if name in vars(base) and not getattr(base, "aaflow_accelerated", False):
            member = vars(base)[name]
            function = member.fget if isinstance(member, property) else member
            return base in (OpenAIEmbeddings, AzureOpenAIEmbeddings) and (
                is_from(function, native_module) or is_from(function, azure_module)
            )
    return False


_verified: dict[tuple[str, bool], str | None] = {}


def _disagreement(embeddings: OpenAIEmbeddings) -> str | None:
    """Compare with the installed native code, once, on texts that meet every case; nothing is sent."""
    key = (embeddings.tiktoken_model_name or embeddings.model, embeddings.check_embedding_ctx_length)
    if key not in _verified:
        try:
            _verified[key] = _compare(embeddings)
        except Exception as error:
            # Offline without the tokenizer's file, for one: the native call says so when it is made.
            return f"comparing with the native code failed ({error})"
    return _verified[key]


class _Recorder:
    """A client that invents a vector for every item and keeps the inputs it was asked for."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    def create(self, *, input: Any, **_: Any) -> dict[str, Any]:
        self.inputs.append(input)
        count = 1 if isinstance(input, str) else len(input)
        return {"data": [{"embedding": [0.1 + row, 1.7 * len(self.inputs), 3.0]} for row in range(count)]}


def _compare(embeddings: OpenAIEmbeddings) -> str | None:
    texts = ["", "one", "a text of more than three tokens", "", "two\nlines", "three", "four of them and more", ""]
    probe = copy.copy(embeddings)
    recorder = _Recorder()
    probe.__dict__.update(client=recorder, chunk_size=2, embedding_ctx_length=3, show_progress_bar=False)
    expected = OpenAIEmbeddings.embed_documents(probe, texts)
    embedder = OpenAIEmbedder(probe)
    requests = list(embedder.compose([texts]))
    ours = _Recorder()
    replies = {
        id(request): native_rows(ours.create(input=native_input(request.payload.items)))
        for request in sorted(requests, key=asks_for_empty)
    }
    parts = embedder.joined((request, replies[id(request)]) for request in requests)
    if ours.inputs != recorder.inputs or [row for part in parts for row in part.tolist()] != expected:
        return "this langchain-openai groups or averages in a way that is not known"
    return None
