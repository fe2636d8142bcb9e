"""Splitting by characters gives the native chunks, log messages and errors."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_text_splitters import (
    CharacterTextSplitter,
    Language,
    LatexTextSplitter,
    MarkdownTextSplitter,
    PythonCodeTextSplitter,
    RecursiveCharacterTextSplitter,
)

from langchain_aaflow.splitters import accelerate_splitter, native_reason
from tests.generated import examples
from tests.langchain.splitting_outcomes import assert_same, corpus, outcome

#: What texts are put together from: separators in runs of every length, words, white space that only `strip` knows.
FRAGMENTS = [
    "a", "b", "ab", "aba", "aa", "aaa", " ", "  ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", "word", "another word",
    "x" * 17, "y" * 45, ". ", "...", "\u2003", "\x1c", "\u00e9", "\U0001f600", "\nclass A:", "\ndef f():",
    "\n## Title\n", "\n---\n", "```\n", "(", "*", "\ud800",
]  # fmt: skip
PLAIN = ["\n\n", "\n", " ", "", "a", "aa", "aba", "ab", ".", "...", "\n\n\n", "word", "  ", "\u00e9", "("]
REGEX = [
    "\n\n", "\n", " ", "", "a", "aa", r"\s+", r"\n+", r"(?=\n)", r"(?<=\. )", r"(?!a)b", "a*", r"\b", "(a)(b)?", "a|b",
    r"\n#{1,6} ", r"\.", ".", "(", "[", r"(?<!a)a", "x{3}",
]  # fmt: skip

texts = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)
limits = st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size)))
keeps = st.sampled_from([True, False, "start", "end"])


def separators(pool: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(pool), min_size=1, max_size=5)


configurations = st.one_of(
    st.tuples(separators(PLAIN), st.just(False)),
    st.tuples(separators(REGEX), st.just(True)),
    st.tuples(st.just(["\n\n", "\n", " ", ""]), st.booleans()),
)


@settings(max_examples=examples(800), deadline=None, derandomize=True)
@given(st.lists(texts, max_size=3), configurations, limits, keeps, st.booleans(), st.booleans())
@example(["\n\n\nab\n\n\n\nc\n\n\n"], (["\n\n"], False), (2, 1), "end", True, True)
@example(["\n\n\n\n\n\n\n"], (["\n\n"], False), (4, 2), True, True, False)
def test_recursive(
    texts: list[str],
    configuration: tuple[list[str], bool],
    limits: tuple[int, int],
    keep: Any,
    strip: bool,
    add_start_index: bool,
) -> None:
    """Whatever the separators and limits, chunks, start indexes and errors are the native ones."""
    assert_same(
        RecursiveCharacterTextSplitter(
            separators=configuration[0],
            is_separator_regex=configuration[1],
            chunk_size=limits[0],
            chunk_overlap=limits[1],
            keep_separator=keep,
            strip_whitespace=strip,
            add_start_index=add_start_index,
        ),
        texts,
    )


def oversize_records(splitter: Any, caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    caplog.clear()
    splitter.split_text("word " + "long" * 20 + " word " + "longer" * 20 + " word")
    return [
        (record.name, record.levelno, record.pathname, record.lineno, record.funcName, record.getMessage())
        for record in caplog.records
    ]


def test_log_records(caplog: pytest.LogCaptureFixture) -> None:
    """A chunk that is too long is logged from native's own line, whether characters are counted or tokens."""
    splitters = [CharacterTextSplitter(separator=" ", chunk_size=20, chunk_overlap=0)]
    if find_spec("tiktoken"):
        splitters.append(
            CharacterTextSplitter.from_tiktoken_encoder("cl100k_base", separator=" ", chunk_size=8, chunk_overlap=0)
        )
    for splitter in splitters:
        assert native_reason(splitter) is None
        records = oversize_records(splitter, caplog)
        assert len(records) == 2
        assert oversize_records(accelerate_splitter(splitter), caplog) == records


IN_A_GROUP = [r"(-)\1", "(?m)^#", r"(a)(b)\2", "(a)?(?(1)b|c)", "(?i)x"]


