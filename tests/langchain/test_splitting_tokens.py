"""Splitting by tokens gives the native chunks, log messages and errors, whichever tokenizer counts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter, TokenTextSplitter

from aaflow_plugins.tokenizers import ordinary_tokens
from langchain_aaflow.splitters import accelerate_splitter, native_reason
from tests.generated import examples
from tests.langchain.splitting_outcomes import assert_same, corpus, outcome

tiktoken = pytest.importorskip("tiktoken")

FRAGMENTS = [
    "a", "the cat", " ", "  ", "\n", "\n\n", "\n\n\n", "Don't", "we'LL", "1234567", "x" * 40, " " * 30, ". ", "=====",
    "def f(x):\n    return x\n",
    "\u4e2d\u6587\u5b57", "\U0001f600\U0001f468\u200d\U0001f469", "\u00e9", "\x1c", "\ud800",
    "<|endoftext|>", "<|", "word " * 60,
]  # fmt: skip

texts = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)
limits = st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size)))
specials = st.sampled_from(
    [{}, {"allowed_special": "all"}, {"allowed_special": {"<|endoftext|>"}}, {"disallowed_special": ()}]
)


@pytest.fixture(autouse=True, params=["tiktoken", "splintr"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Count by tiktoken alone, then by the faster tokenizer."""
    ordinary_tokens.cache_clear()
    tokens = ordinary_tokens(tiktoken.get_encoding("cl100k_base"))
    if request.param == "tiktoken":
        tokens._untried = False
    else:
        pytest.importorskip("splintr")
        assert tokens.load_faster()
    yield request.param
    ordinary_tokens.cache_clear()


def made(cls: Any, special: dict[str, Any], size: int, overlap: int, **settings: Any) -> Any:
    return cls.from_tiktoken_encoder("cl100k_base", chunk_size=size, chunk_overlap=overlap, **special, **settings)


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(
    st.lists(texts, max_size=3),
    limits,
    specials,
    st.sampled_from([True, False, "end"]),
    st.sampled_from([["\n\n", "\n", " ", ""], [" ", "a"], ["<|endoftext|>", "\n"], ["."]]),
    st.booleans(),
    st.booleans(),
)
def test_recursive(
    texts: list[str],
    limits: tuple[int, int],
    special: dict[str, Any],
    keep: Any,
    separators: list[str],
    is_regex: bool,
    strip: bool,
) -> None:
    """Chunks and errors are native's for all settings, special tokens and lone surrogates included."""
    splitter = made(
        RecursiveCharacterTextSplitter,
        special,
        *limits,
        keep_separator=keep,
        separators=separators,
        is_separator_regex=is_regex,
        strip_whitespace=strip,
        add_start_index=True,
    )
    assert native_reason(splitter) is None
    assert_same(splitter, texts)


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(
    st.lists(texts, max_size=3),
    limits,
    specials,
    st.sampled_from([True, False, "end"]),
    st.sampled_from(["\n\n", " ", "", "(?=a)", "<|endoftext|>", "\\s+"]),
    st.booleans(),
)
def test_character(
    texts: list[str],
    limits: tuple[int, int],
    special: dict[str, Any],
    keep: Any,
    separator: str,
    is_regex: bool,
) -> None:
    """Chunks, errors and the log of oversized chunks are native's."""
    if is_regex and "|" in separator:
        is_regex = False
    splitter = made(
        CharacterTextSplitter,
        special,
        *limits,
        keep_separator=keep,
        separator=separator,
        is_separator_regex=is_regex,
    )
    assert_same(splitter, texts)


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(st.lists(texts, max_size=3), limits, specials)
def test_windows_of_tokens(texts: list[str], limits: tuple[int, int], special: dict[str, Any]) -> None:
    """Windows are the native ones, replacement characters at their edges included."""
    size, overlap = limits
    splitter = TokenTextSplitter(
        encoding_name="cl100k_base", chunk_size=size, chunk_overlap=overlap, add_start_index=True, **special
    )
    if overlap < size:
        assert native_reason(splitter) is None
        assert_same(splitter, texts)
    else:
        assert native_reason(splitter) == "its chunk overlap is not smaller than its chunk size"
        accelerated = accelerate_splitter(splitter)
        assert outcome(lambda: accelerated.create_documents(texts)) == outcome(lambda: splitter.create_documents(texts))


def test_special_tokens_are_refused_as_natively() -> None:
    """A literal of a special token in a text raises the native ValueError, in a separator as well."""
    splitter = made(RecursiveCharacterTextSplitter, {}, 20, 0)
    with pytest.raises(ValueError, match="disallowed special token"):
        accelerate_splitter(splitter).split_text("some text <|endoftext|> more")
    in_separator = made(RecursiveCharacterTextSplitter, {}, 20, 0, separators=["<|endoftext|>"], keep_separator=False)
    assert_same(in_separator, ["no special here", "", "one <|endoftext|> here"])
    assert outcome(lambda: accelerate_splitter(in_separator).split_text("no special here"))[0] == "raised"


