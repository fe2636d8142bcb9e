"""JSONNodeParser and HTMLNodeParser give the native nodes for any document, each hashed once."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import schema
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import HTMLNodeParser, JSONNodeParser
from llama_index.core.schema import Document, ImageDocument, NodeRelationship, RelatedNodeInfo, TextNode

from llama_index_aaflow import accelerate
from llama_index_aaflow.node_parsers import Accelerated, native_reason
from llama_index_aaflow.parsing.nodes import Parent
from tests.generated import examples
from tests.llama_index.parsing_outcomes import FRAGMENTS, assert_same, document_of, numbered, outcome, texts, visible
from tests.llama_index.tracing import spans, watched

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.sampled_from([*FRAGMENTS, "\ud800"]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b c", "", "\u00e9"]), inner, max_size=3)
    ),
    max_leaves=8,
)
TAGS = ["p", "h1", "h2", "li", "b", "section", "div", "table", "script"]
MARKUP = st.lists(
    st.one_of(
        st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS]),
        st.sampled_from(["<!-- note -->", "<br/>", "&amp;", "&#55296;", "<p class='x'>", "<", "]]>"]),
        st.sampled_from(FRAGMENTS),
    ),
    max_size=25,
).map("".join)

JSON = json.dumps([{"id": n, "tags": ["a", "b"], "body": {"text": f"Some words {n}"}} for n in range(5)])
HTML = "".join(f"<h1>Title {n}</h1><p>Words <b>{n}</b></p><p></p><ul><li>one<li>two</ul>" for n in range(4))
CASES: list[Any] = [(JSONNodeParser, JSON), (HTMLNodeParser, HTML)]


# -- nodes -----------------------------------------------------------------------------------------------


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(st.lists(VALUES, max_size=3), st.sampled_from([None, 2]), st.booleans(), st.booleans())
def test_records(values: list[Any], indent: int | None, include_metadata: bool, include_prev_next_rel: bool) -> None:
    parser = JSONNodeParser(
        include_metadata=include_metadata, include_prev_next_rel=include_prev_next_rel, id_func=numbered
    )
    written = [json.dumps(value, indent=indent) for value in [*values, values]]
    assert_same(parser, [document_of(text, id_=str(number)) for number, text in enumerate(written)])
    assert_same(parser, [document_of(written[-1])])


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "3", '"text"', "null", "[]", "{}", "[[], {}]", '[{"a": "\\ud800"}]', '{"a": ["<", 1e999, NaN]}',
     pytest.param("[" * 5_000 + "]" * 5_000, id="deep"), pytest.param("[" + "9" * 5_000 + "]", id="long")],
)  # fmt: skip
def test_what_is_no_list_of_records(text: str) -> None:
    assert_same(JSONNodeParser(id_func=numbered), [document_of(JSON, id_="json"), document_of(text)])


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(st.lists(st.one_of(MARKUP, texts), max_size=2), st.booleans(), st.booleans())
def test_tags(given: list[str], include_metadata: bool, include_prev_next_rel: bool) -> None:
    parser = HTMLNodeParser(
        include_metadata=include_metadata, include_prev_next_rel=include_prev_next_rel, id_func=numbered
    )
    assert_same(parser, [document_of(text, id_=str(number)) for number, text in enumerate(given)])


@pytest.mark.parametrize("tags", [["p"], ["h1", "li"], [], ["nothing"]])
def test_chosen_tags(tags: list[str]) -> None:
    assert_same(HTMLNodeParser(tags=tags, id_func=numbered), [document_of(HTML)])


@pytest.mark.parametrize(("cls", "text"), CASES)
@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {}},
        {"metadata": {"tag": "mine", "x": [1]}, "excluded_llm_metadata_keys": ["x"]},
        {"embedding": [0.5], "text_template": "{content}", "metadata_separator": " | "},
        {"relationships": {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book", metadata={"title": "t"})}},
    ],
)
def test_what_documents_hold(cls: Any, text: str, fields: dict[str, Any]) -> None:
    assert_same(cls(id_func=numbered), [document_of(text, **fields), TextNode(text=text, id_="node", **fields)])
    assert_same(cls(id_func=numbered), [ImageDocument(text=text, id_="image", image=b"hello", **fields)])


@pytest.mark.parametrize(("cls", "text"), CASES)
def test_nodes_share_nothing(cls: Any, text: str) -> None:
    nodes = accelerate(cls(id_func=numbered)).get_nodes_from_node(document_of(text))
    assert len(nodes) > 3
    assert len({id(node.metadata) for node in nodes}) == len({id(node.source_node) for node in nodes}) == len(nodes)


@pytest.mark.parametrize(("cls", "text"), CASES)
def test_ids(cls: Any, text: str) -> None:
    """`id_func` is asked as natively, and its errors come through."""
    asked: list[Any] = []

    def counting(index: int, document: Any) -> str:
        asked.append((index, document.id_))
        if len(asked) in (4, 8):
            raise KeyError("no id")
        return str(len(asked) % 4)

    parser = cls(id_func=counting)
    native = outcome(lambda: parser.get_nodes_from_documents([document_of(text)]))
    assert outcome(lambda: accelerate(parser).get_nodes_from_documents([document_of(text)])) == native
    assert native[0] == "raised"
    assert asked[:4] == asked[4:]


@settings(max_examples=examples(300), deadline=None, derandomize=True)
@given(
    st.text("ab\n", max_size=12),
    st.lists(st.tuples(st.text("ab\n", max_size=5), st.integers(0, 12)), min_size=2, max_size=6),
)
def test_where_texts_are_found(text: str, asked: list[tuple[str, int]]) -> None:
    parent = Parent(Document(text=text))
    for part, start in asked:
        assert parent.find(part, start) == text.find(part, start)


@pytest.mark.parametrize(("cls", "text"), CASES)
def test_a_document_is_hashed_once(cls: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Natively it is hashed for each of its nodes."""
    native, hashed = schema.sha256, []

    def counted(data: bytes = b"") -> Any:
        hashed.append(len(data) >= len(text))
        return native(data)

    monkeypatch.setattr(schema, "sha256", counted)
    counts = []
    for parser in (cls(), accelerate(cls())):
        nodes = parser.get_nodes_from_documents([document_of(text)])
        counts.append(sum(hashed))
        hashed.clear()
    assert counts == [len(nodes), 1]


