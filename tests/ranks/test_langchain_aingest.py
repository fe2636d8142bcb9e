"""`aingest` on all ranks, against `aingest` in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

pytest.importorskip("faiss")

from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from langchain_aaflow import aingest, ingest
from langchain_aaflow.sharded_store import ShardedVectorStore
from tests.ranks.awaited import ends_everywhere, finished
from tests.ranks.test_langchain_ingest import SPLITTERS, Hashed, contents, documents
from tests.ranks.test_langchain_shards import rows

pytestmark = pytest.mark.own_block


class Awaiting(Hashed):
    """Embeddings with a client of their own, which belongs to one loop, and tells its vectors from others."""

    loop: Any = None

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.loop = self.loop or asyncio.get_running_loop()
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0.001)
        return self.embed_documents([f"awaited {text}" for text in texts])


class Slow(Hashed):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        time.sleep(0.1)
        return super().embed_documents(texts)


async def read(given: list[Document]) -> AsyncIterator[Document]:
    for document in given:
        await asyncio.sleep(0)
        yield document


def executor(gather: str = "root", **settings: Any) -> Executor:
    return Executor(**{"engine": "mpi", "gather": gather, "batch_size": 16, **settings})


def alone(given: Any, **arguments: Any) -> Any:
    return asyncio.run(aingest(given, executor=Executor(engine="local", batch_size=16), **arguments))


EMBEDDINGS = {"blocking": Hashed, "a client of its own": Awaiting}


@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore])
@pytest.mark.parametrize("source", [list, read])
def test_the_store_of_one_process(ranks: Communicator, kind: str, store: Any, source: Any) -> None:
    given, splitter = documents(60, 300), SPLITTERS["recursive"]()
    made = EMBEDDINGS[kind]
    arguments = {"splitter": splitter, "vectorstore": store}
    found = finished(lambda: aingest(source(given), embedding=made(), executor=executor(), **arguments))
    if ranks.rank:
        assert found is None
    else:
        assert contents(found) == contents(alone(given, embedding=made(), **arguments))


def test_who_takes_part(ranks: Communicator) -> None:
    arguments: Any = {"splitter": SPLITTERS["recursive"](), "vectorstore": FAISS}
    blocking, awaiting = Hashed(), Awaiting()
    for embedding in (blocking, awaiting):
        call = partial(aingest, documents(60, 300), embedding=embedding, executor=executor(), **arguments)
        finished(call)
    assert bool(awaiting.calls) is (ranks.rank == 0)
    with ranks.together("calls"):
        assert all(
            int(count) > 1 for count in (v.split()[1] for v in ranks.agree(b"%d %d" % (ranks.rank, blocking.calls)))
        )


@pytest.mark.parametrize("kind", EMBEDDINGS)
@pytest.mark.parametrize("gather", ["shards", "all"])
@pytest.mark.parametrize("source", [list, read])
def test_each_rank_its_block(ranks: Communicator, kind: str, gather: str, source: Any) -> None:
    given, splitter = documents(30, 40), SPLITTERS["recursive"]()
    made = EMBEDDINGS[kind]
    arguments = {"splitter": splitter, "vectorstore": FAISS}
    found = finished(lambda: aingest(source(given), embedding=made(), executor=executor(gather), **arguments))
    expected = rows(alone(given, embedding=made(), **arguments))
    if gather == "all":
        assert rows(found) == expected
    else:
        assert type(found) is ShardedVectorStore
        start = sum(found.counts[: ranks.rank])
        assert rows(found.local) == expected[start : start + found.counts[ranks.rank]]


@pytest.mark.parametrize("gather", ["root", "shards"])
@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_an_error_is_raised_on_all_ranks(ranks: Communicator, kind: str, gather: str) -> None:
    given = documents(60, 30)
    given[-1].page_content += " poison"
    arguments: Any = {"splitter": None, "embedding": EMBEDDINGS[kind](bad="poison"), "vectorstore": FAISS}
    with pytest.raises((ValueError, RankError), match="poison is refused"):
        finished(lambda: aingest(given, executor=executor(gather), **arguments))
    test_the_store_of_one_process(ranks, "blocking", FAISS, list)


@pytest.mark.parametrize("gather", ["root", "shards"])
@pytest.mark.parametrize("of", [0, 1])
def test_a_task_that_is_cancelled(ranks: Communicator, of: int, gather: str) -> None:
    """It ends on all ranks, long before the work would have."""
    arguments: Any = {"splitter": None, "embedding": Slow(), "vectorstore": FAISS}
    given = documents(4000, 3)
    ends_everywhere(ranks, lambda: aingest(given, executor=executor(gather), **arguments), cancelled=of)
    test_the_store_of_one_process(ranks, "blocking", FAISS, list)


def test_what_has_to_be_alike(ranks: Communicator) -> None:
    arguments: Any = {"splitter": SPLITTERS["none"](), "embedding": Hashed(), "vectorstore": FAISS}
    with pytest.raises(RankError, match="rank 1 has other data than rank 0"):
        asyncio.run(aingest(documents(3 + ranks.rank, 9), executor=executor(), **arguments))
    with pytest.raises(ValueError, match="natively all texts are one call"):
        asyncio.run(aingest(documents(3, 9), executor=executor("shards", batch_size=None), **arguments))
    assert ingest(documents(3, 9), executor=Executor(engine="local"), **arguments) is not None
