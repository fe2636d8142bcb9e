"""The sentences that nltk's Punkt finds, with each decision made once."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, Final, cast

from llama_index.core.node_parser.text import utils
from llama_index.core.utils import globals_helper

from llama_index_aaflow.known_code import is_known, unknown

SplitFunction = Callable[[str], list[str]]

#: Decisions kept; the table is emptied when it is full.
_MOST: Final = 100_000

#: Characters of the words around a full stop beyond which a decision is not kept.
_LONG: Final = 100


class PunktSentences:
    """Sentences as an untrained `PunktSentenceTokenizer` finds them.

    A full stop, question or exclamation mark ends a sentence or not depending on the words beside it alone. Punkt
    itself decides, once for each pair of words; the decisions are kept. Without training nothing is known of single
    words, so that one decision serves for all words of a shape. What follows a word matters in two ways. Within itself
    it may hold the end of a sentence. And a single letter or a number may end a sentence if what follows begins
    with a capital, or with neither case, but not if it begins in lower case or is a punctuation mark.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.learnt = tokenizer._params
        self._decide: Callable[[str], bool] = tokenizer.text_contains_sentbreak
        self._finditer = tokenizer._lang_vars.period_context_re().finditer
        self._closing = tokenizer._lang_vars.re_boundary_realignment.match
        self._decisions: dict[str, bool] = {}
        self._always: dict[str, bool] = {}

    def split(self, text: str) -> list[str]:
        """The sentences of a text, each with the space after it."""
        starts = [start for start, _ in self.spans(text)]
        return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)] if starts else []

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of each sentence, as `span_tokenize` gives them."""
        closing = self._closing
        moved = 0
        slices = self._slices(text)
        start, stop = next(slices)
        for next_start, next_stop in slices:
            start += moved
            # What closes a sentence is a quotation mark or a bracket.
            mark = None if text[next_start : next_start + 1].isalnum() else closing(text, next_start, next_stop)
            if mark:
                moved = mark.end() - next_start
                yield start, next_start + len(mark.group().rstrip())
            else:
                moved = 0
                if start < stop:
                    yield start, stop
            start, stop = next_start, next_stop
        start += moved
        if start < stop:
            yield start, stop

    def _slices(self, text: str) -> Iterator[tuple[int, int]]:
        last = 0
        for word, mark in self._marks(text):
            if self._ends_sentence(text, word, mark):
                end = mark.end()
                yield last, end
                last = mark.start("next_tok") if mark.group("next_tok") else end
        yield last, len(text.rstrip())

    def _marks(self, text: str) -> Iterator[tuple[int, Any]]:
        """Each mark that may end a sentence, after the start of the word that it follows.

        Of several marks in one word only the last counts. Native looks for the white space before a word in what
        follows the mark before it, and takes white space right at the mark for none.
        """
        spaces = [space for space in string.whitespace if space != " " and space in text]
        find_last = text.rfind
        word = at = 0
        before = None
        for mark in self._finditer(text):
            here = mark.start()
            space = find_last(" ", at + 1, here)
            for other in spaces:
                found = find_last(other, (space if space > at else at) + 1, here)
                if found > space:
                    space = found
            start = word if space < 0 else space + 1
            if before is not None and at <= start:
                yield word, before
            before, word, at = mark, start, here
        if before is not None:
            yield word, before

    def _ends_sentence(self, text: str, word: int, mark: Any) -> bool:
        ended = text[word : mark.end()]
        following = mark.group("next_tok")
        if not following:
            return self._decided(_shape(ended) + mark.group("after_tok"))
        # White space within a word would join it with the marks around it, and is not the same everywhere in Punkt.
        if not (ended.isprintable() and following.isprintable()) or " " in ended:
            return self._decided(ended + mark.group("after_tok"))
        always = self._always.get(ended)
        if always is None:
            # Nothing speaks more against the end of a sentence than a following word in lower case.
            always = self._decided(_shape(ended) + " a")
            _keep(self._always, ended, always)
        if always:
            return True
        if following.isalpha() and following.isascii() and following[0].islower():
            return False
        return self._decided(_shape(ended) + " " + _shape(following))

    def _decided(self, context: str) -> bool:
        decided = self._decisions.get(context)
        if decided is None:
            decided = self._decide(context)
            _keep(self._decisions, context, decided)
        return decided


def _shape(word: str) -> str:
    """A word with other letters and digits for which Punkt decides the same: of a run of letters only the first
    letter's case counts and whether it is alone, of a run of digits nothing.
    """
    return _DIGITS.sub("0", _UPPER.sub("Ab", _LOWER.sub("ab", word)))


_LOWER: Final = re.compile("(?<![A-Za-z])[a-z][A-Za-z]+")
_UPPER: Final = re.compile("(?<![A-Za-z])[A-Z][A-Za-z]+")
_DIGITS: Final = re.compile("[0-9]+")


def _keep(table: dict[str, bool], key: str, decided: bool) -> None:
    if len(key) <= _LONG:
        if len(table) >= _MOST:
            table.clear()
        table[key] = decided


def fast_sentences(function: Any) -> SplitFunction:
    """What splits a text as a function does, sooner if it is LlamaIndex's own that asks Punkt for sentences."""
    code = _native_code()
    if code is None or not isinstance(function, FunctionType) or function.__code__ is not code:
        return cast(SplitFunction, function)

    def split(text: str) -> list[str]:
        # Not before it is needed: native may have to load Punkt first, or fail to.
        punkt = _punkt(globals_helper.punkt_tokenizer)
        return cast(SplitFunction, function)(text) if punkt is None else punkt.split(text)

    return split


