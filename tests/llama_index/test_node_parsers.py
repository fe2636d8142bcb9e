"""Accelerated node parsers make the native nodes, in the native way as far as anybody can see."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import pickle
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    NodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    SimpleFileNodeParser,
    TokenTextSplitter,
)
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.schema import (
    Document,
    ImageDocument,
    ImageNode,
    IndexNode,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)

import aaflow_plugins
from llama_index_aaflow import accelerate, known_code, node_parsers
from llama_index_aaflow.node_parsers import Accelerated, native_reason
from tests.llama_index.parsing_outcomes import assert_same, corpus, document_of, numbered, outcome, visible
from tests.llama_index.tracing import spans, watched

TEXT = "# One\n\nA first sentence. A second one, longer; of parts. Is it?\n\n\n## Two\nYes! " * 12

MAKERS: dict[str, Callable[..., Any]] = {
    "SentenceSplitter": lambda **given: SentenceSplitter(chunk_size=60, chunk_overlap=12, **given),
    "TokenTextSplitter": lambda **given: TokenTextSplitter(chunk_size=60, chunk_overlap=12, **given),
    "SentenceWindowNodeParser": lambda **given: SentenceWindowNodeParser.from_defaults(**given),
    "MarkdownNodeParser": lambda **given: MarkdownNodeParser(
        **{**given, "id_func": given["id_func"] or default_id_func}
    ),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    maker = MAKERS[request.param]
    return lambda **given: maker(**{"id_func": numbered, **given})


# -- nodes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_metadata", [True, False])
@pytest.mark.parametrize("include_prev_next_rel", [True, False])
def test_settings(make: Callable[..., Any], include_metadata: bool, include_prev_next_rel: bool) -> None:
    parser = make(include_metadata=include_metadata, include_prev_next_rel=include_prev_next_rel)
    assert_same(
        parser,
        [document_of(TEXT), document_of("Short."), document_of(""), document_of(" \n "), document_of(TEXT[:300])],
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {}},
        {"metadata": {"a": [1, {"b": 2}], "c": None, "d": 1.5, "e": True, "f": (1, 2), "text": 'it\'s "q"\n'}},
        {"metadata": {"window": "mine", "header_path": "mine", "original_text": "mine"}},
        {"metadata": {"\u00e9": "\u4e2d", "": ""}},
        {"embedding": [0.5, 1.0]},
        {"excluded_embed_metadata_keys": ["file"], "excluded_llm_metadata_keys": ["size"]},
        {
            "metadata_template": "{key}={value}",
            "metadata_separator": " | ",
            "text_template": "{content}\n{metadata_str}",
        },
        {"relationships": {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book", metadata={"title": "t"})}},
        {"relationships": {NodeRelationship.NEXT: RelatedNodeInfo(node_id="other")}},
    ],
)
def test_what_documents_hold(make: Callable[..., Any], fields: dict[str, Any]) -> None:
    assert_same(make(), [document_of(TEXT, **fields), document_of(TEXT[:200], **fields)])
    node_fields = {"id_": "n", "metadata": {"x": 1}, **fields}
    assert_same(make(), [TextNode(text=TEXT, **node_fields)])


def test_several_kinds_of_documents(make: Callable[..., Any]) -> None:
    """Those that are no plain documents take the native way, beside those that are."""

    class Mine(Document):
        pass

    assert_same(make(), [document_of(TEXT), Mine(text=TEXT, id_="mine", metadata={"a": 1}), document_of(TEXT[:90])])
    assert_same(make(), [IndexNode(text=TEXT, id_="index", index_id="i")])
    assert_same(make(), [ImageNode(text=TEXT, id_="image", image="aGVsbG8=")])
    assert_same(make(), [ImageDocument(text=TEXT, id_="image", image=b"hello")])
    assert_same(make(), [Node(id_="node")])


def test_two_documents_of_one_id(make: Callable[..., Any]) -> None:
    assert_same(make(), [Document(text=TEXT, id_="same", metadata={"a": 1}), Document(text="B. " + TEXT, id_="same")])


def test_nodes_of_nodes(make: Callable[..., Any]) -> None:
    """What comes out goes in again: sources, neighbours and positions are those of before."""
    first = SentenceSplitter(chunk_size=200, chunk_overlap=20, id_func=numbered)
    nodes = first.get_nodes_from_documents([document_of(TEXT), document_of(TEXT[:400])])
    assert_same(make(), nodes)


def test_no_documents(make: Callable[..., Any]) -> None:
    assert_same(make(), [])


@pytest.mark.parametrize("metadata", [{3: "three"}, {"a": "\ud800"}, {"\ud800": "a"}, {"self": None}])
def test_metadata_that_pydantic_has_not_seen(make: Callable[..., Any], metadata: dict[Any, Any]) -> None:
    """Metadata may be changed in place, to what a node refuses or what refers to itself."""
    documents = []
    for _ in range(2):
        document = document_of(TEXT)
        document.metadata.clear()
        document.metadata.update(metadata)
        if "self" in metadata:
            document.metadata["self"] = [document.metadata]
        documents.append(document)
    parser = make()
    first, second = (
        outcome(
            lambda given=given, each=each: [
                (n.text, repr(n.metadata), n.hash) for n in each.get_nodes_from_documents([given])
            ]
        )
        for given, each in zip(documents, (parser, accelerate(parser)), strict=True)
    )
    assert first == second


def test_a_text_that_no_document_should_hold(make: Callable[..., Any]) -> None:
    """A lone surrogate may get into a document past pydantic; some versions refuse it later."""
    document = document_of("x")
    document.text_resource.__dict__["text"] = TEXT + "\ud800" + TEXT  # type: ignore[union-attr]
    parser = make()
    native = outcome(lambda: parser.get_nodes_from_documents([document]))
    assert outcome(lambda: accelerate(parser).get_nodes_from_documents([document])) == native


def test_nodes_share_nothing_they_do_not_share_natively(make: Callable[..., Any]) -> None:
    def shared(parser: Any) -> list[list[bool]]:
        fields = {"embedding": [0.5], "metadata": {"a": [1]}, "excluded_llm_metadata_keys": ["a"]}
        nodes = parser.get_nodes_from_documents([document_of(TEXT, **fields)])
        pairs = list(itertools.pairwise(nodes))
        return [
            [
                getattr(one, name) is getattr(other, name)
                for name in ("embedding", "metadata", "relationships", "excluded_llm_metadata_keys")
            ]
            + [
                one.source_node is other.source_node,
                one.source_node.metadata is other.source_node.metadata,
                one.metadata["a"] is other.metadata["a"],
                one.next_node.metadata is other.metadata,
                other.prev_node.metadata is one.metadata,
            ]
            for one, other in pairs
        ]

    parser = make()
    assert shared(accelerate(parser)) == shared(parser)


def test_random_ids(make: Callable[..., Any]) -> None:
    nodes = accelerate(make(id_func=None)).get_nodes_from_documents([document_of(TEXT), document_of(TEXT[:500])])
    ids = [node.node_id for node in nodes]
    assert len(set(ids)) == len(ids) > 3
    assert all(str(uuid.UUID(id_, version=4)) == id_ for id_ in ids)
    assert [node.prev_node.node_id for node in nodes if node.prev_node] == [
        before.node_id for before, node in itertools.pairwise(nodes) if node.prev_node
    ]


def test_no_way_to_make_ids(make: Callable[..., Any]) -> None:
    """As some versions leave it: ids are random then."""
    parser = make()
    vars(parser)["id_func"] = None
    native, ours = (each.get_nodes_from_documents([document_of(TEXT)]) for each in (parser, accelerate(parser)))
    assert [node.text for node in ours] == [node.text for node in native]
    assert len({node.node_id for node in ours}) == len(ours) > 3


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize("given", [7, None, Name("name"), "\ud800", b"bytes"])
def test_ids_that_are_no_plain_strings(make: Callable[..., Any], given: Any) -> None:
    assert_same(make(id_func=lambda index, document: given), [document_of(TEXT)])
    assert_same(make(id_func=lambda index, document: given if index else "first"), [document_of(TEXT)])


def test_an_id_func_that_fails(make: Callable[..., Any]) -> None:
    def fails(index: int, document: Any) -> str:
        return {"document 5": "x"}[document.node_id]

    assert_same(make(id_func=fails), [document_of("Five."), document_of(TEXT)])


# -- real text -------------------------------------------------------------------------------------------


def real_documents(characters: int) -> list[Document]:
    return [
        Document(text=text, id_=str(number), metadata={"file_path": f"docs/{number}.md", "file_size": len(text)})
        for number, text in enumerate(corpus(characters))
    ]


@pytest.mark.parametrize(("size", "overlap"), [(1024, 200), (256, 20)])
@pytest.mark.parametrize("cls", [SentenceSplitter, TokenTextSplitter])
def test_real_text(cls: Any, size: int, overlap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    characters = 200_000 if cls is TokenTextSplitter else 1_000_000
    splitter = cls(chunk_size=size, chunk_overlap=overlap, id_func=numbered)
    accelerated = assert_same(splitter, real_documents(characters))
    # All that is longer than a chunk's number of tokens took the fast path: it goes on without the native steps.
    monkeypatch.setattr(type(accelerated), "_calls_known_code", lambda self: True)
    monkeypatch.setattr(type(accelerated), "_split", lambda self, text, chunk_size: pytest.fail("asked natively"))
    accelerated.get_nodes_from_documents(
        [document for document in real_documents(characters) if len(document.text) > size]
    )


@pytest.mark.parametrize("make_one", [SentenceWindowNodeParser, MarkdownNodeParser])
def test_real_text_by_sentence_and_section(make_one: Any) -> None:
    assert_same(make_one(id_func=numbered), real_documents(500_000))


def test_another_version_of_the_native_code_stays_native(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {**known_code._KNOWN, "NodeParser._postprocess_parsed_nodes": frozenset({"something else"})}
    monkeypatch.setattr(known_code, "_KNOWN", known)
    node_parsers._class_reason.cache_clear()
    try:
        parser = make()
        assert accelerate(parser) is parser
        assert native_reason(parser) == (
            "the installed llama-index-core has another NodeParser._postprocess_parsed_nodes than known"
        )
    finally:
        monkeypatch.undo()
        node_parsers._class_reason.cache_clear()
    assert native_reason(make()) is None


# -- the same ways in ------------------------------------------------------------------------------------


async def test_every_way_in(make: Callable[..., Any]) -> None:
    parser = make()
    accelerated = accelerate(parser)
    documents = [document_of(TEXT), document_of(TEXT[:300])]
    expected = visible(parser.get_nodes_from_documents(documents))
    assert visible(accelerated(documents)) == expected
    assert visible(accelerated.get_nodes_from_documents(documents, show_progress=True)) == expected
    assert visible(await accelerated.aget_nodes_from_documents(documents)) == expected
    assert visible(await accelerated.acall(documents)) == expected
    assert visible(IngestionPipeline(transformations=[accelerated]).run(documents=documents)) == expected
    if hasattr(parser, "split_text"):
        texts = [TEXT, "", "Short.", TEXT[:300]]
        assert accelerated.split_texts(texts) == parser.split_texts(texts)
        assert accelerated.split_text(TEXT) == parser.split_text(TEXT)
        assert accelerated.split_text_metadata_aware(TEXT, "a: b") == parser.split_text_metadata_aware(TEXT, "a: b")
        strings = ["a: b"] * len(texts)
        assert accelerated.split_texts_metadata_aware(texts, strings) == parser.split_texts_metadata_aware(
            texts, strings
        )


def test_callbacks_and_spans_are_native(make: Callable[..., Any]) -> None:
    seen = []
    for change in (lambda parser: parser, accelerate):
        manager, events = watched()
        parser: Any = change(make(callback_manager=manager))
        with spans() as traced:
            parser([document_of(TEXT), document_of("Short."), document_of("")])
        seen.append((events, traced))
    assert seen[0][0]
    assert any(kind == "exit" for kind, *_ in seen[0][1])
    assert seen[0] == seen[1]


def test_a_listener_to_one_module_hears_the_same(make: Callable[..., Any]) -> None:
    for module in ("llama_index.core.node_parser.interface", type(make()).__module__):
        seen = []
        for parser in (make(), accelerate(make())):
            with spans(module) as traced:
                parser([document_of(TEXT)])
            seen.append(traced)
        assert seen[0] == seen[1]


# -- the same object -------------------------------------------------------------------------------------


def test_it_is_the_native_class_to_everybody(make: Callable[..., Any]) -> None:
    parser = make(id_func=None)
    accelerated = accelerate(parser)
    assert isinstance(accelerated, type(parser))
    assert aaflow_plugins.accelerate(accelerated) is accelerated
    assert native_reason(accelerated) is None
    assert accelerated.class_name() == parser.class_name()
    assert accelerated.to_dict() == parser.to_dict()
    assert accelerated.model_dump() == parser.model_dump()
    assert json.loads(accelerated.to_json()) == json.loads(parser.to_json())
    assert outcome(type(accelerated).model_json_schema) == outcome(type(parser).model_json_schema)
    assert repr(accelerated) == repr(parser)
    rebuilt = type(parser).from_dict(accelerated.to_dict() | {"id_func": None})
    assert type(rebuilt) is type(parser)
    accelerated.include_metadata = False
    assert parser.include_metadata


def test_copies_and_pickles_are_accelerated(make: Callable[..., Any]) -> None:
    parser = make(id_func=None, callback_manager=CallbackManager([]))
    accelerated = accelerate(parser)
    # Pickling natively takes from the very object what can't be pickled.
    native = pickle.loads(pickle.dumps(copy.copy(parser)))
    copies = [copy.copy(accelerated), accelerated.model_copy(), pickle.loads(pickle.dumps(copy.copy(accelerated)))]
    for other in copies:
        assert isinstance(other, Accelerated)
        assert isinstance(other, type(parser))
        assert other.to_dict() == native.to_dict()
        texts = [node.text for node in parser.get_nodes_from_documents([document_of(TEXT)])]
        assert [node.text for node in other.get_nodes_from_documents([document_of(TEXT)])] == texts


def test_settings_changed_later_count(make: Callable[..., Any]) -> None:
    parser = make()
    accelerated = accelerate(parser)
    for each in (parser, accelerated):
        each.include_prev_next_rel = False
        if hasattr(each, "chunk_size"):
            each.chunk_size = 90
    documents = [document_of(TEXT)]
    assert visible(accelerated(documents)) == visible(parser(documents))


@pytest.mark.parametrize("cls", [SimpleFileNodeParser])
def test_other_parsers_stay_themselves(cls: Any) -> None:
    parser = cls()
    assert accelerate(parser) is parser
    assert "a way of its own" in str(native_reason(parser))


def test_a_subclass_that_inherits_everything(make: Callable[..., Any]) -> None:
    native: Any = type(make())

    class Mine(native):  # type: ignore[misc]
        label: str = "mine"

    settings = {"chunk_size": 60, "chunk_overlap": 12} if hasattr(make(), "chunk_size") else {}
    parser = Mine(id_func=numbered, **settings)
    accelerated = assert_same(parser, [document_of(TEXT)])
    assert isinstance(accelerated, Mine)
    assert accelerated.label == "mine"


@pytest.mark.parametrize("method", ["_postprocess_parsed_nodes", "_parse_nodes", "__reduce_ex__"])
def test_a_subclass_with_a_way_of_its_own_stays_native(make: Callable[..., Any], method: str) -> None:
    native: Any = type(make())

    def own(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(mine, self), method)(*args, **kwargs)

    mine: Any = type("Mine", (native,), {method: own, "__module__": __name__})
    parser = mine()
    assert accelerate(parser) is parser
    assert method in str(native_reason(parser))


def test_a_method_of_nodes_patched_later_is_called(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    parser = make()
    fast = accelerate(parser)
    fast.get_nodes_from_documents([document_of(TEXT)])
    monkeypatch.setattr(TextNode, "hash", property(lambda self: f"of {len(self.text)} characters"))
    native, ours = (each.get_nodes_from_documents([document_of(TEXT)]) for each in (parser, fast))
    hashes = [[info.hash for info in (node.prev_node, node.next_node) if info] for node in native]
    assert any(hashes)
    assert [[info.hash for info in (node.prev_node, node.next_node) if info] for node in ours] == hashes


def test_a_method_patched_later_is_called(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    accelerated = accelerate(make())
    monkeypatch.setattr(NodeParser, "_postprocess_parsed_nodes", lambda self, nodes, parents: nodes[:1])
    assert len(accelerated([document_of(TEXT)])) == 1


PATCHABLE = [
    (SentenceSplitter, "_split", lambda self, text, chunk_size: []),
    (SentenceSplitter, "_merge", lambda self, splits, chunk_size: ["merged"]),
    (SentenceSplitter, "_split_text", lambda self, text, chunk_size: ["split"]),
    (SentenceSplitter, "_postprocess_chunks", lambda self, chunks: ["postprocessed"]),
    (TokenTextSplitter, "_merge", lambda self, splits, chunk_size: ["merged"]),
    (MarkdownNodeParser, "get_nodes_from_node", lambda self, node: []),
    (MarkdownNodeParser, "_build_node_from_split", lambda self, split, node, path: TextNode(text=split, id_="x")),
    (SentenceWindowNodeParser, "build_window_nodes_from_documents", lambda self, documents: []),
]


@pytest.mark.parametrize(("cls", "name", "other"), PATCHABLE)
def test_whatever_is_patched_onto_the_native_class_counts(
    cls: Any, name: str, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = cls(id_func=numbered)
    accelerated = accelerate(parser)
    monkeypatch.setattr(cls, name, other)
    documents = [document_of(TEXT)]
    assert visible(accelerated(documents)) == visible(parser(documents))


@pytest.mark.parametrize(("cls", "name", "other"), PATCHABLE)
def test_a_subclass_of_an_accelerated_class_counts(cls: Any, name: str, other: Any) -> None:
    mine: Any = type("Mine", (type(accelerate(cls())),), {name: other, "__module__": __name__})
    native: Any = type("Mine", (cls,), {name: other, "__module__": __name__})
    documents = [document_of(TEXT)]
    assert visible(mine(id_func=numbered)(documents)) == visible(native(id_func=numbered)(documents))


def test_an_object_with_a_method_of_its_own_stays_native(make: Callable[..., Any]) -> None:
    parser = make()
    parser.__dict__["_postprocess_parsed_nodes"] = lambda nodes, parents: []
    assert accelerate(parser) is parser
    assert "its own _postprocess_parsed_nodes" in str(native_reason(parser))


def test_the_collector_is_on_afterwards(make: Callable[..., Any]) -> None:
    def fails(index: int, document: Any) -> str:
        assert gc.isenabled() or index == 0
        raise LookupError

    accelerate(make())([document_of(TEXT)])
    assert gc.isenabled()
    with pytest.raises(LookupError):
        accelerate(make(id_func=fails))([document_of(TEXT)])
    assert gc.isenabled()
