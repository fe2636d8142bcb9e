"""TextNodes in bulk: without validating what is known to be valid, each digest taken once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from operator import attrgetter, is_
from typing import Any, Final, TypeGuard

from llama_index.core.node_parser import node_utils
from llama_index.core.schema import BaseNode, Document, NodeRelationship, RelatedNodeInfo, TextNode
from pydantic import BaseModel

from aaflow_plugins.random_ids import random_ids
from llama_index_aaflow.known_code import is_known, unknown

SOURCE, PREVIOUS, NEXT = NodeRelationship.SOURCE, NodeRelationship.PREVIOUS, NodeRelationship.NEXT

#: Types whose values are written the same each time.
ATOMS: Final = frozenset({str, int, float, bool, type(None)})

#: Characters of a text that are looked for before all of it.
_BEGINNING: Final = 48

#: Gives an id for the node of this number of a document. Some versions leave None where a parser names none.
IdFunction = Callable[[int, BaseNode], str]

_set_dict = BaseModel.__dict__["__dict__"].__set__
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


def build_nodes(splits: Sequence[str], document: BaseNode, id_func: IdFunction | None) -> list[Any]:
    """Make nodes of the chunks of a document, as `build_nodes_from_splits` does.

    The first is made natively; the others are copies of it, with ids and texts of their own.

    Raises:
        Whatever native raises: `id_func`'s errors, pydantic's for what is no string.
    """
    native: Any = node_utils.build_nodes_from_splits
    if type(splits) is not list or len(splits) < 2 or not can_copy(document) or not all(map(is_text, splits)):
        return list(native(splits, document, id_func=id_func))
    nodes: list[Any] = native(splits[:1], document, id_func=id_func)
    copied, new_id = copier(nodes[0]), _giving(id_func, len(splits) - 1)
    for index, text in enumerate(splits[1:], 1):
        nodes.append(copied(new_id(index, document), text))
    return nodes


def build_separately(splits: Sequence[str], document: BaseNode, id_func: IdFunction | None) -> list[Any]:
    """Make nodes of texts, as one call of `build_nodes_from_splits` for each does.

    Args:
        splits: One or more strings that are `is_text`.
        document: A document that `can_copy`.
        id_func: Gives ids; asked for the first node of the document each time.
    """
    native: Any = node_utils.build_nodes_from_splits
    nodes: list[Any] = native(list(splits[:1]), document, id_func=id_func)
    if len(splits) == 1:
        return nodes
    copied, new_id = copier(nodes[0]), _giving(id_func, len(splits) - 1)
    source: Any = nodes[0].relationships[SOURCE]
    for text in splits[1:]:
        node = copied(new_id(0, document), text)
        node.relationships[SOURCE] = copied_info(source)
        nodes.append(node)
    return nodes


def _giving(id_func: IdFunction | None, count: int) -> IdFunction:
    """What gives as many ids; random ones are made together."""
    new_id = id_func or node_utils.default_id_func
    if new_id is not node_utils.default_id_func or not is_known(new_id):
        return new_id
    fresh = iter(random_ids(count))
    return lambda number, document: next(fresh)


def can_copy(document: BaseNode) -> bool:
    """Whether the nodes made of a document are copies of one another but for ids and texts."""
    return (
        (type(document) is Document or type(document) is TextNode)
        and not node_utils.logger.isEnabledFor(logging.DEBUG)
        and is_known(node_utils.build_nodes_from_splits)
        and _form_is_known()
    )


def is_text(value: Any) -> TypeGuard[str]:
    """Whether pydantic takes a value for a string, and as it is: it may refuse lone surrogates."""
    if type(value) is not str:
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def copier(node: TextNode) -> Callable[[str, str], Any]:
    """What makes copies of a node just made natively, each with an id and a text, which must be `is_text`."""
    fields = node.__dict__
    containers = [(name, value.copy) for name, value in fields.items() if type(value) in (list, dict)]
    fields_set = node.__pydantic_fields_set__.copy
    fields = fields.copy()
    new = TextNode.__new__

    def copied(id_: str, text: str) -> TextNode:
        own = fields.copy()
        for name, copy in containers:
            own[name] = copy()
        own["text"] = text
        made = new(TextNode)
        _set_dict(made, own)
        _set_fields_set(made, fields_set())
        _set_extra(made, None)
        _set_private(made, None)
        if is_text(id_):
            own["id_"] = id_
        else:
            made.id_ = id_  # pydantic converts it or refuses.
        return made

    return copied


def related(node_id: str, metadata: dict[str, Any], digest: str) -> RelatedNodeInfo:
    """What `TextNode.as_related_node_info` gives, from what it is made of.

    Args:
        node_id: The node's id.
        metadata: Its metadata; copied.
        digest: Its hash.
    """
    made = RelatedNodeInfo.__new__(RelatedNodeInfo)
    _set_dict(made, {"node_id": node_id, "node_type": _NODE_TYPE, "metadata": metadata.copy(), "hash": digest})
    _set_fields_set(made, _RELATED_FIELDS_SET.copy())
    _set_extra(made, None)
    _set_private(made, None)
    return made


def copied_info(info: RelatedNodeInfo) -> RelatedNodeInfo:
    """Another such object of native's, made of the same things."""
    made = RelatedNodeInfo.__new__(RelatedNodeInfo)
    _set_dict(made, {**info.__dict__, "metadata": info.metadata.copy()})
    _set_fields_set(made, info.__pydantic_fields_set__.copy())
    _set_extra(made, None)
    _set_private(made, None)
    return made


