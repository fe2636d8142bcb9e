"""What the documents show runs: each document's Python blocks, in order, as one session of a reader.

A session starts in an empty folder but for `documents/` with some text files. OpenAI's environment variables
point to the loopback server. A block fenced as `python file=NAME` is a file in that folder, for the others to
import; one fenced as `python no-run` is left out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.openai_server import Connection
from tests.house.code_blocks import CodeBlock, code_blocks
from tests.house.repository import ROOT, documents

#: Blocks that cannot run: each is a promise nobody keeps.
NO_RUN_AT_MOST = 2


def python_blocks(path: Path) -> list[CodeBlock]:
    return [block for block in code_blocks(path) if block.language in ("python", "py", "python3")]


def runnable(path: Path) -> list[CodeBlock]:
    return [block for block in python_blocks(path) if block.file is None and "no-run" not in block.notes]


SESSIONS = [path for path in documents() if runnable(path)]


def session(path: Path) -> str:
    """A script of all blocks, in which a traceback names the document and the line."""
    lines = ["space = {'__name__': '__main__'}"]
    for block in runnable(path):
        shown = "\n" * block.line + block.code
        lines.append(f"exec(compile({shown!r}, {path.name!r}, 'exec'), space)")
    return "\n".join(lines)


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_python_blocks_run(path: Path, tmp_path: Path, openai_server: Connection) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Text {number}.\n\n" + "A sentence of some words. " * 200)
    for block in python_blocks(path):
        if block.file:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
    environment = {
        **os.environ,
        "OPENAI_API_KEY": "none",
        "OPENAI_API_BASE": openai_server.base_url,
        "OPENAI_BASE_URL": openai_server.base_url,
    }
    result = subprocess.run(
        [sys.executable, "-c", session(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


def test_hardly_any_block_is_left_out() -> None:
    left_out = [
        (path.name, block.line) for path in documents() for block in python_blocks(path) if "no-run" in block.notes
    ]
    assert len(left_out) <= NO_RUN_AT_MOST, left_out


def test_blocks_are_found_with_their_lines(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("# A\n\n```python\nx = 1\n```\ntext\n```bash\nls\n```\n```python no-run\n1 / 0\n```\n")
    assert [(block.language, block.notes, block.line) for block in code_blocks(document)] == [
        ("python", (), 3),
        ("bash", (), 7),
        ("python", ("no-run",), 10),
    ]
    document.write_text("One line.\n```python\nx = 1\n```\n\n```python\ny = x\nx / 0\n```\n")
    result = subprocess.run([sys.executable, "-c", session(document)], capture_output=True, text=True)
    assert result.returncode == 1
    assert 'File "document.md", line 8' in result.stderr


def test_make_targets_named_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for path in documents():
        named = set(re.findall(r"`(?:\$ )?make ([a-z][a-z-]*)", path.read_text(encoding="utf-8")))
        assert named <= targets, path.name
