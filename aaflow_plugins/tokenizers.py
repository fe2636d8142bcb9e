"""Counting tokens as tiktoken does: each text once, and by a faster tokenizer where one is proven to agree.

Nothing here is imported by the core itself, and neither tiktoken nor `splintr-rs` before an `Encoding` is handed over.
Everything is about *ordinary* text, in which no special token's literal occurs: there all of tiktoken's ways to
encode agree, as long as `plain_special_settings` holds for their `allowed_special` and `disallowed_special`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tiktoken

TokenIds = npt.NDArray[np.uint32]

#: Encodings for which `splintr-rs` agrees with tiktoken on every code point but `_LONG_S`, on generated text and on
#: the corpus of the tests.
_FASTER: Final = frozenset({"cl100k_base", "o200k_base"})

#: Ignoring case it is an s, so that tiktoken takes "'" and it for the end of "it's"; splintr does not.
_LONG_S: Final = "\u017f"

#: What all special tokens of splintr look like. They are more than tiktoken's, and are found in ordinary text, too.
_SPECIAL: Final = re.compile(r"<\|/?[a-z_]+\|>")

#: Encodings whose patterns match every character, never look behind and never join letters across a space, so that the
#: tokens of a text are those of its two halves wherever it is cut between a letter and a space followed by a letter.
_CUT_AT_SPACES: Final = frozenset(
    {"gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony"}
)
_CUT: Final = re.compile("(?<=[A-Za-z])(?= [A-Za-z])")

#: Characters counted through tiktoken before a faster tokenizer is loaded: loading takes as long as tiktoken takes
#: for about as many (0.1 s).
_WORTH_LOADING: Final = 1_000_000

#: Characters a token stands for, rounded up: more than this in a text mean more tokens than that, mostly.
_CHARACTERS_PER_TOKEN: Final = 5

#: What the faster tokenizer must agree on before it is trusted.
_TRICKY_TEXTS: Final = (
    "",
    " ",
    "   \n\n\n  \t\t x  \n",
    "\r\n\r\n \r \n\u2028\u2029\u0085\u00a0\u3000\x0b\x0c\x1c\x1d\x1e\x1f\u200b\ufeff",
    "I'm you're he'LL THEY'VE it'S don't 'd 'D 's'S ''s \u2019s",
    "0 1 22 333 4444 55555 1234567890 1,234.56 \u0661\u0662\u0663\u0664 \u00bd\u2167\u3007",
    "na\u00efve caf\u00e9 cafe\u0301 \u00df\u1e9e \u0130\u0131 \ufb01 \u01c5\u01c8 \u1f88",
    "\u4e2d\u6587\u5206\u8bcd\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001",
    "\ud55c\uad6d\uc5b4 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467\U0001f1e9\U0001f1ea\u2764\ufe0f",
    "\U0001d49c\U00020000\U0010ffff\ufffd",
    "<|endoftext|><|im_start|><|system|><|think|><|fim_prefix|>",
    "".join(map(chr, range(1, 256))),
    "a" * 500 + " " * 500 + "=" * 300 + "\n" * 300 + "ab" * 300 + "\u4e2d" * 100 + "0" * 100,
    "HTTPServer getElementById snake_case_name kebab-case x=y+z; foo(bar[0], *a, **k) -> {'a': 1}//\\/",
    "trailing spaces   \n    def f():\n\t\treturn None  # done\n\n\n",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org C:\\path\\file.txt",
)


class OrdinaryTokens:
    """The tokens of ordinary text under one tiktoken encoding.

    Attributes:
        encoding: The tiktoken `Encoding`.
        engine: What counts at present, for `explain()`.
        covers_text: Whether it is known that the tokens of a text spell all of it. A pattern of somebody's own may
            leave out what it does not match.
    """

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.engine = "tiktoken"
        self._specials = tuple(encoding.special_tokens_set)
        self._mark = "<|" if all("<|" in literal for literal in self._specials) else ""
        known = _is_registered(encoding)
        self._cuts = self.covers_text = known and encoding.name in _CUT_AT_SPACES
        self._untried = known and encoding.name in _FASTER
        self._flat: Callable[[str], bytes] | None = None
        self._seen = 0
        self._byte_lengths: npt.NDArray[np.int64] | None = None

    def is_ordinary(self, text: str) -> bool:
        """Whether no special token's literal occurs in a text."""
        return (bool(self._mark) and self._mark not in text) or not any(literal in text for literal in self._specials)

    def counts(self, texts: Sequence[str], enough: int = sys.maxsize) -> list[int]:
        """The number of tokens of each ordinary text.

        Args:
            texts: Any number of texts.
            enough: A count may be short of the truth, but not under `enough`, where the truth is at least `enough`.
        """
        if self._untried:
            self._weigh(texts)
        if self._cuts and enough < sys.maxsize:
            long = (enough + 8) * _CHARACTERS_PER_TOKEN
            if len(max(texts, key=len, default="")) > long + long // 4:
                return [
                    self._count_up_to(text, enough, long) if len(text) > long + long // 4 else self._count(text)
                    for text in texts
                ]
        flat = self._flat
        if flat is None:
            encode = self.encoding.encode_ordinary
            return [len(encode(text)) for text in texts]
        if _alike("".join(texts)):
            try:
                return [len(flat(text)) >> 2 for text in texts]
            except UnicodeEncodeError:
                pass
        return [self._count(text) for text in texts]

    def encode(self, text: str) -> TokenIds:
        """The token ids of one ordinary text, read-only."""
        if self._untried:
            self._weigh((text,))
        if self._flat is not None and _alike(text):
            try:
                return np.frombuffer(self._flat(text), dtype="<u4")
            except UnicodeEncodeError:  # A lone surrogate: tiktoken replaces it.
                pass
        return np.array(self.encoding.encode_ordinary(text), dtype=np.uint32)

    @property
    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """For each token id the number of bytes it stands for; 0 for an id that is none."""
        if self._byte_lengths is None:
            ranks = self.encoding._mergeable_ranks
            lengths = np.zeros(self.encoding.max_token_value + 1, dtype=np.int64)
            lengths[list(ranks.values())] = list(map(len, ranks))
            self._byte_lengths = lengths
        return self._byte_lengths

    def load_faster(self) -> bool:
        """Use the faster tokenizer from now on, if there is one and it agrees; say whether it is in use."""
        untried, self._untried = self._untried, False
        if untried:
            faster = _verified(self.encoding)
            if faster is not None:
                self._flat, self.engine = faster
        return self._flat is not None

    def expect(self, characters: int) -> None:
        """Load the faster tokenizer now if it will be loaded anyway: what comes before would be counted slowly.

        Args:
            characters: Length of texts to come, each of which is counted as a whole and then in parts.
        """
        if self._untried and self._seen + 2 * characters >= _WORTH_LOADING:
            self.load_faster()

    def _weigh(self, texts: Sequence[str]) -> None:
        self._seen += sum(map(len, texts))
        if self._seen >= _WORTH_LOADING:
            self.load_faster()

    def _count(self, text: str) -> int:
        if self._flat is not None and _alike(text):
            try:
                return len(self._flat(text)) >> 2
            except UnicodeEncodeError:
                pass
        return len(self.encoding.encode_ordinary(text))

    def _count_up_to(self, text: str, enough: int, characters: int) -> int:
        cut = _CUT.search(text, characters)
        if cut is not None:
            count = self._count(text[: cut.start()])
            if count >= enough:
                return count
        return self._count(text)


