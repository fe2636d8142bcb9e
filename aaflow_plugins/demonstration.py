"""What an adapter's demo consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aaflow_plugins.comparison import Comparison


@dataclass(frozen=True)
class Demo:
    """Parts of a pipeline and then the whole, natively and accelerated, and a way to ask the store it fills.

    Attributes:
        parts: What is compared, in order; the last one's result is the store.
        answer: `(store, question)` to `(source, passage)`: the passage nearest to the question.
    """

    parts: tuple[Comparison, ...]
    answer: Callable[[Any, str], tuple[str, str]]
