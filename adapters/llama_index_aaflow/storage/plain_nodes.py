"""TextNodes of plain values, written as pydantic writes them and without asking it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import product
from math import isfinite
from operator import countOf, itemgetter
from sys import getrefcount
from typing import Any, Final

from llama_index.core.schema import (
    DEFAULT_METADATA_TMPL,
    DEFAULT_TEXT_NODE_TMPL,
    BaseComponent,
    BaseNode,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore.utils import doc_to_json
from pydantic import BaseModel

from llama_index_aaflow.known_code import is_native
from llama_index_aaflow.native_classes import found
from llama_index_aaflow.parsing.nodes import is_text

#: What `to_dict` gives of a node.
Form = dict[str, Any]

_NAMES: Final = tuple(TextNode.model_fields)
_NONE: Final = type(None)
#: The types of a plain node's fields; `embedding`, `start_char_idx` and `end_char_idx` may be None.
_TYPES: Final = {
    "id_": (str,),
    "embedding": (list, _NONE),
    "metadata": (dict,),
    "excluded_embed_metadata_keys": (list,),
    "excluded_llm_metadata_keys": (list,),
    "relationships": (dict,),
    "metadata_template": (str,),
    "metadata_separator": (str,),
    "metadata_seperator": (str,),  # Of the oldest versions.
    "text": (str,),
    "mimetype": (str,),
    "start_char_idx": (int, _NONE),
    "end_char_idx": (int, _NONE),
    "text_template": (str,),
}
_SIGNATURES: Final = frozenset(product(*(_TYPES.get(name, ()) for name in _NAMES)))
_texts_of: Final = itemgetter(*(name for name in _NAMES if _TYPES.get(name) == (str,)))
_SEPARATORS: Final = tuple(name for name in _NAMES if name in ("metadata_separator", "metadata_seperator"))
_RELATED_NAMES: Final = tuple(RelatedNodeInfo.model_fields)
_RELATED_SIGNATURES: Final = frozenset(product((str,), (ObjectType, str, _NONE), (dict,), (str, _NONE)))

#: json writes integers of any size up to the interpreter's limit of digits; these are far below.
_BITS: Final = 64

_NATIVE: Final = (
    (BaseComponent, ("to_dict", "dict", "custom_model_dump")),
    (BaseNode, ("ref_doc_id", "source_node")),
    (
        TextNode,
        (
            "to_dict",
            "dict",
            "custom_model_dump",
            "class_name",
            "get_content",
            "get_metadata_str",
            "hash",
            "ref_doc_id",
            "source_node",
        ),
    ),
    (RelatedNodeInfo, ("to_dict", "dict", "custom_model_dump")),
)


def plain_nodes_are_known() -> bool:
    """Whether plain nodes are, at this moment, copied and written as here."""
    return is_native(_NATIVE) and _copying_is_native() and _form_is_known()


def _copying_is_native() -> bool:
    """Whether a node is copied, and a copy given its vector, by pydantic alone."""
    return all(found(TextNode, name) is found(BaseModel, name) for name in ("model_copy", "__copy__", "__setattr__"))


def plain_form(node: Any) -> Form | None:
    """What `to_dict` gives of a node, but without its embedding.

    None where a value is not written the same by anybody: what pydantic converts, warns of or refuses.
    """
    if type(node) is not TextNode:
        return None
    form: Form = node.__dict__.copy()
    if tuple(form) != _NAMES or tuple(map(type, form.values())) not in _SIGNATURES:
        return None
    texts: list[Any] = [*_texts_of(form), *form["excluded_embed_metadata_keys"], *form["excluded_llm_metadata_keys"]]
    if not _gathered(form["metadata"], texts):
        return None
    relationships = {}
    for relationship, info in form["relationships"].items():
        if type(relationship) is not NodeRelationship or type(info) is not RelatedNodeInfo:
            return None
        related: Form = info.__dict__.copy()
        if tuple(related) != _RELATED_NAMES or tuple(map(type, related.values())) not in _RELATED_SIGNATURES:
            return None
        kind, digest = related["node_type"], related["hash"]
        if type(kind) is ObjectType:
            related["node_type"] = kind.value
        elif kind is not None:
            texts.append(kind)
        if digest is not None:
            texts.append(digest)
        texts.append(related["node_id"])
        if not _gathered(related["metadata"], texts):
            return None
        related["metadata"] = related["metadata"].copy()
        related["class_name"] = "RelatedNodeInfo"
        relationships[relationship.value] = related
    if not (_all_are(str, texts) and is_text("".join(texts))):
        return None
    form["embedding"] = None
    form["metadata"] = form["metadata"].copy()
    form["excluded_embed_metadata_keys"] = form["excluded_embed_metadata_keys"].copy()
    form["excluded_llm_metadata_keys"] = form["excluded_llm_metadata_keys"].copy()
    form["relationships"] = relationships
    form["class_name"] = "TextNode"
    return form


def surely_has_content(node: Any) -> bool:
    """True only where `get_content(MetadataMode.EMBED)` neither gives an empty text nor raises."""
    if type(node) is not TextNode:
        return False
    fields: dict[str, Any] = node.__dict__
    texts: list[Any] = [fields[name] for name in _SEPARATORS]
    texts += fields["excluded_embed_metadata_keys"]
    return (
        type(fields["text"]) is str
        and fields["text_template"] == DEFAULT_TEXT_NODE_TMPL
        and fields["metadata_template"] == DEFAULT_METADATA_TMPL
        and _gathered(fields["metadata"], texts)
        and _all_are(str, texts)
        and not fields["text"].isspace()
        and fields["text"] != ""
    )


def _gathered(metadata: dict[str, Any], texts: list[Any]) -> bool:
    """Add a flat mapping's names and texts to `texts`; False if it holds anything but texts and what JSON knows."""
    texts += metadata
    for value in metadata.values():
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is int:
            if value.bit_length() > _BITS:
                return False
        elif kind is float:
            if not isfinite(value):
                return False
        elif kind is not bool and value is not None:
            return False
    return True


