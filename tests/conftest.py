"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aaflow_plugins.kept_vectors import KeptVectors
from benchmarks.chat_completions import Latency
from benchmarks.openai_server import Connection, serving
from llama_index_aaflow.carried_files import carried, use_copy_of_nltk_data
from tests.generated import leave_tried

#: Run by several processes at once, which `core/test_ranks.py` starts.
collect_ignore = ["ranks"]


def pytest_configure() -> None:
    # No test needs the network.
    use_copy_of_nltk_data()
    encodings = carried("tiktoken_cache")
    if encodings:
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(encodings))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_tried(config, items)


@pytest.fixture(autouse=True)
def _numpy_warns_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """What numpy does about floating-point errors is the user's choice, and no call of ours may change it.

    Said and not failed for: an interrupt within numpy's own `errstate` leaves it changed, too.
    """
    before = np.geterr()
    yield
    if np.geterr() != before:
        warnings.warn(f"{request.node.nodeid} left numpy with {np.geterr()}, it was {before}", stacklevel=1)
        np.seterr(**before)


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


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of vectors of each comparison that a store makes before it uses what it has kept of them."""
    sizes: list[int] = []
    native = KeptVectors.are

    def are(self: KeptVectors, vectors: list[Any]) -> bool:
        sizes.append(len(vectors))
        return native(self, vectors)

    monkeypatch.setattr(KeptVectors, "are", are)
    return sizes
