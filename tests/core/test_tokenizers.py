"""Tokens counted and encoded here are tiktoken's, whichever tokenizer does it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aaflow_plugins import tokenizers
from aaflow_plugins.tokenizers import OrdinaryTokens, ordinary_tokens, plain_special_settings
from tests.generated import examples

tiktoken = pytest.importorskip("tiktoken")

ENCODINGS = ["cl100k_base", "o200k_base"]
FRAGMENTS = st.sampled_from([
    "a", "Z", "the", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", " I'\u017f", "1", "234", ".", "--", "=" * 9, "\u00e9",
    "\u0301", "\u4e2d", "\u3000", "\U0001f600", "\u200d", "\u0660", "\u00bd", "\x1c", "\x85", "\u2028", "\u212a",
    "word", " x", "Camel", "/", "\ud800", "<|", "think|>",
])  # fmt: skip
texts = st.one_of(st.lists(FRAGMENTS, max_size=40).map("".join), st.text(max_size=40))


def made(name: str, *, faster: bool) -> OrdinaryTokens:
    tokens = OrdinaryTokens(tiktoken.get_encoding(name))
    if faster:
        pytest.importorskip("splintr")
        assert tokens.load_faster()
        assert tokens.engine.startswith("splintr-rs ")
    else:
        tokens._untried = False
    return tokens


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("name", ENCODINGS)
def test_generated_text(name: str, faster: bool) -> None:
    """Counts and ids are tiktoken's on generated text, lone surrogates included."""
    tokens = made(name, faster=faster)
    encode = tokens.encoding.encode_ordinary

    @settings(max_examples=examples(400), deadline=None, derandomize=True)
    @given(st.lists(texts, max_size=4))
    def check(texts: list[str]) -> None:
        assert tokens.counts(texts) == [len(encode(text)) for text in texts]
        for text in texts:
            assert tokens.encode(text).tolist() == encode(text)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_every_character(name: str) -> None:
    """The faster tokenizer classes characters as tiktoken does, next to letters, digits, spaces and themselves.

    All of the first two planes and some of the rest; the one that it classes otherwise is left to tiktoken.
    """
    tokens = made(name, faster=True)
    encode = tokens.encoding.encode_ordinary
    for start in (*range(0, 0x20000, 16), *range(0x20000, 0x110000, 16 * 61)):
        text = "".join(
            f"ab{chr(point)}cd {chr(point)}12{chr(point)} 3 {chr(point)}{chr(point)}. {chr(point)}\n{chr(point)}Ab"
            f"I'{chr(point)}'{chr(point)}e 'l{chr(point)} {chr(point)}'s A{chr(point)}b{chr(point)}B/{chr(point)}\r"
            for point in range(start, start + 16)
            if not 0xD800 <= point < 0xE000
        )
        assert tokens.encode(text).tolist() == encode(text), hex(start)


@pytest.mark.parametrize("faster", [False, True])
def test_enough(faster: bool) -> None:
    """Where a bound suffices, counts under it are true and others are at least the bound."""
    tokens = made("cl100k_base", faster=faster)
    many = st.lists(FRAGMENTS, min_size=1, max_size=12).flatmap(
        lambda parts: st.integers(1, 60).map(lambda times: "".join(parts) * times)
    )

    @settings(max_examples=examples(400), deadline=None, derandomize=True)
    @given(st.lists(many, max_size=3), st.integers(1, 30))
    def check(texts: list[str], enough: int) -> None:
        truth = [len(tokens.encoding.encode_ordinary(text)) for text in texts]
        for count, true in zip(tokens.counts(texts, enough), truth, strict=True):
            assert count == true or enough <= count < true

    check()
    assert tokens.counts(["plain words " * 1000], 10)[0] < 100


def test_special_tokens_are_not_ordinary() -> None:
    """A text that holds a special token's literal is told apart, one that holds part of it is not."""
    tokens = made("cl100k_base", faster=False)
    assert not tokens.is_ordinary("some <|endoftext|> here")
    assert tokens.is_ordinary("some <|endoftext| > here")
    assert tokens.is_ordinary("")
    odd = tiktoken.Encoding(
        "odd",
        pat_str=tokens.encoding._pat_str,
        mergeable_ranks=tokens.encoding._mergeable_ranks,
        special_tokens={"STOP": 100300},
    )
    assert not OrdinaryTokens(odd).is_ordinary("a STOP sign")
    assert OrdinaryTokens(odd).is_ordinary("a stop sign")


