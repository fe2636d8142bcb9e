"""Which versions of the native code the fast paths reproduce, told by the code itself.

A release of langchain-text-splitters that changes one of these functions takes its own path until
somebody has looked at the change; one that rewords a docstring or an annotation does not.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType
from typing import Any, Final

from langchain_aaflow.native_code import is_from

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
    return isinstance(function, FunctionType) and _is_known(function)


@lru_cache(maxsize=256)
def _is_known(function: FunctionType) -> bool:
    # A wrapper bears the wrapped function's name and module, and its source is the wrapped function's to `inspect`.
    module = sys.modules.get(function.__module__)
    return (
        module is not None
        and is_from(function, module)
        and not hasattr(function, "__wrapped__")
        and structure(function) in _KNOWN.get(function.__qualname__, ())
    )


def structure(function: Callable[..., Any]) -> str:
    """A digest of a function's code without docstrings, annotations and layout; "" if its source is not there.

    The same on every supported version of Python.
    """
    source = _source(function)
    return _digest(source) if source else ""


def _source(function: Callable[..., Any]) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def _digest(source: str) -> str:
    return hashlib.sha256("\n".join(_walk(ast.parse(source))).encode()).hexdigest()[:16]


#: What doesn't change what a function does, or what some versions of Python don't record.
_LEFT_OUT: Final = frozenset({"annotation", "returns", "decorator_list", "type_params", "type_comment", "kind", "ctx"})


def _walk(node: Any) -> Iterator[str]:
    if not isinstance(node, ast.AST):
        yield repr(node)
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    yield type(node).__name__
    for name, value in ast.iter_fields(node):
        if name in _LEFT_OUT:
            continue
        yield name
        for child in value if isinstance(value, list) else (value,):
            yield from _walk(child)
    yield "end"
