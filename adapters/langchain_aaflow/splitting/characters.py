"""Splitting by characters: the chunks of the native recursion, found without building its pieces.

Native cuts a text at every separator, measures each piece and merges the pieces one by one. Where lengths are
characters, a chunk is a span of the text between two cuts, so it is enough to look for the last cut
that fits and, for the overlap, for the first one that is near enough.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_text_splitters.character import _split_text_with_regex

from langchain_aaflow.splitting.oversize import log_oversize
from langchain_aaflow.splitting.separators import Keep, Separator, joint


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes of chunks, in characters.

    Attributes:
        size: `chunk_size`, at least 1.
        overlap: `chunk_overlap`, from 0 to `size`.
        strip: Whether white space around a chunk is dropped.
    """

    size: int
    overlap: int
    strip: bool


@dataclass(slots=True)
class Chunks:
    """Chunks of one text in order.

    Attributes:
        texts: The chunks.
        ends: For each chunk a position in the text by which an occurrence of it ends, or -1 where none is known. None
            if nobody asked.
    """

    texts: list[str]
    ends: list[int] | None = None


def split_recursively(
    text: str, separators: Sequence[Separator], keep: Keep, limits: Limits, chunks: Chunks, base: int = 0
) -> None:
    """Split as `RecursiveCharacterTextSplitter` does with `len`.

    Args:
        text: What to split; not empty, except at the top.
        separators: Tried in order, at least one.
        keep: Where separators go.
        limits: The sizes of chunks.
        chunks: Takes the chunks.
        base: Where `text` begins in the text that the user gave; -1 if it is no part of it.
    """
    for index, separator in enumerate(separators):
        if not separator.text:
            _split_anywhere(text, limits, chunks, base)
            return
        if separator.search is None:
            if separator.text not in text:
                continue
            if keep is not Keep.NOWHERE and (separator.tangle is None or separator.tangle not in text):
                _split_at_plain_text(text, separators[index + 1 :], separator, keep, limits, chunks, base)
            else:
                _split_at_cuts(text, separators[index + 1 :], separator, keep, limits, chunks, base)
            return
        if separator.search(text):
            _split_at_cuts(text, separators[index + 1 :], separator, keep, limits, chunks, base)
            return
    if len(text) < limits.size:
        _add(text, 0, len(text), limits, chunks, base)
    else:
        _add_whole(text, chunks, base)


def _split_anywhere(text: str, limits: Limits, chunks: Chunks, base: int) -> None:
    """Split between any two characters."""
    size, length = limits.size, len(text)
    if size == 1:
        # No piece is shorter than a chunk, so native passes each on as it is.
        chunks.texts.extend(text)
        if chunks.ends is not None:
            chunks.ends.extend(range(base + 1, base + length + 1) if base >= 0 else [-1] * length)
        return
    step = max(size - limits.overlap, 1)
    start = 0
    while start + size < length:
        _add(text, start, start + size, limits, chunks, base)
        start += step
    _add(text, start, length, limits, chunks, base)


def _split_at_plain_text(
    text: str,
    rest: Sequence[Separator],
    separator: Separator,
    keep: Keep,
    limits: Limits,
    chunks: Chunks,
    base: int,
) -> None:
    """Split at plain text that stays in the chunks.

    A cut is where the separator occurs (or where it ends, by `keep`). No list of pieces is built: the cuts that
    matter are looked up in the text, at most three for each chunk.
    """
    find, rfind = text.find, text.rfind
    texts, ends = chunks.texts, chunks.ends
    size, overlap, strip = limits.size, limits.overlap, limits.strip
    literal, repeated = separator.text, separator.repeated
    width = len(literal)
    shift = width if keep is Keep.END else 0
    past = width - shift
    length = len(text)
    start = 0
    while start < length:
        # `start` is a cut and no chunk is open: a run of short pieces begins here, or a long piece.
        stop = find(literal, start + past if start or text.startswith(literal) else 0)
        stop = length if stop < 0 else stop + shift
        if stop - start >= size:
            _split_long(text[start:stop], rest, keep, limits, chunks, base + start if base >= 0 else -1)
            start = stop
            continue
        while True:
            limit = start + size
            if limit >= length:
                end = length
            else:
                end = rfind(literal, start, limit + past)
                if repeated and end and text[end - 1] == repeated:
                    end -= (end - _run_start(text, end, repeated)) % width
                end += shift
            chunk = text[start:end]
            if strip:
                chunk = chunk.strip()
            if chunk:
                texts.append(chunk)
                if ends is not None:
                    ends.append(base + end if base >= 0 else -1)
            if end == length:
                return
            stop = find(literal, end + past)
            stop = length if stop < 0 else stop + shift
            if stop - end >= size:
                _split_long(text[end:stop], rest, keep, limits, chunks, base + end if base >= 0 else -1)
                start = stop
                break
            start = end
            if overlap:
                nearest = find(literal, max(end - overlap, stop - size, shift) - shift)
                if repeated and nearest and text[nearest - 1] == repeated:
                    nearest += (_run_start(text, nearest, repeated) - nearest) % width
                    nearest = find(literal, nearest)
                start = nearest + shift


