"""Embedding while documents are still parsed.

Natively a parser is through with all documents before the first node is embedded. Here, where nobody can tell,
documents are parsed in groups, and whatever fills a batch of the embedding model is sent off. The nodes, the batches
and the native calls that follow are the same: the embedding model then asks for its batches in order, and finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from llama_index.core.ingestion import IngestionCache
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    NodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import Document, MetadataMode, NodeRelationship
from llama_index.core.storage.kvstore import SimpleKVStore

from aaflow_plugins.collector import rare_collector
from aaflow_plugins.executor import Executor
from aaflow_plugins.threads import threads_can_start
from llama_index_aaflow import node_parsers
from llama_index_aaflow.embeddings import is_openai
from llama_index_aaflow.ingestion_cache import Made, QuickCache
from llama_index_aaflow.known_code import unknown
from llama_index_aaflow.listening import nobody_listens
from llama_index_aaflow.native_classes import found
from llama_index_aaflow.parsing.counting import expect_documents
from llama_index_aaflow.parsing.nodes import ATOMS
from llama_index_aaflow.side_by_side import SideBySide, fetching, waits_for_nothing

#: Characters that are parsed at once: some milliseconds' work.
_GROUP: Final = 50_000

#: Parsers that make the nodes of a document of nothing but the document.
_BY_DOCUMENT: Final = (SentenceSplitter, TokenTextSplitter, SentenceWindowNodeParser, MarkdownNodeParser)

#: Methods of a parser that are called for a group of documents instead of for all, and its coroutines.
_CALLED: Final = ("__call__", "get_nodes_from_documents")
_COROUTINES: Final = ("acall", "aget_nodes_from_documents", "_aparse_nodes")


def run_overlapping(
    native: Callable[[list[Any]], Any],
    steps: list[Any],
    settings: dict[str, Any],
    executor: Executor | None,
    cache: Any = None,
    parse: Callable[[list[Any]], Iterable[list[Any]]] | None = None,
) -> Any:
    """Apply steps, the embedding requests of the second going out during the first where that makes no difference.

    Args:
        native: Applies a list of steps natively, to the nodes that it knows of.
        steps: Accelerated transformations.
        settings: Keyword arguments of the native function.
        executor: Bounds the requests in flight.
        cache: What the native function is given for a cache.
        parse: Makes the nodes of documents, in groups, as the first step does; None to have it done by that.
    """
    if not (may_overlap(steps, settings) and threads_can_start()):
        return native(steps)
    parsing = Parsing(steps[0], steps[1], parse or (lambda documents: map(steps[0], groups(documents))), cache)

    def use(ahead: Any) -> Any:
        parsing.ahead = ahead
        return native([parsing, *steps[1:]])

    with rare_collector():
        return fetching(steps[1], parsing.batches, executor, use)


def may_overlap(steps: list[Any], settings: dict[str, Any]) -> bool:
    """Whether the second step's requests may go out during the first.

    Args:
        steps: Accelerated transformations.
        settings: Keyword arguments of the native function that applies them.
    """
    if len(steps) < 2 or not is_openai(steps[1]) or not parses_by_document(steps[0]):
        return False
    parser, embedding = steps[:2]
    return (
        SETTINGS.issuperset(settings)
        and nothing_kept(settings.get("cache"), settings.get("cache_collection"))
        and isinstance(embedding, SideBySide)
        and waits_for_nothing(embedding)
        and not embedding.embeddings_cache  # type: ignore[attr-defined]
        and type(embedding.embed_batch_size) is int  # type: ignore[attr-defined]
        and not parser.callback_manager.handlers
        and nobody_listens()
    )


def parses_by_document(step: Any) -> bool:
    """Whether an accelerated transformation is a node parser that makes a document's nodes of nothing else."""
    return (
        isinstance(step, node_parsers.Accelerated)
        and step._native in _BY_DOCUMENT
        and step._calls_known_code()
        and _has_native(step, _CALLED)
    )


def parses_when_awaited(parser: Any) -> bool:
    """Whether the coroutines of an accelerated parser are those known, which make the blocking calls."""
    return _has_native(parser, _COROUTINES) and not set(_COROUTINES).intersection(vars(parser))