_RELATED: Final = TextNode(id_="", text="").as_related_node_info()
_NODE_TYPE: Final = _RELATED.node_type
_RELATED_FIELDS_SET: Final = _RELATED.__pydantic_fields_set__


class Parent:
    """What nodes take from the document that they come from.

    Attributes:
        text: The document's text.
        metadata: Its metadata.
        source: Its own source, which takes its place.
        written: The metadata as `str` writes it, without the braces; None if it may be written another way next time.
    """

    __slots__ = ("_breaks", "metadata", "source", "text", "written")

    def __init__(self, document: Document | TextNode) -> None:
        self.text = document.text
        self.metadata = document.metadata
        self.source = document.source_node
        self.written = inside(self.metadata)
        self._breaks: dict[str, bool] | None = None

    def find(self, text: str, start: int) -> int:
        """Where in the document's text a node's text begins, from a position on; -1 if nowhere."""
        if self._breaks is not None and (line_break := text.find("\n")) >= 0:
            # Texts put together of parts are in no document, which takes a walk through it to see. Seldom is even
            # one of their line breaks, with what comes behind it.
            part = text[line_break : line_break + 2]
            if part not in self._breaks:
                self._breaks[part] = part in self.text
            if not self._breaks[part]:
                return -1
        # To prepare the search for a long text takes longer than the search.
        found = self.text.find(text[:_BEGINNING], start)
        if found >= 0 and not self.text.startswith(text, found):
            found = self.text.find(text, found)
        if found < 0 and self._breaks is None:
            self._breaks = {}
        return found


def inside(metadata: dict[str, Any]) -> str | None:
    """Metadata as `str` writes it, without the braces; None if it holds anything but plain values."""
    return str(metadata)[1:-1] if ATOMS.issuperset(map(type, metadata.values())) else None


def postprocess(
    nodes: list[Any], parents: Mapping[str, Any], include_metadata: bool, include_prev_next: bool, from_last: bool
) -> bool:
    """Complete nodes just made, as `NodeParser._postprocess_parsed_nodes` does.

    Args:
        nodes: The nodes of one call, in order; changed.
        parents: Documents by id.
        include_metadata: Whether nodes take over their document's metadata.
        include_prev_next: Whether nodes know their neighbours.
        from_last: Whether a node is looked for behind the start of the one before it; else from the beginning.

    Returns:
        False if nothing was done, because something of it is not known to be valid.
    """
    if not (_form_is_known() and all(map(_is_plain, nodes)) and all(map(_is_plain_parent, parents.values()))):
        return False
    facts = {key: Parent(document) for key, document in parents.items()}
    positions: dict[str, int] = {}
    owns: list[str | None] = [None] * len(nodes)
    hashed: list[Any] = [None] * len(nodes)
    last = len(nodes) - 1
    for index, node in enumerate(nodes):
        fields = node.__dict__
        relationships = fields["relationships"]
        own_source = source = relationships.get(SOURCE)
        parent = facts.get((source.node_id or "") if source is not None else "")
        if hashed[index] is None:
            owns[index] = inside(fields["metadata"])
        if parent is not None:
            if parent.source is not None:
                relationships[SOURCE] = source = parent.source
            fields_set = node.__pydantic_fields_set__
            key = (source.node_id or "") if source is not None else ""
            text = fields["text"]
            start = parent.find(text, positions.get(key, 0) if from_last else 0)
            if start >= 0:
                fields["start_char_idx"] = start
                fields["end_char_idx"] = start + len(text)
                fields_set.add("start_char_idx")
                fields_set.add("end_char_idx")
                positions[key] = start + 1
            if include_metadata:
                own_count = len(fields["metadata"])
                fields["metadata"] = metadata = {**parent.metadata, **fields["metadata"]}
                fields_set.add("metadata")
                owns[index] = _joined(parent, owns[index], len(metadata) == len(parent.metadata) + own_count)
        if own_source is not None and include_metadata:
            metadata = fields["metadata"]
            count = len(metadata)
            for name, value in own_source.metadata.items():
                if name not in metadata:
                    metadata[name] = value
            if len(metadata) > count:
                owns[index] = None
        if include_prev_next and source is not None:
            if index > 0:
                before = nodes[index - 1]
                other = before.__dict__["relationships"].get(SOURCE)
                if other is not None and other.node_id == source.node_id:
                    relationships[PREVIOUS] = _related(before, hashed, index - 1, owns[index - 1])
            if index < last:
                after = nodes[index + 1]
                other = after.__dict__["relationships"].get(SOURCE)
                if other is not None and other.node_id == source.node_id:
                    owns[index + 1] = inside(after.__dict__["metadata"])
                    relationships[NEXT] = _related(after, hashed, index + 1, owns[index + 1])
        if index > 0:
            owns[index - 1] = hashed[index - 1] = None  # nobody asks for them any more: windows are long
    return True


