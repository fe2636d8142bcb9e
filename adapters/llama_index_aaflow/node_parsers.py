"""LlamaIndex node parsers, accelerated: the same classes, the same nodes, sooner.

`accelerate_parser` gives a parser whose class is a subclass of the native one and bears its name, with the native
object's own settings. What it replaces is where the time goes: how a text is cut, how nodes are made of the pieces
and how they are completed. Everything else, from callbacks and spans to `aget_nodes_from_documents`, is native
and ends up there. What can't be reproduced exactly is passed on to the native method.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from types import FunctionType
from typing import Any, ClassVar, Final, cast

from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.node_parser import (
    CodeSplitter,
    HierarchicalNodeParser,
    HTMLNodeParser,
    JSONNodeParser,
    MarkdownNodeParser,
    NodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TokenTextSplitter,
    interface,
    node_utils,
)
from llama_index.core.node_parser.text import token
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.utils import get_tqdm_iterable
from llama_index_instrumentation import get_dispatcher

from aaflow_plugins.collector import paused_collector
from llama_index_aaflow.known_code import is_earlier, is_known, unknown
from llama_index_aaflow.native_classes import found, overridden, with_class
from llama_index_aaflow.parsing.counting import checked, counter_for, expect_documents, known_tokens
from llama_index_aaflow.parsing.nodes import build_nodes, build_separately, can_copy, is_text, postprocess
from llama_index_aaflow.parsing.records import records
from llama_index_aaflow.parsing.sections import sections
from llama_index_aaflow.parsing.sentence_chunks import Cutting, NotReproducedError, cut, merge
from llama_index_aaflow.parsing.sentences import fast_sentences, gives_parts
from llama_index_aaflow.parsing.token_chunks import cut_words, merge_words


def accelerate_parser(parser: Any) -> Any:
    """Give a node parser that does the same sooner.

    Args:
        parser: Any node parser; it is left as it is.

    Returns:
        An object of a subclass of the parser's class, or the parser itself if nothing of it can be accelerated or it
        is accelerated already. A hierarchical parser is of its own class; the parsers that it holds are accelerated.
    """
    native: Any = type(parser)
    if isinstance(parser, Accelerated) or native_reason(parser) is not None:
        return parser
    if not isinstance(parser, HierarchicalNodeParser):
        return with_class(parser, _accelerated_class(native))
    levels = {name: accelerate_parser(level) for name, level in parser.node_parser_map.items()}
    if all(made is parser.node_parser_map[name] for name, made in levels.items()):
        return parser
    made = with_class(parser, native)
    made.__dict__["node_parser_map"] = levels
    return made


def native_reason(parser: Any) -> str | None:
    """Why a node parser, accelerated or not, works natively; None if it takes the fast path."""
    native: Any = parser._native if isinstance(parser, Accelerated) else type(parser)
    reason = _class_reason(native)
    if reason is None:
        hidden = next((name for name in vars(parser) if name not in native.model_fields), None)
        reason = hidden and f"the object has its own {hidden}"
    if reason is None and isinstance(parser, HierarchicalNodeParser):
        return next(filter(None, map(native_reason, parser.node_parser_map.values())), None)
    return reason


def shows_no_document(parser: Any) -> bool:
    """Whether an accelerated parser hands its documents to no function of the user's: an `id_func` is given them."""
    return parser.id_func in (None, node_utils.default_id_func)


def calls_nothing_unknown(parser: Accelerated) -> bool:
    """Whether an accelerated parser calls no function of the user's, so that nobody sees which thread it works in."""
    if not shows_no_document(parser):
        return False
    if isinstance(parser, SentenceSplitter):
        cuts = (*parser._split_fns, *parser._sub_sentence_split_fns)
        return known_tokens(parser._tokenizer) is not None and all(map(gives_parts, cuts))
    if isinstance(parser, SentenceWindowNodeParser):
        return gives_parts(parser.sentence_splitter)
    return isinstance(parser, MarkdownNodeParser)


