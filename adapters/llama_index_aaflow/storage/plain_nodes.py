"""TextNodes of plain values, written as pydantic writes them and without asking it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product
from math import isfinite
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

from aaflow_plugins.collector import paused_collector
from llama_index_aaflow.known_code import is_native
from llama_index_aaflow.native_classes import found
from llama_index_aaflow.parsing.nodes import is_text

Fields = dict[str, Any]

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
_TEXTS: Final = tuple(name for name in _NAMES if _TYPES.get(name) == (str,))
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
    """Whether plain nodes are, at this moment, written as here."""
    return is_native(_NATIVE) and _form_is_known()


def is_plain(node: Any) -> bool:
    """Whether a node's values are written the same by anybody: nothing that pydantic converts, warns of or refuses."""
    if type(node) is not TextNode:
        return False
    fields: Fields = node.__dict__
    if tuple(fields) != _NAMES or tuple(map(type, fields.values())) not in _SIGNATURES:
        return False
    texts = [fields[name] for name in _TEXTS]
    texts += fields["excluded_embed_metadata_keys"]
    texts += fields["excluded_llm_metadata_keys"]
    if not _gathered(fields["metadata"], texts):
        return False
    for relationship, info in fields["relationships"].items():
        if type(relationship) is not NodeRelationship or type(info) is not RelatedNodeInfo:
            return False
        own: Fields = info.__dict__
        if tuple(own) != _RELATED_NAMES or tuple(map(type, own.values())) not in _RELATED_SIGNATURES:
            return False
        texts.append(own["node_id"])
        texts += [text for text in (own["node_type"], own["hash"]) if type(text) is str]
        if not _gathered(own["metadata"], texts):
            return False
    return {str}.issuperset(map(type, texts)) and is_text("".join(texts))


def surely_has_content(node: Any) -> bool:
    """True only where `get_content(MetadataMode.EMBED)` neither gives an empty text nor raises."""
    if type(node) is not TextNode:
        return False
    fields: Fields = node.__dict__
    texts: list[Any] = [fields[name] for name in _SEPARATORS]
    texts += fields["excluded_embed_metadata_keys"]
    return (
        type(fields["text"]) is str
        and fields["text_template"] == DEFAULT_TEXT_NODE_TMPL
        and fields["metadata_template"] == DEFAULT_METADATA_TMPL
        and _gathered(fields["metadata"], texts)
        and {str}.issuperset(map(type, texts))
        and not fields["text"].isspace()
        and fields["text"] != ""
    )


def _gathered(metadata: Fields, texts: list[Any]) -> bool:
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


def dumped(node: TextNode) -> Fields:
    """What `to_dict` of a node that `is_plain` gives, but without its embedding."""
    fields = node.__dict__.copy()
    fields["embedding"] = None
    fields["metadata"] = fields["metadata"].copy()
    fields["excluded_embed_metadata_keys"] = fields["excluded_embed_metadata_keys"].copy()
    fields["excluded_llm_metadata_keys"] = fields["excluded_llm_metadata_keys"].copy()
    relationships = {}
    for relationship, info in fields["relationships"].items():
        own = info.__dict__.copy()
        own["metadata"] = own["metadata"].copy()
        if type(own["node_type"]) is ObjectType:
            own["node_type"] = own["node_type"].value
        own["class_name"] = "RelatedNodeInfo"
        relationships[relationship.value] = own
    fields["relationships"] = relationships
    fields["class_name"] = "TextNode"
    return fields


def are_floats(vector: Any) -> bool:
    """Whether a vector is a list of floats, which pydantic takes and gives as it is."""
    return type(vector) is list and {float}.issuperset(map(type, vector))


def with_vectors(nodes: Iterable[BaseNode], vectors: Mapping[str, Any]) -> list[BaseNode]:
    """Copies of nodes that have their vectors.

    Natively each vector is assigned, and pydantic makes a list of floats of it: what is one already need not be asked.

    Args:
        nodes: Any nodes.
        vectors: A vector for each node's id.
    """
    with paused_collector():
        return [_with_vector(node, vectors[node.node_id]) for node in nodes]


def _with_vector(node: BaseNode, vector: Any) -> BaseNode:
    if type(node) is TextNode and are_floats(vector):
        return node.model_copy(update={"embedding": vector.copy()})
    copy = node.model_copy()
    copy.embedding = vector
    return copy


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
    if not (type(node) is TextNode and are_floats(vector) and _assigning_is_known()):
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


@lru_cache(maxsize=1)
def _assigning_is_known() -> bool:
    """Whether assigning a vector natively does, here, what it is replaced by."""
    native, ours = TextNode(id_="i", text="t"), TextNode(id_="i", text="t")
    native.embedding = vector = [0.5, 1.0]
    ours.__dict__["embedding"] = vector.copy()
    ours.__pydantic_fields_set__.add("embedding")
    return (
        found(TextNode, "__setattr__") is found(BaseModel, "__setattr__")
        and native.embedding is not vector
        and list(native.__dict__.items()) == list(ours.__dict__.items())
        and native.__reduce_ex__(4)[2] == ours.__reduce_ex__(4)[2]
    )


@lru_cache(maxsize=1)
def _form_is_known() -> bool:
    """Whether the installed version writes a node as here."""
    info = RelatedNodeInfo(node_id="s", node_type=ObjectType.DOCUMENT, metadata={"a": 1}, hash="h")
    node = TextNode(id_="i", text="t", metadata={"a": 1}, relationships={NodeRelationship.SOURCE: info})
    written = doc_to_json(node)["__data__"]
    return is_plain(node) and _spelled(written) == _spelled(dumped(node))


def _spelled(value: Any) -> Any:
    """A value with order and types."""
    if type(value) is dict:
        return [(_spelled(key), _spelled(item)) for key, item in value.items()]
    return type(value), value
