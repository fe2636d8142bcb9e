"""Real text from the disk, for the demo, comparisons and benchmarks."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: Endings of files that are read as text.
TEXT_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py", ".html", ".json", ".csv", ".xml", ".tex", ".log"})

#: Endings taken from the installed Python's library, whose data files are no prose.
_LIBRARY_SUFFIXES = frozenset({".txt", ".md", ".rst", ".py"})


@dataclass(frozen=True)
class Text:
    """One file's text.

    Attributes:
        path: Where it was read.
        content: The text, with line endings as universal newlines make them.
    """

    path: Path
    content: str


@dataclass(frozen=True)
class Corpus:
    """Texts, and what could not be read.

    Attributes:
        texts: In order of path.
        skipped: `(path, reason)` of each file with a text's ending that is not valid text.
    """

    texts: tuple[Text, ...]
    skipped: tuple[tuple[Path, str], ...]

    @property
    def characters(self) -> int:
        """Characters in all texts."""
        return sum(len(text.content) for text in self.texts)


def read_folder(folder: Path, limit: int | None = None) -> Corpus:
    """Read the text files below a folder, in order of path, until `limit` characters are reached.

    Raises:
        ValueError: If the folder does not exist or holds no text.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    corpus = _read(_text_files(folder, TEXT_SUFFIXES), limit)
    if not corpus.texts:
        endings = ", ".join(sorted(TEXT_SUFFIXES))
        raise ValueError(f"no text in {folder}: looked for valid UTF-8 in files ending in {endings}")
    return corpus


def read_python_library(limit: int | None = None) -> Corpus:
    """Read the text that every Python installation carries: the standard library and the installed packages."""
    paths = sysconfig.get_paths()
    folders = dict.fromkeys(Path(paths[name]) for name in ("purelib", "platlib", "stdlib"))
    files = (path for folder in folders for path in _text_files(folder, _LIBRARY_SUFFIXES))
    return _read(dict.fromkeys(files), limit)


def _text_files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and path.is_file():
            yield path


def _read(files: Iterable[Path], limit: int | None) -> Corpus:
    texts: list[Text] = []
    skipped: list[tuple[Path, str]] = []
    room = float("inf") if limit is None else limit
    for path in files:
        if room <= 0:
            break
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            skipped.append((path, f"not valid UTF-8 at byte {error.start}"))
            continue
        except OSError as error:
            skipped.append((path, error.strerror or str(error)))
            continue
        if content.strip():
            texts.append(Text(path, content))
            room -= len(content)
    return Corpus(tuple(texts), tuple(skipped))
