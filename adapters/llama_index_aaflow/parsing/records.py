"""The texts that `JSONNodeParser` makes nodes of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

#: Gives the lines of a value: each of its leaves with the keys that lead there.
Lines = Callable[[Any, int, list[str]], Iterable[str]]


def records(text: str, lines: Lines) -> list[str]:
    """One text for a JSON object, one for each member of a list; none for what is no JSON.

    Args:
        text: A document's text.
        lines: `JSONNodeParser._depth_first_yield` of the parser.

    Raises:
        ValueError: For JSON that is neither an object nor a list, as natively.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        return []
    if isinstance(data, dict):
        data = [data]
    elif not isinstance(data, list):
        raise ValueError("JSON is invalid")
    return ["\n".join(lines(value, 0, [])) for value in data]