def are_floats(vector: Any) -> bool:
    """Whether a vector is a list of floats, which pydantic takes and gives as it is."""
    return type(vector) is list and _all_are(float, vector)


def _all_are(kind: type, values: list[Any]) -> bool:
    return countOf(map(type, values), kind) == len(values)


def with_vector(node: BaseNode, vector: Any) -> BaseNode:
    """A copy of a node that has its vector."""
    copy = node.model_copy()
    copy.embedding = vector
    return copy


def assigning() -> Callable[[Any], Any]:
    """What gives, for a vector, what a TextNode has once it is assigned it: a list of its own.

    It raises what assigning raises.
    """
    node = TextNode(id_="")  # Natively a copy of the vector's node, which nobody sees.

    def assigned(vector: Any) -> Any:
        node.embedding = vector
        return node.embedding

    return assigned


def give_vectors(nodes: Iterable[Any], vectors: list[Any]) -> None:
    """Assign each node its vector, as `BaseEmbedding.__call__` does.

    Args:
        nodes: Any nodes.
        vectors: A vector for each; emptied as far as there are nodes.
    """
    vectors.reverse()
    for node in nodes:
        if not vectors:
            return
        vector = vectors.pop()
        if not assigned(node, vector, copying=True):
            node.embedding = vector


def assigned(node: Any, vector: Any, *, copying: bool) -> bool:
    """Assign a node its vector, as pydantic does; False, and nothing is done, where it may do otherwise.

    Args:
        node: Any node.
        vector: Its vector. Where the caller has it in a variable, and nobody else has it, it needs no copy.
        copying: Whether a copy is made of one that others have, as pydantic does; they may change it later.
    """
    if not (type(node) is TextNode and are_floats(vector) and _assigns_as_known()):
        return False
    is_alone = getrefcount(vector) == _ALONE
    if not (is_alone or copying):
        return False
    node.__dict__["embedding"] = vector if is_alone else vector.copy()
    node.__pydantic_fields_set__.add("embedding")
    return True


def _counted(value: Any) -> int:
    return getrefcount(value)


def _counted_alone() -> int:
    value: list[float] = []
    return _counted(value)


#: What is counted, in a function that is given it, of what its caller alone has.
_ALONE: Final = _counted_alone()


def _assigns_as_known() -> bool:
    return TextNode.__setattr__ is BaseModel.__setattr__ and _is_assigned_as_here()


@lru_cache(maxsize=1)
def _is_assigned_as_here() -> bool:
    """Whether assigning a vector natively does, here, what it is replaced by."""
    native, ours = TextNode(id_="i", text="t"), TextNode(id_="i", text="t")
    native.embedding = vector = [0.5, 1.0]
    ours.__dict__["embedding"] = vector.copy()
    ours.__pydantic_fields_set__.add("embedding")
    return (
        native.embedding is not vector
        and list(native.__dict__.items()) == list(ours.__dict__.items())
        and native.__reduce_ex__(4)[2] == ours.__reduce_ex__(4)[2]
    )


@lru_cache(maxsize=1)
def _form_is_known() -> bool:
    """Whether the installed version writes a node as here."""
    info = RelatedNodeInfo(node_id="s", node_type=ObjectType.DOCUMENT, metadata={"a": 1}, hash="h")
    node = TextNode(id_="i", text="t", metadata={"a": 1}, relationships={NodeRelationship.SOURCE: info})
    written = doc_to_json(node)["__data__"]
    return bool(_spelled(written) == _spelled(plain_form(node)))


def _spelled(value: Any) -> Any:
    """A value with order and types."""
    if type(value) is dict:
        return [(_spelled(key), _spelled(item)) for key, item in value.items()]
    return type(value), value
