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


#: Copied for each Document: a copy iterates, and so pickles, in the native set's order; an equal set may not.
_FIELDS_SET: Final = Document(page_content="", metadata={}).model_fields_set
_FIELDS_SET_WITH_ID: Final = Document(id="", page_content="", metadata={}).model_fields_set


def documents(
    texts: Sequence[str], metadatas: Sequence[dict[Any, Any]], ids: Sequence[str | None] | None = None
) -> list[Document]:
    """Make Documents as `Document(page_content=..., metadata=...)` does, without its checks.

    Equal to the native ones in every respect: fields set, repr, pickle, JSON.

    Args:
        texts: Contents, exactly of type `str`.
        metadatas: As many dicts, exactly of type `dict`. The Documents keep these very dicts.
        ids: As many ids, strings or None, as in `Document(id=..., ...)`; without them none is set.
    """
    if not _FORM_IS_KNOWN:
        given = [{} for _ in texts] if ids is None else [{"id": id_} for id_ in ids]
        rows = zip(texts, metadatas, given, strict=True)
        return [Document(page_content=text, metadata=own, **id_) for text, own, id_ in rows]
    return _unvalidated(texts, metadatas, ids)


def _unvalidated(
    texts: Sequence[str], metadatas: Sequence[dict[Any, Any]], ids: Sequence[str | None] | None
) -> list[Document]:
    new = Document.__new__
    fields_set = (_FIELDS_SET if ids is None else _FIELDS_SET_WITH_ID).copy
    made = []
    for text, metadata, id_ in zip(texts, metadatas, [None] * len(texts) if ids is None else ids, strict=True):
        document = new(Document)
        _set_dict(document, {"id": id_, "metadata": metadata, "page_content": text, "type": "Document"})
        _set_fields_set(document, fields_set())
        _set_extra(document, None)
        _set_private(document, None)
        made.append(document)
    return made


def _form_is_known() -> bool:
    """Whether a Document built without validation is, here, the one that the constructor builds."""
    native = [Document(page_content="b", metadata={"c": [1]}), Document(id="a", page_content="b", metadata={"c": [1]})]
    built = _unvalidated(["b"], [{"c": [1]}], None) + _unvalidated(["b"], [{"c": [1]}], ["a"])
    return all(
        list(one.__dict__.items()) == list(other.__dict__.items())
        and one.__reduce_ex__(4)[2] == other.__reduce_ex__(4)[2]
        for one, other in zip(native, built, strict=True)
    )


_FORM_IS_KNOWN: Final = _form_is_known()


def metadata_copier(metadata: dict[Any, Any]) -> Callable[[], dict[Any, Any]]:
    """The quickest way to the metadata of Documents that are each given a deep copy of a dict.

    Args:
        metadata: Exactly of type `dict`. It must stay as it is while the copier is in use.
    """
    if _ATOMS.issuperset(map(type, metadata.values())) and _ATOMS.issuperset(map(type, metadata)):
        return metadata.copy
    if is_tree(metadata):
        return lambda: _copy_tree(metadata)
    # What refers back to the dict refers to the deep copy, of which a Document's constructor makes another copy.
    return lambda: dict(copy.deepcopy(metadata))


def is_tree(metadata: dict[Any, Any]) -> bool:
    """Whether metadata is made of plain dicts, lists and atoms, no container occurring twice."""
    return _is_tree(metadata, set())


def _is_tree(value: Any, seen: set[int]) -> bool:
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
