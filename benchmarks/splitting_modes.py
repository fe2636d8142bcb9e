"""What the benchmarks of splitters alone share: one mode a case, and the same contenders for each."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.corpus import Kind
from benchmarks.harness import Case, Contender, Scale
from benchmarks.measure import Work

_NATIVE, _PAUSED, _OURS, _OURS_TIKTOKEN = (
    "native",
    "native, collector paused by its caller",
    "ours",
    "ours, with tiktoken alone",
)

#: All pieces of all documents, by a splitter's own call.
Split = Callable[[Any, list[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Mode:
    """A splitter and what it is given.

    Attributes:
        name: As it stands in the table.
        build: Makes the native splitter.
        kind: The texts.
        megabytes: How much of them, at most.
        tokens: Whether it counts tokens.
    """

    name: str
    build: Callable[[], Any]
    kind: Kind = "all"
    megabytes: int = 21
    tokens: bool = False


def contenders(prepare: Callable[[Mapping[str, Any], bool, Split], Work], split: Split) -> tuple[Contender, ...]:
    """The native splitter, as it is and with the collector paused, and ours, with either tokenizer.

    Args:
        prepare: Makes the work of a case's parameters, with an accelerated splitter or not, which splits by a call.
        split: The call.
    """

    def split_with_collector_paused(splitter: Any, documents: list[Any]) -> Sequence[Any]:
        gc.disable()
        try:
            return split(splitter, documents)
        finally:
            gc.enable()

    def ours_with_tiktoken(parameters: Mapping[str, Any]) -> Work:
        # As if the faster tokenizer were not installed: importing it raises ImportError.
        sys.modules["splintr"] = None  # type: ignore[assignment]
        return prepare(parameters, True, split)

    return (
        Contender(_NATIVE, "native", lambda parameters: prepare(parameters, False, split)),
        Contender(_PAUSED, "native", lambda parameters: prepare(parameters, False, split_with_collector_paused)),
        Contender(_OURS, "ours", lambda parameters: prepare(parameters, True, split)),
        Contender(_OURS_TIKTOKEN, "ours", ours_with_tiktoken),
    )


def cases(modes: Sequence[Mode], scale: Scale, quick_bytes: int) -> list[Case]:
    """A case a mode; where no tokens are counted there is but one form of ours."""
    made = []
    for mode in modes:
        sample = scale.corpora.sample(mode.kind, (quick_bytes if scale.quick else mode.megabytes * 10**6))
        names = (_NATIVE, _PAUSED, _OURS, *([_OURS_TIKTOKEN] if mode.tokens else []))
        made.append(Case(mode.name, {"mode": mode.name, **sample.parameters}, names, sample.megabytes))
    return made
