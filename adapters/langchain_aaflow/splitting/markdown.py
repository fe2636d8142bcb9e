"""Splitting Markdown at its headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_text_splitters import MarkdownHeaderTextSplitter

#: A stretch of text and the headers it stands under.
Section = tuple[str, dict[Any, Any]]


def sections_by_header(splitter: MarkdownHeaderTextSplitter, text: str) -> list[Section]:
    """The contents and metadata of the Documents that `MarkdownHeaderTextSplitter.split_text` returns.

    Sections may share one dict of metadata.

    Raises:
        IndexError: Where native raises it, for a section that ends in an empty line of a code block.
    """
    blocks = _blocks(splitter, text)
    return blocks if splitter.return_each_line else _aggregate(blocks, splitter.strip_headers)


def printable_lines(text: str) -> list[str]:
    """Lines without the white space around them and without the unprintable characters in them."""
    lines = list(map(str.strip, text.split("\n")))
    if "".join(lines).isprintable():
        return lines
    return [line if line.isprintable() else "".join(filter(str.isprintable, line)) for line in lines]


def _blocks(splitter: MarkdownHeaderTextSplitter, text: str) -> list[Section]:
    headers: Sequence[tuple[str, str | None]] = splitter.headers_to_split_on
    custom = splitter.custom_header_patterns
    # Only a line that begins with one of these can be a header or open a code block.
    openings = {separator[0] for separator, _ in headers} | {"`", "~"}
    blocks: list[Section] = []
    content: list[str] = []
    metadata: dict[Any, Any] = {}
    stack: list[tuple[int, Any]] = []
    fence = ""
    for line in printable_lines(text):
        if fence:
            if not line.startswith(fence):
                content.append(line)
                continue
            # The line that closes a code block is looked at as any other.
            fence = ""
        elif line[:1] not in openings:
            if line:
                content.append(line)
            elif content:
                blocks.append(("\n".join(content), metadata))
                content = []
            continue
        elif line.startswith("```") and line.count("```") == 1:
            fence = "```"
        elif line.startswith("~~~"):
            fence = "~~~"
        if fence:
            content.append(line)
            continue
        for separator, name in headers:
            if not line.startswith(separator):
                continue
            width = len(separator)
            is_custom = separator in custom and splitter._is_custom_header(line, separator)
            if not is_custom and len(line) != width and line[width] != " ":
                continue
            current = metadata
            if name is not None:
                level = custom[separator] if separator in custom else separator.count("#")
                metadata = metadata.copy()
                while stack and stack[-1][0] >= level:
                    metadata.pop(stack.pop()[1], None)
                stack.append((level, name))
                metadata[name] = (line[width:-width] if is_custom else line[width:]).strip()
            if content:
                blocks.append(("\n".join(content), current))
                content = []
            if not splitter.strip_headers:
                content.append(line)
            break
        else:
            if line:
                content.append(line)
            elif content:
                blocks.append(("\n".join(content), metadata))
                content = []
    if content:
        blocks.append(("\n".join(content), metadata))
    return blocks


def _aggregate(blocks: Sequence[Section], strip_headers: bool) -> list[Section]:
    """Join neighbouring blocks that stand under the same headers, and a header line with what follows it."""
    sections: list[Section] = []
    parts: list[str] = []
    under: dict[Any, Any] = {}
    for content, metadata in blocks:
        if parts:
            if metadata is under or metadata == under:
                parts.append(content)
                continue
            if len(under) < len(metadata):
                # Indexed before it is known whether headers are stripped, as native does: it may raise.
                is_header = parts[-1].rpartition("\n")[2][0] == "#"
                if is_header and not strip_headers:
                    parts.append(content)
                    under = metadata
                    continue
            sections.append(("  \n".join(parts), under))
        parts = [content]
        under = metadata
    if parts:
        sections.append(("  \n".join(parts), under))
    return sections
