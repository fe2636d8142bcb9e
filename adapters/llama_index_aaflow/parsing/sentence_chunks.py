"""Splitting as `SentenceSplitter` does: each piece of text is counted once, each level at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llama_index_aaflow.parsing.counting import Counter
from llama_index_aaflow.parsing.sentences import SplitFunction


class NotReproducedError(Exception):
    """The native function must be asked: what it does with this text is not reproduced here."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a text is cut.

    Attributes:
        by_sentence: Functions that give whole paragraphs and sentences, coarsest first.
        below_sentence: Functions that give parts of sentences, coarsest first.
        counter: Counts tokens.
        size: Tokens a chunk may have.
        keeps_oversize: Whether what can't be cut further is kept, however long; else native never ends.
    """

    by_sentence: Sequence[SplitFunction]
    below_sentence: Sequence[SplitFunction]
    counter: Counter
    size: int
    keeps_oversize: bool


@dataclass(slots=True)
class Pieces:
    """Pieces of a text, in order, none longer than a chunk.

    Attributes:
        texts: The pieces, which need not make up the text.
        counts: The tokens of each.
    """

    texts: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def cut(text: str, cutting: Cutting) -> Pieces:
    """Cut a text that is longer than a chunk may be, as `SentenceSplitter._split` does.

    Raises:
        NotReproducedError: If a function gives anything but strings, or native would recurse for ever.
    """
    pieces = Pieces()
    _cut(text, cutting, pieces)
    return pieces


def _cut(text: str, cutting: Cutting, pieces: Pieces) -> None:
    parts = _parts(text, cutting)
    size = cutting.size
    alone = len(parts) == 1
    for part, count in zip(parts, cutting.counter.counts(parts, size + 1), strict=True):
        if count > size:
            if not alone:
                _cut(part, cutting, pieces)
                continue
            if not cutting.keeps_oversize:
                raise NotReproducedError
        pieces.texts.append(part)
        pieces.counts.append(count)


def _parts(text: str, cutting: Cutting) -> list[str]:
    parts: list[str] = []
    for functions in (cutting.by_sentence, cutting.below_sentence):
        for function in functions:
            parts = function(text)
            if type(parts) is not list or not {str}.issuperset(map(type, parts)):
                raise NotReproducedError
            if len(parts) > 1:
                return parts
    return parts


def merge(pieces: Pieces, size: int, overlap: int, drops_overlap: bool) -> list[str]:
    """Merge pieces into chunks, as `SentenceSplitter._merge` does.

    A chunk is a run of pieces; the next begins with as many of its last pieces as fit into the overlap.

    Args:
        pieces: What `cut` gives.
        size: Tokens a chunk may have.
        overlap: Tokens that a chunk may share with the next.
        drops_overlap: Whether the overlap makes room for a piece that does not fit beside it.

    Raises:
        ValueError: If a piece is longer than a chunk may be.
    """
    texts, counts = pieces.texts, pieces.counts
    chunks: list[str] = []
    first = total = 0
    for index, count in enumerate(counts):
        if count > size:
            raise ValueError("Single token exceeded chunk size")
        if total + count > size:
            _add("".join(texts[first:index]), chunks)
            kept, total = index, 0
            while kept > first and total + counts[kept - 1] <= overlap:
                kept -= 1
                total += counts[kept]
            first = kept
            if drops_overlap:
                while first < index and total + count > size:
                    total -= counts[first]
                    first += 1
        total += count
    _add("".join(texts[first:]), chunks)
    return chunks


def _add(chunk: str, chunks: list[str]) -> None:
    chunk = chunk.strip()
    if chunk:
        chunks.append(chunk)
