"""Everything that can be seen of a node parser's work, so that two parsers can be compared."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from llama_index.core.schema import BaseComponent, BaseNode, Document
from pydantic import ValidationError

from llama_index_aaflow import accelerate
from tests.observed import logged, whole_files

#: What splitters stumble over.
FRAGMENTS = [
    "a", "The cat sat", "Mr. Smith", "e.g. this", "1.", "100. auxtrace.*", "3.14", "x" * 60, " ", "  ", " " * 30, "\n",
    "\n\n", "\n\n\n", "\t", "\u00a0", "\u3000", "\x1c", "\x85", "\r\n", ". ", "? ", "! ", "...", ". . .", ".", "?!",
    '."', ".)", "\u201d", "\u00ab", ", ", "; ", ": ", "-", "--", "(", ")", "*", "#", "# Title\n", "## Sub\n", "#no\n",
    "\n```\n", "``", "\u4e2d\u6587\u5b57\u3002", "\U0001f600\U0001f468\u200d\U0001f469", "\u00e9", "e\u0301",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e2\u05d1", "\u0661", "<|endoftext|>", "<|", "word " * 40,
    "A sentence of some words. ", "Another one, longer than the first; with parts. ",
]  # fmt: skip

#: Text that a Document can hold. A lone surrogate is refused by pydantic: see `any_texts`.
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)
any_texts = st.lists(st.sampled_from([*FRAGMENTS, "\ud800", "\udfff"]), max_size=30).map("".join)


def numbered(index: int, document: BaseNode) -> str:
    """Ids that are the same each time."""
    return f"{document.node_id}-{index}"


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call returns or raises, and what it logs on the way."""
    with logged("llama_index.core.node_parser") as records:
        try:
            result = ("returned", visible(call()))
        except Exception as error:
            message = repr(error.errors()) if isinstance(error, ValidationError) else str(error)
            result = ("raised", (type(error), message))
    return (*result, [(record.levelno, record.msg, record.args) for record in records])


def visible(value: Any) -> Any:
    """A value with everything that tells one node from another spelled out, order included."""
    if isinstance(value, BaseComponent):
        fields = [(name, visible(field)) for name, field in value.__dict__.items()]
        return type(value), fields, sorted(value.__pydantic_fields_set__), value.__pydantic_private__
    if isinstance(value, dict):
        return [(key, type(key), visible(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [visible(item) for item in value]
    return type(value), value


def assert_same(parser: Any, documents: Sequence[BaseNode]) -> Any:
    """Assert that a parser and its accelerated form make the same of documents; give the accelerated form."""
    accelerated = accelerate(parser)
    assert accelerated is not parser
    assert isinstance(accelerated, type(parser))
    copies = [document.model_copy(deep=True) for document in documents]
    native = outcome(lambda: parser.get_nodes_from_documents(copies))
    assert outcome(lambda: accelerated.get_nodes_from_documents(documents)) == native
    assert visible(list(documents)) == visible(copies)
    return accelerated


def document_of(text: str, **fields: Any) -> Document:
    """A document that is the same each time."""
    fields = {"id_": f"document {len(text)}", "metadata": {"file": "a/b.md", "size": len(text)}, **fields}
    return Document(text=text, **fields)


@lru_cache(maxsize=4)
def corpus(characters: int) -> tuple[str, ...]:
    """Whole files of the standard library and of installed packages: Python, Markdown, reStructuredText and plain
    text in turn, up to a number of characters in all.
    """
    paths = sysconfig.get_paths()
    packages = Path(paths["purelib"])
    kinds = [sorted(Path(paths["stdlib"]).glob("*.py"))]
    kinds += [sorted(packages.rglob(name)) for name in ("*.md", "METADATA", "*.rst", "*.txt")]
    return whole_files(kinds, characters, errors="replace")