PLAIN = [
    ("all", "all"), ("all", ()), (set(), "all"), (frozenset(), []), ({"<|endoftext|>"}, "all"), (set(), set()),
    (frozenset({"<|endoftext|>"}), ["<|endoftext|>", "<|fim_prefix|>"]), (set(), ("<|endoftext|>",)),
]  # fmt: skip
NOT_PLAIN = [
    (set(), {"secret"}), (set(), ["secret"]), (set(), ("<|endoftext|>", "secret")), (set(), {"<|endoftext|>": 1}),
    (["<|endoftext|>"], "all"), ([], ()), ((), ()), (None, "all"), (set(), None), ({1}, ()), (set(), [3]),
    ("none", "all"), (set(), "secret"), (set(), [[]]),
]  # fmt: skip


@pytest.mark.parametrize(("allowed", "disallowed", "plain"), [(*one, True) for one in PLAIN] + [
    (*one, False) for one in NOT_PLAIN
])  # fmt: skip
def test_special_settings(allowed: Any, disallowed: Any, plain: bool) -> None:
    """Settings under which ordinary text is refused, or all text is, are told from the others."""
    encoding = tiktoken.get_encoding("cl100k_base")
    assert plain_special_settings(encoding, allowed, disallowed) is plain
    if plain:
        text = "no secret in this ordinary text"
        assert encoding.encode(
            text, allowed_special=allowed, disallowed_special=disallowed
        ) == encoding.encode_ordinary(text)


def test_variant_of_a_known_encoding_is_not_trusted() -> None:
    """An encoding under a known name that is not the registered one is counted by tiktoken alone."""
    real = tiktoken.get_encoding("cl100k_base")
    variant = tiktoken.Encoding(
        "cl100k_base", pat_str=r"\w+|\s+|[^\w\s]+", mergeable_ranks=real._mergeable_ranks, special_tokens={}
    )
    tokens = OrdinaryTokens(variant)
    assert not tokens.load_faster()
    assert tokens.engine == "tiktoken"
    text = "plain words and 12345678 figures " * 200
    assert tokens.counts([text], 5) == [len(variant.encode_ordinary(text))]


@pytest.mark.parametrize(
    ("fault", "trusted"), [("", True), ("a token", False), ("a special token", False), ("a cut", False)]
)
def test_faster_tokenizer_that_disagrees_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, fault: str, trusted: bool
) -> None:
    """One different token in the check, and tiktoken counts."""
    splintr = pytest.importorskip("splintr")
    other = splintr.Tokenizer.from_pretrained("cl100k_base")

    class Disagrees:
        vocab_size = other.vocab_size

        def decode_bytes(self, ids: list[int]) -> bytes:
            spelled = bytes(other.decode_bytes(ids))
            if fault == "a special token":
                return spelled.replace(b"<|think|>", b"[think]")
            return spelled.replace(b"splice", b"spline") if fault == "a token" else spelled

        def encode_flat(self, text: str) -> bytes:
            return bytes(other.encode_flat(text.replace("12345", "1 2345") if fault == "a cut" else text))

    monkeypatch.setattr(splintr.Tokenizer, "from_pretrained", lambda name: Disagrees(), raising=False)
    tokens = OrdinaryTokens(tiktoken.get_encoding("cl100k_base"))
    assert tokens.load_faster() is trusted
    assert (tokens.engine == "tiktoken") is not trusted
    assert tokens.counts(["12345678"]) == [3]


@pytest.mark.parametrize("broken", [None, "class"])
def test_without_the_faster_tokenizer(monkeypatch: pytest.MonkeyPatch, broken: str | None) -> None:
    """Not installed, or with another interface: tiktoken counts, and nothing is raised."""
    if broken is None:
        monkeypatch.setitem(sys.modules, "splintr", None)
    else:
        splintr = pytest.importorskip("splintr")
        monkeypatch.setattr(splintr, "Tokenizer", object)
    tokens = OrdinaryTokens(tiktoken.get_encoding("cl100k_base"))
    assert not tokens.load_faster()
    assert tokens.counts(["one two"]) == [2]


