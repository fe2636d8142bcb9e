"""`arun` of a pipeline on all ranks, against the native `arun` of one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser, TokenTextSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import PrivateAttr

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from tests.llama_index.tracing import spans
from tests.ranks.awaited import ends_everywhere, finished
from tests.ranks.test_llama_index_ingestion import Hashed, Shouting, contents, documents, numbered, sentences
from tests.ranks.test_llama_index_shards import changed, copies, everybodys, held

pytestmark = pytest.mark.own_block


class Awaiting(Hashed):
    """A model with a client of its own, whose batches say how they came."""

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0.001)
        return self._get_text_embeddings([f"awaited {text}" for text in texts])


class OnTheLoop(Hashed):
    """A model that is called where natively it is: in the loop's thread."""

    def _get_text_embedding(self, text: str) -> list[float]:
        asyncio.get_running_loop()
        return super()._get_text_embedding(text)


class Counting(SimpleVectorStore):
    """A vector store with coroutines of its own."""

    _awaited: list[str] = PrivateAttr(default_factory=list)

    async def async_add(self, nodes: Any, **kwargs: Any) -> list[str]:
        self._awaited.append("add")
        return self.add(nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **kwargs: Any) -> None:
        self._awaited.append("delete")
        self.delete(ref_doc_id, **kwargs)


STEPS: dict[str, Callable[[], list[Any]]] = {
    "sentences": lambda: [sentences(), Hashed()],
    "words": lambda: [TokenTextSplitter(chunk_size=60, chunk_overlap=10, id_func=numbered), OnTheLoop()],
    "sections": lambda: [MarkdownNodeParser(id_func=numbered), sentences(), Hashed(embed_batch_size=3)],
    "a client of its own": lambda: [sentences(), Awaiting(embed_batch_size=7)],
    "embedding alone": lambda: [Hashed(whole=True)],
    "parser alone": lambda: [sentences(include_metadata=False)],
    "none": list,
}


def ours(pipeline: Any, **settings: Any) -> Any:
    return accelerate(pipeline, executor=Executor(engine="mpi", **settings))


def with_stores(steps: Callable[[], list[Any]] = STEPS["sentences"], **settings: Any) -> IngestionPipeline:
    stores = {"vector_store": Counting(), "docstore": SimpleDocumentStore(), "cache": IngestionCache()}
    return IngestionPipeline(transformations=steps(), **stores, **settings)


@pytest.mark.parametrize("steps", [*STEPS.values(), lambda: [sentences(), Shouting(), Hashed()]])
def test_at_rank_0_the_nodes_of_one_process(ranks: Communicator, steps: Any) -> None:
    given = documents(40, 150)
    pipeline, native = ours(IngestionPipeline(transformations=steps())), IngestionPipeline(transformations=steps())
    nodes = finished(lambda: pipeline.arun(documents=copies(given)))
    if ranks.rank:
        assert nodes == []
    else:
        assert contents(pipeline, nodes) == contents(native, asyncio.run(native.arun(documents=copies(given))))


@pytest.mark.parametrize("strategy", [DocstoreStrategy.UPSERTS, DocstoreStrategy.DUPLICATES_ONLY])
def test_stores_and_cache(ranks: Communicator, strategy: DocstoreStrategy) -> None:
    native, alone = with_stores(docstore_strategy=strategy), with_stores(docstore_strategy=strategy)
    pipeline = ours(native)
    for number in (0, 0, 1):
        nodes = asyncio.run(pipeline.arun(documents=changed(number)))
        if ranks.rank == 0:
            assert contents(pipeline, nodes) == contents(alone, asyncio.run(alone.arun(documents=changed(number))))
            assert native.vector_store._awaited == alone.vector_store._awaited  # type: ignore[union-attr]
        else:
            assert nodes == []


def test_all_ranks_take_part(ranks: Communicator) -> None:
    embedding, awaiting = Hashed(), Awaiting()
    for model in (embedding, awaiting):
        asyncio.run(ours(IngestionPipeline(transformations=[model])).arun(documents=documents(600, 20)))
    with ranks.together("calls"):
        done = [value.split() for value in ranks.agree(b"%d %d" % (ranks.rank, len(embedding._batches)))]
    assert all(int(count) > 1 for rank, count in done if int(rank))
    assert bool(awaiting._batches) is (ranks.rank == 0)


@pytest.mark.parametrize("call", ["run", "arun"])
def test_spans_at_rank_0_are_those_of_one_process(ranks: Communicator, call: str) -> None:
    def told(pipeline: Any) -> list[Any]:
        with spans() as seen:
            made = getattr(pipeline, call)(documents=documents(9, 30))
            if call == "arun":
                asyncio.run(within(made))
        return [each[:3] for each in seen]

    async def within(made: Any) -> Any:
        return await made

    found = told(ours(IngestionPipeline(transformations=STEPS["sentences"]())))
    if ranks.rank == 0:
        assert found == told(IngestionPipeline(transformations=STEPS["sentences"]()))


def test_nodes_for_all_ranks(ranks: Communicator) -> None:
    pipeline = ours(IngestionPipeline(transformations=STEPS["sentences"]()), gather="all")
    found = asyncio.run(pipeline.arun(documents=documents(9, 25) if ranks.rank == 0 else []))
    native = IngestionPipeline(transformations=STEPS["sentences"]())
    expected = asyncio.run(native.arun(documents=documents(9, 25)))
    assert [repr(node.to_dict()) for node in found] == [repr(node.to_dict()) for node in expected]