@lru_cache(maxsize=16)
def ordinary_tokens(encoding: tiktoken.Encoding) -> OrdinaryTokens:
    """The one `OrdinaryTokens` of an encoding in this process."""
    return OrdinaryTokens(encoding)


def plain_special_settings(encoding: tiktoken.Encoding, allowed_special: Any, disallowed_special: Any) -> bool:
    """Whether, with these settings, `Encoding.encode` treats ordinary text as `encode_ordinary` does.

    Args:
        encoding: The encoding.
        allowed_special: What is given to `Encoding.encode`; tiktoken refuses anything but "all" and sets of strings.
        disallowed_special: What is given to `Encoding.encode`. tiktoken refuses a text that holds any of these
            strings, be they special tokens or not.
    """
    return _names_specials(encoding, allowed_special, _SETS) and _names_specials(
        encoding, disallowed_special, _COLLECTIONS
    )


def encoding_behind(tokenizer: Any) -> tiktoken.Encoding | None:
    """The encoding whose ordinary tokens a function gives for ordinary text; None if the function is not known.

    Known are the methods `encode` and `encode_ordinary` of a tiktoken `Encoding`, and `functools.partial` of them with
    settings of special tokens that are `plain_special_settings`.
    """
    settings: dict[str, Any] = {}
    if type(tokenizer) is partial:
        if tokenizer.args:
            return None
        tokenizer, settings = tokenizer.func, tokenizer.keywords
    encoding = getattr(tokenizer, "__self__", None)
    if f"{type(encoding).__module__}.{type(encoding).__qualname__}" != "tiktoken.core.Encoding":
        return None
    known: Any = type(encoding)
    if type(tokenizer) is not MethodType or not {"encode", "encode_ordinary"}.isdisjoint(vars(encoding)):
        return None
    if tokenizer.__func__ is known.encode_ordinary and not settings:
        return cast("tiktoken.Encoding", encoding)
    if tokenizer.__func__ is not known.encode or not settings.keys() <= {"allowed_special", "disallowed_special"}:
        return None
    special = settings.get("allowed_special", set()), settings.get("disallowed_special", "all")
    return cast("tiktoken.Encoding", encoding) if plain_special_settings(cast(Any, encoding), *special) else None


