"""Texts that are there before on whatever rank are stored once, as in one process."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document

from aaflow_plugins.dedupe import content_key, firsts
from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import blocks
from langchain_aaflow import ingest
from tests.ranks.test_langchain_ingest import SPLITTERS, Hashed, documents
from tests.ranks.test_langchain_shards import rows

pytestmark = pytest.mark.own_block


def repeated(count: int) -> list[Document]:
    """Documents of which many are there several times, far from one another."""
    once = documents(count, 200)
    again = [Document(page_content=each.page_content, metadata={"again": True}) for each in once[::2]]
    return [
        *once,
        *reversed(again),
        *documents(3, 10),
        Document(page_content="\ud800"),
        Document(page_content="\ud800"),
    ]


@pytest.mark.parametrize("spread", [True, False])
@pytest.mark.parametrize("count", [0, 1, 40, 200])
def test_the_first_of_each_of_all_ranks(ranks: Communicator, count: int, spread: bool) -> None:
    texts = [str(value) for value in np.random.default_rng(count).integers(0, 9, count)]
    everything = range(count) if ranks.rank == 1 else range(0)
    mine = blocks([1] * count, ranks.size)[ranks.rank] if spread else everything
    with ranks.together("firsts"):
        found = firsts([content_key(texts[row]) for row in mine], ranks)
    assert found == [texts[row] not in texts[:row] for row in mine]


@pytest.mark.parametrize("splitter", SPLITTERS)
@pytest.mark.parametrize("gather", ["root", "shards", "all"])
def test_the_store_of_one_process(ranks: Communicator, gather: str, splitter: str) -> None:
    given = repeated(20)
    executor = Executor(engine="mpi", gather=gather, batch_size=16)
    arguments: Any = {"embedding": Hashed(), "vectorstore": FAISS, "deduplicate": True}
    found: Any = ingest(given, splitter=SPLITTERS[splitter](), executor=executor, **arguments)
    alone = Executor(engine="local", batch_size=16)
    expected = rows(ingest(given, splitter=SPLITTERS[splitter](), executor=alone, **arguments))
    assert set(Counter(text for text, *_ in expected).values()) == {1}
    if gather == "root":
        assert (rows(found) == expected) if ranks.rank == 0 else (found is None)
    elif gather == "all":
        assert rows(found) == expected
    else:
        start = sum(found.counts[: ranks.rank])
        assert rows(found.local) == expected[start : start + found.counts[ranks.rank]]
        assert len(found) == len(expected)
        assert executor.report is not None
        told = {each.kind: each.rows for each in executor.report.operators}
        assert told["dedupe"] == told["upsert"] == found.counts[ranks.rank]


def test_ids_are_those_of_the_first(ranks: Communicator) -> None:
    given = [Document(page_content=text) for text in "abcabdaa"]
    executor = Executor(engine="mpi", gather="shards", batch_size=2)
    ids = [*"12345678"[:3], "1", "2", "6", "7", "7"]
    found: Any = ingest(
        given, splitter=None, embedding=Hashed(), vectorstore=FAISS, ids=ids, deduplicate=True, executor=executor
    )
    expected = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "6")]
    start = sum(found.counts[: ranks.rank])
    held = [(found.local.docstore._dict[id_].page_content, id_) for id_ in found.local.index_to_docstore_id.values()]
    assert held == expected[start : start + found.counts[ranks.rank]]
    assert len(found) == 4


def test_all_ranks_have_to_ask_for_it(ranks: Communicator) -> None:
    executor = Executor(engine="mpi", gather="shards", batch_size=2)
    arguments: Any = {"splitter": None, "embedding": Hashed(), "vectorstore": FAISS, "executor": executor}
    with pytest.raises(RankError, match="rank 1 runs something else: not with rank 0's dedupe by text;"):
        ingest([Document(page_content="a")], deduplicate=bool(ranks.rank), **arguments)
