"""MarkdownNodeParser and SentenceWindowNodeParser give the native nodes for any text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser import MarkdownNodeParser, SentenceWindowNodeParser
from llama_index.core.schema import ImageDocument, TextNode

from llama_index_aaflow import accelerate
from llama_index_aaflow.node_parsers import native_reason
from tests.generated import examples
from tests.llama_index.parsing_outcomes import assert_same, document_of, numbered, outcome, texts

LINES = [
    *(
        "# One",
        "## Two",
        "### Three",
        "#\tTab",
        "#\u00a0Odd",
        "#",
        "# ",
        "##",
        "#x",
        " # no",
        "####### seven",
        "# trail  ",
    ),
    *("```", "```python", "  ```", "\t```", "\u3000```", "````", "x ```", "text", "", "  ", "# a/b", "# One\x85"),
    *("\r", "# cr\r", "\x0b# vt", "\x1c", "\u2028# not a line"),
]

markdown = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)


@settings(max_examples=examples(400), deadline=None, derandomize=True)
@given(
    st.lists(st.one_of(markdown, texts), max_size=2),
    st.sampled_from(["/", " > ", ""]),
    st.booleans(),
    st.booleans(),
)
def test_sections(given: list[str], separator: str, include_metadata: bool, include_prev_next_rel: bool) -> None:
    parser = MarkdownNodeParser(
        header_path_separator=separator,
        include_metadata=include_metadata,
        include_prev_next_rel=include_prev_next_rel,
        id_func=lambda index, document: f"{document.node_id}-{index}",
    )
    assert_same(parser, [document_of(text, id_=str(number)) for number, text in enumerate(given)])


def test_sections_of_one_document() -> None:
    parser = MarkdownNodeParser(id_func=numbered)
    node = TextNode(text="# A\nb\n## C\nd\n```\n# e\n```\n# F", id_="n", metadata={"header_path": "mine", "x": [1]})
    accelerated = accelerate(parser)
    native = parser.get_nodes_from_node(node)
    assert [vars(made) for made in accelerated.get_nodes_from_node(node)] == [vars(made) for made in native]
    sources = [made.source_node for made in accelerated.get_nodes_from_node(node)]
    assert len({id(source) for source in sources}) == len(sources) == 3
    assert len({id(source.metadata) for source in sources if source}) == 3


@settings(max_examples=examples(120), deadline=None, derandomize=True)
@given(st.lists(texts, max_size=2), st.integers(1, 4), st.booleans(), st.booleans())
def test_windows(given: list[str], size: int, include_metadata: bool, include_prev_next_rel: bool) -> None:
    parser = SentenceWindowNodeParser.from_defaults(
        window_size=size,
        include_metadata=include_metadata,
        include_prev_next_rel=include_prev_next_rel,
        id_func=numbered,
    )
    assert_same(parser, [document_of(text, id_=str(number)) for number, text in enumerate(given)])


@pytest.mark.parametrize(
    "split",
    [
        str.splitlines,
        lambda text: tuple(text.split(".")),
        lambda text: (part for part in text.split(".")),
        lambda text: [],
        lambda text: [text, 3],
        lambda text: [text, "\ud800", ""],
        lambda text: None,
    ],
)
def test_windows_of_somebodys_sentences(split: Any) -> None:
    parser = SentenceWindowNodeParser.from_defaults(
        sentence_splitter=split, window_metadata_key="same", original_text_metadata_key="same", id_func=numbered
    )
    assert_same(parser, [document_of("One. Two.\nThree."), document_of("")])
    assert_same(parser, [ImageDocument(text="One. Two.\nThree.", id_="image", image=b"hello")])


def test_windows_of_documents() -> None:
    parser = SentenceWindowNodeParser.from_defaults(id_func=numbered)
    documents = [document_of("One. Two. Three."), document_of("Four.")]
    native = outcome(lambda: parser.build_window_nodes_from_documents(documents))
    assert outcome(lambda: accelerate(parser).build_window_nodes_from_documents(documents)) == native


@pytest.mark.parametrize(
    ("cls", "method"),
    [
        (MarkdownNodeParser, "get_nodes_from_node"),
        (MarkdownNodeParser, "_build_node_from_split"),
        (SentenceWindowNodeParser, "build_window_nodes_from_documents"),
    ],
)
def test_a_subclass_with_a_way_of_its_own_stays_native(cls: Any, method: str) -> None:
    mine: Any = type("Mine", (cls,), {method: lambda self, *given: [], "__module__": __name__})
    parser = mine()
    assert accelerate(parser) is parser
    assert method in str(native_reason(parser))
