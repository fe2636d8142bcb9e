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


def packed(made: Made, inputs: Sequence[Any]) -> Kept | None:
    """What is kept; None if anything can't be written so that it comes back as it was.

    Args:
        made: What was made.
        inputs: Of these. Lists and dicts in their metadata are theirs in the nodes' too, and are not written.
    """
    packing = _Packing(inputs)
    try:
        embeddings = [packing.vector(embedding) for embedding in made.embeddings]
        nodes = [packing.node(node) for node in made.nodes]
        state = {"embeddings": embeddings, "nodes": nodes, "infos": packing.infos, "set": list(packing.sets)}
        payload = json.dumps(state, ensure_ascii=False)
        payload.encode()
        return Kept(payload, packing.vectors)
    except (_NotPlainError, RecursionError):
        return None
    except ValueError:  # an integer of too many digits, or a lone surrogate
        return None


def unpacked(kept: Kept, inputs: Sequence[Any]) -> Made:
    """What was made of inputs like these, in objects of its own but for what natively is the inputs'."""
    state = json.loads(kept.payload)
    infos = []
    for fields, theirs, names in state["infos"]:
        _put_back(fields["metadata"], theirs, inputs)
        infos.append(_with_state(RelatedNodeInfo, _info_fields(fields), names))

    def related(number: Any) -> Any:
        return [infos[one] for one in number] if type(number) is list else infos[number]

    nodes = []
    for fields, theirs, relationships, embedding, names in state["nodes"]:
        _put_back(fields["metadata"], theirs, inputs)
        fields["relationships"] = {NodeRelationship(name): related(number) for name, number in relationships}
        fields["embedding"] = None if embedding is None else kept.vectors[embedding]
        nodes.append(_with_state(TextNode, fields, state["set"][names].split()))
    return Made([None if number is None else kept.vectors[number] for number in state["embeddings"]], nodes)


class _NotPlainError(Exception):
    """Something is not kept as it is."""


class _Packing:
    """Writes nodes; what several of them hold in common, as native nodes do their source, is written once."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self._theirs = {
            id(value): (number, name)
            for number, node in enumerate(inputs)
            for name, value in node.metadata.items()
            if type(value) not in ATOMS
        }
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
        theirs = self._taken_out(fields)
        _check_plain(fields)
        if type(relationships) is not dict or not {NodeRelationship}.issuperset(map(type, relationships)):
            raise _NotPlainError
        numbers = [(name.value, self._related(info)) for name, info in relationships.items()]
        names = self.sets.setdefault(" ".join(sorted(node.__pydantic_fields_set__)), len(self.sets))
        return fields, theirs, numbers, self.vector(node.embedding), names

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
            theirs = self._taken_out(fields)
            _check_plain(fields)
            number = self._numbers[id(info)] = len(self.infos)
            self.infos.append((fields, theirs, sorted(info.__pydantic_fields_set__)))
        return number

    def _taken_out(self, fields: dict[str, Any]) -> list[Any]:
        """Take the inputs' own lists and dicts out of metadata: where in it, of which input, by which name there."""
        metadata = fields["metadata"]
        if type(metadata) is not dict:
            raise _NotPlainError
        fields["metadata"] = plain = dict(metadata)
        theirs = []
        for name, value in metadata.items():
            if type(value) not in ATOMS:
                if id(value) not in self._theirs:  # Whose it is, and who else has it, can't be told.
                    raise _NotPlainError
                theirs.append((name, *self._theirs[id(value)]))
                plain[name] = None
        return theirs


def _put_back(metadata: dict[str, Any], theirs: Sequence[Any], inputs: Sequence[Any]) -> None:
    for name, number, given in theirs:
        metadata[name] = inputs[number].metadata[given]


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