def gives_parts(function: Any) -> bool:
    """Whether a function is one of LlamaIndex's own, all of which cut a text into parts of it."""
    return isinstance(function, FunctionType) and function.__code__.co_filename == utils.__file__


_latest: PunktSentences | None = None


def _punkt(tokenizer: Any) -> PunktSentences | None:
    global _latest
    latest = _latest
    cls: Any = type(tokenizer)
    if not _is_known_class(cls) or not _knows_no_words(tokenizer):
        return None
    if latest is None or latest.tokenizer is not tokenizer or latest.learnt is not tokenizer._params:
        if any(tokenizer._params.ortho_context.values()):
            return None
        _latest = latest = PunktSentences(tokenizer)
    return latest


def _knows_no_words(tokenizer: Any) -> bool:
    from nltk.tokenize.punkt import PunktLanguageVars, PunktParameters, PunktToken

    learnt = tokenizer._params
    return (
        vars(tokenizer).keys() == {"_params", "_lang_vars", "_Token"}
        and tokenizer._Token is PunktToken
        and type(tokenizer._lang_vars) is PunktLanguageVars
        and type(learnt) is PunktParameters
        and not (learnt.abbrev_types or learnt.collocations or learnt.sent_starters)
    )


@lru_cache(maxsize=8)
def _is_known_class(cls: Any) -> bool:
    from nltk.tokenize import punkt

    return (
        cls is punkt.PunktSentenceTokenizer
        and unknown(cls, _METHODS) is None
        and all(map(is_known, (punkt.PunktLanguageVars, punkt.PunktToken, punkt._pair_iter)))
    )


_METHODS: Final = (
    "span_tokenize",
    "_slices_from_text",
    "_match_potential_end_contexts",
    "_get_last_whitespace_index",
    "_realign_boundaries",
    "text_contains_sentbreak",
    "_tokenize_words",
    "_annotate_tokens",
    "_annotate_first_pass",
    "_first_pass_annotation",
    "_annotate_second_pass",
    "_second_pass_annotation",
    "_ortho_heuristic",
)


@lru_cache(maxsize=1)
def _native_code() -> CodeType | None:
    """The code of the functions that `split_by_sentence_tokenizer` gives, if that is known."""
    maker = utils.split_by_sentence_tokenizer
    if not is_known(maker) or not is_known(utils.split_by_sentence_tokenizer_internal):
        return None
    return next(constant for constant in maker.__code__.co_consts if isinstance(constant, CodeType))
