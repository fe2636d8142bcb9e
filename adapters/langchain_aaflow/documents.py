"""LangChain Documents in bulk: without validating what is known to be valid, each with metadata of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

from langchain_core.documents import Document
from pydantic import BaseModel

#: Types whose values are their own deep copy.
_ATOMS: Final = frozenset({str, int, float, bool, type(None), bytes, complex})

_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


def _form_is_known() -> bool:
    """Whether the installed Document is made of exactly what `documents` puts in."""
    native = Document(page_content="text", metadata={"key": "value"})
    return (
        list(native.__dict__.items())
        == [("id", None), ("metadata", {"key": "value"}), ("page_content", "text"), ("type", "Document")]
        and native.__pydantic_fields_set__ == {"page_content", "metadata"}
        and native.__pydantic_extra__ is None
        and native.__pydantic_private__ is None
    )


_FORM_IS_KNOWN: Final = _form_is_known()


def documents(texts: Sequence[str], metadatas: Sequence[dict[Any, Any]]) -> list[Document]:
    """Make Documents as `Document(page_content=..., metadata=...)` does, without its checks.

    Equal to the native ones in every respect: fields set, repr, pickle, JSON.

    Args:
        texts: Contents, exactly of type `str`.
        metadatas: As many dicts, exactly of type `dict`. The Documents keep these very dicts.
    """
    if not _FORM_IS_KNOWN:
        return [Document(page_content=text, metadata=own) for text, own in zip(texts, metadatas, strict=True)]
    new = Document.__new__
    made = []
    for text, metadata in zip(texts, metadatas, strict=True):
        document = new(Document)
        _set_dict(document, {"id": None, "metadata": metadata, "page_content": text, "type": "Document"})
        _set_fields_set(document, {"page_content", "metadata"})
        _set_extra(document, None)
        _set_private(document, None)
        made.append(document)
    return made


def metadata_copier(metadata: dict[Any, Any]) -> Callable[[], dict[Any, Any]]:
    """The quickest way to copies of a dict that are to each other and to it as deep copies are.

    Args:
        metadata: Exactly of type `dict`. It must stay as it is while the copier is in use.
    """
    if _ATOMS.issuperset(map(type, metadata.values())) and _ATOMS.issuperset(map(type, metadata)):
        return metadata.copy
    if _is_tree(metadata, set()):
        return lambda: _copy_tree(metadata)
    return lambda: copy.deepcopy(metadata)


def _is_tree(value: Any, seen: set[int]) -> bool:
    """Whether a value is made of plain dicts, lists and atoms, no container occurring twice."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is dict:
        children = value.values()
        if not _ATOMS.issuperset(map(type, value)):
            return False
    elif kind is list:
        children = value
    else:
        return False
    # One container met twice is one container in a deep copy too; only `deepcopy` sees to that.
    if id(value) in seen or len(seen) > _LARGE_TREE:
        return False
    seen.add(id(value))
    return all(_is_tree(child, seen) for child in children)


#: Containers in a metadata tree beyond which it is left to `deepcopy`; also bounds the depth of recursion.
_LARGE_TREE: Final = 200


def _copy_tree(value: Any) -> Any:
    if type(value) is dict:
        return {key: child if type(child) in _ATOMS else _copy_tree(child) for key, child in value.items()}
    return [child if type(child) in _ATOMS else _copy_tree(child) for child in value]
