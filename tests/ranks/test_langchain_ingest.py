"""`ingest` with the help of all ranks, against `ingest` in one process."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")

from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import (
    MarkdownHeaderTextSplitter,
    RecursiveCharacterTextSplitter,
)

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from langchain_aaflow import ingest

pytestmark = pytest.mark.own_block


class Hashed(Embeddings):
    """A vector that its text decides, and the texts beside it in the same call."""

    def __init__(self, kind: type = float, bad: str = "") -> None:
        self.kind, self.bad, self.calls = kind, bad, 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls += 1
        if self.bad and any(self.bad in text for text in texts):
            raise ValueError(f"{self.bad} is refused")
        beside = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
        return [[self.kind(value) for value in self._one(text, beside)] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    def _one(self, text: str, beside: bytes) -> Any:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") + beside).digest()
        # More precise than float32: what stores keep has to be the very floats.
        return np.frombuffer(digest, np.uint8)[:8] * 1.1


def documents(count: int, size: int) -> list[Document]:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta.", ""]
    random = np.random.default_rng(count)
    texts = [" ".join(random.choice(words, size + number % 7 * size)) for number in range(count)]
    return [Document(page_content=text, metadata={"n": number, "deep": [number]}) for number, text in enumerate(texts)]


def contents(store: Any) -> Any:
    """Everything in a store but the random ids."""
    if isinstance(store, InMemoryVectorStore):
        return [(row["text"], row["metadata"], row["vector"]) for row in store.store.values()]
    found = [store.docstore._dict[id_] for id_ in store.index_to_docstore_id.values()]
    vectors = store.index.reconstruct_n(0, store.index.ntotal).tobytes()
    return [(each.page_content, each.metadata) for each in found], vectors


SPLITTERS = {
    "recursive": lambda: RecursiveCharacterTextSplitter(chunk_size=200, chunk_overlap=20),
    "with positions": lambda: RecursiveCharacterTextSplitter(chunk_size=200, chunk_overlap=20, add_start_index=True),
    "headers": lambda: MarkdownHeaderTextSplitter([("#", "title")]),
    "none": lambda: None,
}


def assert_same(ranks: Communicator, source: Any, batch_size: int | None = 16, **arguments: Any) -> None:
    """At rank 0 what one process makes; nothing elsewhere."""
    alone = {**arguments, "executor": Executor(engine="local", batch_size=batch_size)}
    together = {**arguments, "executor": Executor(engine="mpi", batch_size=batch_size)}
    found = ingest(source(), **together)
    if ranks.rank:
        assert found is None
    else:
        assert contents(found) == contents(ingest(source(), **alone))


@pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS)
def test_the_store_of_one_process(ranks: Communicator, splitter: Any) -> None:
    given = documents(60, 300)
    assert_same(ranks, lambda: given, splitter=splitter(), embedding=Hashed(), vectorstore=FAISS)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_store_of_lists(ranks: Communicator, batch_size: int | None) -> None:
    given = documents(60, 300)
    splitter = SPLITTERS["recursive"]()
    assert_same(
        ranks, lambda: given, batch_size, splitter=splitter, embedding=Hashed(), vectorstore=InMemoryVectorStore
    )


@pytest.mark.parametrize("store", [FAISS, InMemoryVectorStore])
def test_a_model_in_the_ranks(ranks: Communicator, store: Any) -> None:
    """Its matrices travel as they are."""
    pytest.importorskip("wordllama", reason="it needs numpy 2")
    from langchain_aaflow.wordllama import WordLlamaEmbeddings

    given = documents(60, 3000)
    splitter = SPLITTERS["recursive"]()
    assert_same(ranks, lambda: given, splitter=splitter, embedding=WordLlamaEmbeddings(), vectorstore=store)


@pytest.mark.parametrize("shape", [(1, 40_000), (3, 5), (1, 1)], ids=str)
def test_few_documents(ranks: Communicator, shape: tuple[int, int]) -> None:
    given = documents(*shape)
    assert_same(ranks, lambda: given, splitter=SPLITTERS["recursive"](), embedding=Hashed(), vectorstore=FAISS)


def test_text_that_does_not_travel(ranks: Communicator) -> None:
    """Lone surrogates have no UTF-8, and other numbers than floats no place in a column of floats."""
    given = [*documents(20, 300), Document(page_content="a lone \ud800 surrogate")]
    assert_same(ranks, lambda: given, splitter=None, embedding=Hashed(), vectorstore=InMemoryVectorStore)
    assert_same(ranks, lambda: given, splitter=None, embedding=Hashed(int), vectorstore=InMemoryVectorStore)


def test_documents_at_rank_0_alone(ranks: Communicator) -> None:
    given = documents(60, 300)
    splitter = SPLITTERS["recursive"]()
    settings = {"splitter": splitter, "embedding": Hashed(), "vectorstore": FAISS}
    found = ingest([] if ranks.rank else given, executor=Executor(engine="mpi", batch_size=16), **settings)
    if not ranks.rank:
        alone = ingest(given, executor=Executor(engine="local", batch_size=16), **settings)
        assert contents(found) == contents(alone)


def test_an_iterator_is_read_at_rank_0(ranks: Communicator) -> None:
    read: list[int] = []

    def source() -> Iterator[Document]:
        for number, document in enumerate(documents(60, 300)):
            read.append(number)
            yield document

    ingest(
        source(),
        splitter=SPLITTERS["recursive"](),
        embedding=Hashed(),
        vectorstore=FAISS,
        executor=Executor(engine="mpi"),
    )
    assert len(read) == (0 if ranks.rank else 60)


def test_all_ranks_take_part(ranks: Communicator) -> None:
    embedding = Hashed()
    executor = Executor(engine="mpi", batch_size=4)
    ingest(documents(200, 300), splitter=None, embedding=embedding, vectorstore=FAISS, executor=executor)
    done = ranks_calls(ranks, embedding.calls)
    assert sum(done) == 50 + ranks.size  # and each a sample
    assert all(done[1:])


def test_a_native_error_is_rank_0s(ranks: Communicator) -> None:
    given = documents(60, 300)
    given[40].page_content += " poison"
    store = InMemoryVectorStore(Hashed(bad="poison"))
    with pytest.raises(RankError if ranks.rank else ValueError, match="poison is refused"):
        ingest(given, splitter=None, vectorstore=store, executor=Executor(engine="mpi", batch_size=8))
    if not ranks.rank:
        alone = InMemoryVectorStore(Hashed(bad="poison"))
        with pytest.raises(ValueError, match="poison is refused"):
            ingest(given, splitter=None, vectorstore=alone, executor=Executor(engine="local", batch_size=8))
        assert contents(store) == contents(alone)
    # The ranks can go on.
    assert_same(ranks, lambda: documents(9, 9), splitter=None, embedding=Hashed(), vectorstore=FAISS)


def test_other_documents_than_rank_0s(ranks: Communicator) -> None:
    with pytest.raises(RankError, match="rank 1 has other data than rank 0"):
        ingest(
            documents(5 + ranks.rank, 30),
            splitter=None,
            embedding=Hashed(),
            vectorstore=FAISS,
            executor=Executor(engine="mpi"),
        )


def test_other_settings_than_rank_0s(ranks: Communicator) -> None:
    splitter = RecursiveCharacterTextSplitter(chunk_size=200 + ranks.rank, chunk_overlap=20)
    with pytest.raises(RankError, match="not with rank 0's split RecursiveCharacterTextSplitter; settings"):
        ingest(
            documents(5, 30),
            splitter=splitter,
            embedding=Hashed(),
            vectorstore=FAISS,
            executor=Executor(engine="mpi"),
        )


class Seeded(Hashed):
    """What another object of the class would not give."""

    seed = 0

    def _one(self, text: str, beside: bytes) -> Any:
        return super()._one(text, beside) + self.seed


def test_embeddings_that_differ_from_rank_0s(ranks: Communicator) -> None:
    embedding = Seeded()
    embedding.seed = ranks.rank
    with pytest.raises(RankError, match="rank 1 gives a text other vectors than rank 0"):
        ingest(documents(5, 30), splitter=None, embedding=embedding, vectorstore=FAISS, executor=Executor(engine="mpi"))


def test_a_call_within_a_call_is_rank_0s_alone(ranks: Communicator) -> None:

    def source() -> Iterator[Document]:
        yield from documents(5, 30)
        inner = ingest(
            documents(5, 30),
            splitter=None,
            embedding=Hashed(),
            vectorstore=FAISS,
            executor=Executor(engine="mpi", batch_size=2),
        )
        yield Document(page_content=str(inner.index.ntotal))

    outer = ingest(source(), splitter=None, embedding=Hashed(), vectorstore=FAISS, executor=Executor(engine="mpi"))
    assert outer is None if ranks.rank else outer.index.ntotal == 6


def test_calls_of_one_process_take_turns(ranks: Communicator) -> None:
    with ranks.together("outer"):
        refused: list[BaseException] = []

        def other() -> None:
            try:
                ingest(
                    documents(5, 30),
                    splitter=None,
                    embedding=Hashed(),
                    vectorstore=FAISS,
                    executor=Executor(engine="mpi"),
                )
            except BaseException as error:
                refused.append(error)

        thread = threading.Thread(target=other)  # of no context of ours
        thread.start()
        thread.join(30)
        assert "the ranks are at work for another call" in str(refused)


def test_what_a_rank_starts_is_no_rank(ranks: Communicator) -> None:
    code = (
        "from aaflow_plugins import Executor; from aaflow_plugins.plugins import ranks_of\n"
        "assert ranks_of(Executor()).name == 'local'\n"
        "try: ranks_of(Executor(engine='mpi'))\n"
        "except RuntimeError as error: assert 'was started by a rank' in str(error)\n"
        "else: raise AssertionError('it took part')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
    # The ranks are as they were.
    assert_same(ranks, lambda: documents(9, 9), splitter=None, embedding=Hashed(), vectorstore=FAISS)


def ranks_calls(ranks: Communicator, calls: int) -> list[int]:
    with ranks.together("calls"):
        found = ranks.agree(b"%d %d" % (ranks.rank, calls))
        return [int(value.split()[1]) for value in found]