@pytest.mark.parametrize("separator", IN_A_GROUP)
@pytest.mark.parametrize("keep", [True, "start", "end", False])
def test_patterns_that_mean_something_else_in_a_group(separator: str, keep: Any) -> None:
    """Where native puts a pattern into a group and it is none there, or another, the outcome is native's."""
    texts = ["one\ntwo words\nthree", "aba " * 10, "a--b" * 10, "# x\n# y\n" * 5, "", "ab ac b c" * 5]
    for size in (3, 12, 500):
        for separators in (["\n", separator], [separator, "\n"], [separator]):
            assert_same(
                RecursiveCharacterTextSplitter(
                    separators=separators,
                    is_separator_regex=True,
                    keep_separator=keep,
                    chunk_size=size,
                    chunk_overlap=0,
                ),
                texts,
            )
        assert_same(
            CharacterTextSplitter(
                separator=separator, is_separator_regex=True, keep_separator=keep, chunk_size=size, chunk_overlap=0
            ),
            texts,
        )


@settings(max_examples=examples(600), deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=14),
    st.sampled_from(["-", "--", "+-", " ", "  "]),
    st.integers(2, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size))),
    keeps,
    st.sampled_from([[], [" ", ""], [" "]]),
)
@example([1, 3, 3, 1, 2], "-", (4, 4), True, [])
def test_limits_met_exactly(
    widths: list[int], separator: str, limits: tuple[int, int], keep: Any, rest: list[str]
) -> None:
    """Pieces, chunks and overlaps just as long as they may be, or one character more or less, come out as natively."""
    text = separator.join((chr(97 + index) * width)[:-1] + " " for index, width in enumerate(widths))
    size, overlap = limits
    for strip in (True, False):
        common = {"chunk_size": size, "chunk_overlap": overlap, "keep_separator": keep, "strip_whitespace": strip}
        recursive = RecursiveCharacterTextSplitter(separators=[separator, *rest], **common)
        assert_same(recursive, [text, text.replace(" ", "x")])
        assert_same(CharacterTextSplitter(separator=separator, **common), [text, text.replace(" ", "x")])


@settings(max_examples=examples(400), deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["\n", "\n", "\n\n", "a", "bc ", "\n" * 40]), max_size=80).map("".join),
    limits,
    st.sampled_from([True, "end"]),
    st.sampled_from(["\n\n", "\n\n\n"]),
    st.booleans(),
)
def test_runs_of_a_repeated_separator(
    text: str, limits: tuple[int, int], keep: Any, separator: str, strip: bool
) -> None:
    """In a run of newlines the cuts are those found from its beginning, wherever the search begins."""
    splitter = RecursiveCharacterTextSplitter(
        separators=[separator, "a"],
        chunk_size=limits[0],
        chunk_overlap=limits[1],
        keep_separator=keep,
        strip_whitespace=strip,
        add_start_index=True,
    )
    assert_same(splitter, [text])


@settings(max_examples=examples(400), deadline=None, derandomize=True)
@given(
    st.lists(texts, max_size=3),
    st.one_of(
        st.tuples(st.sampled_from(PLAIN), st.just(False)),
        st.tuples(st.sampled_from(REGEX), st.just(True)),
    ),
    limits,
    keeps,
    st.booleans(),
    st.booleans(),
)
def test_character(
    texts: list[str],
    separator: tuple[str, bool],
    limits: tuple[int, int],
    keep: Any,
    strip: bool,
    add_start_index: bool,
) -> None:
    """Chunks, start indexes, errors and the log of oversized chunks are the native ones."""
    assert_same(
        CharacterTextSplitter(
            separator=separator[0],
            is_separator_regex=separator[1],
            chunk_size=limits[0],
            chunk_overlap=limits[1],
            keep_separator=keep,
            strip_whitespace=strip,
            add_start_index=add_start_index,
        ),
        texts,
    )


@pytest.mark.parametrize("language", [language for language in Language if language is not Language.PERL])
def test_every_language(language: Language) -> None:
    """Each language's separators, regular expressions among them, split real text as natively."""
    try:
        splitter = RecursiveCharacterTextSplitter.from_language(language, chunk_size=300, chunk_overlap=40)
    except ValueError:
        pytest.skip("langchain-text-splitters has no separators for it")
    assert native_reason(splitter) is None
    assert_same(splitter, list(corpus(300_000)))


@pytest.mark.parametrize("made", [PythonCodeTextSplitter, LatexTextSplitter, MarkdownTextSplitter])
def test_the_packages_own_subclasses(made: type[Any]) -> None:
    """Subclasses that only choose separators take the fast path and stay what they are."""
    splitter = made(chunk_size=200, chunk_overlap=30, add_start_index=True)
    assert native_reason(splitter) is None
    assert isinstance(accelerate_splitter(splitter), made)
    assert_same(splitter, list(corpus(200_000)))


