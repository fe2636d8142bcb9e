"""A run of transformations in which what is known of unchanged documents is not made again.

The first transformations of a pipeline, as far as each treats every document by itself, are applied to documents
that are new or changed, in one go; the nodes of the others come from the folder. The native loop is as it is: it
applies stand-ins of these transformations, of which the first leaves out what is known and the last puts it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llama_index.core.base.embeddings import base as embedding_module
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import pipeline as native_module
from llama_index.core.node_parser import NodeParser, interface, node_utils
from llama_index.core.schema import BaseNode, Document, MetadataMode, RelatedNodeInfo, TextNode

from aaflow_plugins.collector import paused_collector
from aaflow_plugins.known_code import is_from
from llama_index_aaflow.incremental_code import NoKeyError
from llama_index_aaflow.incremental_files import Folder, Kept
from llama_index_aaflow.incremental_keys import digest, document_parts, transformation_key
from llama_index_aaflow.incremental_nodes import Made, packed, unpacked
from llama_index_aaflow.ingestion_overlap import SETTINGS, parses_by_document
from llama_index_aaflow.known_code import plain
from llama_index_aaflow.native_classes import found, with_names
from llama_index_aaflow.parsing.nodes import SOURCE

#: What of an embedding model and of a node parser is native where texts, or documents, are treated one by one.
_EMBEDDING: Final = ("__call__", "acall", "get_text_embedding_batch", "aget_text_embedding_batch")
_PARSER: Final = ("acall", "aget_nodes_from_documents", "_aparse_nodes")


@dataclass(frozen=True)
class Keeping:
    """Where, and how long, what was made of documents is kept.

    Attributes:
        folder: An absolute path.
        days: Days after its last use at which an entry may be dropped.
    """

    folder: str
    days: float


@dataclass(frozen=True)
class Prefix:
    """The first transformations of a pipeline, as far as they treat each document by itself.

    Attributes:
        length: How many they are.
        embeds_first: Whether the first is an embedding model: it sets the embeddings of the inputs themselves.
        parses: Whether any makes nodes.
        key: What tells them from others.
        reason: Why the next one isn't among them; None if there is none.
    """

    length: int
    embeds_first: bool
    parses: bool
    key: bytes
    reason: str | None


def prefix_of(transformations: Sequence[Any], steps: Sequence[Any]) -> Prefix:
    """The transformations whose results are kept.

    Args:
        transformations: A pipeline's.
        steps: What they are run as.
    """
    keys: list[bytes] = []
    parsers: list[Any] = []
    reason = None
    for transformation, step in zip(transformations, steps, strict=True):
        reason = _reason(step, parsers)
        if reason is None:
            try:
                keys.append(transformation_key(transformation))
            except NoKeyError as error:
                reason = f"{type(step).__name__}: {error}"
        if reason is not None:
            break
        if isinstance(step, NodeParser):
            parsers.append(step)
    embeds_first = bool(keys) and isinstance(steps[0], BaseEmbedding)
    return Prefix(len(keys), embeds_first, bool(parsers), digest(*keys), reason)


def _reason(step: Any, parsers: Sequence[Any]) -> str | None:
    native: Any = type(step)
    if isinstance(step, BaseEmbedding):
        known = all(_is_native(native, BaseEmbedding, name, embedding_module) for name in _EMBEDDING)
    else:
        known = parses_by_document(step) and all(_is_native(native, NodeParser, name, interface) for name in _PARSER)
    if not known:
        return f"{native.__name__} is not known to treat each document by itself"
    # The oldest versions have None for the default.
    if isinstance(step, NodeParser) and any(
        parser.id_func not in (None, node_utils.default_id_func) for parser in parsers
    ):
        return f"{native.__name__} parses nodes whose ids may be those of another document's"
    return None


#: Where an accelerated embedding model has its methods from.
_OURS: Final = ("llama_index_aaflow.openai_embedding", "llama_index_aaflow.side_by_side")


def _is_native(cls: Any, known: Any, name: str, module: Any) -> bool:
    method = found(cls, name)
    # An accelerated embedding model has batches of its own, which come to the same.
    ours = getattr(method, "__module__", None) in _OURS
    return ours or (method is found(known, name) and is_from(plain(method), module))


def begun(
    keeping: Keeping, nodes: Any, transformations: Sequence[Any], steps: Sequence[Any], settings: dict[str, Any]
) -> Run | None:
    """A run over inputs; None where nothing of it can be kept.

    Args:
        keeping: Where.
        nodes: The inputs.
        transformations: A pipeline's.
        steps: What they are run as.
        settings: Keyword arguments of the native function.
    """
    prefix = prefix_of(transformations, steps)
    units = _units(nodes, prefix.parses)
    if not (prefix.length and units and SETTINGS.issuperset(settings)):
        return None
    return Run(keeping, prefix, nodes, units)


def _units(nodes: Any, parses: bool) -> list[range] | None:
    """The least runs of inputs that have nothing to do with one another; None if that can't be told.

    Nodes of different inputs may become neighbours, or be looked for in one another's texts, where inputs have an id
    or a source in common.
    """
    if type(nodes) is not list or not all(isinstance(n, BaseNode) and _is_of_schema(type(n)) for n in nodes):
        return None
    if not parses:
        return [range(index, index + 1) for index in range(len(nodes))]
    if not all(type(node.relationships.get(SOURCE)) in (RelatedNodeInfo, type(None)) for node in nodes):
        return None
    last = {name: index for index, node in enumerate(nodes) for name in _names(node)}
    units = []
    start = stop = 0
    for index, node in enumerate(nodes):
        stop = max(stop, *(last[name] for name in _names(node)))
        if stop == index:
            units.append(range(start, stop + 1))
            start = stop = stop + 1
    return units


def with_one_id(nodes: Sequence[Any]) -> bool:
    """Whether any of the inputs have one id."""
    return len({node.id_ for node in nodes}) < len(nodes)


class Alone(list[Any]):
    """Inputs of which nothing is kept: others of their ids are in another batch, and would get the same nodes."""


def _is_of_schema(cls: type) -> bool:
    return cls.__module__ == BaseNode.__module__


def _names(node: Any) -> Iterator[str]:
    yield node.id_
    if node.relationships.get(SOURCE) is not None:
        yield node.relationships[SOURCE].node_id


class Run:
    """One run.

    Attributes:
        overlaps: Whether requests of the second transformation may go out during the first.
    """

    def __init__(self, keeping: Keeping, prefix: Prefix, nodes: list[Any], units: list[range]) -> None:
        self._prefix = prefix
        self._inputs = nodes
        self._units = units
        self._keys = [self._key(unit) for unit in units]
        self._folder = Folder(keeping.folder, keeping.days)
        self._entries = self._folder.read()
        self._missing = [number for number, key in enumerate(self._keys) if key is None or key not in self._entries]
        self.overlaps = prefix.length > 1

    def _key(self, unit: range) -> bytes | None:
        nodes = [self._inputs[index] for index in unit]
        if not all(type(node) is Document or type(node) is TextNode for node in nodes):
            return None
        try:
            if not self._prefix.parses:  # a vector depends on the text that is embedded
                texts = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
                return digest(self._prefix.key, texts)
            return digest(self._prefix.key, document_parts(nodes, without_embedding=self._prefix.embeds_first))
        except NoKeyError:
            return None

    def applied(self, native: Any) -> Any:
        """The native loop, in which a native cache is not asked for what is kept here."""
        names = {**vars(native_module), "get_transformation_hash": _hash}
        return with_names(native, names)

    def settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings of the native loop."""
        cache = settings.get("cache")
        return settings if cache is None else {**settings, "cache": _CacheOfOthers(cache)}

    def steps(self, steps: Sequence[Any]) -> list[Any]:
        """What the native loop applies."""
        length = self._prefix.length
        return [*(_Step(self, step, number) for number, step in enumerate(steps[:length])), *steps[length:]]

    # -- what the stand-ins ask for

    @property
    def is_known(self) -> bool:
        """Whether nothing is to be made."""
        return not self._missing

    def is_last(self, number: int) -> bool:
        """Whether a transformation is the last one whose results are kept."""
        return number == self._prefix.length - 1

    def missing(self) -> list[Any]:
        """The inputs of which nodes are to be made."""
        if len(self._missing) == len(self._units):
            return self._inputs
        return [self._inputs[index] for number in self._missing for index in self._units[number]]

    def complete(self, made: Any) -> Any:
        """Keep what was made, and give it with what was known.

        Args:
            made: What the transformations gave for the missing inputs.
        """
        with paused_collector():
            parts = self._parts(made) if self._prefix.parses else {number: [] for number in self._missing}
            self._keep(parts)
            known = self._known(parts)
        if not self._prefix.parses:
            return self._inputs
        return [node for number in range(len(self._units)) for node in (parts.get(number) or known.get(number, ()))]

    def _parts(self, made: Sequence[Any]) -> dict[int, list[Any]]:
        """Nodes by the number of the unit that they were made of."""
        owners = {
            name: number
            for number in self._missing
            for index in self._units[number]
            for name in _names(self._inputs[index])
        }
        parts: dict[int, list[Any]] = {number: [] for number in self._missing}
        for node in made:
            parts[owners[node.relationships[SOURCE].node_id]].append(node)
        return parts

    def _keep(self, parts: dict[int, list[Any]]) -> None:
        known = [key for number, key in enumerate(self._keys) if key is not None and number not in parts]
        self._folder.write(self._entries, self._packed(parts), known)

    def _unit(self, number: int) -> list[Any]:
        return [self._inputs[index] for index in self._units[number]]

    def _packed(self, parts: dict[int, list[Any]]) -> Iterator[tuple[bytes, Kept]]:
        for number, nodes in parts.items():
            key = self._keys[number]
            if key is not None:
                inputs = self._unit(number)
                embeddings = [node.embedding for node in inputs] if self._prefix.embeds_first else []
                kept = packed(Made(embeddings, nodes), inputs)
                if kept is not None:
                    yield key, kept

    def _known(self, parts: dict[int, list[Any]]) -> dict[int, Sequence[Any]]:
        """The nodes that were not made, by the number of their unit; inputs get the embeddings that were kept."""
        known: dict[int, Sequence[Any]] = {}
        for number, key in enumerate(self._keys):
            if number not in parts and key is not None:
                made = unpacked(self._entries.get(key), self._unit(number))
                for index, embedding in zip(self._units[number], made.embeddings, strict=False):
                    if embedding is not None:
                        self._inputs[index].embedding = embedding
                known[number] = made.nodes
        return known


