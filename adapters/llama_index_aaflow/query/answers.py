"""What was found out for a query before it is run: its native run takes it where it would have asked."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryResult

from aaflow_plugins.batching import Batching
from aaflow_plugins.joins import Joins

Vector = list[float]


@dataclass
class Answers:
    """The answers for one query. Each is taken once: whoever asks again, asks natively.

    Attributes:
        vectors: By the model (`id` of its attributes, which views share) and the text.
        searches: The store (as the model), the very query, and what it gave.
    """

    vectors: dict[tuple[int, str], Vector] = field(default_factory=dict)
    searches: list[tuple[int, VectorStoreQuery, VectorStoreQueryResult]] = field(default_factory=list)


#: Those of the query that is run here.
_answers: ContextVar[Answers | None] = ContextVar("aaflow_answers", default=None)

#: What joins the calls of a batch that is run here.
_scope: ContextVar[Batching | None] = ContextVar("aaflow_query_scope", default=None)


def run_with(answers: Answers | None, scope: Batching) -> None:
    """Let what runs in this context take these answers, and join its calls in this scope."""
    _answers.set(answers)
    _scope.set(scope)


def scope_of(joins: Joins) -> Batching | None:
    """What joins a call made here by an object that was told `joins`."""
    return _scope.get() or joins.scope


def take_vector(model: Any, text: str) -> Vector | None:
    """The vector of a text that is known already."""
    answers = _answers.get()
    return answers.vectors.pop((id(vars(model)), text), None) if answers else None


def _same(asked: VectorStoreQuery, query: VectorStoreQuery) -> bool:
    try:
        return bool(asked == query)
    except ValueError:  # arrays among them
        return False


def take_result(store: Any, query: VectorStoreQuery) -> VectorStoreQueryResult | None:
    """What the store gives for a query, if that is known already."""
    answers = _answers.get()
    for place, (owner, asked, result) in enumerate(answers.searches if answers else ()):
        if owner == id(vars(store)) and _same(asked, query):
            assert answers is not None
            del answers.searches[place]
            return result
    return None