def _run_start(text: str, position: int, character: str) -> int:
    """Where the run of one character that reaches up to a position begins."""
    while position and text[position - 1] == character:
        position -= 1
    return position


def _split_at_cuts(
    text: str,
    rest: Sequence[Separator],
    separator: Separator,
    keep: Keep,
    limits: Limits,
    chunks: Chunks,
    base: int,
) -> None:
    """Split at any separator, by the list of its cuts."""
    size, overlap = limits.size, limits.overlap
    merged, cuts, gap = cut(text, separator, keep, joint(separator, keep, False))
    if merged is not text and merged != text:
        base = -1
    count = len(cuts) - 1
    first = 0
    while first < count:
        if cuts[first + 1] - cuts[first] - gap >= size:
            start, end = cuts[first], cuts[first + 1] - gap
            _split_long(merged[start:end], rest, keep, limits, chunks, base + start if base >= 0 else -1)
            first += 1
            continue
        while True:
            last = bisect_right(cuts, cuts[first] + size + gap, first) - 1
            _add(merged, cuts[first], cuts[last] - gap, limits, chunks, base)
            if last == count:
                return
            start, end = cuts[last], cuts[last + 1] - gap
            if end - start >= size:
                _split_long(merged[start:end], rest, keep, limits, chunks, base + start if base >= 0 else -1)
                first = last + 1
                break
            first = bisect_left(cuts, max(start - gap - overlap, end - size), first, last)


def split_once(text: str, separator: Separator, keep: Keep, between: str, limits: Limits, chunks: Chunks) -> None:
    """Split as `CharacterTextSplitter` does with `len`.

    A piece that is longer than a chunk becomes a chunk; all but the last are reported in native's log.

    Args:
        text: What to split.
        separator: Where to split.
        keep: Where separators go.
        between: What is put between merged pieces.
        limits: The sizes of chunks.
        chunks: Takes the chunks.
    """
    size, overlap = limits.size, limits.overlap
    if len(text) <= size and separator.search is None and separator.text not in text:
        _add(text, 0, len(text), limits, chunks, 0)
        return
    merged, cuts, gap = cut(text, separator, keep, between)
    base = 0 if merged is text or merged == text else -1
    count = len(cuts) - 1
    first = 0
    while first < count:
        last = max(bisect_right(cuts, cuts[first] + size + gap, first) - 1, first + 1)
        start = cuts[last] - gap
        if last < count and start - cuts[first] > size:
            log_oversize(start - cuts[first], size)
        _add(merged, cuts[first], start, limits, chunks, base)
        if last == count:
            return
        first = bisect_left(cuts, max(start - overlap, cuts[last + 1] - gap - size), first, last)


def cut(text: str, separator: Separator, keep: Keep, between: str) -> tuple[str, Sequence[int], int]:
    """Cut a text at a separator into pieces, none of them empty.

    Returns:
        The pieces joined again as native joins them, with `between` in between; where each piece begins in it,
        and one past the end; and the length of `between`. Piece `i` is `merged[cuts[i] : cuts[i + 1] - gap]`.
    """
    literal = separator.text
    gap = len(between)
    if not literal:
        return text, range(len(text) + 1), 0
    if separator.search is None:
        parts = text.split(literal)
        width = len(literal)
        if keep is Keep.START:
            at = -width
            cuts = [at := at + width + len(part) for part in parts]
            return text, (cuts if not parts[0] else [0, *cuts]), 0
        at = 0
        cuts = [0]
        if keep is Keep.END:
            cuts += [at := at + len(part) + width for part in parts]
            if parts[-1]:
                cuts[-1] -= width
            else:
                cuts.pop()
            return text, cuts, 0
        if "" in parts:
            parts = [part for part in parts if part]
            text = between.join(parts)
    else:
        parts = _split_text_with_regex(text, separator.pattern, keep_separator=keep.native)
        text = between.join(parts)
        at = 0
        cuts = [0]
    cuts += [at := at + len(part) + gap for part in parts]
    return text, cuts, gap


def _split_long(piece: str, rest: Sequence[Separator], keep: Keep, limits: Limits, chunks: Chunks, base: int) -> None:
    if rest:
        split_recursively(piece, rest, keep, limits, chunks, base)
    else:
        _add_whole(piece, chunks, base)


def _add(text: str, start: int, end: int, limits: Limits, chunks: Chunks, base: int) -> None:
    chunk = text[start:end]
    if limits.strip:
        chunk = chunk.strip()
    if chunk:
        chunks.texts.append(chunk)
        if chunks.ends is not None:
            chunks.ends.append(base + end if base >= 0 else -1)


def _add_whole(text: str, chunks: Chunks, base: int) -> None:
    # Native passes a piece that no separator splits on as it is: not stripped, but never empty.
    if text:
        chunks.texts.append(text)
        if chunks.ends is not None:
            chunks.ends.append(base + len(text) if base >= 0 else -1)