_SETS: Final = frozenset({set, frozenset})
_COLLECTIONS: Final = frozenset({set, frozenset, list, tuple})


def _names_specials(encoding: tiktoken.Encoding, setting: Any, kinds: frozenset[type]) -> bool:
    kind = type(setting)
    if kind is str:
        return bool(setting == "all")
    if kind not in kinds:
        return False
    return not setting or (
        {str}.issuperset(map(type, setting)) and bool(encoding.special_tokens_set.issuperset(setting))
    )


def _is_registered(encoding: tiktoken.Encoding) -> bool:
    """Whether an encoding is the one tiktoken gives out under its name, and not somebody's variant of it."""
    from tiktoken import registry

    return registry.ENCODINGS.get(encoding.name) is encoding


def _alike(text: str) -> bool:
    """Whether splintr gives an ordinary text the tokens that tiktoken gives it."""
    return _LONG_S not in text and ("<|" not in text or _SPECIAL.search(text) is None)


def _verified(encoding: tiktoken.Encoding) -> tuple[Callable[[str], bytes], str] | None:
    """The encoding in `splintr-rs`, if that is installed, has the same tokens and finds the same in texts."""
    try:
        import splintr

        # Made of the encoding's own ranks it would take three times as long.
        tokenizer: Any = splintr.Tokenizer.from_pretrained(encoding.name)
        flat: Callable[[str], bytes] = tokenizer.encode_flat
        if not _has_tokens_of(encoding, tokenizer):
            return None
        for text in (*_TRICKY_TEXTS, *" ".join(_TRICKY_TEXTS).split("\n")):
            if _alike(text) and np.frombuffer(flat(text), dtype="<u4").tolist() != encoding.encode_ordinary(text):
                return None
    except (ImportError, AttributeError, ValueError, TypeError):
        # Not installed, or of a version with another interface: tiktoken it is.
        return None
    return flat, f"splintr-rs {splintr.__version__}"


def _has_tokens_of(encoding: tiktoken.Encoding, tokenizer: Any) -> bool:
    """Whether a tokenizer of splintr's has the tokens of an encoding, and special ones that `_SPECIAL` tells.

    The tokens' bytes are compared in one string, which takes half as long as one by one: a vocabulary that spells the
    same in as many tokens, but is cut elsewhere, is no slip of a version.
    """
    ranks = encoding._mergeable_ranks
    ids = list(range(len(ranks)))
    specials = [_literal(tokenizer, token) for token in range(len(ids), tokenizer.vocab_size)]
    return (
        all(_SPECIAL.fullmatch(literal) for literal in specials if literal is not None)
        and list(ranks.values()) == ids
        and tokenizer.decode_bytes(ids) == b"".join(ranks)
    )


def _literal(tokenizer: Any, token: int) -> str | None:
    try:
        return str(tokenizer.decode_bytes([token]), "utf-8")
    except ValueError:  # There are gaps between the numbers of special tokens.
        return None
