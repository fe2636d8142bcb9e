"""LlamaIndex's own copy of nltk's data, so that no test needs the network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _nltk_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A copy of its own: nltk refuses files that a package manager has linked into several environments."""
    package = find_spec("llama_index")
    for root in package.submodule_search_locations or () if package else ():
        cache = Path(root) / "core" / "_static" / "nltk_cache"
        if cache.is_dir() and "NLTK_DATA" not in os.environ:
            os.environ["NLTK_DATA"] = str(shutil.copytree(cache, tmp_path_factory.mktemp("nltk") / "data"))
            yield
            del os.environ["NLTK_DATA"]
            return
    yield
