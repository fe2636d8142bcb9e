"""Sections of Markdown as `MarkdownNodeParser` cuts them, by looking at headers and code fences alone."""

from __future__ import annotations

import re
from typing import Final

#: A line that native looks into: a header, or the fence around a block of code.
_MARK: Final = re.compile(r"\n(?:(#+)([^\S\n])(.*)|[^\S\n]*```)")


def sections(text: str, separator: str) -> list[tuple[str, str]]:
    """Cut a Markdown text at its headers.

    Args:
        text: The text.
        separator: What stands between the headers of a path.

    Returns:
        Each section's text, with one space after the header's marks, and the path of the headers above its own.
    """
    found: list[tuple[str, str]] = []
    # Every line begins after a line break.
    lines = "\n" + text
    above: list[tuple[int, str]] = []
    path = header = ""
    start = 0
    in_code = False
    for mark in _MARK.finditer(lines):
        marks, space, title = mark.groups()
        if marks is None:
            in_code = not in_code
        elif not in_code:
            content = (header + lines[start : mark.start()]).strip()
            if content:
                found.append((content, path))
            level = len(marks)
            while above and above[-1][0] >= level:
                above.pop()
            path = separator.join([one for _, one in above])
            above.append((level, title))
            header, start = (f"{marks} {title}", mark.end()) if space != " " else ("", mark.start())
    content = (header + lines[start:]).strip()
    if content:
        found.append((content, path))
    return found