def test_oversized_pieces_are_logged_in_order() -> None:
    """The log of `CharacterTextSplitter` names each oversized chunk but the last, as the native log does."""
    splitter = CharacterTextSplitter(separator="\n", chunk_size=5, chunk_overlap=2)
    text = "tiny\nfar too long\nab\ncd\nagain too long\nlast one is too long"
    _, chunks, log = outcome(lambda: accelerate_splitter(splitter).split_text(text))
    assert chunks == ["tiny", "far too long", "ab\ncd", "again too long", "last one is too long"]
    assert [message for _, message in log] == [
        "Created a chunk of size 12, which is longer than the specified 5",
        "Created a chunk of size 14, which is longer than the specified 5",
    ]
    assert_same(splitter, [text])


def test_start_index_of_a_repeated_chunk_is_the_native_one() -> None:
    """`add_start_index` searches for the chunk and may find an earlier repeat, or nothing: so do we."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=10, chunk_overlap=9, add_start_index=True)
    texts = ["ab ab ab ab ab ab ab ab", "aaaaaaaaaaaaaaaaaaaaaaaaa", "x " * 40 + "y" * 40 + " x" * 40]
    assert_same(splitter, texts)
    joined = CharacterTextSplitter(separator="-", chunk_size=9, chunk_overlap=0, add_start_index=True)
    made = accelerate_splitter(joined).create_documents(["aa---bb-cc"])
    assert made[0].metadata["start_index"] == -1
    assert_same(joined, ["aa---bb-cc", "---", ""])


def test_values_that_native_refuses() -> None:
    """What is no text raises what it raises natively."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=10, chunk_overlap=0)
    accelerated = accelerate_splitter(splitter)
    for wrong in (None, 3, b"bytes", ["list"], 1.5):
        assert outcome(lambda wrong=wrong: accelerated.split_text(wrong)) == outcome(
            lambda wrong=wrong: splitter.split_text(wrong)
        )
        native = outcome(lambda wrong=wrong: splitter.create_documents(["good", wrong]))
        assert outcome(lambda wrong=wrong: accelerated.create_documents(["good", wrong])) == native


def test_settings_changed_afterwards() -> None:
    """Settings are read at each call, also such as can't be reproduced: these go the native way."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=30, chunk_overlap=5)
    accelerated = accelerate_splitter(splitter)
    text = " ".join(map(str, range(200)))
    changes: list[dict[str, Any]] = [
        {"_chunk_size": 50},
        {"_chunk_size": 20.5},
        {"_chunk_size": 5, "_chunk_overlap": 3},
        {"_separators": ["5", ""]},
        {"_separators": ("7", "")},
        {"_separators": ["("], "_is_separator_regex": True},
        {"_separators": [" ", ""], "_is_separator_regex": False, "_keep_separator": 1},
        {"_keep_separator": None, "_strip_whitespace": 0},
        {"_length_function": lambda chunk: 2 * len(chunk)},
    ]
    for change in changes:
        for one in (splitter, accelerated):
            vars(one).update(change)
        assert outcome(lambda: accelerated.split_text(text)) == outcome(lambda: splitter.split_text(text))
        assert outcome(lambda: accelerated.create_documents([text])) == outcome(
            lambda: splitter.create_documents([text])
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"chunk_size": 1000, "chunk_overlap": 200},
        {"chunk_size": 400, "chunk_overlap": 0, "add_start_index": True},
        {"chunk_size": 4000, "chunk_overlap": 200, "keep_separator": "end"},
        {"chunk_size": 150, "chunk_overlap": 100, "keep_separator": False},
        {"chunk_size": 60, "chunk_overlap": 7, "strip_whitespace": False},
    ],
)
def test_real_text(settings: dict[str, Any]) -> None:
    """Over eight million characters of files, chunk by chunk, the results are identical."""
    texts = corpus(8_000_000 if settings["chunk_size"] > 200 else 2_000_000)
    for splitter in (
        RecursiveCharacterTextSplitter(**settings),
        RecursiveCharacterTextSplitter.from_language(Language.MARKDOWN, **settings),
        CharacterTextSplitter(**settings),
    ):
        native = splitter.create_documents(list(texts))
        accelerated = accelerate_splitter(splitter).create_documents(list(texts))
        assert len(native) == len(accelerated)
        assert all(
            one.page_content == other.page_content and one.metadata == other.metadata
            for one, other in zip(native, accelerated, strict=True)
        )
