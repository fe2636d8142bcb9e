"""Everything that can be seen of a splitter's work, so that two splitters can be compared."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from langchain_aaflow.splitters import accelerate_splitter
from tests.observed import logged, whole_files


def outcome(call: Callable[[], Any]) -> tuple[Any, ...]:
    """What a call returns or raises, and what it logs on the way."""
    with logged("langchain_text_splitters.base") as records:
        try:
            result = ("returned", visible(call()))
        except Exception as error:
            result = ("raised", (type(error), str(error)))
    return (*result, [(record.levelno, record.getMessage()) for record in records])


def visible(value: Any) -> Any:
    """A value with everything that tells one Document from another spelled out."""
    if isinstance(value, Document):
        return (
            type(value),
            list(value.__dict__.items()),
            [(key, type(key), item, type(item)) for key, item in value.metadata.items()],
            value.model_fields_set,
            value.__pydantic_extra__,
            value.__pydantic_private__,
        )
    if isinstance(value, list):
        return [visible(item) for item in value]
    return value


def assert_same(splitter: Any, texts: list[str], metadatas: list[dict[Any, Any]] | None = None) -> None:
    """Assert that a splitter and its accelerated form do the same with texts, one by one and together."""
    accelerated = accelerate_splitter(splitter)
    assert accelerated is not splitter
    for text in texts:
        assert outcome(lambda text=text: accelerated.split_text(text)) == outcome(
            lambda text=text: splitter.split_text(text)
        )
    if hasattr(splitter, "create_documents"):
        assert outcome(lambda: accelerated.create_documents(texts, metadatas)) == outcome(
            lambda: splitter.create_documents(texts, metadatas)
        )


@lru_cache(maxsize=4)
def corpus(characters: int) -> tuple[str, ...]:
    """Whole files of the standard library and of installed packages: Python, Markdown, reStructuredText and plain
    text in turn, up to a number of characters in all.
    """
    paths = sysconfig.get_paths()
    library, packages = Path(paths["stdlib"]), Path(paths["purelib"])
    kinds = [
        [path for path in sorted(root.rglob(f"*.{ending}")) if root == packages or "site-packages" not in path.parts]
        for root in (library, packages)
        for ending in ("py", "md", "rst", "txt")
    ]
    return whole_files(kinds, characters, errors="surrogateescape")
