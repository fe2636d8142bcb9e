"""Which functions must see a batch's inputs in order."""

from __future__ import annotations

import functools
import itertools
import queue
import random
from collections.abc import Callable, Iterator
from operator import itemgetter
from random import choice
from typing import Any

import numpy as np
import pytest
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from numpy.random import rand

from langchain_aaflow import any_order, in_order
from langchain_aaflow.chains.order import order_reason

_seen: list[Any] = []
_counter = itertools.count()
_table = {"a": 1}
_total = 0
_store = InMemoryVectorStore(DeterministicFakeEmbedding(size=4))
_history = InMemoryChatMessageHistory()


def _adds_up(value: int) -> int:
    global _total
    _total += value
    return _total


def _appends(value: Any) -> Any:
    _seen.append(value)
    return value


def _helped(value: Any) -> Any:
    return _appends(value)


def _logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def _generates(value: Any) -> Iterator[Any]:
    yield value


def _counting() -> Callable[[Any], int]:
    count = 0

    def count_up(value: Any) -> int:
        nonlocal count
        count += 1
        return count

    return count_up


_generator = np.random.default_rng(0)
_next_number = itertools.count().__next__
_waiting: queue.Queue[Any] = queue.Queue()
_next_waiting = _waiting.get_nowait


def _imports(value: Any) -> float:
    import random as numbers

    return numbers.random()


def _imports_from(value: Any) -> Any:
    from numpy import random as numbers

    return numbers.rand()


class _Callable:
    def __call__(self, value: Any) -> Any:
        return value

    def method(self, value: Any) -> Any:
        return value


class _Refuses:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise RuntimeError("not now")


def _with_refusing() -> Callable[[Any], Any]:
    held = _Refuses()
    return lambda value: (held, value)[1]


_cached = functools.lru_cache(_appends)
_bound = functools.partial(_appends, 1)

ORDERED = [
    _adds_up,
    _appends,
    _helped,
    _logged(_appends),
    _generates,
    _counting(),
    _Callable(),
    _Callable().method,
    lambda value: next(_counter),
    lambda value: random.random(),
    lambda value: choice(value),
    lambda value: _generator.integers(9),
    lambda value: np.random.rand(),
    lambda value: rand(),
    lambda value: _next_number(),
    lambda value: _next_waiting(),
    lambda value: setattr(_Callable, "last", value),
    _imports,
    _imports_from,
    functools.partial(lambda numbers, value: (next(numbers), value), _counter),
    functools.lru_cache(_appends),
    lambda value: _cached(value),
    lambda value: _bound(),
    in_order(lambda value: value),
    lambda value: _store.add_texts([value]),
    lambda value: _history.add_user_message(value),
    _with_refusing(),
]


def _formats(documents: list[Any]) -> str:
    parts = []
    for document in documents:
        parts.append(str(document))
    return ", ".join(parts)


_fill = "{}".format

FREE = [
    _formats,
    _logged(_formats),
    str.upper,
    len,
    itemgetter("a"),
    lambda value: _table["a"] + value,
    lambda value: {**value, "b": 2},
    lambda value: np.array(value).sum(),
    lambda value: _fill(value),
    lambda value: _store.similarity_search(value),
    functools.partial(lambda add, value: add + value, 3),
    any_order(lambda value: _seen.append(value)),
    any_order(_Callable().__call__.__func__),
]


@pytest.mark.parametrize("function", ORDERED)
def test_what_keeps_state_sees_inputs_in_order(function: Any) -> None:
    assert order_reason(function)


@pytest.mark.parametrize("function", FREE)
def test_what_computes_does_not(function: Any) -> None:
    assert order_reason(function) is None
