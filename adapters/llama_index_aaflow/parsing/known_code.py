"""Which versions of the native code the fast paths reproduce, told by the code itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from aaflow_plugins.known_code import is_one_of, structure
from llama_index_aaflow.native_classes import found

#: Structures of what the fast paths reproduce, by qualified name: llama-index-core 0.14.0 to 0.14.25 and
#: nltk 3.9.1 to 3.10.4.
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "BaseNode.as_related_node_info": frozenset({"d379cc474bb26788"}),
    "BaseNode.ref_doc_id": frozenset({"81b4cf67ded83c71"}),
    "BaseNode.source_node": frozenset({"40b8960bf1f84ccb"}),
    "Document.text": frozenset({"fbae4a8bbc015653"}),
    "HTMLNodeParser._build_node_from_split": frozenset({"ac763ce8e2c784c8"}),
    "HTMLNodeParser._extract_text_from_tag": frozenset({"96ef736e7ed39375"}),
    "HTMLNodeParser._parse_nodes": frozenset({"bab67ddd61f3653c"}),
    "HTMLNodeParser.get_nodes_from_node": frozenset({"51d01a7ca73882aa", "af6d4d543d24fcb6"}),
    "HierarchicalNodeParser._recursively_get_nodes_from_nodes": frozenset({"bdb0a536b0f36e0c"}),
    "HierarchicalNodeParser.get_nodes_from_documents": frozenset({"3a61990779612d2c"}),
    "IngestionCache.put": frozenset({"d218f67b7b112f8c"}),
    "JSONNodeParser._depth_first_yield": frozenset({"e06e4da352ad654e"}),
    "JSONNodeParser._parse_nodes": frozenset({"bab67ddd61f3653c"}),
    "JSONNodeParser.get_nodes_from_node": frozenset({"4fc8b5ac84c03cdd"}),
    "MarkdownNodeParser._build_node_from_split": frozenset({"517c9c2b2afbcc2b"}),
    "MarkdownNodeParser._parse_nodes": frozenset({"bab67ddd61f3653c"}),
    "MarkdownNodeParser.get_nodes_from_node": frozenset({"8dde3444d58ab093"}),
    "MetadataAwareTextSplitter._parse_nodes": frozenset({"ecf30e00b8233296"}),
    "NodeParser.__call__": frozenset({"976f3d3b7eb1d59d"}),
    "NodeParser._postprocess_parsed_nodes": frozenset({"303a9a80cfbb5db8", "3febb7c9921cd0f8"}),
    "NodeParser.get_nodes_from_documents": frozenset({"5f689a007c4b808b"}),
    "PunktBaseClass._annotate_first_pass": frozenset({"3575e9ca034be05b"}),
    "PunktBaseClass._first_pass_annotation": frozenset({"9328eb7361cf3fc1"}),
    "PunktBaseClass._tokenize_words": frozenset({"a3a03f8ac77b1484"}),
    "PunktLanguageVars": frozenset({"07af263e37926995", "760e2ee5f42b6222", "fc8aa55605741b5b"}),
    "PunktSentenceTokenizer._annotate_second_pass": frozenset({"c3dab8610d2e9f4e"}),
    "PunktSentenceTokenizer._annotate_tokens": frozenset({"5f503873e928cd0b"}),
    "PunktSentenceTokenizer._get_last_whitespace_index": frozenset({"ca0df3d065810447"}),
    "PunktSentenceTokenizer._match_potential_end_contexts": frozenset({"7fb4ecfb54904cc3"}),
    "PunktSentenceTokenizer._ortho_heuristic": frozenset({"34487b36e1af12b3"}),
    "PunktSentenceTokenizer._realign_boundaries": frozenset({"4e6eecd3727d3529"}),
    "PunktSentenceTokenizer._second_pass_annotation": frozenset({"8313ef57f211493b"}),
    "PunktSentenceTokenizer._slices_from_text": frozenset({"0703b396c107ab3d"}),
    "PunktSentenceTokenizer.span_tokenize": frozenset({"56e3f4bd635aaa6f"}),
    "PunktSentenceTokenizer.text_contains_sentbreak": frozenset({"fa4ad34a9aeb507c"}),
    "PunktToken": frozenset({"1f1fffe27547b2e5", "65f7465e9845a652"}),
    "SentenceSplitter._get_splits_by_fns": frozenset({"647a298d2be149c6"}),
    "SentenceSplitter._merge": frozenset({"8af94ef27067e62a", "e18e833ca1955b82"}),
    "SentenceSplitter._postprocess_chunks": frozenset({"97acbb123146e4d2"}),
    "SentenceSplitter._split": frozenset({"8dc452b741ee7811", "be319a6ca971391c"}),
    "SentenceSplitter._split_text": frozenset({"030cc66151ae0000"}),
    "SentenceSplitter._token_size": frozenset({"8ca7ab3626180781"}),
    "SentenceWindowNodeParser._parse_nodes": frozenset({"4e2855ab671ee393"}),
    "SentenceWindowNodeParser.build_window_nodes_from_documents": frozenset({"84e9ee3d9e172aaa"}),
    "SimpleDirectoryReader.load_data": frozenset(
        {"59071b9247f37879", "5b3f93c517898d55", "7e32daab6e53c6f1", "ece993d143bf4c61"}
    ),
    "SimpleDirectoryReader.load_file": frozenset({"6c085a5361eb36b4"}),
    "TextNode.get_content": frozenset({"852082bb3b2bd370"}),
    "TextNode.get_type": frozenset({"26efa2109f0b90dd"}),
    "TextNode.hash": frozenset({"71d7c73bd7344132"}),
    "TokenTextSplitter._merge": frozenset({"84ae2bc407654dc7", "ac188b084fd372ee"}),
    "TokenTextSplitter._split": frozenset({"9f9756342bba1146", "cec8fc4dbf306436"}),
    "TokenTextSplitter._split_text": frozenset({"030cc66151ae0000"}),
    "_pair_iter": frozenset({"3e7b64e95e06dad3"}),
    "build_nodes_from_splits": frozenset({"1d4e9086ac16c0a3", "ba365bb77a448929"}),
    "doc_to_json": frozenset({"731f99c25d92c393"}),
    "split_by_sentence_tokenizer": frozenset({"1fdbcc52ba74ed52"}),
    "split_by_sentence_tokenizer_internal": frozenset({"434bf0d24231516e"}),
}

#: Of what there are several versions of, those of llama-index-core 0.14.0.
_EARLIER: Final = frozenset(
    {"303a9a80cfbb5db8", "8af94ef27067e62a", "be319a6ca971391c", "84ae2bc407654dc7", "cec8fc4dbf306436"}
)


def plain(attribute: Any) -> Any:
    """The function in a class's namespace under a property, a classmethod or LlamaIndex's tracing."""
    for name in ("fget", "__func__"):
        attribute = getattr(attribute, name, None) or attribute
    if hasattr(type(attribute), "__wrapped__") or type(attribute).__module__ == "wrapt.wrappers":
        return attribute.__wrapped__
    return attribute


@lru_cache(maxsize=256)
def is_known(function: Any) -> bool:
    """Whether a native function or class is one of the versions that the fast paths reproduce."""
    known = _KNOWN.get(function.__qualname__, frozenset())
    return structure(function) in known if isinstance(function, type) else is_one_of(function, known)


@lru_cache(maxsize=64)
def is_earlier(function: Any) -> bool:
    """Whether a function is as it was in llama-index-core 0.14.0 and has been changed since."""
    return structure(function) in _EARLIER


def unknown(cls: type[Any], names: Iterable[str]) -> str | None:
    """The first of a class's methods, by qualified name, that is not known; None if all are."""
    for name in names:
        function = plain(found(cls, name))
        if not is_known(function):
            return str(function.__qualname__)
    return None