def _has_native(parser: Any, names: Sequence[str]) -> bool:
    return unknown(NodeParser, names) is None and all(
        found(parser._native, name) is found(NodeParser, name) for name in names
    )


#: Settings of the native loop: others are passed on to every transformation.
SETTINGS: Final = frozenset({"show_progress", "cache", "cache_collection", "in_place"})


def nothing_kept(cache: Any, collection: str | None) -> bool:
    """Whether a cache can't have what the embedding model would make: its requests would be for nothing."""
    if cache is None:
        return True
    if type(cache) is not IngestionCache or type(cache.cache) is not SimpleKVStore:
        return False
    # Asking for the collection would make it.
    return not cache.cache.to_dict().get(collection or cache.collection)


class Parsing:
    """A parser, as the native code applies it, that hands texts on while it works.

    Attributes:
        ahead: The replies to what it hands on.
    """

    ahead: Any

    def __init__(
        self, parser: Any, embedding: Any, parse: Callable[[list[Any]], Iterable[list[Any]]], cache: Any = None
    ) -> None:
        """Set up.

        Args:
            parser: The parser.
            embedding: The model that is to embed its nodes.
            parse: Makes the nodes of documents, which come in groups.
            cache: What the native code is given for a cache.
        """
        self._parser, self._embedding, self._parse = parser, embedding, parse
        self._cache = cache if isinstance(cache, QuickCache) else None
        self._made = Made(cached=self._cache is not None)
        self._documents: list[Any] = []
        self._parsed = False

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the parser by."""
        return self._parser.to_dict(**kwargs)

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        """Make nodes of documents."""
        if not self._may_take(nodes, kwargs):
            return self._parser(nodes, **kwargs)
        self._take(nodes)
        while not self._parsed and self.ahead.pull():
            pass
        self.ahead.complete = True
        return self._ended()

    def batches(self) -> Iterator[list[str]]:
        """The texts of the nodes by batches of the embedding model, while the nodes are made."""
        return batches(self._texts(), self._embedding)

    def _may_take(self, nodes: Any, kwargs: dict[str, Any]) -> bool:
        # The oldest versions hand this on from `run`.
        return kwargs in ({}, {"show_progress": False}) and are_apart(nodes)

    def _take(self, documents: list[Any]) -> None:
        self._documents = documents
        expect_documents(self._parser, documents)

    def _ended(self) -> list[Any]:
        """The nodes, which the cache is told of."""
        if self._cache is not None:
            self._cache.expect(self._made)
        return self._made.nodes

    def _texts(self) -> Iterator[list[str]]:
        for made in self._parse(self._documents):
            self._made.add(made)
            yield texts_of(made)
        self._parsed = True


def texts_of(nodes: Iterable[Any]) -> list[str]:
    """What of nodes is embedded."""
    return list(map(embedded_text, nodes))


def embedded_text(node: Any) -> str:
    """What of a node is embedded."""
    text: str = node.get_content(metadata_mode=MetadataMode.EMBED)
    return text


def batches(texts: Iterable[list[str]], model: Any) -> Iterator[list[str]]:
    """The batches of the native loop, of texts that come some at a time."""
    return filter(None, batches_so_far(texts, model))


def batches_so_far(texts: Iterable[list[str]], model: Any) -> Iterator[list[str]]:
    """The batches of the native loop, and an empty one whenever some texts have come."""
    batch: list[str] = []
    for some in texts:
        for text in some:
            batch.append(text)
            if len(batch) == model.embed_batch_size:
                yield batch
                batch = []
        yield []
    yield batch


def are_apart(nodes: Any) -> bool:
    """Whether each is a document of its own, whose nodes have no neighbours among those of another."""
    return (
        type(nodes) is list
        and len(nodes) > 1
        and all(type(node) is Document and NodeRelationship.SOURCE not in node.relationships for node in nodes)
        and len({node.id_ for node in nodes}) == len(nodes)
    )


def are_plain(documents: list[Any]) -> bool:
    """Whether what the documents hold is written without anybody's own code."""
    return all(ATOMS.issuperset(map(type, document.metadata.values())) for document in documents)


def groups(documents: Sequence[Any]) -> Iterator[list[Any]]:
    """Documents in groups of some milliseconds' work."""
    group: list[Any] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document.text)
        if size >= _GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
