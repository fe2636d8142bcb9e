"""Splitting as `TokenTextSplitter` does: each word is counted once, the same word once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llama_index_aaflow.parsing.counting import Counter
from llama_index_aaflow.parsing.sentence_chunks import NotReproducedError
from llama_index_aaflow.parsing.sentences import SplitFunction


class WordCounts:
    """Tokens of pieces of text, each different piece counted once."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._known: dict[str, int] = {}

    def counts(self, texts: Sequence[str]) -> list[int]:
        """The exact number of tokens of each text."""
        known = self._known
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, self._counter.counts(new), strict=True))
        return [known[text] for text in texts]


def cut_words(
    text: str, functions: Sequence[SplitFunction], counter: Counter, size: int, keeps_oversize: bool
) -> tuple[list[str], list[int]]:
    """Cut a text that is longer than a chunk may be into pieces, as `TokenTextSplitter._split` does.

    Args:
        text: The text.
        functions: What cuts a text into smaller pieces, coarsest first.
        counter: Counts tokens.
        size: Tokens a chunk may have.
        keeps_oversize: Whether what can't be cut further is kept, however long; else native never ends.

    Returns:
        The pieces and the number of tokens of each.

    Raises:
        NotReproducedError: If a function gives anything but strings, or native would recurse for ever.
    """
    pieces: list[str] = []
    counts: list[int] = []
    words = WordCounts(counter)

    def cut(text: str) -> None:
        parts: list[str] = []
        for function in functions:
            parts = function(text)
            if type(parts) is not list or not {str}.issuperset(map(type, parts)):
                raise NotReproducedError
            if len(parts) > 1:
                break
        found = words.counts(parts)
        if max(found, default=0) <= size:
            pieces.extend(parts)
            counts.extend(found)
            return
        for part, count in zip(parts, found, strict=True):
            if count > size:
                if len(parts) > 1:
                    cut(part)
                    continue
                if not keeps_oversize:
                    raise NotReproducedError
            pieces.append(part)
            counts.append(count)

    cut(text)
    return pieces, counts


def merge_words(
    pieces: Sequence[str],
    counts: Sequence[int],
    size: int,
    overlap: int,
    keep_whitespaces: bool,
    warn: Callable[[int], None] | None,
) -> list[str]:
    """Merge pieces into chunks, as `TokenTextSplitter._merge` does.

    Args:
        pieces: Pieces of a text, in order.
        counts: The number of tokens of each.
        size: Tokens a chunk may have.
        overlap: Tokens that a chunk may share with the next.
        keep_whitespaces: Whether white space around a chunk is kept.
        warn: Told the tokens of a piece that is longer than a chunk; None if native fails there.

    Raises:
        NotReproducedError: If a piece is longer than a chunk, and native fails there.
    """
    chunks: list[str] = []
    first = total = 0
    for index, count in enumerate(counts):
        if total + count > size:
            if count > size:
                if warn is None:
                    raise NotReproducedError
                warn(count)
            chunk = "".join(pieces[first:index])
            if not keep_whitespaces:
                chunk = chunk.strip()
            if chunk:
                chunks.append(chunk)
            while first < index and (total > overlap or total + count > size):
                total -= counts[first]
                first += 1
        total += count
    chunk = "".join(pieces[first:])
    if not keep_whitespaces:
        chunk = chunk.strip()
    if chunk:
        chunks.append(chunk)
    return chunks
