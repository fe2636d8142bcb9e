"""What several files of these tests ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llama_index.index_pairs import STORES, Side, pair


@pytest.fixture(params=STORES)
def sides(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Side, Side]:
    """A native and an accelerated index, over each vector store."""
    return pair(tmp_path, request.param)
