"""From a native splitter's attributes to the function that splits as it does, or the reason why there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any, Final

from langchain_text_splitters import TextSplitter

from aaflow_plugins.tokenizers import ordinary_tokens, plain_special_settings
from langchain_aaflow.splitting.characters import Chunks, Limits, split_once, split_recursively
from langchain_aaflow.splitting.known_code import is_known
from langchain_aaflow.splitting.separators import Keep, joint, read_separators
from langchain_aaflow.splitting.tokens import (
    Counter,
    EachCounted,
    Measure,
    split_every_tokens,
    split_once_by_count,
    split_recursively_by_count,
)

#: Splits one text, noting where chunks end if asked to; None if this one text has to be split natively.
Split = Callable[[str, bool], Chunks | None]


def recursive_split(splitter: Any) -> Split | str:
    """How a `RecursiveCharacterTextSplitter` splits, or why it has to do so natively."""
    separators = splitter._separators
    if type(separators) is not list or not separators or not {str}.issuperset(map(type, separators)):
        return "its separators are not a list of strings"
    return _configured(splitter, tuple(separators), _recursive_by_characters, _recursive_by_count)


def character_split(splitter: Any) -> Split | str:
    """How a `CharacterTextSplitter` splits, or why it has to do so natively."""
    if type(splitter._separator) is not str:
        return "its separator is not a string"
    return _configured(splitter, (splitter._separator,), _once_by_characters, _once_by_count)


def token_split(splitter: Any) -> Split | str:
    """How a `TokenTextSplitter` splits, or why it has to do so natively."""
    size, overlap = splitter._chunk_size, splitter._chunk_overlap
    if type(size) is not int or type(overlap) is not int:
        return "its chunk size or overlap is not an integer"
    if not 0 <= overlap < size:
        return "its chunk overlap is not smaller than its chunk size"
    if not _is_encoding(splitter._tokenizer):
        return "its tokenizer is not a tiktoken Encoding"
    if not plain_special_settings(splitter._tokenizer, splitter._allowed_special, splitter._disallowed_special):
        return _NOT_PLAIN
    tokens = ordinary_tokens(splitter._tokenizer)

    def split(text: str, want_ends: bool) -> Chunks | None:
        if not tokens.is_ordinary(text):
            return None
        try:
            chunks = split_every_tokens(text, tokens, size, overlap)
        except UnicodeEncodeError:
            return None
        return None if chunks is None else Chunks(chunks)

    return split


def header_split(splitter: Any) -> str | None:
    """Why a `MarkdownHeaderTextSplitter` has to split natively; None if it need not."""
    headers = splitter.headers_to_split_on
    if type(headers) is not list or type(splitter.custom_header_patterns) is not dict:
        return "its headers are not a list or its patterns not a dict"
    for header in headers:
        if type(header) is not tuple or len(header) != 2 or type(header[0]) is not str or not header[0]:
            return "one of its headers is not a pair of a string and a name"
    return None


def _configured(
    splitter: Any,
    separators: tuple[str, ...],
    by_characters: Callable[..., Split | str],
    by_count: Callable[..., Split],
) -> Split | str:
    size, overlap = splitter._chunk_size, splitter._chunk_overlap
    if type(size) is not int or type(overlap) is not int:
        return "its chunk size or overlap is not an integer"
    if not 0 <= overlap <= size or not size:
        return "its chunk overlap is larger than its chunk size"
    keep_separator = splitter._keep_separator
    if type(keep_separator) is not bool and type(keep_separator) is not str:
        return "its keep_separator is neither a bool nor a string"
    limits = (size, overlap, bool(splitter._strip_whitespace))
    is_regex = bool(splitter._is_separator_regex)
    length = splitter._length_function
    if length is len:
        return by_characters(separators, is_regex, keep_separator, *limits)
    counter = _counter(length)
    if isinstance(counter, str):
        return counter
    try:
        read = read_separators(separators, is_regex, bool(keep_separator))
    except re.error:
        return _INVALID_REGEX
    return by_count(read, Keep.of(keep_separator), Measure(counter, length, *limits))


_INVALID_REGEX: Final = "one of its separators is not a regular expression, or not in a group"
_NOT_DETERMINISTIC: Final = "its length_function may count the same text differently each time it is called"
_NOT_PLAIN: Final = "its special token settings are not all of special tokens"


@lru_cache(maxsize=256)
def _recursive_by_characters(
    separators: tuple[str, ...], is_regex: bool, keep_separator: bool | str, *limits: Any
) -> Split | str:
    try:
        read = read_separators(separators, is_regex, bool(keep_separator))
    except re.error:
        return _INVALID_REGEX
    keep = Keep.of(keep_separator)
    bounds = Limits(*limits)

    def split(text: str, want_ends: bool) -> Chunks:
        chunks = Chunks([], [] if want_ends else None)
        split_recursively(text, read, keep, bounds, chunks)
        return chunks

    return split


@lru_cache(maxsize=256)
def _once_by_characters(
    separators: tuple[str, ...], is_regex: bool, keep_separator: bool | str, *limits: Any
) -> Split | str:
    try:
        (read,) = read_separators(separators, is_regex, bool(keep_separator))
    except re.error:
        return _INVALID_REGEX
    keep = Keep.of(keep_separator)
    bounds = Limits(*limits)
    between = joint(read, keep, True)

    def split(text: str, want_ends: bool) -> Chunks:
        chunks = Chunks([], [] if want_ends else None)
        split_once(text, read, keep, between, bounds, chunks)
        return chunks

    return split


def _recursive_by_count(separators: Any, keep: Keep, measure: Measure) -> Split:
    def split(text: str, want_ends: bool) -> Chunks | None:
        if not measure.counter.is_ordinary(text):
            return None
        chunks = Chunks([])
        split_recursively_by_count(text, separators, keep, measure, chunks.texts)
        return chunks

    return split


def _once_by_count(separators: Any, keep: Keep, measure: Measure) -> Split:
    (separator,) = separators
    between = joint(separator, keep, True)

    def split(text: str, want_ends: bool) -> Chunks | None:
        if not measure.counter.is_ordinary(text):
            return None
        chunks = Chunks([])
        split_once_by_count(text, separator, keep, between, measure, chunks.texts)
        return chunks

    return split


def _counter(length: Any) -> Counter | str:
    """What counts as a length function does, without calling it for the same text over and over; or why not."""
    if type(length) is not FunctionType or length.__closure__ is None:
        return _NOT_DETERMINISTIC
    if length.__code__ in _nested_code("_tiktoken_encoder"):
        encoding = _closed_over(length, "enc")
        if not _is_encoding(encoding):
            return _NOT_DETERMINISTIC
        special = (_closed_over(length, "allowed_special"), _closed_over(length, "disallowed_special"))
        return ordinary_tokens(encoding) if plain_special_settings(encoding, *special) else _NOT_PLAIN
    if length.__code__ in _nested_code("_huggingface_tokenizer_length") and _is_deterministic(
        _closed_over(length, "tokenizer")
    ):
        return EachCounted(length)
    return _NOT_DETERMINISTIC


@lru_cache(maxsize=8)
def _nested_code(name: str) -> frozenset[CodeType]:
    """The code of the native length functions of one name, whichever method they are made in."""
    found = set()
    for maker in ("_tiktoken_length_function", "from_tiktoken_encoder", "from_huggingface_tokenizer"):
        method = getattr(TextSplitter, maker, None)
        function = getattr(method, "__func__", method)
        if isinstance(function, FunctionType) and is_known(function):
            constants = function.__code__.co_consts
            found |= {code for code in constants if isinstance(code, CodeType) and code.co_name == name}
    return frozenset(found)


def _closed_over(function: FunctionType, name: str) -> Any:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells[name].cell_contents if name in cells else None


def _is_encoding(value: Any) -> bool:
    return f"{type(value).__module__}.{type(value).__qualname__}" == "tiktoken.core.Encoding"


def _is_deterministic(tokenizer: Any) -> bool:
    """Whether a Hugging Face tokenizer is known to give the same tokens for the same text each time."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    return (
        type(tokenizer).__module__.partition(".")[0] == "transformers"
        and model is not None
        and not getattr(model, "dropout", None)
        and "tokenize" not in vars(tokenizer)
    )
