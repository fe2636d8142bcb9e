"""SentenceSplitter and TokenTextSplitter give the native chunks, messages and errors, whichever tokenizer counts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter, TokenTextSplitter
from llama_index.core.node_parser.text.sentence import CHUNKING_REGEX

from aaflow_plugins.tokenizers import encoding_behind, ordinary_tokens
from llama_index_aaflow import accelerate
from tests.generated import examples
from tests.llama_index.parsing_outcomes import any_texts, assert_same, document_of, numbered, outcome, texts

tiktoken = pytest.importorskip("tiktoken")

limits = st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size)))


@pytest.fixture(autouse=True, params=["tiktoken", "splintr"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Count by tiktoken alone, then by the faster tokenizer."""
    tokens = ordinary_tokens(tiktoken.get_encoding("cl100k_base"))
    before = tokens._untried, tokens._flat
    if request.param == "tiktoken":
        tokens._untried, tokens._flat = False, None
    elif tokens._flat is None:
        pytest.importorskip("splintr")
        tokens._untried = True
        assert tokens.load_faster()
    yield request.param
    tokens._untried, tokens._flat = before


def by_words(text: str) -> list[str]:
    return text.split()


def joined_sentences(text: str) -> list[str]:
    """Pieces that hold what the text does not: a special token's literal, here."""
    return [part + "<|endoftext|>" for part in text.replace("\n", "").split(". ")]


def tokenizer(name: str) -> Any:
    encoding = tiktoken.get_encoding("cl100k_base")
    return {
        "default": None,
        "encode": encoding.encode,
        "ordinary": encoding.encode_ordinary,
        "none disallowed": partial(encoding.encode, disallowed_special=()),
        "words": by_words,
        "characters": list,
    }[name]


TOKENIZERS = ["default", "encode", "ordinary", "none disallowed", "words", "characters"]


def assert_same_chunks(splitter: Any, text: str, metadata: str) -> None:
    """Assert that a splitter and its accelerated form cut a text alike, with and without metadata."""
    accelerated = accelerate(splitter)
    assert outcome(lambda: accelerated.split_text(text)) == outcome(lambda: splitter.split_text(text))
    assert outcome(lambda: accelerated.split_text_metadata_aware(text, metadata)) == outcome(
        lambda: splitter.split_text_metadata_aware(text, metadata)
    )


@settings(max_examples=examples(250), deadline=None, derandomize=True)
@given(
    any_texts,
    limits,
    st.sampled_from(TOKENIZERS),
    st.sampled_from(["\n\n\n", "\n", ". ", "ab"]),
    st.sampled_from([CHUNKING_REGEX, None, r"\w+", "(a)(b)", "(a)|b", "x*"]),
    st.sampled_from([" ", "\n", "a"]),
    st.sampled_from([None, str.splitlines, lambda text: text.split("."), lambda text: (text,), joined_sentences]),
    st.sampled_from(["", "file: a\nsize: 3"]),
)
def test_sentence_splitter(
    text: str,
    limits: tuple[int, int],
    name: str,
    paragraph: str,
    regex: Any,
    separator: str,
    chunking: Any,
    metadata: str,
) -> None:
    """Chunks and errors are native's for all settings, special tokens and lone surrogates included."""
    splitter = SentenceSplitter(
        chunk_size=limits[0],
        chunk_overlap=limits[1],
        tokenizer=tokenizer(name),
        paragraph_separator=paragraph,
        secondary_chunking_regex=regex,
        separator=separator,
        chunking_tokenizer_fn=chunking,
    )
    assert_same_chunks(splitter, text, metadata)


@settings(max_examples=examples(250), deadline=None, derandomize=True)
@given(
    any_texts,
    limits,
    st.sampled_from(TOKENIZERS),
    st.sampled_from([" ", "\n", "a", "\n\n"]),
    st.sampled_from([["\n"], [], [". ", "b"]]),
    st.booleans(),
    st.sampled_from(["", "file: a\nsize: 3"]),
)
def test_token_text_splitter(
    text: str, limits: tuple[int, int], name: str, separator: str, backup: Any, keep: bool, metadata: str
) -> None:
    """Chunks, warnings and errors are native's for all settings, special tokens and lone surrogates included."""
    splitter = TokenTextSplitter(
        chunk_size=limits[0],
        chunk_overlap=limits[1],
        tokenizer=tokenizer(name),
        separator=separator,
        backup_separators=backup,
        keep_whitespaces=keep,
    )
    assert_same_chunks(splitter, text, metadata)