# -- as natively -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "text"), CASES)
def test_it_is_the_native_class_to_everybody(cls: Any, text: str) -> None:
    parser = cls()
    accelerated = accelerate(parser)
    assert isinstance(accelerated, Accelerated)
    assert isinstance(accelerated, cls)
    assert native_reason(accelerated) is None
    assert accelerate(accelerated) is accelerated
    assert accelerated.to_dict() == parser.to_dict()
    assert type(pickle.loads(pickle.dumps(accelerated))) is type(accelerated)


@pytest.mark.parametrize(("cls", "text"), CASES)
def test_events_and_spans(cls: Any, text: str) -> None:
    told = []
    for change in (lambda parser: parser, accelerate):
        manager, events = watched()
        with spans() as seen:
            change(cls(callback_manager=manager, id_func=numbered)).get_nodes_from_documents([document_of(text)])
        told.append((events, seen))
    assert told[0] == told[1]
    assert all(told[0])


@pytest.mark.parametrize(("cls", "text"), CASES)
def test_in_a_pipeline(cls: Any, text: str) -> None:
    pipeline = IngestionPipeline(transformations=[cls(id_func=numbered)], disable_cache=True)
    native = pipeline.run(documents=[document_of(text)])
    assert visible(accelerate(pipeline).run(documents=[document_of(text)])) == visible(native)


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        (JSONNodeParser, "get_nodes_from_node"),
        (JSONNodeParser, "_depth_first_yield"),
        (HTMLNodeParser, "_build_node_from_split"),
        (HTMLNodeParser, "_extract_text_from_tag"),
    ],
)
def test_a_way_of_its_own_stays_native(cls: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine: Any = type("Mine", (cls,), {method: lambda self, *given: [], "__module__": __name__})
    parser = mine()
    assert accelerate(parser) is parser
    assert method in str(native_reason(parser))

    accelerated = accelerate(cls(id_func=numbered))
    text = JSON if cls is JSONNodeParser else HTML
    monkeypatch.setattr(cls, method, lambda self, *given: [])
    native = outcome(lambda: cls(id_func=numbered).get_nodes_from_documents([document_of(text)]))
    assert outcome(lambda: accelerated.get_nodes_from_documents([document_of(text)])) == native
