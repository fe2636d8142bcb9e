"""Splitting Markdown at headers gives the native Documents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_text_splitters import MarkdownHeaderTextSplitter

from langchain_aaflow.splitters import accelerate_splitter, native_reason
from tests.generated import examples
from tests.langchain.splitting_outcomes import assert_same, corpus, outcome

LINES = [
    "", "", "text", "  more text  ", "# One", "# One", "## Two", "## Two b", "### Three", "#", "##", "#no header",
    "  # Indented", "```", "```python", "``` inline ``` ", "~~~", "~~~~", "\t", "a\tb",
    "\u200b# hidden", "# \x00odd\x07",
    "**Bold**", "** Bold **", "****", "**a**b**", "*** x ***", "#\u00a0nbsp", "\u2028", "\r", "- # item", "#### Four",
]  # fmt: skip

HEADERS = [
    [("#", "h1"), ("##", "h2"), ("###", "h3")],
    [("##", "h2"), ("#", "h1")],
    [("#", "same"), ("##", "same")],
    [("#", None), ("##", "h2")],
    [("**", "bold"), ("#", "h1"), ("***", "very")],
    [],
]


@settings(max_examples=examples(1000), deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(LINES), max_size=40).map("\n".join),
    st.sampled_from(HEADERS),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, {"**": 1}, {"**": 2, "***": 3, "#": 1}]),
)
def test_generated_text(
    text: str, headers: Any, strip_headers: bool, return_each_line: bool, custom: dict[str, int] | None
) -> None:
    """Contents, metadata and errors (a block that ends in an empty line raises) are native's."""
    splitter = MarkdownHeaderTextSplitter(
        headers,
        strip_headers=strip_headers,
        return_each_line=return_each_line,
        custom_header_patterns=custom,
    )
    assert native_reason(splitter) is None
    assert_same(splitter, [text, text + "\n" + "filling " * 20])


def test_error_is_the_native_one() -> None:
    """Where a fence is a header too, a block may end in an empty line, and what follows raises IndexError."""
    splitter = MarkdownHeaderTextSplitter([("```", "code")])
    text = "filling " * 20 + "\n```\n\n```\nmore text"
    assert outcome(lambda: accelerate_splitter(splitter).split_text(text))[:2] == (
        "raised",
        (IndexError, "string index out of range"),
    )
    assert_same(splitter, [text, text + "\n```\n", text.replace("\n\n", "\n \nx\n")])


def test_metadata_is_not_shared() -> None:
    """Changing the metadata of one Document changes no other's."""
    splitter = accelerate_splitter(MarkdownHeaderTextSplitter([("#", "h1")], return_each_line=True))
    made = splitter.split_text("# Title\n" + "\n\n".join(f"paragraph {number} of the text" for number in range(9)))
    made[0].metadata["h1"] = "changed"
    assert [document.metadata["h1"] for document in made[1:]] == ["Title"] * 8


def test_wrong_values() -> None:
    """Headers and texts that native refuses, or treats in its own way, do the same."""
    text = "# Title\n" + "some text and more of it\n" * 9
    for headers in ([("", "nothing")], [["#", "h1"]], [("#", "h1", "x")], [(("#",), "h1")]):
        splitter = MarkdownHeaderTextSplitter(headers)
        assert native_reason(splitter) is not None
        assert accelerate_splitter(splitter) is splitter
    splitter = MarkdownHeaderTextSplitter([("#", "h1")])
    accelerated = accelerate_splitter(splitter)
    for wrong in (None, b"# Title", 4):
        assert outcome(lambda wrong=wrong: accelerated.split_text(wrong)) == outcome(
            lambda wrong=wrong: splitter.split_text(wrong)
        )
    accelerated.headers_to_split_on = splitter.headers_to_split_on = [("", "nothing")]
    assert outcome(lambda: accelerated.split_text(text)) == outcome(lambda: splitter.split_text(text))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"strip_headers": False}, {"return_each_line": True}])
def test_real_text(settings: dict[str, Any]) -> None:
    """Over real files, Markdown or not, the Documents are identical."""
    splitter = MarkdownHeaderTextSplitter([("#", "h1"), ("##", "h2"), ("###", "h3")], **settings)
    accelerated = accelerate_splitter(splitter)
    for text in corpus(4_000_000):
        assert outcome(lambda text=text: accelerated.split_text(text)) == outcome(
            lambda text=text: splitter.split_text(text)
        )