class Accelerated:
    """What accelerated parsers have in common: they are pickled as what they were made from."""

    _native: ClassVar[Any]
    _methods: ClassVar[tuple[tuple[str, Any, Any], ...]]
    #: A traced method that stands for the native `_parse_nodes`; None where that is native.
    _parsing: ClassVar[Any] = None

    def _calls_known_code(self: Any) -> bool:
        """Whether the methods that the fast path stands for or relies on are those known.

        Others may be patched onto a class at any time, or be those of somebody's subclass of this one.
        """
        native, cls = self._native, type(self)
        for name, natives, ours in self._methods:
            if getattr(native, name) is not natives or getattr(cls, name) is not ours:
                return False
        return True

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        """Name the native class, so that a class made at run time can be restored."""
        if "_native" not in vars(type(self)):  # A subclass that somebody wrote: it has a name to be found by.
            return super().__reduce_ex__(protocol)
        return _restore, (self._native,), self.__getstate__()

    def _postprocess_parsed_nodes(self: Any, nodes: list[BaseNode], parent_doc_map: dict[str, Any]) -> list[BaseNode]:
        """Complete nodes just made, as the native method does."""
        if type(nodes) is list and len(nodes) > 1 and self._calls_known_code():
            from_last = not is_earlier(NodeParser._postprocess_parsed_nodes)
            with paused_collector():
                if postprocess(nodes, parent_doc_map, self.include_metadata, self.include_prev_next_rel, from_last):
                    return nodes
        return cast(list[BaseNode], super()._postprocess_parsed_nodes(nodes, parent_doc_map))  # type: ignore[misc]


def _restore(native: Any) -> Any:
    cls = native if _class_reason(native) is not None else _accelerated_class(native)
    return cls.__new__(cls)


