"""Comparisons tell the truth: identical or the first difference, and no gain where there is none."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from aaflow_plugins.comparison import Comparison, Measured, Outcome, Run, compare
from langchain_aaflow.comparing import comparison, difference, pipeline_of
from langchain_aaflow.wordllama import WordLlamaEmbeddings

EMBEDDING = DeterministicFakeEmbedding(size=8)


@pytest.fixture(scope="module")
def documents(real_texts: list[str]) -> list[tuple[str, str]]:
    return [(f"{n}.py", text) for n, text in enumerate(real_texts[:200])]


@pytest.mark.parametrize(
    ("obj", "title"),
    [
        (RecursiveCharacterTextSplitter(chunk_size=300, chunk_overlap=0), "split 200 documents"),
        (WordLlamaEmbeddings(), "embed "),
        ([EMBEDDING, FAISS], "ingest 200 documents"),
        (
            {"splitter": RecursiveCharacterTextSplitter(), "embedding": EMBEDDING, "vectorstore": InMemoryVectorStore},
            "ingest 200 documents",
        ),
    ],
)
def test_each_kind_of_object_is_compared(obj: Any, title: str, documents: list[tuple[str, str]]) -> None:
    compared = comparison(lambda: obj, documents)
    assert compared
    assert compared.title.startswith(title)
    outcome = compare(compared, 2)
    assert outcome.difference is None
    assert outcome.verdict().startswith("identical results")
    assert len(outcome.native.wall) == len(outcome.accelerated.wall) == 2


def test_a_store_that_would_be_filled_twice_is_refused(documents: list[tuple[str, str]]) -> None:
    store = InMemoryVectorStore(EMBEDDING)
    with pytest.raises(ValueError, match="filled twice"):
        comparison(lambda: store, documents)
    compared = comparison(lambda: InMemoryVectorStore(EMBEDDING), documents)
    assert compared
    assert compare(compared, 1).difference is None


def test_what_is_not_langchains_is_not_compared() -> None:
    assert pipeline_of("text") is None
    assert comparison(lambda: 3, []) is None


@pytest.mark.parametrize(
    ("obj", "message"), [({"store": FAISS}, "unknown part 'store'"), ([EMBEDDING, EMBEDDING], "two objects")]
)
def test_parts_that_make_no_pipeline_are_named(obj: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline_of(obj)


def _stores() -> tuple[Any, Any]:
    chunks = [Document(page_content=f"text {n}", metadata={"n": n}) for n in range(5)]
    return tuple(FAISS.from_documents(chunks, EMBEDDING) for _ in range(2))  # type: ignore[return-value]


def test_differences_are_found_wherever_they_are() -> None:
    one, other = _stores()
    assert difference(one, other) is None
    other.docstore.search(other.index_to_docstore_id[3]).metadata["n"] = 99
    assert "result 3" in str(difference(one, other))
    one, other = _stores()
    other.index.reset()
    assert "vectors" in str(difference(one, other)) or "against" in str(difference(one, other))
    a, b = (InMemoryVectorStore.from_texts(["a", "b"], EMBEDDING) for _ in range(2))
    assert difference(a, b) is None
    next(iter(b.store.values()))["vector"][0] += 1e-9
    assert "result 0" in str(difference(a, b))
    assert difference([1], [1, 2]) == "1 results against 2"
    assert difference([[0.0]], [[-0.0]])
    assert "ValueError" in str(difference(ValueError("x"), TypeError("x")))
    assert difference(ValueError("x"), ValueError("x")) is None


def test_an_outcome_that_differs_gains_nothing_or_loses_says_so() -> None:
    wrong = Comparison("t", lambda: Run([1]), lambda: Run([2]), difference)
    assert compare(wrong, 1).verdict() == "NOT identical: result 0: 1 against 2"

    def verdict(native: float, accelerated: float, model: float = 0.0) -> str:
        times = Measured([native], [native], [model], [None]), Measured([accelerated], [accelerated], [model], [None])
        return Outcome(wrong, *times, difference=None).verdict()

    assert verdict(3.0, 1.0) == "identical results, 3.00x"
    assert verdict(1.0, 1.0) == "identical results, nothing to gain here (1.00x)"
    assert verdict(1.0, 1.0, 0.95).endswith(": the framework owns 5% of the native time")
    assert verdict(1.0, 2.0) == "identical results, slower here (0.50x)"
    assert verdict(0.01, 0.02) == "identical results, too quick to tell (0.50x of 0.010 s): give more data"
    assert verdict(0.02, 0.01) == "identical results, too quick to tell (2.00x of 0.020 s): give more data"


def test_an_error_is_compared_like_a_result(documents: list[tuple[str, str]]) -> None:
    class Failing(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise ConnectionError("gone")

    compared = comparison(lambda: [Failing(size=3), FAISS], documents)
    assert compared
    outcome = compare(compared, 1)
    assert outcome.difference is None
    assert outcome.native.last
    assert isinstance(outcome.native.last.result, ConnectionError)


def test_repeats_must_be_positive() -> None:
    with pytest.raises(ValueError, match="repeats"):
        compare(Comparison("t", lambda: Run(1), lambda: Run(1), difference), 0)


def test_rows_of_numpy_are_compared_by_their_bits(documents: list[tuple[str, str]]) -> None:
    class Arrays(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [np.array(row) for row in super().embed_documents(texts)]  # type: ignore[misc]

    for obj in ([Arrays(size=3), InMemoryVectorStore], Arrays(size=3)):
        compared = comparison(lambda obj=obj: obj, documents)  # type: ignore[misc]
        assert compared
        assert compare(compared, 1).difference is None
    assert difference([np.array([0.0])], [np.array([-0.0])])
    assert difference([np.array([0.0])], [np.array([0.0], dtype=np.float32)])


def test_stores_that_are_not_known_are_compared_by_what_they_find(documents: list[tuple[str, str]]) -> None:
    class Elsewhere(VectorStore):
        """Keeps rows in an order of its own choosing."""

        def __init__(self) -> None:
            self.rows: list[Document] = []

        def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
            self.rows = [*documents, *self.rows]
            return []

        def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
            return self.rows[:k]

        @classmethod
        def from_texts(cls, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError

    class Random(Elsewhere):
        def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
            return [Document(page_content=str(random.random()))]

    outcomes = []
    for store in (Elsewhere, Random):
        compared = comparison(lambda store=store: store(), documents)  # type: ignore[misc]
        assert compared
        outcomes.append(compare(compared, 1))
    assert outcomes[0].verdict().startswith("identical results of 10 searches")
    assert outcomes[1].verdict().startswith("NOT identical")
