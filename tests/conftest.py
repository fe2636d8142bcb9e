"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.chat_completions import Latency
from benchmarks.openai_server import Connection, serving
from llama_index_aaflow.nltk_data import use_copy


def _tokenizer_files() -> Path | None:
    """tiktoken's files as LlamaIndex carries them, so that no test needs the network."""
    package = find_spec("llama_index")
    for root in package.submodule_search_locations or () if package else ():
        cache = Path(root) / "core" / "_static" / "tiktoken_cache"
        if cache.is_dir():
            return cache
    return None


def pytest_configure() -> None:
    use_copy()
    cache = _tokenizer_files()
    if cache:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(cache))


@pytest.fixture(scope="session")
def _openai_server() -> Iterator[Connection]:
    with serving(base_ms=0, item_ms=0, dim=24) as connection:
        yield connection


@pytest.fixture
def openai_server(_openai_server: Connection) -> Connection:
    """A server that speaks OpenAI's API, without latency or faults, and records what it is asked."""
    _openai_server.configure(
        base_ms=0, item_ms=0, dim=24, max_concurrency=None, chat_latency=Latency(), tool_rounds=0, record=True
    )
    return _openai_server


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """Some 3,000 chunks of up to 1,000 characters of the standard library's source, in file order."""
    chunks: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        chunks += [text[start : start + 1000] for start in range(0, len(text), 800)]
        if len(chunks) > 3000:
            break
    return chunks[:3000]
