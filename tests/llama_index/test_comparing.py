"""Comparisons tell the truth about LlamaIndex's objects: identical, or the first difference."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import HierarchicalNodeParser, SentenceSplitter
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.comparison import compare
from llama_index_aaflow.comparing import comparison, difference


@pytest.fixture(scope="module")
def documents(real_texts: list[str]) -> list[tuple[str, str]]:
    return [(f"{n}.py", text) for n, text in enumerate(real_texts[:25])]


@pytest.fixture(autouse=True)
def _settings() -> Any:
    before = Settings._embed_model, Settings._llm
    Settings.embed_model, Settings.llm = MockEmbedding(embed_dim=3), MockLLM()
    yield
    Settings._embed_model, Settings._llm = before


@pytest.mark.parametrize(
    ("make", "title"),
    [
        (SentenceSplitter, "parse 25 documents: SentenceSplitter"),
        (lambda: MockEmbedding(embed_dim=2), "embed "),
        (lambda: IngestionPipeline(transformations=[SentenceSplitter()]), "ingest 25 documents"),
        (lambda: IngestionPipeline(transformations=[], vector_store=SimpleVectorStore()), "ingest 25 documents"),
        (lambda: VectorStoreIndex, "index 25 documents: VectorStoreIndex"),
    ],
)
def test_each_kind_of_object_is_compared(make: Any, title: str, documents: list[tuple[str, str]]) -> None:
    compared = comparison(make, documents)
    assert compared
    assert compared.title.startswith(title)
    outcome = compare(compared, 2)
    assert outcome.difference is None
    assert outcome.native.last
    assert not isinstance(outcome.native.last.result, Exception)
    assert outcome.verdict().startswith("identical results")


@pytest.mark.parametrize("asked", ["query engine", "retriever"])
def test_engines_and_retrievers_are_asked_the_documents_first_lines(
    asked: str, documents: list[tuple[str, str]]
) -> None:
    index = VectorStoreIndex.from_documents([Document(text=f"text {n}") for n in range(5)])
    made = index.as_query_engine() if asked == "query engine" else index.as_retriever()
    compared = comparison(lambda: made, documents)
    assert compared
    assert compared.title.startswith("answer 25 queries")
    assert compare(compared, 1).difference is None


@pytest.mark.parametrize("asked", ["query engine", "retriever"])
def test_an_index_that_is_built_for_each_run_has_other_random_ids(asked: str, documents: list[tuple[str, str]]) -> None:
    def make(text: str) -> Any:
        index = VectorStoreIndex.from_documents([Document(text=text * 20)])
        return index.as_query_engine() if asked == "query engine" else index.as_retriever()

    compared, other = (
        comparison(lambda text=text: make(text), documents[:3])  # type: ignore[misc]
        for text in ("A sentence about cats. ", "A sentence about dogs. ")
    )
    assert compared
    assert other
    assert compare(compared, 1).difference is None
    assert difference(compared.native().result, other.native().result)


def test_stores_that_would_be_filled_twice_are_refused(documents: list[tuple[str, str]]) -> None:
    pipeline = IngestionPipeline(transformations=[], vector_store=SimpleVectorStore())
    with pytest.raises(ValueError, match="filled twice"):
        comparison(lambda: pipeline, documents)


@pytest.mark.parametrize("known", [False, True])
def test_each_run_of_a_pipeline_finds_the_cache_as_it_was(documents: list[tuple[str, str]], known: bool) -> None:
    """Otherwise all runs but the first would only look there, and nothing would be compared."""
    parsed: list[str] = []

    class Parsing(SentenceSplitter):
        def _parse_nodes(self, nodes: Any, *args: Any, **kwargs: Any) -> Any:
            parsed.append("run")
            return super()._parse_nodes(nodes, *args, **kwargs)

    pipeline = IngestionPipeline(transformations=[Parsing()])
    if known:
        pipeline.run(documents=[Document(text=text, id_=name, metadata={"source": name}) for name, text in documents])
        parsed.clear()
    before = repr(pipeline.cache.cache.to_dict())
    compared = comparison(lambda: pipeline, documents)
    assert compared
    assert compare(compared, 2).difference is None
    assert bool(parsed) != known
    assert len(parsed) in (0, 4, 6)  # each way twice, and perhaps once before
    assert repr(pipeline.cache.cache.to_dict()) == before


def test_a_cache_that_is_kept_elsewhere_would_be_filled(documents: list[tuple[str, str]]) -> None:
    class Elsewhere(SimpleKVStore):
        """As a client of Redis."""

    pipeline = IngestionPipeline(transformations=[SentenceSplitter()], cache=IngestionCache(cache=Elsewhere()))
    with pytest.raises(ValueError, match="name a function"):
        comparison(lambda: pipeline, documents)


def test_what_is_not_known_is_not_compared() -> None:
    assert comparison(lambda: "text", []) is None


def test_differences_are_found() -> None:
    parser = SentenceSplitter(chunk_size=60, chunk_overlap=0)
    text = " ".join(f"Sentence number {n}." for n in range(40))
    one, other = (parser.get_nodes_from_documents([Document(text=text, id_="d")]) for _ in range(2))
    assert difference(one, other) is None  # random ids are no difference
    other[1].metadata["more"] = 1
    assert str(difference(one, other)).startswith("result 1: ")
    assert difference(one, one[:-1]) == f"{len(one)} results against {len(one) - 1}"
    assert difference([[0.0]], [[-0.0]])
    assert difference(ValueError("a"), ValueError("b"))
    assert difference(ValueError("a"), ValueError("a")) is None
    assert difference([TextNode(text="a", id_="1")], [TextNode(text="b", id_="2")])


def test_relationships_are_compared() -> None:
    nodes = HierarchicalNodeParser.from_defaults(chunk_sizes=[128, 64])
    text = " ".join(f"Sentence number {n}." for n in range(80))
    one, other = (nodes.get_nodes_from_documents([Document(text=text, id_="d")]) for _ in range(2))
    assert difference(one, other) is None
    other[-1].relationships.popitem()
    assert difference(one, other)


def test_indexes_are_compared_by_nodes_and_vectors() -> None:
    documents = [Document(text=f"text {n}", id_=str(n)) for n in range(3)]
    one, other = (VectorStoreIndex.from_documents(documents) for _ in range(2))
    assert difference(one, other) is None
    (node_id, *_) = other.vector_store.data.embedding_dict
    other.vector_store.data.embedding_dict[node_id] = [1.0, 2.0, 3.0]
    assert difference(one, other)
    assert difference(one, VectorStoreIndex.from_documents(documents[:2])) == "3 results against 2"