def _parse_nodes(self: Any, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
    """Make nodes of documents, as `MetadataAwareTextSplitter._parse_nodes` does."""
    expect_documents(self, nodes)
    made: list[BaseNode] = []
    for node in get_tqdm_iterable(nodes, show_progress, "Parsing nodes"):
        metadata_str = self._get_metadata_str(node)
        splits = self.split_text_metadata_aware(
            node.get_content(metadata_mode=MetadataMode.NONE), metadata_str=metadata_str
        )
        with paused_collector():
            made.extend(build_nodes(splits, node, self.id_func))
    return made


def _parse_code(self: Any, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
    """Make nodes of documents, as `TextSplitter._parse_nodes` does."""
    made: list[BaseNode] = []
    for node in get_tqdm_iterable(nodes, show_progress, "Parsing nodes"):
        splits = self.split_text(node.get_content())
        with paused_collector():
            made.extend(build_nodes(splits, node, self.id_func))
    return made


class _SplitsTexts(Accelerated):
    """What the splitters have in common; each has a `_chunks` of its own."""

    _parsing = staticmethod(_parse_nodes)

    def _split_text(self: Any, text: str, chunk_size: int) -> list[str]:
        """Split a text into chunks, with the native events."""
        if type(text) is not str or not text or not self._calls_known_code():
            return cast(list[str], super()._split_text(text, chunk_size))  # type: ignore[misc]
        with self.callback_manager.event(CBEventType.CHUNKING, payload={EventPayload.CHUNKS: [text]}) as event:
            try:
                chunks = self._chunks(text, chunk_size)
            except NotReproducedError:
                chunks = self._merge(self._split(text, chunk_size), chunk_size)
            event.on_end(payload={EventPayload.CHUNKS: chunks})
        return cast(list[str], chunks)


class _SplitsSentences(_SplitsTexts):
    """`SentenceSplitter` with each piece counted once, and sentences decided once."""

    def _chunks(self: Any, text: str, size: int) -> list[str]:
        counter = counter_for(self._tokenizer, text)
        (count,) = counter.counts((text,), size + 1)
        if count <= size:
            chunk = text.strip()
            return [chunk] if chunk else []
        if not all(map(gives_parts, (*self._split_fns, *self._sub_sentence_split_fns))):
            counter = checked(counter, self._tokenizer)
        cutting = Cutting(
            [fast_sentences(function) for function in self._split_fns],
            self._sub_sentence_split_fns,
            counter,
            size,
            keeps_oversize=not is_earlier(SentenceSplitter._split),
        )
        drops_overlap = not is_earlier(SentenceSplitter._merge)
        return merge(cut(text, cutting), size, self.chunk_overlap, drops_overlap)


class _SplitsWords(_SplitsTexts):
    """`TokenTextSplitter` with each word counted once."""

    def _chunks(self: Any, text: str, size: int) -> list[str]:
        counter = counter_for(self._tokenizer, text)
        (count,) = counter.counts((text,), size + 1)
        if count <= size:
            chunk = text if self.keep_whitespaces else text.strip()
            return [chunk] if chunk else []
        if not all(map(gives_parts, self._split_fns)):
            counter = checked(counter, self._tokenizer)
        pieces, counts = cut_words(
            text,
            self._split_fns,
            counter,
            size,
            keeps_oversize=not is_earlier(TokenTextSplitter._split),
        )

        def warn(count: int) -> None:
            # Native gives the second half for an argument of the first.
            token._logger.warning(f"Got a split of size {count}, ", f"larger than chunk size {size}.")

        fails = is_earlier(TokenTextSplitter._merge)
        return merge_words(pieces, counts, size, self.chunk_overlap, self.keep_whitespaces, None if fails else warn)


class _SplitsCode(Accelerated):
    """`CodeSplitter` with tokens counted, where it counts them, by a faster tokenizer."""

    _parsing = staticmethod(_parse_code)

    def _chunk_node(self: Any, node: Any, text_bytes: bytes, last_end: int = 0) -> list[str]:
        """Cut a node of the syntax tree into chunks, as the native method does."""
        parser = self
        # The oldest versions count characters alone.
        if getattr(self, "count_mode", "char") == "token" and self._calls_known_code():
            parser = self._counting_faster(text_bytes.decode())
        return cast(list[str], self._native._chunk_node(parser, node, text_bytes, last_end))

    def _counting_faster(self: Any, text: str) -> Any:
        counter = checked(counter_for(self._tokenizer, text), self._tokenizer)
        parser = with_class(self, self._native)
        # The native code asks whether there are more than `max_tokens`, and looks at nothing else.
        enough = self.max_tokens + 1
        parser._tokenizer = lambda part: range(next(iter(counter.counts((part,), enough))))
        return parser


class _MakesWindows(Accelerated):
    """`SentenceWindowNodeParser` with sentences decided once."""

    def build_window_nodes_from_documents(self: Any, documents: Sequence[Any]) -> list[BaseNode]:
        """Make a node of each sentence of documents, as the native method does."""
        if not self._calls_known_code():
            return cast(list[BaseNode], super().build_window_nodes_from_documents(documents))  # type: ignore[misc]
        made: list[BaseNode] = []
        split = fast_sentences(self.sentence_splitter)
        size = self.window_size
        keys = [self.window_metadata_key, self.original_text_metadata_key]
        for document in documents:
            sentences = split(document.text)
            with paused_collector():
                nodes = build_nodes(sentences, document, self.id_func)
                texts = [node.text for node in nodes]
                for index, node in enumerate(nodes):
                    metadata = node.metadata
                    metadata[keys[0]] = " ".join(texts[max(0, index - size) : index + size + 1])
                    metadata[keys[1]] = texts[index]
                    node.excluded_embed_metadata_keys.extend(keys)
                    node.excluded_llm_metadata_keys.extend(keys)
                made += nodes
        return made


class _MakesSections(Accelerated):
    """`MarkdownNodeParser` with each document hashed once."""

    def get_nodes_from_node(self: Any, node: BaseNode) -> list[Any]:
        """Make a node of each section of a document, as the native method does."""
        separator = self.header_path_separator
        text = node.get_content(metadata_mode=MetadataMode.NONE) if self._calls_known_code() else None
        if not is_text(text) or not can_copy(node) or type(separator) is not str:
            return cast(list[Any], super().get_nodes_from_node(node))  # type: ignore[misc]
        parts = sections(text, separator)
        if not parts:
            return []
        with paused_collector():
            nodes = build_separately([content for content, _ in parts], node, self.id_func)
            if self.include_metadata:
                for made, (_, path) in zip(nodes, parts, strict=True):
                    made.metadata["header_path"] = separator + path + separator if path else separator
        return nodes


class _MakesRecords(Accelerated):
    """`JSONNodeParser` with each document hashed once."""

    def get_nodes_from_node(self: Any, node: BaseNode) -> list[Any]:
        """Make a node of each object in the list that a document is, as the native method does."""
        if self._calls_known_code() and can_copy(node):
            texts = records(node.get_content(metadata_mode=MetadataMode.NONE), self._depth_first_yield)
            if not texts:
                return []
            if all(map(is_text, texts)):
                with paused_collector():
                    return build_separately(texts, node, self.id_func)
        return cast(list[Any], super().get_nodes_from_node(node))  # type: ignore[misc]


class _MakesTagged(Accelerated):
    """`HTMLNodeParser` with each document hashed once."""

    def get_nodes_from_node(self: Any, node: BaseNode) -> list[Any]:
        """Make a node of each run of equal tags of a document: of the sections that the native method finds."""
        if not self._calls_known_code() or not can_copy(node):
            return cast(list[Any], super().get_nodes_from_node(node))  # type: ignore[misc]
        sections = _Sections(self)
        self._native.get_nodes_from_node(sections, node)
        if not sections.texts:
            return []
        if not all(map(is_text, sections.texts)):
            return cast(list[Any], super().get_nodes_from_node(node))  # type: ignore[misc]
        with paused_collector():
            nodes = build_separately(sections.texts, node, self.id_func)
            if self.include_metadata:
                for made, metadata in zip(nodes, sections.metadata, strict=True):
                    made.metadata.update(metadata)
                    made.__pydantic_fields_set__.add("metadata")
        return nodes


class _Sections:
    """An `HTMLNodeParser` that keeps what it would make nodes of."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self.texts: list[str] = []
        self.metadata: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def _build_node_from_split(self, text_split: str, node: BaseNode, metadata: dict[str, Any]) -> None:
        self.texts.append(text_split)
        self.metadata.append(metadata)


#: Not all of them in the oldest versions.
_CODE_METHODS: Final = ("_parse_nodes", "split_text", "_chunk_node", "_split_oversized_leaf")

#: For each native class whose way is reproduced, the class that takes the fast path and the native methods it stands
#: for or relies on: a subclass must inherit all of them, and they must be known.
_FAMILIES: Final[tuple[tuple[type[Any], type[Accelerated], tuple[str, ...]], ...]] = (
    (
        SentenceSplitter,
        _SplitsSentences,
        ("_parse_nodes", "_split_text", "_split", "_merge", "_postprocess_chunks", "_token_size", "_get_splits_by_fns"),
    ),
    (TokenTextSplitter, _SplitsWords, ("_parse_nodes", "_split_text", "_split", "_merge")),
    (CodeSplitter, _SplitsCode, tuple(filter(partial(hasattr, CodeSplitter), _CODE_METHODS))),
    (SentenceWindowNodeParser, _MakesWindows, ("_parse_nodes", "build_window_nodes_from_documents")),
    (MarkdownNodeParser, _MakesSections, ("_parse_nodes", "get_nodes_from_node", "_build_node_from_split")),
    (
        HTMLNodeParser,
        _MakesTagged,
        ("_parse_nodes", "get_nodes_from_node", "_build_node_from_split", "_extract_text_from_tag"),
    ),
    (JSONNodeParser, _MakesRecords, ("_parse_nodes", "get_nodes_from_node", "_depth_first_yield")),
    (HierarchicalNodeParser, Accelerated, ("get_nodes_from_documents", "_recursively_get_nodes_from_nodes")),
)


def _family(native: type[Any]) -> tuple[type[Any], type[Accelerated], tuple[str, ...]] | None:
    return next((family for family in _FAMILIES if issubclass(native, family[0])), None)


@lru_cache(maxsize=256)
def _class_reason(native: Any) -> str | None:
    """Why a class works in a way that is not reproduced here."""
    family = _family(native)
    if family is None:
        return f"{native.__qualname__} makes nodes in a way of its own"
    known, _, methods = family
    for method in (*methods, "_postprocess_parsed_nodes"):
        if found(native, method) is not found(known, method):
            return f"{native.__qualname__} overrides {method}"
    own = overridden(native, known)
    if own is not None:
        return own
    other = unknown(known, (*methods, "_postprocess_parsed_nodes"))
    if other is not None:
        return f"the installed llama-index-core has another {other} than known"
    if not is_known(node_utils.build_nodes_from_splits):
        return "the installed llama-index-core has another build_nodes_from_splits than known"
    return None


@lru_cache(maxsize=256)
def _accelerated_class(native: Any) -> Any:
    family = _family(native)
    assert family is not None
    _, replacement, methods = family
    # Spans bear the class's name and go to the dispatcher of the module that the method is from: both are native's.
    namespace: dict[str, Any] = {"__module__": native.__module__, "__doc__": native.__doc__}
    if replacement._parsing is not None:
        made = FunctionType(replacement._parsing.__code__, globals(), "_parse_nodes", _parse_nodes.__defaults__)
        namespace["_parse_nodes"] = get_dispatcher(interface.__name__).span(made)
    cls: Any = type(native)(native.__name__, (replacement, native), namespace)
    cls.__qualname__ = native.__qualname__
    cls._native = native
    # What is traced can't be told apart: each look at it gives another object.
    names = ("_postprocess_parsed_nodes", *(name for name in methods if getattr(native, name) is getattr(native, name)))
    cls._methods = tuple((name, getattr(native, name), getattr(cls, name)) for name in names)
    return cls