def _hash(nodes: Any, transformation: Any) -> str | None:
    return None if isinstance(transformation, _Step) else native_module.get_transformation_hash(nodes, transformation)


class _CacheOfOthers:
    """A native cache that holds nothing of stand-ins, which have no hash."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def get(self, key: str | None, collection: str | None = None) -> Any:
        return None if key is None else self._cache.get(key, collection=collection)

    def put(self, key: str | None, nodes: Any, collection: str | None = None) -> None:
        if key is not None:
            self._cache.put(key, nodes, collection=collection)


class _Step:
    """Stands for a transformation in the native loop, and applies it to what is missing."""

    def __init__(self, run: Run, step: Any, number: int) -> None:
        self._run, self._step, self._number = run, step, number

    def __call__(self, nodes: Any, **settings: Any) -> Any:
        made = [] if self._run.is_known else self._step(self._given(nodes), **settings)
        return self._completed(made)

    async def acall(self, nodes: Any, **settings: Any) -> Any:
        made = [] if self._run.is_known else await self._step.acall(self._given(nodes), **settings)
        return self._completed(made)

    def _given(self, nodes: Any) -> Any:
        return nodes if self._number else self._run.missing()

    def _completed(self, made: Any) -> Any:
        return self._run.complete(made) if self._run.is_last(self._number) else made
