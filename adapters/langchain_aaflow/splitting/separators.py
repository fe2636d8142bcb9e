"""What a splitter's list of separators means, worked out once per configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

#: Characters that make a regular expression more than the text it spells.
_REGEX_SYNTAX = frozenset(r".^$*+?{}[]\|()")


class Keep(Enum):
    """Where a kept separator goes."""

    NOWHERE = "nowhere"
    START = "start"
    END = "end"

    @classmethod
    def of(cls, keep_separator: bool | str) -> Keep:
        """What the native argument `keep_separator` comes to."""
        if not keep_separator:
            return cls.NOWHERE
        return cls.END if keep_separator == "end" else cls.START

    @property
    def native(self) -> Any:
        """The native argument."""
        return False if self is Keep.NOWHERE else self.value


#: Runs of a repeated separator's character are walked through up to about this length.
_LONG_RUN = 30


@dataclass(frozen=True, slots=True)
class Separator:
    """One separator, ready to use.

    Attributes:
        text: As the user wrote it; a pattern's own text is what native puts back between merged pieces.
        pattern: The regular expression native splits by.
        search: Finds the first match, or None where the separator is plain text.
        repeated: The character that a plain separator of two or more characters repeats, else "".
        tangle: Where this text occurs, overlapping occurrences of a plain separator are too many or too mixed to
            be told apart on the spot. None if that can't happen.
    """

    text: str
    pattern: str
    search: Callable[[str], Any] | None
    repeated: str
    tangle: str | None

    @classmethod
    def of(cls, text: str, is_regex: bool) -> Separator:
        """Read one separator; a regular expression without any syntax in it is plain text."""
        if is_regex and not _REGEX_SYNTAX.isdisjoint(text):
            return cls(text, text, re.compile(text).search, "", None)
        pattern = text if is_regex else re.escape(text)
        if len(text) > 1 and len(set(text)) == 1:
            return cls(text, pattern, None, text[0], text[0] * (len(text) + _LONG_RUN))
        overlaps_itself = any(text.endswith(text[:n]) for n in range(1, len(text)))
        return cls(text, pattern, None, "", text if overlaps_itself else None)


#: What may refer to a group by its number.
_GROUP_NUMBER = re.compile(r"\\[1-9]|\(\?\(")

_LOOKAROUNDS = ("(?=", "(?<!", "(?<=", "(?!")


def joint(separator: Separator, keep: Keep, is_lookaround_known: bool) -> str:
    """What native puts between merged pieces where it splits at a separator.

    Args:
        separator: Where it splits. A pattern's own text comes back, whatever it matched.
        keep: Where separators go.
        is_lookaround_known: Whether the splitter knows that a pattern which matches nothing must not come back.
    """
    if keep is not Keep.NOWHERE:
        return ""
    if is_lookaround_known and separator.search is not None and separator.text.startswith(_LOOKAROUNDS):
        return ""
    return separator.text


@lru_cache(maxsize=256)
def read_separators(texts: tuple[str, ...], is_regex: bool, is_kept: bool) -> tuple[Separator, ...]:
    """Read separators in order.

    Args:
        texts: As the user wrote them.
        is_regex: Whether they are regular expressions.
        is_kept: Whether they stay in the chunks: native then puts each in a group to split by.

    Raises:
        re.error: If one is not a regular expression, or not one that matches the same in a group. Native raises the
            same where it is none, but only when it gets there.
    """
    if is_regex and is_kept:
        for text in texts:
            re.compile(f"({text})")
            if _GROUP_NUMBER.search(text):
                raise re.error("refers to a group by its number, which is another within a group", text)
    return tuple(Separator.of(text, is_regex) for text in texts)
