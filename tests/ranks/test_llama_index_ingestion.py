"""A pipeline with the help of all ranks, against the native one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser, SentenceSplitter, TokenTextSplitter
from llama_index.core.schema import BaseNode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import PrivateAttr

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from tests.llama_index.tracing import watched

pytestmark = pytest.mark.own_block


class Hashed(BaseEmbedding):
    """A vector that its text decides, and the texts beside it in the same batch."""

    bad: str = ""
    whole: bool = False
    _batches: list[int] = PrivateAttr(default_factory=list)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._batches.append(len(texts))
        if self.bad and any(self.bad in text for text in texts):
            raise ValueError(f"{self.bad} is refused")
        beside = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
        return [self._one(text, beside) for text in texts]

    def _one(self, text: str, beside: bytes) -> list[Any]:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") + beside).digest()
        row = np.frombuffer(digest, np.uint8)[:8] * 1.1
        return [int(value) for value in row] if self.whole else row.tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class Shouting(TransformComponent):
    """Somebody's own step."""

    def __call__(self, nodes: list[BaseNode], **kwargs: Any) -> list[BaseNode]:
        for node in nodes:
            node.metadata["loud"] = node.get_content()[:5].upper()
        return nodes


def numbered(index: int, document: Any) -> str:
    return f"{document.id_}/{index}"


def documents(count: int, size: int) -> list[Document]:
    words = ["Alpha", "beta", "gamma.", "Delta?", "Epsilon", "zeta", "eta", "theta!\n\n#", "Heading\n"]
    random = np.random.default_rng(count)
    texts = [" ".join(random.choice(words, size + number % 7 * size)) for number in range(count)]
    return [Document(text=text, id_=str(number), metadata={"n": number}) for number, text in enumerate(texts)]


def sentences(**settings: Any) -> SentenceSplitter:
    return SentenceSplitter(chunk_size=60, chunk_overlap=10, id_func=numbered, **settings)


STEPS: dict[str, Any] = {
    "sentences": lambda: [sentences(), Hashed()],
    "words": lambda: [TokenTextSplitter(chunk_size=60, chunk_overlap=10, id_func=numbered), Hashed(embed_batch_size=3)],
    "sections": lambda: [MarkdownNodeParser(id_func=numbered), sentences(), Hashed()],
    "a step of one's own": lambda: [sentences(), Shouting(), Hashed(embed_batch_size=7)],
    "embedding alone": lambda: [Hashed()],
    "parser alone": lambda: [sentences(include_metadata=False)],
    "numbers that are no floats": lambda: [sentences(), Hashed(whole=True)],
    "none": list,
}


def contents(pipeline: IngestionPipeline, nodes: Any) -> Any:
    store, docstore, cache = pipeline.vector_store, pipeline.docstore, pipeline.cache
    return (
        [repr(node.to_dict()) for node in nodes],
        [node.embedding for node in nodes],
        store.to_dict() if store is not None else None,  # type: ignore[attr-defined]
        docstore.to_dict() if docstore is not None else None,  # type: ignore[attr-defined]
        repr(cache.cache.to_dict()),  # type: ignore[attr-defined]
    )


def assert_same(ranks: Communicator, make: Any, given: list[Document], runs: int = 1, **settings: Any) -> None:
    """At rank 0 what one native process makes; nothing elsewhere."""
    pipeline = accelerate(make(), executor=Executor(engine="mpi"))
    native = make()
    for _ in range(runs):
        nodes = pipeline.run(documents=[each.model_copy(deep=True) for each in given], **settings)
        if ranks.rank:
            assert nodes == []
        else:
            expected = native.run(documents=[each.model_copy(deep=True) for each in given], **settings)
            assert contents(pipeline, nodes) == contents(native, expected)


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_nodes_of_one_process(ranks: Communicator, steps: Any) -> None:
    assert_same(ranks, lambda: IngestionPipeline(transformations=steps()), documents(40, 150))


def test_stores_and_cache(ranks: Communicator) -> None:

    def make() -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[sentences(), Hashed()],
            vector_store=SimpleVectorStore(),
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
            cache=IngestionCache(),
        )

    assert_same(ranks, make, documents(30, 100), runs=2)


@pytest.mark.parametrize("shape", [(1, 10_000), (2, 3), (0, 0)], ids=str)
def test_few_documents(ranks: Communicator, shape: tuple[int, int]) -> None:
    assert_same(ranks, lambda: IngestionPipeline(transformations=[sentences(), Hashed()]), documents(*shape))


def test_text_that_does_not_travel(ranks: Communicator) -> None:
    given = [*documents(9, 300), Document(text="A lone \ud800 surrogate. " * 50, id_="s")]
    make = lambda: IngestionPipeline(transformations=[Hashed()], disable_cache=True)  # noqa: E731
    assert_same(ranks, make, given)


def test_all_ranks_take_part(ranks: Communicator) -> None:
    embedding = Hashed()
    pipeline = accelerate(IngestionPipeline(transformations=[embedding]), executor=Executor(engine="mpi"))
    pipeline.run(documents=documents(600, 20))
    with ranks.together("calls"):
        done = [value.split() for value in ranks.agree(b"%d %d" % (ranks.rank, sum(embedding._batches)))]
    assert sum(int(count) for _, count in done) == 600 + ranks.size  # and each a sample
    assert all(int(count) > 1 for rank, count in done if int(rank))