@settings(max_examples=examples(80), deadline=None, derandomize=True)
@given(
    st.lists(texts, max_size=3),
    st.sampled_from([(SentenceSplitter, 70, 10), (SentenceSplitter, 30, 30), (TokenTextSplitter, 70, 10)]),
    st.booleans(),
    st.booleans(),
)
def test_nodes(given: list[str], setting: Any, include_metadata: bool, include_prev_next_rel: bool) -> None:
    cls, size, overlap = setting
    splitter = cls(
        chunk_size=size,
        chunk_overlap=overlap,
        id_func=numbered,
        include_metadata=include_metadata,
        include_prev_next_rel=include_prev_next_rel,
    )
    assert_same(splitter, [document_of(text, id_=str(number)) for number, text in enumerate(given)])


@pytest.mark.parametrize("cls", [SentenceSplitter, TokenTextSplitter])
def test_metadata_longer_than_a_chunk(cls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert_same(cls(chunk_size=20, chunk_overlap=5), [document_of("Some text.", metadata={"a": "word " * 40})])
    capsys.readouterr()
    splitter = cls(chunk_size=60, chunk_overlap=5)
    splitter.split_text_metadata_aware("Some text.", "word " * 20)
    native = capsys.readouterr().out
    accelerate(splitter).split_text_metadata_aware("Some text.", "word " * 20)
    assert capsys.readouterr().out == native != ""


@pytest.mark.parametrize("cls", [SentenceSplitter, TokenTextSplitter])
def test_a_tokenizer_that_is_not_known_is_called_less_often(cls: Any) -> None:
    calls: list[str] = []

    def counted(text: str) -> list[str]:
        calls.append(text)
        return text.split()

    splitter = cls(chunk_size=30, chunk_overlap=5, tokenizer=counted)
    text = "A sentence of some words. " * 60 + "\n\n\n" + "Another one; of parts, " * 40
    chunks = splitter.split_text(text)
    native = len(calls)
    calls.clear()
    assert accelerate(splitter).split_text(text) == chunks
    assert len(calls) < native


@pytest.mark.parametrize("cls", [SentenceSplitter, TokenTextSplitter])
def test_a_tokenizer_that_fails(cls: Any) -> None:
    def fails(text: str) -> list[str]:
        if len(text) < 40 and "bad" in text:
            raise LookupError(text)
        return text.split()

    splitter = cls(chunk_size=8, chunk_overlap=2, tokenizer=fails)
    text = "Some words that are good. " * 9 + "Then, a bad one. " + "And good ones again. " * 9
    native = outcome(lambda: splitter.split_text(text))
    assert native[0] == "raised"
    assert outcome(lambda: accelerate(splitter).split_text(text)) == native


def test_what_is_no_string() -> None:
    for splitter in (SentenceSplitter(), TokenTextSplitter()):
        for value in (None, 3, b"bytes", ["a"]):
            assert outcome(lambda value=value, splitter=splitter: accelerate(splitter).split_text(value)) == outcome(
                lambda value=value, splitter=splitter: splitter.split_text(value)
            )


def test_long_words_and_texts_without_space() -> None:
    for cls in (SentenceSplitter, TokenTextSplitter):
        assert_same(
            cls(chunk_size=50, chunk_overlap=10, id_func=numbered),
            [
                document_of(text, metadata={})
                for text in ("x" * 3000, "\u4e2d\u6587" * 400, "a.b" * 500, " " * 500, "=" * 900 + " a")
            ],
        )


def test_the_encoding_behind_a_tokenizer() -> None:
    encoding = tiktoken.get_encoding("cl100k_base")
    for known in (
        encoding.encode,
        encoding.encode_ordinary,
        partial(encoding.encode),
        partial(encoding.encode, allowed_special="all"),
        partial(encoding.encode, allowed_special={"<|endoftext|>"}, disallowed_special=()),
    ):
        assert encoding_behind(known) is encoding
    for unknown in (
        list,
        encoding,
        encoding.encode_batch,
        encoding.decode,
        lambda text: encoding.encode(text),
        partial(encoding.encode, "text"),
        partial(encoding.encode, disallowed_special={"the"}),
        partial(encoding.encode, other=1),
        partial(encoding.encode_ordinary, text="x"),
    ):
        assert encoding_behind(unknown) is None
