"""What LlamaIndex carries of other packages' data: nltk's, and tiktoken's encodings."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def carried(name: str) -> Path | None:
    """The folder of this name that LlamaIndex carries (`nltk_cache`, `tiktoken_cache`); None without LlamaIndex."""
    package = find_spec("llama_index")
    for root in package.submodule_search_locations or () if package else ():
        folder = Path(root) / "core" / "_static" / name
        if folder.is_dir():
            return folder
    return None


def use_copy_of_nltk_data() -> None:
    """Have this process, and those it starts, read a copy of nltk's data, unless `NLTK_DATA` names another folder.

    From release 3.10 on nltk refuses files that have several links, as a package manager makes them that shares
    them between environments. The copy (20 MB) lasts as long as the process.
    """
    folder = carried("nltk_cache")
    if folder and "NLTK_DATA" not in os.environ:
        os.environ["NLTK_DATA"] = str(Path(_copy_of(folder).name) / "data")


@cache
def _copy_of(folder: Path) -> tempfile.TemporaryDirectory[str]:
    copy = tempfile.TemporaryDirectory(prefix="aaflow-nltk-")
    shutil.copytree(folder, Path(copy.name) / "data")
    return copy