def test_a_native_error_is_rank_0s(ranks: Communicator) -> None:
    given = documents(60, 300)
    given[40].text_resource.text += " poison"  # type: ignore[union-attr, operator]
    pipeline = accelerate(
        IngestionPipeline(transformations=[sentences(), Hashed(bad="poison")]), executor=Executor(engine="mpi")
    )
    with pytest.raises(RankError if ranks.rank else ValueError, match="poison is refused"):
        pipeline.run(documents=given)
    # The ranks can go on.
    assert_same(ranks, lambda: IngestionPipeline(transformations=[sentences(), Hashed()]), documents(9, 9))


def test_what_has_to_be_alike(ranks: Communicator) -> None:
    splitter = SentenceSplitter(chunk_size=60 + ranks.rank, chunk_overlap=10)
    other = accelerate(IngestionPipeline(transformations=[splitter]), executor=Executor(engine="mpi"))
    with pytest.raises(RankError, match=r"rank 1 runs something else: not with rank 0's transformations\[0\]"):
        other.run(documents=documents(3, 9))
    pipeline = accelerate(IngestionPipeline(transformations=[sentences()]), executor=Executor(engine="mpi"))
    with pytest.raises(RankError, match="rank 1 has other data than rank 0"):
        pipeline.run(documents=documents(3 + ranks.rank, 9))
    # Documents may be at rank 0 alone.
    nodes = pipeline.run(documents=[] if ranks.rank else documents(3, 9))
    assert bool(nodes) is (ranks.rank == 0)


def test_documents_that_are_read_once(ranks: Communicator) -> None:
    pipeline = accelerate(IngestionPipeline(transformations=[sentences()]), executor=Executor(engine="mpi"))
    nodes = pipeline.run(documents=iter(documents(3, 9)))
    assert len(nodes) == (0 if ranks.rank else len(sentences().get_nodes_from_documents(documents(3, 9))))


@pytest.mark.parametrize("steps", STEPS)
def test_nodes_for_all_ranks(ranks: Communicator, steps: str) -> None:
    native = IngestionPipeline(transformations=STEPS[steps](), disable_cache=True)
    ours = accelerate(
        IngestionPipeline(transformations=STEPS[steps](), disable_cache=True), executor=Executor(gather="all")
    )
    for shape in ((9, 25), (1, 40), (0, 0)):
        found = ours.run(documents=documents(*shape) if ranks.rank == 0 else [])
        expected = native.run(documents=documents(*shape))
        assert [(type(node), repr(node.to_dict())) for node in found] == [
            (type(node), repr(node.to_dict())) for node in expected
        ]


@pytest.mark.parametrize("kinds", [("docstore",), ("vector_store",), ("docstore", "vector_store")], ids=str)
@pytest.mark.parametrize("strategy", list(DocstoreStrategy))
@pytest.mark.filterwarnings("ignore:docstore_strategy")
def test_stores_on_all_ranks(ranks: Communicator, strategy: DocstoreStrategy, kinds: tuple[str, ...]) -> None:
    """Each rank's, run after run, whatever the others' held before."""

    def make() -> IngestionPipeline:
        stores = {"docstore": SimpleDocumentStore(), "vector_store": SimpleVectorStore()}
        steps = [sentences(), Hashed(embed_batch_size=7)]
        kept = {kind: stores[kind] for kind in kinds}
        return IngestionPipeline(transformations=steps, docstore_strategy=strategy, **kept)

    native, ours = make(), make()
    if ranks.rank and ours.docstore is not None:
        ours.docstore.add_documents([Document(text="Another.", id_="another")])
    held = {kind: getattr(ours, kind) for kind in kinds}
    pipeline = accelerate(ours, executor=Executor(engine="mpi", gather="all"))
    for given in (documents(12, 40), documents(12, 40), documents(9, 30)):
        nodes = pipeline.run(documents=[each.model_copy(deep=True) for each in given])
        expected = native.run(documents=[each.model_copy(deep=True) for each in given])
        assert contents(ours, nodes)[:4] == contents(native, expected)[:4]
    assert all(getattr(ours, kind) is store for kind, store in held.items())


def test_stores_that_may_be_the_same_for_all_ranks(ranks: Communicator) -> None:
    class OwnDocuments(SimpleDocumentStore):
        pass

    class Remote(SimpleVectorStore):
        pass

    for store in ({"docstore": OwnDocuments()}, {"vector_store": Remote()}):
        pipeline = IngestionPipeline(transformations=[sentences()], **store)
        with pytest.raises(ValueError, match="not known to be each process's own: with gather='root' rank 0 fills it"):
            accelerate(pipeline, executor=Executor(gather="all")).run(documents=documents(2, 9))


def test_a_handler_on_one_rank_alone(ranks: Communicator) -> None:
    """What it would hear of is done by rank 0."""
    expected = IngestionPipeline(transformations=STEPS["sentences"]()).run(documents=documents(9, 25))
    for rank in range(ranks.size):
        model = Hashed()
        manager, heard = watched()
        if ranks.rank == rank:
            model.callback_manager = manager
        pipeline = accelerate(IngestionPipeline(transformations=[sentences(), model]))
        found = pipeline.run(documents=documents(9, 25))
        if ranks.rank == 0:
            assert [node.to_dict() for node in found] == [node.to_dict() for node in expected]
            assert bool(heard) is (rank == 0)
