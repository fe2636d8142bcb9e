"""LangChain's own standard suites pass and fail the same tests on accelerated stores as on native ones."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("langchain_tests")

SUITES = """
from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore, VectorStoreRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from langchain_aaflow.vectorstores import accelerate_store

EMBEDDINGS = VectorStoreIntegrationTests.get_embeddings()


def empty_faiss() -> VectorStore:
    import faiss
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS

    return FAISS(EMBEDDINGS, faiss.IndexFlatL2(len(EMBEDDINGS.embed_query("dimension"))), InMemoryDocstore(), {})


def empty_in_memory() -> VectorStore:
    return InMemoryVectorStore(EMBEDDINGS)


def made(empty: Any, accelerated: bool) -> VectorStore:
    store = empty()
    if not accelerated:
        return store
    view = accelerate_store(store)
    assert type(view) is accelerate_store(type(store)) is not type(store)
    return view


class Stores(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> VectorStore:
        return made(type(self).empty, type(self).accelerated)


class Retrievers(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> Any:
        def constructor(k: int = 4) -> BaseRetriever:
            store = made(type(self).empty, type(self).accelerated)
            store.add_texts([f"text {row}" for row in range(60)])
            return store.as_retriever(search_kwargs={"k": k})

        return constructor

    @property
    def retriever_query_example(self) -> str:
        return "text 7"


class TestFaissNative(Stores):
    empty, accelerated = staticmethod(empty_faiss), False


class TestFaissAccelerated(Stores):
    empty, accelerated = staticmethod(empty_faiss), True


class TestInMemoryNative(Stores):
    empty, accelerated = staticmethod(empty_in_memory), False


class TestInMemoryAccelerated(Stores):
    empty, accelerated = staticmethod(empty_in_memory), True


class TestFaissRetrieverNative(Retrievers):
    empty, accelerated = staticmethod(empty_faiss), False


class TestFaissRetrieverAccelerated(Retrievers):
    empty, accelerated = staticmethod(empty_faiss), True


class TestInMemoryRetrieverNative(Retrievers):
    empty, accelerated = staticmethod(empty_in_memory), False


class TestInMemoryRetrieverAccelerated(Retrievers):
    empty, accelerated = staticmethod(empty_in_memory), True
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[str, str]]]:
    """Class -> test -> (outcome, the error's first line), from a run in a process of its own."""
    folder: Path = tmp_path_factory.mktemp("suites")
    (folder / "test_suites.py").write_text(SUITES, encoding="utf-8")
    report = folder / "report.xml"
    options = ["-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider", f"--junitxml={report}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "test_suites.py", f"--rootdir={folder}", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        result = ("passed", "") if problem is None else (problem.tag, problem.get("message", "").split("\n")[0])
        found.setdefault(case.get("classname", "").split(".")[-1], {})[case.get("name", "")] = result
    return found


@pytest.mark.parametrize("store", ["Faiss", "InMemory", "FaissRetriever", "InMemoryRetriever"])
def test_same_outcomes_as_native(store: str, outcomes: dict[str, dict[str, tuple[str, str]]]) -> None:
    native, ours = outcomes[f"Test{store}Native"], outcomes[f"Test{store}Accelerated"]
    assert {name: result for name, (result, _) in ours.items()} == {
        name: result for name, (result, _) in native.items()
    }
    # Guards against suites that did not run: both kinds of tests, most of them passing.
    counts = Counter(result for result, _ in native.values())
    assert any("async" in name or "ainvoke" in name for name in native)
    assert any("async" not in name and "ainvoke" not in name for name in native)
    assert counts["passed"] > len(native) / 2
    assert counts["error"] == 0
