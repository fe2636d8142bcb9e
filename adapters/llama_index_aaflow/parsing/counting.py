"""Counting the tokens of pieces of text: all of a level at once, or one by one by a function not known."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

from llama_index.core.schema import Document, TextNode

from aaflow_plugins.tokenizers import OrdinaryTokens, encoding_behind, ordinary_tokens


class Counter(Protocol):
    """Numbers of tokens."""

    def counts(self, texts: Sequence[str], enough: int = ...) -> Iterable[int]:
        """The number of tokens of each text; where it is `enough` or more, any number from `enough` on."""


class EachCounted:
    """What a tokenizer that is not known counts, asked piece by piece, each when its turn comes."""

    def __init__(self, tokenizer: Callable[[str], Any]) -> None:
        self._tokenizer = tokenizer

    def counts(self, texts: Sequence[str], enough: int = 0) -> Iterator[int]:
        """The number of tokens of each text."""
        tokenizer = self._tokenizer
        return (len(tokenizer(text)) for text in texts)


class Checked:
    """Known tokens, of pieces that may hold a special token's literal though the whole text holds none."""

    def __init__(self, tokens: OrdinaryTokens, tokenizer: Callable[[str], Any]) -> None:
        self._tokens = tokens
        self._each = EachCounted(tokenizer)

    def counts(self, texts: Sequence[str], enough: int = sys.maxsize) -> Iterable[int]:
        """The number of tokens of each text."""
        ordinary = all(map(self._tokens.is_ordinary, texts))
        return self._tokens.counts(texts, enough) if ordinary else self._each.counts(texts)


def known_tokens(tokenizer: Any) -> OrdinaryTokens | None:
    """What counts ordinary text as a tokenizer function does; None if the function is not known."""
    try:
        return _known_tokens(tokenizer)
    except TypeError:  # It can't be hashed.
        return None


@lru_cache(maxsize=64)
def _known_tokens(tokenizer: Any) -> OrdinaryTokens | None:
    encoding = encoding_behind(tokenizer)
    return None if encoding is None else ordinary_tokens(encoding)


def counter_for(tokenizer: Callable[[str], Any], text: str) -> Counter:
    """What counts a text and the parts of it as a tokenizer function does."""
    tokens = known_tokens(tokenizer)
    return EachCounted(tokenizer) if tokens is None or not tokens.is_ordinary(text) else tokens


def expect_documents(parser: Any, documents: Iterable[Any]) -> None:
    """Say what texts a parser is to count, so that a tokenizer that is worth loading is loaded first."""
    if (tokens := known_tokens(getattr(parser, "_tokenizer", None))) is not None:
        tokens.expect(sum(len(each.text) for each in documents if type(each) in (Document, TextNode)))


def checked(counter: Counter, tokenizer: Callable[[str], Any]) -> Counter:
    """What counts also pieces that are no parts of the text that a counter is for."""
    return Checked(counter, tokenizer) if isinstance(counter, OrdinaryTokens) else counter
