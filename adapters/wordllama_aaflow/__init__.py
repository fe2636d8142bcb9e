"""What both adapters need of WordLlama: the model inside its package, loaded once a process.

The PyPI package `wordllama` carries the model in its wheel: 256 floats a text, thousands of texts a second on a CPU.
Nothing is downloaded.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

#: Texts that are padded to one length, and held with a vector for each token. A text's vector is the same in any
#: company; few together stay in the processor's caches, and take a fraction of the memory of the library's 64.
_TOGETHER: Final = 8

_loading: Final = Lock()


def embed(texts: list[str]) -> Any:
    """The vectors of texts.

    Returns:
        An `(n, 256)` float32 matrix, row by row what WordLlama gives for each text alone.
    """
    with _loading:  # once, whichever threads ask first
        model = _model()
    return model.embed(texts, batch_size=_TOGETHER)


@cache
def _model() -> Any:
    import wordllama

    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