def test_long_pieces_are_not_counted_through() -> None:
    """A piece many times longer than a chunk is told from its beginning, with the same chunks."""
    splitter = made(RecursiveCharacterTextSplitter, {}, 20, 5)
    assert_same(
        splitter, ["plain words " * 500, "a" * 3000, "\u4e2d\u6587 " * 600, "1 2 3 " * 700, " " * 5000 + "end of it"]
    )


@pytest.mark.parametrize("pattern", [r"\w+", r"\s+|[a-m]+", "zzz"])
def test_pattern_that_leaves_text_out(pattern: str) -> None:
    """Under an encoding that drops part of a text, windows hold what its tokens spell."""
    lossy = tiktoken.Encoding(
        "mine",
        pat_str=pattern,
        mergeable_ranks=tiktoken.get_encoding("cl100k_base")._mergeable_ranks,
        special_tokens={},
    )
    for size, overlap in ((3, 1), (2, 0), (100, 10)):
        splitter = TokenTextSplitter(encoding_name="cl100k_base", chunk_size=size, chunk_overlap=overlap)
        splitter._tokenizer = lossy
        assert_same(splitter, ["one, two three; four five!! six seven", "", "  ", "plain"])


SETTINGS = [
    {"disallowed_special": {"SECRET"}},
    {"disallowed_special": ["SECRET", "<|endoftext|>"]},
    {"disallowed_special": ("SECRET",), "allowed_special": "all"},
    {"allowed_special": ["<|endoftext|>"]},
    {"allowed_special": ["<|endoftext|>"], "disallowed_special": ()},
    {"allowed_special": {3}, "disallowed_special": ()},
]


@pytest.mark.parametrize("special", SETTINGS, ids=str)
def test_special_settings_that_refuse_ordinary_text(special: dict[str, Any]) -> None:
    """A text that holds a disallowed string which is no special token raises; so does a setting of the wrong type."""
    texts = ["this is a SECRET in a text", "nothing of the sort", "", "some <|endoftext|> here"]
    for splitter in (
        TokenTextSplitter(encoding_name="cl100k_base", chunk_size=8, chunk_overlap=2, **special),
        made(RecursiveCharacterTextSplitter, special, 3, 0),
        made(CharacterTextSplitter, special, 3, 0, separator=" "),
    ):
        assert native_reason(splitter) == "its special token settings are not all of special tokens"
        assert_same(splitter, texts)
        assert any(outcome(partial(accelerate_splitter(splitter).split_text, text))[0] == "raised" for text in texts)


def test_subclass_of_encoding_goes_native() -> None:
    """An encoding that is not exactly tiktoken's own may count in its own way."""

    class Doubling(tiktoken.Encoding):
        def encode(self, text: str, **settings: Any) -> list[int]:
            return 2 * super().encode(text, **settings)

    real = tiktoken.get_encoding("cl100k_base")
    doubling = Doubling(
        "doubling", pat_str=real._pat_str, mergeable_ranks=real._mergeable_ranks, special_tokens=real._special_tokens
    )
    splitter = TokenTextSplitter(encoding_name="cl100k_base", chunk_size=8, chunk_overlap=2)
    splitter._tokenizer = doubling
    assert native_reason(splitter) == "its tokenizer is not a tiktoken Encoding"
    accelerated = accelerate_splitter(splitter)
    text = "four words and more of them " * 5
    assert outcome(lambda: accelerated.split_text(text)) == outcome(lambda: splitter.split_text(text))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cl100k_base", "o200k_base"])
def test_real_text(encoding: str) -> None:
    """Over real files, chunk by chunk, the results are identical."""
    texts = list(corpus(2_000_000))
    settings = {"encoding_name": encoding, "chunk_size": 256, "chunk_overlap": 32}
    for splitter in (
        RecursiveCharacterTextSplitter.from_tiktoken_encoder(**settings),
        CharacterTextSplitter.from_tiktoken_encoder(**settings),
        TokenTextSplitter(**settings),
    ):
        split, native_split = accelerate_splitter(splitter).split_text, splitter.split_text
        for text in texts:
            assert outcome(partial(split, text)) == outcome(partial(native_split, text))


def test_hugging_face_tokenizer(engine: str) -> None:
    """A fast Hugging Face tokenizer counts each piece once, with the same chunks; one with dropout stays native."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    text = corpus(60_000)[0]
    for dropout in (None, 0.5):
        model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]", dropout=dropout))
        model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        model.train_from_iterator([text], tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=["[UNK]"]))
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]")
        splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(tokenizer, chunk_size=50, chunk_overlap=10)
        if dropout is None:
            assert native_reason(splitter) is None
            assert_same(splitter, [text, "", " \n\n \n" * 40, "a b\n" * 100])
            joined = CharacterTextSplitter.from_huggingface_tokenizer(
                tokenizer, separator="\n", chunk_size=20, chunk_overlap=5
            )
            assert_same(joined, [text, "", " \n\n \n" * 40])
        else:
            assert native_reason(splitter) is not None
