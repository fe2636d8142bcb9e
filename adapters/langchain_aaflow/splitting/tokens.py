"""Splitting by tokens: each piece of text is counted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from langchain_text_splitters.character import _split_text_with_regex

from aaflow_plugins.tokenizers import OrdinaryTokens
from langchain_aaflow.splitting.oversize import log_oversize
from langchain_aaflow.splitting.separators import Keep, Separator, joint


class Counter(Protocol):
    """Lengths of texts in whatever unit; see `OrdinaryTokens`."""

    def is_ordinary(self, text: str) -> bool:
        """Whether the parts of a text can be counted."""

    def counts(self, texts: Sequence[str], enough: int = ...) -> list[int]:
        """The length of each text."""


class EachCounted:
    """The lengths that a function of one text gives."""

    def __init__(self, length: Callable[[str], int]) -> None:
        self._length = length

    def is_ordinary(self, text: str) -> bool:
        """True: the function decides by itself what it refuses."""
        return True

    def counts(self, texts: Sequence[str], enough: int = 0) -> list[int]:
        """The length of each text."""
        return list(map(self._length, texts))


@dataclass(frozen=True, slots=True)
class Measure:
    """How long pieces are and chunks may be.

    Attributes:
        counter: Counts pieces.
        length: The user's length function, for separators: it may refuse them.
        size: `chunk_size`.
        overlap: `chunk_overlap`.
        strip: Whether white space around a chunk is dropped.
    """

    counter: Counter
    length: Callable[[str], int]
    size: int
    overlap: int
    strip: bool


def split_recursively_by_count(
    text: str, separators: Sequence[Separator], keep: Keep, measure: Measure, chunks: list[str]
) -> None:
    """Split as `RecursiveCharacterTextSplitter` does with a length function other than `len`."""
    rest: Sequence[Separator] = ()
    separator = separators[-1]
    for index, candidate in enumerate(separators):
        if not candidate.text:
            separator = candidate
            break
        if candidate.search(text) if candidate.search else candidate.text in text:
            separator, rest = candidate, separators[index + 1 :]
            break
    pieces = cut_into_pieces(text, separator, keep)
    counts = measure.counter.counts(pieces, measure.size)
    between = joint(separator, keep, False)
    size = measure.size
    first = 0
    for index, count in enumerate(counts):
        if count < size:
            continue
        if first < index:
            merge_by_count(pieces[first:index], counts[first:index], between, measure, chunks)
        first = index + 1
        if rest:
            split_recursively_by_count(pieces[index], rest, keep, measure, chunks)
        else:
            chunks.append(pieces[index])
    if first < len(pieces):
        merge_by_count(pieces[first:], counts[first:], between, measure, chunks)


def split_once_by_count(
    text: str, separator: Separator, keep: Keep, between: str, measure: Measure, chunks: list[str]
) -> None:
    """Split as `CharacterTextSplitter` does with a length function other than `len`."""
    pieces = cut_into_pieces(text, separator, keep)
    merge_by_count(pieces, measure.counter.counts(pieces), between, measure, chunks)


def cut_into_pieces(text: str, separator: Separator, keep: Keep) -> list[str]:
    """The pieces between separators as native cuts them, without the empty ones."""
    literal = separator.text
    if not literal:
        return list(text)
    if separator.search is not None:
        return _split_text_with_regex(text, separator.pattern, keep_separator=keep.native)
    parts = text.split(literal)
    if keep is Keep.START:
        pieces = [literal + part for part in parts]
        pieces[0] = parts[0]
    elif keep is Keep.END:
        pieces = [part + literal for part in parts]
        pieces[-1] = parts[-1]
    else:
        pieces = parts
    return [piece for piece in pieces if piece]


def merge_by_count(
    pieces: Sequence[str], counts: Sequence[int], between: str, measure: Measure, chunks: list[str]
) -> None:
    """Merge pieces into chunks as `TextSplitter._merge_splits` does, from counts made beforehand.

    Lengths are added up in native's order, so that counts that do not add up to the chunk's own, or are 0,
    make no difference.
    """
    size, overlap = measure.size, measure.overlap
    gap = measure.length(between)
    first = total = 0
    for last, count in enumerate(counts):
        if total + count + (gap if last > first else 0) > size:
            if total > size:
                log_oversize(total, size)
            if last > first:
                _add(between.join(pieces[first:last]), measure.strip, chunks)
                while total > overlap or (total + count + (gap if last > first else 0) > size and total > 0):
                    total -= counts[first] + (gap if last - first > 1 else 0)
                    first += 1
        total += count + (gap if last > first else 0)
    _add(between.join(pieces[first:]), measure.strip, chunks)


def _add(chunk: str, strip: bool, chunks: list[str]) -> None:
    if strip:
        chunk = chunk.strip()
    if chunk:
        chunks.append(chunk)


def split_every_tokens(text: str, tokens: OrdinaryTokens, size: int, overlap: int) -> list[str] | None:
    """Split as `TokenTextSplitter` does: windows of tokens, decoded.

    The bytes of a text's tokens are the bytes of the text, so windows are cut out of it instead of being decoded.
    Not so under an encoding whose pattern leaves out some of the text: None is returned where it does.

    Args:
        text: Ordinary text.
        tokens: The encoding.
        size: Tokens in a window.
        overlap: Tokens that a window shares with the next, fewer than `size`.

    Raises:
        UnicodeEncodeError: If the text holds a lone surrogate, which tiktoken replaces.
    """
    data = text.encode()
    ids = tokens.encode(text)
    count = len(ids)
    if count <= size and tokens.covers_text:
        return [text] if count else []
    if not count:
        return None if data else []
    lengths = tokens.byte_lengths[ids]
    ends = np.cumsum(lengths)
    if ends[-1] != len(data):
        return None
    if count <= size:
        return [text]
    starts = np.arange(0, count - overlap, size - overlap)
    stops = np.minimum(starts + size, count)
    return [
        data[start:stop].decode("utf-8", "replace")
        for start, stop in zip((ends[starts] - lengths[starts]).tolist(), ends[stops - 1].tolist(), strict=True)
    ]
