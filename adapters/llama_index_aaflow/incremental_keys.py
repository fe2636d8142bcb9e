"""What the nodes of a document depend on, spelled out: the document, how it is transformed, and by which code.

Whatever can't be told by its value or by its code has no key: what depends on it is computed each time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from types import FunctionType, MethodType
from typing import Any, Final

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion.pipeline import remove_unstable_values

from llama_index_aaflow.incremental_code import NoKeyError as NoKeyError
from llama_index_aaflow.incremental_code import Telling, is_installed, name_of
from llama_index_aaflow.native_classes import StandsFor, found
from llama_index_aaflow.node_parsers import Accelerated

#: Packages whose code nodes depend on, and whose versions tell of it.
_PACKAGES: Final = ("llama-index-core", "nltk", "tiktoken")


def digest(*parts: Any) -> bytes:
    """32 bytes that tell parts from others.

    Raises:
        NoKeyError: If a part holds anything but what is told by its value or its code.
    """
    telling = Telling()
    try:
        written = json.dumps([telling.written(part) for part in parts], ensure_ascii=False)
    except RecursionError as error:
        raise NoKeyError("it holds itself, or others too deep") from error
    except ValueError as error:  # an integer of too many digits
        raise NoKeyError(str(error)) from error
    return hashlib.sha256(written.encode(errors="surrogatepass")).digest()


def transformation_key(transformation: Any) -> bytes:
    """What tells a node parser or an embedding model from others.

    Of both: the class, by what `incremental_code` says. A node parser's settings are told by their values and code,
    functions and tokenizer included, which the native cache leaves out. An embedding model's fields are told as the
    native cache tells them, but for its API key; those that are functions also by their code. So is what a model of
    somebody's own has beside its fields: private attributes, and what is set on the object.

    Raises:
        NoKeyError: If anything of it can't be told by its value or its code.
    """
    native = _native_class(transformation)
    try:
        bases = Telling().bases(native)
    except RecursionError as error:
        raise NoKeyError("its code holds others too deep") from error
    if isinstance(transformation, BaseEmbedding):
        settings = {name: value for name, value in transformation.to_dict().items() if name != "api_key"}
        return digest(bases, remove_unstable_values(str(settings)), list(_unseen(transformation, native)), _versions())
    fields = {name: value for name, value in vars(transformation).items() if name != "callback_manager"}
    return digest(bases, fields, transformation.__pydantic_private__, _versions())


def _unseen(model: Any, native: Any) -> Iterator[Any]:
    """What of an embedding model the native cache does not see, or knows by name."""
    telling = Telling()
    own = [base for base in native.__mro__ if not is_installed(base)]
    private = {name for base in own for name in vars(base).get("__private_attributes__", ())}
    held: dict[str, Any] = {
        name: value for name, value in (model.__pydantic_private__ or {}).items() if name in private
    }
    for name, value in vars(model).items():
        field = native.model_fields.get(name)
        if field is None:
            if own and type(found(native, name)) is not cached_property:
                held[name] = value
        elif isinstance(value, FunctionType | MethodType | partial) and not field.exclude:
            held[name] = value
    for name, value in sorted(held.items()):
        try:
            yield telling.named(f"its {name}", value)
        except RecursionError as error:
            raise NoKeyError(f"its {name} holds itself, or others too deep") from error


def _native_class(transformation: Any) -> Any:
    if isinstance(transformation, StandsFor):
        return transformation.aaflow_native
    return transformation._native if isinstance(transformation, Accelerated) else type(transformation)


@lru_cache(maxsize=1)
def _versions() -> Any:
    return [sys.version_info[:2], *(_version(package) for package in _PACKAGES)]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def document_parts(nodes: Sequence[Any], *, without_embedding: bool) -> list[Any]:
    """What nodes made of documents depend on.

    Args:
        nodes: Inputs of a pipeline.
        without_embedding: Whether their embeddings are set anew before nodes are made of them.
    """
    left_out = "embedding" if without_embedding else ""
    return [
        (name_of(type(node)), {name: value for name, value in vars(node).items() if name != left_out}) for node in nodes
    ]
