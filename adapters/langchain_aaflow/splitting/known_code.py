"""Which versions of the native code the fast paths reproduce, told by the code itself.

A release of langchain-text-splitters that changes one of these functions takes its own path until
somebody has looked at the change; one that rewords a docstring or an annotation does not.
"""

from __future__ import annotations

from functools import lru_cache
from types import FunctionType
from typing import Any, Final

from aaflow_plugins.known_code import is_one_of

#: Structures of native functions that the fast paths reproduce, by qualified name: langchain-text-splitters 1.0.0 to
#: 1.1.3.
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "CharacterTextSplitter.split_text": frozenset({"113e8339d8423715"}),
    "MarkdownHeaderTextSplitter._is_custom_header": frozenset({"8c6aedf4bfc6e164"}),
    "MarkdownHeaderTextSplitter.aggregate_lines_to_chunks": frozenset({"e37e02c94c9a2a5d"}),
    "MarkdownHeaderTextSplitter.split_text": frozenset({"6bd6c9f636fa51ea"}),
    "RecursiveCharacterTextSplitter._split_text": frozenset({"9e375f65a0958e81", "caed24a0a77af357"}),
    "RecursiveCharacterTextSplitter.split_text": frozenset({"db1db739f7c67e84"}),
    "TextSplitter._join_docs": frozenset({"99524f8f626d46ff"}),
    "TextSplitter._merge_splits": frozenset({"2f3d689858387d04"}),
    "TextSplitter._tiktoken_length_function": frozenset({"24e6730a20c2f4b6"}),
    "TextSplitter.create_documents": frozenset({"81b709d9d79a445d"}),
    "TextSplitter.from_huggingface_tokenizer": frozenset({"77e414195f61fd08", "b528ac3dbea8c7d8"}),
    "TextSplitter.from_tiktoken_encoder": frozenset({"10f99fd067899083", "1e7c943b5e579d59", "61e8010b3915a6a8"}),
    "TokenTextSplitter.split_text": frozenset({"8cdb3da23009a337", "f46e8d10b1d6417d"}),
    "_split_text_with_regex": frozenset({"68ad32d95563f80f"}),
    "split_text_on_tokens": frozenset({"562a3c83763ca776"}),
}


def is_known(function: Any) -> bool:
    """Whether a native function is one of the versions that the fast paths reproduce, and nothing wrapped around it."""
    return type(function) is FunctionType and _is_known(function)


@lru_cache(maxsize=256)
def _is_known(function: FunctionType) -> bool:
    return is_one_of(function, _KNOWN.get(function.__qualname__, frozenset()))
