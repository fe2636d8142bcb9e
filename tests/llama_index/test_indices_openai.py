"""An accelerated index asks OpenAI's model what the native one asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.embeddings.openai import OpenAIEmbedding

from benchmarks.openai_server import Connection
from tests.llama_index.index_pairs import Side, assert_same, document, node, pair

TEXT = "One sentence of seven words is here. " * 9


def built(*names: str) -> Callable[[Side], Any]:
    return lambda side: side.build([document(name, f"{name}: {TEXT}") for name in names])


@pytest.mark.parametrize("use_async", [False, True])
def test_openai(tmp_path: Path, openai_server: Connection, use_async: bool) -> None:
    """The index's own model is asked, several requests at a time: the same requests, events and vectors."""
    native, ours = pair(tmp_path, use_async=use_async)
    for side in (native, ours):
        side.settings["embed_model"] = OpenAIEmbedding(
            model="text-embedding-3-small", api_key="none", embed_batch_size=2, api_base=openai_server.base_url
        )

    def asked(act: Callable[[Side], Any]) -> Callable[[Side], Any]:
        def run(side: Side) -> Any:
            openai_server.configure(record=True)
            result = act(side)
            if asyncio.iscoroutine(result):
                asyncio.run(result)
            return sorted(openai_server.bodies())

        return run

    acts = [
        asked(built("a", "b")),
        asked(lambda side: side.index.insert(document("c", TEXT))),
        asked(lambda side: side.index.insert_nodes([node("n", "embedded already", "a", embedding=[0.5] * 4)])),
    ]
    if not use_async:  # The model's client belongs to the loop that built the index.
        acts.append(asked(lambda side: side.index.ainsert(document("d", TEXT))))
    outcomes = assert_same((native, ours), *acts)
    assert [len(outcome[1]) > 1 for outcome in outcomes] == [True, True, False, True][: len(acts)]
    assert ours.index._embed_model is ours.settings["embed_model"]
    assert type(ours.index._embed_model) is OpenAIEmbedding
