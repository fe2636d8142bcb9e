"""Which versions of the native storage code are reproduced, told by the code itself."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from aaflow_plugins.known_code import is_one_of
from llama_index_aaflow.native_classes import found
from llama_index_aaflow.parsing.known_code import plain

#: Structures of what is reproduced or relied on, by qualified name: llama-index-core 0.14.0 to 0.14.25 and
#: dataclasses-json 0.6.
_KNOWN: Final[dict[str, frozenset[str]]] = {
    "BaseComponent.custom_model_dump": frozenset({"57eb84c784c1b5bd"}),
    "BaseComponent.dict": frozenset({"dddc5d71f1773a9c"}),
    "BaseComponent.to_dict": frozenset({"52b7db61f4e85951"}),
    "BaseIndex.ainsert": frozenset({"4125806fad52e4a2"}),
    "BaseIndex.from_documents": frozenset({"c20e1ef70a19b39a"}),
    "BaseIndex.insert": frozenset({"fe40ee26686a8df6"}),
    "BaseKVStore.aput_all": frozenset({"4a7fae45ffcfd3b9"}),
    "BaseKVStore.put_all": frozenset({"2308879f6285d9ff"}),
    "BaseNode.get_metadata_str": frozenset({"744dc4bd34df9e21"}),
    "BaseNode.ref_doc_id": frozenset({"81b4cf67ded83c71"}),
    "BaseNode.source_node": frozenset({"40b8960bf1f84ccb"}),
    "BasePydanticVectorStore.async_add": frozenset({"dcc4b1d546073e33"}),
    "IndexDict.add_node": frozenset({"de926d8aa60a254a"}),
    "IndexDict.delete": frozenset({"7f569c9a3e36bbc8"}),
    "IndexDict.get_type": frozenset({"9f61f232628ce331"}),
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
    "MutableMappingKVStore._get_collection_mapping": frozenset({"d711a9453bc33c66"}),
    "MutableMappingKVStore.aget": frozenset({"83b4ec6001e26ab3"}),
    "MutableMappingKVStore.aput": frozenset({"65d204cc5e8020c3"}),
    "MutableMappingKVStore.delete": frozenset({"f45393d53763fe4a"}),
    "MutableMappingKVStore.get": frozenset({"2a89761812caa8de"}),
    "MutableMappingKVStore.put": frozenset({"dead26cc35ed8108"}),
    "SimpleVectorStore.add": frozenset({"d8348129f2ece5c1"}),
    "TextNode.class_name": frozenset({"c655a51f1886b6e6"}),
    "TextNode.get_content": frozenset({"852082bb3b2bd370"}),
    "TextNode.get_metadata_str": frozenset({"02d9b32ef2486d36"}),
    "TextNode.hash": frozenset({"71d7c73bd7344132"}),
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
    "doc_to_json": frozenset({"731f99c25d92c393"}),
    "index_struct_to_json": frozenset({"f9c12d0af798f860"}),
    "node_to_metadata_dict": frozenset({"0d505eeccff0fb0d", "2a58b7cfe65c02c6"}),
}


def is_native(methods: Iterable[tuple[type[Any], Iterable[str]]]) -> bool:
    """Whether classes' methods are, at this moment, those known: anybody may patch them at any time."""
    return all(is_known(found(cls, name)) for cls, names in methods for name in names)


@lru_cache(maxsize=256)
def is_known(function: Any) -> bool:
    """Whether a function, or one that LlamaIndex traces, is one of the known versions."""
    function = plain(function)
    return is_one_of(function, _KNOWN.get(getattr(function, "__qualname__", ""), frozenset()))
