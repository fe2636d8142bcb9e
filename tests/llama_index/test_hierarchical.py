"""HierarchicalNodeParser gives the native nodes where the parsers that it holds are accelerated."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import (
    HierarchicalNodeParser,
    MarkdownNodeParser,
    SentenceSplitter,
    SimpleFileNodeParser,
    TokenTextSplitter,
    get_leaf_nodes,
)
from llama_index.core.schema import BaseNode, NodeRelationship

from llama_index_aaflow import accelerate
from llama_index_aaflow.ingestion_workers import runs_here
from llama_index_aaflow.node_parsers import Accelerated, native_reason
from tests.generated import examples
from tests.llama_index.parsing_outcomes import assert_same, corpus, document_of, numbered, outcome, texts, visible
from tests.llama_index.tracing import spans, watched

pytestmark = pytest.mark.usefixtures("capsys")  # small levels print that metadata fills them

TEXT = "# One\n\nA first sentence. A second one, longer; of parts. Is it?\n\n\n## Two\nYes! " * 30


def parser_of(sizes: list[int] | None = None, **given: Any) -> Any:
    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=sizes or [120, 60, 30], **{"chunk_overlap": 5, **given})
    for level in parser.node_parser_map.values():
        level.id_func = numbered
    return parser


# -- nodes -----------------------------------------------------------------------------------------------


def test_real_text() -> None:
    documents = [document_of(text, id_=str(number)) for number, text in enumerate(corpus(200_000))]
    assert_same(parser_of([2048, 512, 128], chunk_overlap=20), documents)


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(st.lists(texts, max_size=3), st.lists(st.integers(16, 90), min_size=1, max_size=3))
def test_any_text(given: list[str], sizes: list[int]) -> None:
    assert_same(parser_of(sizes), [document_of(text, id_=str(number)) for number, text in enumerate(given)])


@pytest.mark.parametrize("include_metadata", [True, False])
@pytest.mark.parametrize("include_prev_next_rel", [True, False])
def test_settings(include_metadata: bool, include_prev_next_rel: bool) -> None:
    parser = parser_of(include_metadata=include_metadata, include_prev_next_rel=include_prev_next_rel)
    assert_same(parser, [document_of(TEXT), document_of("Short."), document_of(""), document_of(TEXT[:300])])


def test_levels_of_several_kinds() -> None:
    levels: dict[str, Any] = {
        "sections": MarkdownNodeParser(id_func=numbered),
        "words": TokenTextSplitter(chunk_size=20, chunk_overlap=2, id_func=numbered),
        "spare": SentenceSplitter(),
    }
    parser = HierarchicalNodeParser.from_defaults(node_parser_ids=["sections", "words"], node_parser_map=levels)
    assert_same(parser, [document_of(TEXT), document_of("")])


def test_ids_of_any_kind() -> None:
    """Random ids differ, and nothing else: who is whose parent is the same."""

    def seen(nodes: list[BaseNode]) -> list[Any]:
        numbers: dict[str, Any] = {node.node_id: number for number, node in enumerate(nodes)}
        family = (NodeRelationship.PARENT, NodeRelationship.CHILD, NodeRelationship.PREVIOUS, NodeRelationship.NEXT)
        return [
            (node.get_content(), [[numbers[info.node_id] for info in _listed(node, kind)] for kind in family])
            for node in nodes
        ]

    parser = HierarchicalNodeParser.from_defaults(chunk_sizes=[120, 40])
    native = parser.get_nodes_from_documents([document_of(TEXT)])
    ours = accelerate(parser).get_nodes_from_documents([document_of(TEXT)])
    assert seen(ours) == seen(native)
    assert len({node.node_id for node in ours}) == len(ours)
    assert len(get_leaf_nodes(ours)) == len(get_leaf_nodes(native))


def _listed(node: BaseNode, kind: NodeRelationship) -> list[Any]:
    found = node.relationships.get(kind, [])
    return found if isinstance(found, list) else [found]


def test_a_level_too_few_and_other_errors() -> None:
    for change in (
        lambda parser: setattr(parser, "node_parser_ids", [*parser.node_parser_ids, "unknown"]),
        lambda parser: setattr(parser, "node_parser_ids", []),
        lambda parser: setattr(parser.node_parser_map["chunk_size_60"], "id_func", lambda *_: 3),
    ):
        parser = parser_of()
        change(parser)
        assert_same(parser, [document_of(TEXT)])


# -- as natively -----------------------------------------------------------------------------------------


def test_it_is_the_native_class_and_holds_accelerated_parsers() -> None:
    parser = HierarchicalNodeParser.from_defaults()
    accelerated = accelerate(parser)
    assert type(accelerated) is HierarchicalNodeParser
    assert all(isinstance(level, Accelerated) for level in accelerated.node_parser_map.values())
    assert not any(isinstance(level, Accelerated) for level in parser.node_parser_map.values())
    assert accelerate(accelerated) is accelerated
    assert native_reason(parser) is native_reason(accelerated) is None
    assert accelerated.to_dict() == parser.to_dict()
    levels = pickle.loads(pickle.dumps(accelerated)).node_parser_map
    assert all(isinstance(level, Accelerated) for level in levels.values())
    assert runs_here([parser])


def test_events_and_spans() -> None:
    told = []
    for change in (lambda parser: parser, accelerate):
        manager, events = watched()
        with spans() as seen:
            change(parser_of([120, 40], callback_manager=manager)).get_nodes_from_documents([document_of(TEXT)])
        told.append((events, seen))
    assert told[0] == told[1]
    assert all(told[0])


def test_in_a_pipeline() -> None:
    """Also what native wrote to the cache is found there."""
    seen = []
    for change in (lambda pipeline: pipeline, accelerate):
        pipeline = change(IngestionPipeline(transformations=[parser_of()]))
        made = [visible(pipeline.run(documents=[document_of(TEXT)])) for _ in range(2)]
        seen.append((made, list(pipeline.cache.cache.get_all("llama_cache"))))
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == 1


def test_what_stays_native() -> None:
    class Mine(HierarchicalNodeParser):
        def _recursively_get_nodes_from_nodes(self, *args: Any, **kwargs: Any) -> list[BaseNode]:
            return []

    class Heir(HierarchicalNodeParser):
        label: str = "mine"

    mine = Mine.from_defaults()
    assert accelerate(mine) is mine
    assert "_recursively_get_nodes_from_nodes" in str(native_reason(mine))
    other = HierarchicalNodeParser.from_defaults(
        node_parser_ids=["a", "b"], node_parser_map={"a": SentenceSplitter(), "b": SimpleFileNodeParser()}
    )
    assert accelerate(other) is other
    assert "SimpleFileNodeParser" in str(native_reason(other))
    heir = Heir.from_defaults(chunk_sizes=[90, 30])
    for level in heir.node_parser_map.values():
        level.id_func = numbered
    assert type(assert_same(heir, [document_of(TEXT)])) is Heir
    assert outcome(lambda: accelerate(heir).label) == outcome(lambda: "mine")