def _joined(parent: Parent, own: str | None, apart: bool) -> str | None:
    """How a document's metadata and, behind it, a node's own are written."""
    if not apart or own is None or parent.written is None:
        return None
    return f"{parent.written}, {own}" if parent.written and own else parent.written or own


def _related(node: Any, hashed: list[Any], index: int, written: str | None) -> RelatedNodeInfo:
    fields = node.__dict__
    state = hashed[index]
    if state is None:
        hashed[index] = state = sha256(fields["text"].encode("utf-8", "surrogatepass"))
    metadata = fields["metadata"]
    whole = state.copy()
    whole.update((str(metadata) if written is None else f"{{{written}}}").encode("utf-8", "surrogatepass"))
    return related(fields["id_"], metadata, whole.hexdigest())


def _is_plain(node: Any) -> bool:
    fields = node.__dict__
    return type(node) is TextNode and _is_plain_parent(node) and is_text(fields["id_"]) and type(fields["text"]) is str


def _is_plain_parent(document: Any) -> bool:
    if type(document) is not Document and type(document) is not TextNode:
        return False
    fields = document.__dict__
    relationships, metadata = fields["relationships"], fields["metadata"]
    return (
        type(relationships) is dict
        and type(relationships.get(SOURCE)) in (RelatedNodeInfo, type(None))
        and type(metadata) is dict
        and all(map(is_text, metadata))
    )


#: Of nodes and of documents, what is relied upon.
_OF_NODES: Final = ("hash", "get_content", "get_type", "as_related_node_info", "ref_doc_id", "source_node")
_OF_DOCUMENTS: Final = ("text", "source_node")
#: A classmethod is another object at each look at it.
_SEEN: Final = (*(name for name in _OF_NODES if name != "get_type"), "get_type.__func__")
_methods: Final = attrgetter(*_SEEN), attrgetter(*_OF_DOCUMENTS)

#: What these were when they were looked at last, and whether the form of nodes was known then.
_looked_at: tuple[tuple[Any, ...], bool] = (), False


def _form_is_known() -> bool:
    """Whether nodes built without validation are, at this moment, those that native builds: anybody may patch them."""
    global _looked_at
    of_nodes, of_documents = _methods
    try:
        methods = (*of_nodes(TextNode), *of_documents(Document))
    except AttributeError:
        return False
    before, known = _looked_at
    if len(before) != len(methods) or not all(map(is_, before, methods)):
        known = _form_is_known_of_these()
        _looked_at = methods, known
    return known


def _form_is_known_of_these() -> bool:
    known = unknown(TextNode, _OF_NODES) is None and unknown(Document, _OF_DOCUMENTS) is None
    document = Document(text="b c", metadata={"d": [1]}, id_="a")
    first, second = node_utils.build_nodes_from_splits(["b", "c"], document, id_func=lambda index, _: str(index))
    built = copier(first)("1", "c")
    info = second.as_related_node_info()
    return known and all(
        list(native.__dict__.items()) == list(ours.__dict__.items())
        and native.__reduce_ex__(4)[2] == ours.__reduce_ex__(4)[2]
        for native, ours in (
            (second, built),
            (info, related("1", second.metadata, second.hash)),
            (info, copied_info(info)),
        )
    )