@pytest.mark.parametrize("steps", STEPS)
def test_each_rank_its_block(ranks: Communicator, steps: str) -> None:
    given = documents(16, 40)
    pipeline = ours(IngestionPipeline(transformations=STEPS[steps]()), gather="shards")
    nodes = finished(lambda: pipeline.arun(documents=copies(given)))
    found = everybodys(ranks, [node.to_dict() for node in nodes])
    if ranks.rank == 0:
        native = IngestionPipeline(transformations=STEPS[steps]())
        assert found == [repr(node.to_dict()) for node in asyncio.run(native.arun(documents=copies(given)))]


@pytest.mark.filterwarnings("ignore:docstore_strategy")
@pytest.mark.parametrize("strategy", list(DocstoreStrategy))
def test_stores_of_shards(ranks: Communicator, strategy: DocstoreStrategy) -> None:
    native, alone = with_stores(docstore_strategy=strategy), with_stores(docstore_strategy=strategy)
    pipeline = ours(native, gather="shards")
    for number in (0, 0, 1, 2):
        nodes = asyncio.run(pipeline.arun(documents=changed(number)))
        found, stored = everybodys(ranks, [node.to_dict() for node in nodes]), everybodys(ranks, held(native))
        if ranks.rank == 0:
            expected = asyncio.run(alone.arun(documents=changed(number)))
            assert found == [repr(node.to_dict()) for node in expected]
            assert sorted(stored) == sorted(map(repr, held(alone)))
    with ranks.together("deleted"):
        deleted = ranks.agree(b"%d" % native.vector_store._awaited.count("delete"))  # type: ignore[union-attr]
    assert (set(deleted) == {b"0"}) is (strategy == DocstoreStrategy.DUPLICATES_ONLY)


@pytest.mark.parametrize("gather", ["root", "shards"])
def test_an_error_is_raised_on_all_ranks(ranks: Communicator, gather: str) -> None:
    given = documents(60, 30)
    given[-1].set_content(given[-1].text + " poison")
    pipeline = ours(IngestionPipeline(transformations=[sentences(), Hashed(bad="poison")]), gather=gather)
    owner = 0 if gather == "root" else ranks.size - 1
    with pytest.raises(ValueError if ranks.rank == owner else RankError, match="poison is refused"):
        finished(lambda: pipeline.arun(documents=given))
    test_at_rank_0_the_nodes_of_one_process(ranks, STEPS["sentences"])


def test_what_has_to_be_alike(ranks: Communicator) -> None:
    pipeline = ours(IngestionPipeline(transformations=[sentences()]))
    call = pipeline.run if ranks.rank else lambda documents: asyncio.run(pipeline.arun(documents=documents))
    with pytest.raises(RankError, match="rank 1 runs something else: run, where rank 0 runs arun"):
        call(documents=documents(3, 9))


def test_a_parser_that_is_applied_in_a_way_of_its_own(ranks: Communicator) -> None:
    class Own(Hashed):
        async def acall(self, nodes: Any, **kwargs: Any) -> Any:
            return list(reversed(await super().acall(nodes, **kwargs)))

    given = documents(9, 30)
    pipeline = IngestionPipeline(transformations=[sentences(), Own()])
    with pytest.raises(ValueError, match=r"gather='shards': transformations\[1\], Own, is not known"):
        asyncio.run(ours(pipeline, gather="shards").arun(documents=given))
    nodes = asyncio.run(ours(pipeline).arun(documents=copies(given)))
    if ranks.rank == 0:
        native = IngestionPipeline(transformations=[sentences(), Own()])
        expected = asyncio.run(native.arun(documents=copies(given)))
        assert [node.to_dict() for node in nodes] == [node.to_dict() for node in expected]


class Slow(Hashed):
    """Takes a second a rank for a task."""

    def _get_text_embedding(self, text: str) -> list[float]:
        time.sleep(0.004)
        return super()._get_text_embedding(text)


@pytest.mark.parametrize("gather", ["root", "shards"])
@pytest.mark.parametrize("of", [0, 1])
def test_a_task_that_is_cancelled(ranks: Communicator, of: int, gather: str) -> None:
    """It ends on all ranks, long before the work would have."""
    pipeline = ours(IngestionPipeline(transformations=[Slow(embed_batch_size=20)]), gather=gather)
    ends_everywhere(ranks, lambda: pipeline.arun(documents=documents(4000, 3)), cancelled=of)
    test_at_rank_0_the_nodes_of_one_process(ranks, STEPS["sentences"])


def test_a_task_that_is_cancelled_before_the_others_come(ranks: Communicator) -> None:
    pipeline = ours(IngestionPipeline(transformations=[sentences()]))
    with ranks.together("begin"):
        pass

    async def main() -> None:
        if ranks.rank:
            await asyncio.sleep(1)
        async with asyncio.timeout(0.3):
            await pipeline.arun(documents=documents(9, 30))

    began = time.monotonic()
    with pytest.raises(RankError if ranks.rank else TimeoutError):
        asyncio.run(main())
    assert time.monotonic() - began < 5
    test_at_rank_0_the_nodes_of_one_process(ranks, STEPS["sentences"])


def test_the_loop_is_free_meanwhile(ranks: Communicator) -> None:
    pipeline = ours(IngestionPipeline(transformations=[Awaiting()]), gather="shards")
    with ranks.together("begin"):
        pass

    async def main() -> int:
        if ranks.rank:
            await asyncio.sleep(0.5)
        turns, running = 0, asyncio.create_task(pipeline.arun(documents=documents(60, 30)))
        while not running.done():
            await asyncio.sleep(0.005)
            turns += 1
        await running
        return turns

    turns = asyncio.run(main())
    assert ranks.rank or turns > 20
