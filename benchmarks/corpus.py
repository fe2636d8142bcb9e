"""The texts that contenders work on: real ones, chosen once a case and read by every contender from the same file."""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

#: `prose`: Markdown, reStructuredText and plain text; `python`: source code; `all`: up to a third prose, then source.
Kind = Literal["all", "prose", "python"]

_PROSE = frozenset({".md", ".rst", ".txt"})


@dataclass(frozen=True)
class Sample:
    """Texts chosen for a case.

    Attributes:
        path: The JSON file that contenders read.
        size: Bytes of all texts in UTF-8.
        files: Number of texts.
        checksum: SHA-256 over the texts, in order: which corpus it was.
    """

    path: Path
    size: int
    files: int
    checksum: str

    @property
    def megabytes(self) -> float:
        """Millions of bytes."""
        return self.size / 1e6

    @property
    def parameters(self) -> dict[str, Any]:
        """What a case tells its contenders, and what is noted of it in the results."""
        return {
            "corpus": str(self.path),
            "corpus_bytes": self.size,
            "corpus_files": self.files,
            "corpus_sha256": self.checksum,
        }


class Corpora:
    """Samples of one source of text, written to a scratch folder.

    Args:
        scratch: Where the files go.
        folder: The user's texts. None: the standard library and the installed packages, whose long descriptions
            (`METADATA`), licences and documents are the prose.
    """

    def __init__(self, scratch: Path, folder: Path | None = None) -> None:
        self._scratch = scratch
        self._folder = folder
        self._files: list[tuple[str, Path]] | None = None

    def sample(self, kind: Kind, limit: int) -> Sample:
        """Whole files in a fixed order, until `limit` bytes of UTF-8 are reached; no text occurs twice.

        Raises:
            ValueError: If there is no text of that kind.
        """
        if kind == "all":
            chosen = list(_up_to(self._texts("prose"), limit // 3))
            chosen += _up_to(self._texts("python"), limit - sum(len(text.encode()) for _, text in chosen))
        else:
            chosen = list(_up_to(self._texts(kind), limit))
        if not chosen:
            raise ValueError(f"no text of kind {kind!r} in {self._folder or 'the installed library'}")
        digest = hashlib.sha256()
        for _, text in chosen:
            digest.update(text.encode() + b"\0")
        path = self._scratch / f"{kind}-{limit}.json"
        path.write_text(json.dumps(chosen), encoding="utf-8")
        size = sum(len(text.encode()) for _, text in chosen)
        return Sample(path, size, len(chosen), digest.hexdigest())

    def _texts(self, kind: Kind) -> Iterator[tuple[str, str]]:
        if self._files is None:
            self._files = list(_text_files(self._folder) if self._folder else _library_files())
        seen: set[str] = set()
        for name, path in self._files:
            if (path.suffix == ".py") == (kind == "python"):
                try:
                    text = path.read_text(encoding="utf-8")
                except (UnicodeDecodeError, OSError):
                    continue
                # Licences are the same in many packages: what has been seen may come out of a cache.
                if text.strip() and text not in seen:
                    seen.add(text)
                    yield name, text


def read_sample(path: str) -> list[tuple[str, str]]:
    """`(name, text)` of each file of a sample."""
    return [(name, text) for name, text in json.loads(Path(path).read_text(encoding="utf-8"))]


def read_documents(path: str, limit: int | None = None) -> list[Any]:
    """A sample as LangChain documents, as a text loader makes them.

    Args:
        path: The sample's file.
        limit: Stop once so many characters are reached.
    """
    from langchain_core.documents import Document

    documents = []
    characters = 0
    for name, text in read_sample(path):
        if limit is not None and characters >= limit:
            break
        documents.append(Document(page_content=text, metadata={"source": name}))
        characters += len(text)
    return documents


def llama_documents(texts: Iterable[tuple[str, str]]) -> list[Any]:
    """Names and texts of a sample as LlamaIndex documents."""
    from llama_index.core.schema import Document

    return [Document(text=text, id_=name, metadata={"source": name}) for name, text in texts]


def read_pieces(path: str, size: int, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The first `count` pieces of `size` characters of a sample, each with its metadata.

    Raises:
        ValueError: If there are fewer.
    """
    pieces = (
        (text[start : start + size], {"source": name, "start": start})
        for name, text in read_sample(path)
        for start in range(0, len(text), size)
    )
    chosen = list(islice(pieces, count))
    if len(chosen) < count:
        raise ValueError(f"the corpus has {len(chosen)} pieces of {size} characters, not {count}")
    return chosen


def _up_to(texts: Iterable[tuple[str, str]], limit: int) -> Iterator[tuple[str, str]]:
    room = limit
    for name, text in texts:
        if room <= 0:
            return
        room -= len(text.encode())
        yield name, text


def _library_files() -> Iterator[tuple[str, Path]]:
    paths = sysconfig.get_paths()
    yield from _text_files(Path(paths["stdlib"]))
    yield from _text_files(Path(paths["purelib"]))


def _text_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name relative to the folder and path of each text file, in order of name."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_text = path.suffix == ".py" or path.suffix in _PROSE or _is_notice(path)
        # The packages may lie below the standard library; they come after it.
        if is_text and "site-packages" not in relative.parts and path.is_file():
            yield relative.as_posix(), path


def _is_notice(path: Path) -> bool:
    return (path.parent.suffix == ".dist-info" and path.name == "METADATA") or path.name.startswith("LICEN")
