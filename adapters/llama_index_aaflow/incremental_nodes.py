"""What was made of some inputs, as it is kept: the state of each node as text, and the vectors apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo, TextNode

from llama_index_aaflow.incremental_files import Kept
from llama_index_aaflow.parsing.nodes import ATOMS


@dataclass(frozen=True)
class Made:
    """What was made of some inputs.

    Attributes:
        embeddings: What embedding models have set on each input, before nodes were made of it.
        nodes: The nodes; none if the inputs themselves go on.
    """

    embeddings: Sequence[list[float] | None]
    nodes: Sequence[Any]


def packed(made: Made) -> Kept | None:
    """What is kept; None if anything can't be written so that it comes back as it was."""
    packing = _Packing()
    try:
        embeddings = [packing.vector(embedding) for embedding in made.embeddings]
        nodes = [packing.node(node) for node in made.nodes]
        state = {"embeddings": embeddings, "nodes": nodes, "infos": packing.infos, "set": list(packing.sets)}
        return Kept(json.dumps(state), packing.vectors)
    except _NotPlainError:
        return None
    except ValueError:  # an integer of too many digits
        return None


def unpacked(kept: Kept) -> Made:
    """What was made, in objects of its own."""
    state = json.loads(kept.payload)
    infos = [_with_state(RelatedNodeInfo, _info_fields(fields), names) for fields, names in state["infos"]]

    def related(number: Any) -> Any:
        return [infos[one] for one in number] if type(number) is list else infos[number]

    nodes = []
    for fields, relationships, embedding, names in state["nodes"]:
        fields["relationships"] = {NodeRelationship(name): related(number) for name, number in relationships}
        fields["embedding"] = None if embedding is None else kept.vectors[embedding]
        nodes.append(_with_state(TextNode, fields, state["set"][names].split()))
    return Made([None if number is None else kept.vectors[number] for number in state["embeddings"]], nodes)


class _NotPlainError(Exception):
    """Something is not kept as it is."""


class _Packing:
    """Writes nodes; what several of them hold in common, as native nodes do their source, is written once."""

    def __init__(self) -> None:
        self.vectors: list[list[float]] = []
        self.infos: list[Any] = []
        self.sets: dict[str, int] = {}
        self._numbers: dict[int, int] = {}

    def vector(self, values: Any) -> int | None:
        """The number of a vector."""
        if values is None:
            return None
        if type(values) is not list or not {float}.issuperset(map(type, values)):
            raise _NotPlainError
        self.vectors.append(values)
        return len(self.vectors) - 1

    def node(self, node: Any) -> Any:
        """A node's fields, the numbers of its relationships, of its vector and of the names of fields that are set."""
        if type(node) is not TextNode or node.__pydantic_extra__ or node.__pydantic_private__:
            raise _NotPlainError
        fields = node.__dict__.copy()
        relationships = fields["relationships"]
        fields["relationships"] = fields["embedding"] = None
        _check_plain(fields)
        if type(relationships) is not dict or not {NodeRelationship}.issuperset(map(type, relationships)):
            raise _NotPlainError
        numbers = [(name.value, self._related(info)) for name, info in relationships.items()]
        names = self.sets.setdefault(" ".join(sorted(node.__pydantic_fields_set__)), len(self.sets))
        return fields, numbers, self.vector(node.embedding), names

    def _related(self, info: Any) -> Any:
        if type(info) is list:
            return [self._related(one) for one in info]
        number = self._numbers.get(id(info))
        if number is None:
            if type(info) is not RelatedNodeInfo or info.__pydantic_extra__ or info.__pydantic_private__:
                raise _NotPlainError
            fields = info.__dict__.copy()
            if type(fields["node_type"]) is ObjectType:
                fields["node_type"] = [fields["node_type"].value]
            _check_plain(fields)
            number = self._numbers[id(info)] = len(self.infos)
            self.infos.append((fields, sorted(info.__pydantic_fields_set__)))
        return number


def _check_plain(value: Any) -> None:
    """Refuse what JSON does not give back as it was."""
    kind = type(value)
    if kind is dict:
        if not {str}.issuperset(map(type, value)):
            raise _NotPlainError
        for item in value.values():
            _check_plain(item)
    elif kind is list:
        for item in value:
            _check_plain(item)
    elif kind not in ATOMS:
        raise _NotPlainError


def _info_fields(fields: dict[str, Any]) -> dict[str, Any]:
    if type(fields["node_type"]) is list:
        fields["node_type"] = ObjectType(fields["node_type"][0])
    return fields


def _with_state(cls: Any, fields: dict[str, Any], names: Sequence[str]) -> Any:
    """An object of these fields, which were valid when they were kept by this very version."""
    made = cls.__new__(cls)
    object.__setattr__(made, "__dict__", fields)
    object.__setattr__(made, "__pydantic_fields_set__", set(names))
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made
