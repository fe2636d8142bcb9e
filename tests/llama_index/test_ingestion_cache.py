"""Keys of cache entries, taken node by node: those of the native function, or its errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionCache
from llama_index.core.ingestion.pipeline import get_transformation_hash, run_transformations
from llama_index.core.schema import Document, TextNode

from llama_index_aaflow.ingestion_cache import Made, QuickCache, quick_cache, with_quick_keys
from tests.generated import examples
from tests.llama_index.parsing_outcomes import texts
from tests.llama_index.pipelines import Shouting


def outcome(function: Any, *arguments: Any) -> Any:
    """What a function gives or raises."""
    try:
        return function(*arguments)
    except Exception as error:
        return type(error), str(error)


@settings(max_examples=examples(100), deadline=None)
@given(given_texts=st.lists(texts, max_size=6), mark=texts, name=texts)
def test_keys(given_texts: list[str], mark: str, name: str) -> None:
    """Keys and errors are native, of nodes as they are and of nodes that were told of before."""
    nodes = [
        (TextNode if number % 2 else Document)(text=text, metadata={name: number})
        for number, text in enumerate(given_texts)
    ]
    native = outcome(get_transformation_hash, nodes, Shouting(mark=mark))
    cache: Any = quick_cache(IngestionCache())
    assert type(cache) is QuickCache
    assert outcome(cache.key, nodes, Shouting(mark=mark)) == native
    made = Made(cached=True)
    for start in range(0, len(nodes), 2):
        made.add(nodes[start : start + 2])
    cache.expect(made)
    cache.put("the parser's", made.nodes)
    assert outcome(cache.key, made.nodes, Shouting(mark=mark)) == native
    cache.put("the model's", made.nodes)
    for node in made.nodes:
        node.metadata["more"] = 1
    native = outcome(get_transformation_hash, made.nodes, Shouting(mark=mark))
    assert outcome(cache.key, made.nodes, Shouting(mark=mark)) == native


def test_nodes_that_are_not_known() -> None:
    """Classes of somebody's own, and what can be gone through once."""

    class Loud(TextNode):
        def get_content(self, *given: Any, **named: Any) -> str:
            return super().get_content(*given, **named).upper()

    cache: Any = quick_cache(IngestionCache())
    nodes = [Loud(text="a"), TextNode(text="b")]
    assert cache.key(nodes, Shouting()) == get_transformation_hash(nodes, Shouting())
    assert cache.key(iter(nodes), Shouting()) == get_transformation_hash(iter(nodes), Shouting())  # type: ignore[arg-type]


def test_a_patched_function_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = quick_cache(IngestionCache())
    assert with_quick_keys(run_transformations, cache) is not run_transformations
    assert with_quick_keys(run_transformations, IngestionCache()) is run_transformations
    monkeypatch.setattr("llama_index.core.ingestion.pipeline.get_transformation_hash", lambda *_: "key")
    assert with_quick_keys(run_transformations, cache) is run_transformations
