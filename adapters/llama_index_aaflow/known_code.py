"""Which versions of the native code the fast paths reproduce, told by the code itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from aaflow_plugins.known_code import is_from, is_one_of, structure
from llama_index_aaflow.native_classes import StandsFor, found, overridden

#: Structures of what is reproduced or relied on, by qualified name: llama-index-core 0.14.0 to 0.14.25,
#: dataclasses-json 0.6, and nltk 3.9.1 to 3.10.4.
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "BaseComponent.custom_model_dump": frozenset({"57eb84c784c1b5bd"}),
    "BaseComponent.dict": frozenset({"dddc5d71f1773a9c"}),
    "BaseComponent.to_dict": frozenset({"52b7db61f4e85951"}),
    "BaseExtractor.__call__": frozenset({"a92ee31b663f6620"}),
    "BaseExtractor.acall": frozenset({"ab41b2fd6657b7ce"}),
    "BaseExtractor.aprocess_nodes": frozenset({"1e8a75226ff6da3b", "f5ad042edba0e66e"}),
    "BaseExtractor.process_nodes": frozenset({"1b5b760f94530276"}),
    "BaseIndex.ainsert": frozenset({"4125806fad52e4a2"}),
    "BaseIndex.from_documents": frozenset({"c20e1ef70a19b39a"}),
    "BaseIndex.insert": frozenset({"fe40ee26686a8df6"}),
    "BaseKVStore.aput_all": frozenset({"4a7fae45ffcfd3b9"}),
    "BaseKVStore.put_all": frozenset({"2308879f6285d9ff"}),
    "BaseNode.as_related_node_info": frozenset({"d379cc474bb26788"}),
    "BaseNode.get_metadata_str": frozenset({"744dc4bd34df9e21"}),
    "BaseNode.ref_doc_id": frozenset({"81b4cf67ded83c71"}),
    "BaseNode.source_node": frozenset({"40b8960bf1f84ccb"}),
    "BasePydanticVectorStore.async_add": frozenset({"dcc4b1d546073e33"}),
    "CodeSplitter._chunk_node": frozenset({"7e00cafb80eea902", "cb7dca3407ade6f4", "e6bbcf540e39e788"}),
    "CodeSplitter._split_oversized_leaf": frozenset({"5901b1c8f6a716e3"}),
    "CodeSplitter.split_text": frozenset({"27530deebe4ad960"}),
    "Document.text": frozenset({"fbae4a8bbc015653"}),
    "HTMLNodeParser._build_node_from_split": frozenset({"ac763ce8e2c784c8"}),
    "HTMLNodeParser._extract_text_from_tag": frozenset({"96ef736e7ed39375"}),
    "HTMLNodeParser._parse_nodes": frozenset({"bab67ddd61f3653c"}),
    "HTMLNodeParser.get_nodes_from_node": frozenset({"51d01a7ca73882aa", "af6d4d543d24fcb6"}),
    "HierarchicalNodeParser._recursively_get_nodes_from_nodes": frozenset({"bdb0a536b0f36e0c"}),
    "HierarchicalNodeParser.get_nodes_from_documents": frozenset({"3a61990779612d2c"}),
    "IndexDict.add_node": frozenset({"de926d8aa60a254a"}),
    "IndexDict.delete": frozenset({"7f569c9a3e36bbc8"}),
    "IndexDict.get_type": frozenset({"9f61f232628ce331"}),
    "IngestionCache.put": frozenset({"d218f67b7b112f8c"}),
    "JSONNodeParser._depth_first_yield": frozenset({"e06e4da352ad654e"}),
    "JSONNodeParser._parse_nodes": frozenset({"bab67ddd61f3653c"}),
    "JSONNodeParser.get_nodes_from_node": frozenset({"4fc8b5ac84c03cdd"}),
    "KVDocumentStore._async_prepare_kv_pairs": frozenset({"2699ff5eebd15200"}),
    "KVDocumentStore._get_kv_pairs_for_insert": frozenset({"d93665250302a1ad"}),
    "KVDocumentStore._get_ref_doc_id": frozenset({"3d45796e5b86d2e8"}),
    "KVDocumentStore._merge_ref_doc_kv_pairs": frozenset({"1c56afc3bd06ae8e"}),
    "KVDocumentStore._prepare_kv_pairs": frozenset({"05fee588c62bdc2c"}),
    "KVDocumentStore._remove_from_ref_doc_node": frozenset({"489a4a2f4908cbcb"}),
    "KVDocumentStore.add_documents": frozenset({"b92a51bbdd6531d5"}),
    "KVDocumentStore.aget_ref_doc_info": frozenset({"8437a6db26930163"}),
    "KVDocumentStore.async_add_documents": frozenset({"c75c6f3578c1a980"}),
    "KVDocumentStore.delete_document": frozenset({"610020bb53147fdb"}),
    "KVDocumentStore.delete_ref_doc": frozenset({"a4ce9b0a3adbcaff"}),
    "KVDocumentStore.get_ref_doc_info": frozenset({"8ad1679fb7b8dad3"}),
    "KVIndexStore.add_index_struct": frozenset({"66a6c3dfd5c46608"}),
    "KeywordExtractor._aextract_keywords_from_node": frozenset({"16abfa0086802e74"}),
    "KeywordExtractor.aextract": frozenset({"27f2d012ee541265"}),
    "MarkdownNodeParser._build_node_from_split": frozenset({"517c9c2b2afbcc2b"}),
    "MarkdownNodeParser._parse_nodes": frozenset({"bab67ddd61f3653c"}),
    "MarkdownNodeParser.get_nodes_from_node": frozenset({"8dde3444d58ab093"}),
    "MetadataAwareTextSplitter._parse_nodes": frozenset({"ecf30e00b8233296"}),
    "MutableMappingKVStore._get_collection_mapping": frozenset({"d711a9453bc33c66"}),
    "MutableMappingKVStore.aget": frozenset({"83b4ec6001e26ab3"}),
    "MutableMappingKVStore.aput": frozenset({"65d204cc5e8020c3"}),
    "MutableMappingKVStore.delete": frozenset({"f45393d53763fe4a"}),
    "MutableMappingKVStore.get": frozenset({"2a89761812caa8de"}),
    "MutableMappingKVStore.put": frozenset({"dead26cc35ed8108"}),
    "NodeParser.__call__": frozenset({"976f3d3b7eb1d59d"}),
    "NodeParser._aparse_nodes": frozenset({"4f15b61131d34151"}),
    "NodeParser._postprocess_parsed_nodes": frozenset({"303a9a80cfbb5db8", "3febb7c9921cd0f8"}),
    "NodeParser.acall": frozenset({"3957d98976268c8b"}),
    "NodeParser.aget_nodes_from_documents": frozenset({"e7984d6403d6e996"}),
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
    "QuestionsAnsweredExtractor._aextract_questions_from_node": frozenset({"4dec2e942016036f"}),
    "QuestionsAnsweredExtractor.aextract": frozenset({"db37cf896a68290b"}),
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
    "SimpleVectorStore.add": frozenset({"d8348129f2ece5c1"}),
    "SummaryExtractor._agenerate_node_summary": frozenset({"644613318662e801"}),
    "SummaryExtractor.aextract": frozenset({"191ca8ea67856fed"}),
    "TextNode.class_name": frozenset({"c655a51f1886b6e6"}),
    "TextNode.get_content": frozenset({"852082bb3b2bd370"}),
    "TextNode.get_metadata_str": frozenset({"02d9b32ef2486d36"}),
    "TextNode.get_type": frozenset({"26efa2109f0b90dd"}),
    "TextNode.hash": frozenset({"71d7c73bd7344132"}),
    "TextSplitter._parse_nodes": frozenset({"346a0aff06708342"}),
    "TitleExtractor.aextract": frozenset({"73922cbf640a5ea4"}),
    "TitleExtractor.extract_titles": frozenset({"6735ded4c68eed6f"}),
    "TitleExtractor.get_title_candidates": frozenset({"526f8517d46c770e"}),
    "TitleExtractor.separate_nodes_by_ref_id": frozenset({"ff5df8e6945a588c"}),
    "TokenTextSplitter._merge": frozenset({"84ae2bc407654dc7", "ac188b084fd372ee"}),
    "TokenTextSplitter._split": frozenset({"9f9756342bba1146", "cec8fc4dbf306436"}),
    "TokenTextSplitter._split_text": frozenset({"030cc66151ae0000"}),
    "VectorStoreIndex._add_nodes_to_index": frozenset({"0305f963d05c53d8"}),
    "VectorStoreIndex._aget_node_with_embedding": frozenset({"31649461a39a7798"}),
    "VectorStoreIndex._async_add_nodes_to_index": frozenset({"1dee04deb27f8f6f"}),
    "VectorStoreIndex._delete_from_docstore": frozenset({"25e8f2b6285bf898"}),
    "VectorStoreIndex._get_node_with_embedding": frozenset({"9f3f17dd5f1bceee"}),
    "VectorStoreIndex._insert": frozenset({"928addba2c2d00f2"}),
    "VectorStoreIndex.adelete_nodes": frozenset({"41141aaa43d5ef52"}),
    "VectorStoreIndex.adelete_ref_doc": frozenset({"b86b962a9ed4e9aa"}),
    "VectorStoreIndex.ainsert_nodes": frozenset({"090dc3c93e583911"}),
    "VectorStoreIndex.build_index_from_nodes": frozenset({"f7b80a02261bad51"}),
    "VectorStoreIndex.delete_nodes": frozenset({"33bd9064af6f584c"}),
    "VectorStoreIndex.delete_ref_doc": frozenset({"6506c24e50a9ab81"}),
    "VectorStoreIndex.insert_nodes": frozenset({"a8352cae9f91a060"}),
    "_asdict": frozenset({"79cc507647c8051a"}),
    "_pair_iter": frozenset({"3e7b64e95e06dad3"}),
    "build_nodes_from_splits": frozenset({"1d4e9086ac16c0a3", "ba365bb77a448929"}),
    "default_id_func": frozenset({"ef60dad05b188986"}),
    "doc_to_json": frozenset({"731f99c25d92c393"}),
    "get_transformation_hash": frozenset({"afc0056b34197f0f"}),
    "index_struct_to_json": frozenset({"f9c12d0af798f860"}),
    "node_to_metadata_dict": frozenset({"0d505eeccff0fb0d", "2a58b7cfe65c02c6"}),
    "split_by_sentence_tokenizer": frozenset({"1fdbcc52ba74ed52"}),
    "split_by_sentence_tokenizer_internal": frozenset({"434bf0d24231516e"}),
}

#: Where what traces LlamaIndex's methods is.
_TRACING: Final = "llama_index_instrumentation.dispatcher"

#: Of what there are several versions of, those of llama-index-core 0.14.0.
_EARLIER: Final = frozenset(
    {"303a9a80cfbb5db8", "8af94ef27067e62a", "be319a6ca971391c", "84ae2bc407654dc7", "cec8fc4dbf306436"}
)


def plain(attribute: Any) -> Any:
    """The function in a class's namespace under a property, a classmethod or LlamaIndex's tracing."""
    for name in ("fget", "__func__"):
        attribute = getattr(attribute, name, None) or attribute
    # Others wrap with the same tool: their wrappers do what LlamaIndex's does not.
    traced = getattr(getattr(attribute, "_self_wrapper", None), "__module__", None) == _TRACING
    return attribute.__wrapped__ if traced else attribute


def is_known(code: Any) -> bool:
    """Whether a native function, traced or not, or a class is one of the versions that the fast paths reproduce."""
    code = plain(code)
    known = _KNOWN.get(getattr(code, "__qualname__", ""), frozenset())
    return _structure(code) in known if issubclass(type(code), type) else is_one_of(code, known)


_structure = lru_cache(maxsize=16)(structure)


@lru_cache(maxsize=64)
def is_earlier(function: Any) -> bool:
    """Whether a function is as it was in llama-index-core 0.14.0 and has been changed since."""
    return structure(function) in _EARLIER


def is_native(methods: Iterable[tuple[type[Any], Iterable[str]]]) -> bool:
    """Whether classes' methods are, at this moment, those known: anybody may patch them at any time."""
    return all(is_known(found(cls, name)) for cls, names in methods for name in names)


def unknown(cls: type[Any], names: Iterable[str]) -> str | None:
    """The first of a class's methods, by qualified name, that is not known; None if all are."""
    for name in names:
        function = plain(found(cls, name))
        if not is_known(function):
            return str(function.__qualname__)
    return None


def changed(obj: Any, known: type[Any], methods: Mapping[str, Any]) -> str | None:
    """Why a pydantic object can't be seen as one of a known class with its own methods; None if it can.

    Args:
        obj: The object, accelerated or not.
        known: A class of its own, or above.
        methods: The names of methods, and the module that each is from.
    """
    native: Any = obj.aaflow_native if isinstance(obj, StandsFor) else type(obj)
    # Not remembered: a method may be replaced on the class at any time.
    for name, module in methods.items():
        if found(native, name) is not found(known, name):
            return f"{native.__qualname__} overrides {name}"
        if not is_from(plain(found(native, name)), module):
            return f"{name} of {native.__qualname__} is not the one that was installed"
    hidden = next((name for name in vars(obj) if name not in native.model_fields), None)
    return overridden(native, known) or (hidden and f"the object has its own {hidden}")