def test_loaded_only_when_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster tokenizer is loaded once enough characters have been counted."""
    pytest.importorskip("splintr")
    monkeypatch.setattr(tokenizers, "_WORTH_LOADING", 1000)
    tokens = OrdinaryTokens(tiktoken.get_encoding("cl100k_base"))
    tokens.counts(["x" * 600])
    assert tokens.engine == "tiktoken"
    tokens.counts(["y" * 600])
    assert tokens.engine.startswith("splintr-rs ")


def test_loaded_at_once_for_what_is_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text is counted as a whole and in parts, so that half the characters make it worth while."""
    pytest.importorskip("splintr")
    monkeypatch.setattr(tokenizers, "_WORTH_LOADING", 1000)
    tokens = OrdinaryTokens(tiktoken.get_encoding("cl100k_base"))
    tokens.expect(499)
    assert tokens.engine == "tiktoken"
    tokens.expect(500)
    assert tokens.engine.startswith("splintr-rs ")


def test_long_s() -> None:
    """The one character on which the two tokenizers differ is left to tiktoken."""
    tokens = made("o200k_base", faster=True)
    text = "so did I'\u017f"
    truth = tokens.encoding.encode_ordinary(text)
    assert tokens._flat is not None
    assert len(tokens._flat(text)) != 4 * len(truth), "agrees by now: the exception can go"
    assert tokens.counts(["plain", text]) == [1, len(truth)]
    assert tokens.encode(text).tolist() == truth


def test_special_tokens_of_splintr_alone() -> None:
    """To tiktoken they are text like any other."""
    tokens = made("cl100k_base", faster=True)
    for text in ("<|think|>", "so <|/think|> it ends", "<|system", "x <| y |> z"):
        assert tokens.is_ordinary(text)
        truth = tokens.encoding.encode_ordinary(text)
        assert tokens.counts([text, "plain"]) == [len(truth), 1]
        assert tokens.encode(text).tolist() == truth
    assert tokens._flat is not None
    assert len(tokens._flat("<|think|>")) == 4, "no special token any more: the exception can go"


def test_byte_lengths() -> None:
    """Each id's length is that of its bytes."""
    tokens = made("cl100k_base", faster=False)
    encoding = tokens.encoding
    for token in (0, 1, 255, 256, 1000, 50_000, 100_255):
        assert tokens.byte_lengths[token] == len(encoding.decode_single_token_bytes(token))


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_covers_text(name: str) -> None:
    """Where all of a text is said to be spelled by its tokens, every character is; a variant promises nothing."""
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception:
        pytest.skip(f"{name} is not to be had here")
    tokens = OrdinaryTokens(encoding)
    assert tokens.covers_text
    text = "".join(f"{chr(point)}a {chr(point)}" for point in range(0x3100))
    assert encoding.decode_bytes(encoding.encode_ordinary(text)) == text.encode()
    variant = tiktoken.Encoding(name, pat_str=r"\w+", mergeable_ranks=encoding._mergeable_ranks, special_tokens={})
    assert not OrdinaryTokens(variant).covers_text


def test_one_for_each_encoding() -> None:
    """Counters, and what they have loaded, are kept by encoding."""
    encoding = tiktoken.get_encoding("cl100k_base")
    assert ordinary_tokens(encoding) is ordinary_tokens(encoding)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_real_text(name: str) -> None:
    """Paragraphs and whole files of the standard library have the same ids."""
    tokens: Any = made(name, faster=True)
    total = 0
    for path in sorted(Path(subprocess.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if not tokens.is_ordinary(text):
            continue
        assert tokens.encode(text).tolist() == tokens.encoding.encode_ordinary(text), path
        paragraphs = text.split("\n\n")
        assert tokens.counts(paragraphs) == [len(tokens.encoding.encode_ordinary(one)) for one in paragraphs], path
        total += len(text)
        if total > 3_000_000:
            break


def test_import_is_light() -> None:
    """Importing the module loads neither tokenizer."""
    code = "import aaflow_plugins.tokenizers, sys; print({'tiktoken', 'splintr', 'regex'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
