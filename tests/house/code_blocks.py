"""Code blocks of a Markdown file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<language>\w+)(?P<notes>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block.

    Attributes:
        language: The word after the fence.
        notes: The words after that: `no-run`, `file=NAME`.
        code: The text between the fences.
        line: Line of the fence, from 1.
    """

    language: str
    notes: tuple[str, ...]
    code: str
    line: int

    @property
    def file(self) -> str | None:
        """The name under which the other blocks find this one as a file."""
        return next((note.removeprefix("file=") for note in self.notes if note.startswith("file=")), None)


def code_blocks(path: Path) -> list[CodeBlock]:
    """Every fenced block of a Markdown file that names its language, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        CodeBlock(
            match["language"], tuple(match["notes"].split()), match["code"], text.count("\n", 0, match.start()) + 1
        )
        for match in _BLOCK.finditer(text)
    ]
