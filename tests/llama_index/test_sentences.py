"""Sentences are nltk Punkt's own, span by span."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer
from llama_index.core.utils import globals_helper

from llama_index_aaflow.parsing import sentences
from llama_index_aaflow.parsing.sentences import fast_sentences
from tests.generated import examples
from tests.llama_index.parsing_outcomes import any_texts, corpus

SHORT = st.lists(
    st.sampled_from(
        [
            *("a", "A", "ab", "Ab", "x", "1", "12", "100", "e.g", "U.S", "it's", "1.", "A.", "a.", "ab.ab"),
            *(" ", "  ", "\n", "\n\n", "\t", "\r", "\u00a0", "\x1c", "\x85", "\u2028", ". . ."),
            *("..", "...", "--", ".)", '."', *".?!,;:-*&_/()]\"'"),
            *"\u201d\u2019\u00ab\u3002\u4e2d\u00e9\u00df\u0130\u0661\u01c5\ud800",
        ]
    ),
    max_size=14,
).map("".join)


@pytest.fixture
def punkt() -> Any:
    return globals_helper.punkt_tokenizer


def assert_same_sentences(tokenizer: Any, text: str) -> None:
    fast = sentences._punkt(tokenizer)
    assert fast is not None
    assert list(fast.spans(text)) == list(tokenizer.span_tokenize(text))


def test_real_text(punkt: Any) -> None:
    for text in corpus(1_500_000):
        assert_same_sentences(punkt, text)


@pytest.mark.slow
def test_more_real_text(punkt: Any) -> None:
    for text in corpus(20_000_000):
        assert_same_sentences(punkt, text)


@settings(max_examples=examples(1500), deadline=None, derandomize=True)
@given(st.one_of(SHORT, any_texts))
def test_any_text(text: str) -> None:
    tokenizer = globals_helper.punkt_tokenizer
    assert_same_sentences(tokenizer, text)
    native = split_by_sentence_tokenizer()
    assert fast_sentences(native)(text) == native(text)


def test_nothing_is_loaded_before_there_is_text_to_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(globals_helper), "punkt_tokenizer", property(lambda _: pytest.fail("asked")))
    fast_sentences(split_by_sentence_tokenizer())


def test_another_function_stays_itself() -> None:
    def by_line(text: str) -> list[str]:
        return text.splitlines()

    assert fast_sentences(by_line) is by_line
    assert fast_sentences(str.split) is str.split


def test_a_trained_tokenizer_is_asked_itself(monkeypatch: pytest.MonkeyPatch, punkt: Any) -> None:
    """It knows abbreviations: words are not alike to it."""
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    learnt = PunktParameters()
    learnt.abbrev_types.add("dr")
    trained = PunktSentenceTokenizer(learnt)
    assert sentences._punkt(trained) is None
    monkeypatch.setattr(globals_helper, "_punkt_tokenizer", trained)
    native = split_by_sentence_tokenizer()
    text = "Ask dr. who. He knows."
    assert fast_sentences(native)(text) == native(text) == ["Ask dr. who. ", "He knows."]


def test_a_tokenizer_trained_later_is_noticed() -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    tokenizer = PunktSentenceTokenizer()
    assert sentences._punkt(tokenizer) is not None
    tokenizer._params.abbrev_types.add("dr")
    assert sentences._punkt(tokenizer) is None


def test_a_subclass_or_an_own_method_is_asked_itself() -> None:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    class Mine(PunktSentenceTokenizer):  # type: ignore[misc]
        pass

    assert sentences._punkt(Mine()) is None
    tokenizer = PunktSentenceTokenizer()
    tokenizer.text_contains_sentbreak = lambda text: True
    assert sentences._punkt(tokenizer) is None


def test_decisions_kept_are_bounded(monkeypatch: pytest.MonkeyPatch, punkt: Any) -> None:
    monkeypatch.setattr(sentences, "_MOST", 5)
    fast = sentences.PunktSentences(punkt)
    text = " ".join(f"w{'-' * n}. x{n}y." for n in range(40)) + " " + "y_" * 200 + ". Z"
    assert list(fast.spans(text)) == list(punkt.span_tokenize(text))
    assert len(fast._decisions) <= 5
    assert len(fast._always) <= 5
