"""A pipeline of which each rank runs its own block, against the native one over all documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import PrivateAttr

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from tests.ranks.test_llama_index_ingestion import Hashed, Shouting, documents, numbered, sentences

pytestmark = pytest.mark.own_block

UPSERTS, DUPLICATES, DELETES = (
    DocstoreStrategy.UPSERTS,
    DocstoreStrategy.DUPLICATES_ONLY,
    DocstoreStrategy.UPSERTS_AND_DELETE,
)

STEPS: dict[str, Callable[[], list[Any]]] = {
    "sentences": lambda: [sentences(), Hashed()],
    "words": lambda: [TokenTextSplitter(chunk_size=60, chunk_overlap=10, id_func=numbered), Hashed(embed_batch_size=3)],
    "windows": lambda: [SentenceWindowNodeParser(id_func=numbered), Hashed(embed_batch_size=1000)],
    "sections": lambda: [MarkdownNodeParser(id_func=numbered), sentences(), Hashed(whole=True)],
    "embedding alone": lambda: [Hashed(embed_batch_size=7)],
    "parser alone": lambda: [sentences(include_metadata=False)],
    "none": list,
}


def sharded(pipeline: Any, **more: Any) -> Any:
    return accelerate(pipeline, executor=Executor(engine="mpi", gather="shards", **more))


def everybodys(ranks: Communicator, values: list[Any]) -> list[str]:
    """What the ranks have, one after the other."""
    texts = [repr(value).encode("utf-8", "surrogatepass") for value in values]
    with ranks.together("everybody's"):
        found = ranks.all_gather(pa.table({"text": pa.array(texts, pa.large_binary())}))["text"].to_pylist()
    return [text.decode("utf-8", "surrogatepass") for text in found]


def assert_same(ranks: Communicator, nodes: Any, native: IngestionPipeline, given: list[Any]) -> None:
    """What the ranks have, one after the other, is what a native pipeline gives; rank 0 looks."""
    found = everybodys(ranks, [node.to_dict() for node in nodes])
    if ranks.rank == 0:
        assert found == [repr(node.to_dict()) for node in native.run(documents=copies(given))]


def copies(given: list[Any]) -> list[Any]:
    return [each.model_copy(deep=True) for each in given]


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_nodes_of_one_process(ranks: Communicator, steps: Any) -> None:
    given = documents(16, 40)
    nodes = sharded(IngestionPipeline(transformations=steps())).run(documents=copies(given))
    assert_same(ranks, nodes, IngestionPipeline(transformations=steps()), given)
    if steps is not list:
        assert nodes


@pytest.mark.parametrize("shape", [(1, 3000), (3, 3), (0, 0)], ids=str)
def test_few_documents(ranks: Communicator, shape: tuple[int, int]) -> None:
    given = documents(*shape)
    pipeline = IngestionPipeline(transformations=[sentences(), Hashed()])
    assert_same(ranks, sharded(pipeline).run(documents=copies(given)), pipeline, given)


def test_uneven_documents(ranks: Communicator) -> None:
    given = [*documents(4, 5), Document(text="One huge. " * 3000, id_="huge"), Document(text="", id_="empty")]
    make = lambda: IngestionPipeline(transformations=[SentenceSplitter(id_func=numbered), Hashed()])  # noqa: E731
    assert_same(ranks, sharded(make()).run(documents=copies(given)), make(), given)


def test_text_that_utf_8_does_not_carry(ranks: Communicator) -> None:
    given = [*documents(9, 20), Document(text="A lone \ud800 surrogate. " * 50, id_="s"), *documents(20, 20)[9:]]
    pipeline = IngestionPipeline(transformations=[Hashed(embed_batch_size=1000)], disable_cache=True)
    assert_same(ranks, sharded(pipeline).run(documents=copies(given)), pipeline, given)


def test_documents_that_are_spread_already(ranks: Communicator) -> None:
    given = documents(11, 60)
    cuts = [0, 5, 5, 6, 11] if ranks.size == 4 else [0, 2, 2, 11][-1 - ranks.size :]
    own = given[cuts[ranks.rank] : cuts[ranks.rank + 1]]
    pipeline = IngestionPipeline(transformations=[sentences(), Hashed()])
    nodes = sharded(pipeline, partitioned=True).run(documents=copies(own))
    assert_same(ranks, nodes, pipeline, given[cuts[0] :])


@hypothesis.settings(
    max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(
    texts=st.lists(st.text(st.sampled_from("ab. \n?\u00fc\U0001f600"), max_size=400), max_size=9),
    batch=st.integers(1, 9),
    cache=st.booleans(),
)
def test_any_documents(ranks: Communicator, texts: list[str], batch: int, cache: bool) -> None:
    """All ranks make the same examples, and come to the same end."""
    given = [Document(text=text, id_=str(number)) for number, text in enumerate(texts)]

    def make() -> IngestionPipeline:
        parser = SentenceSplitter(chunk_size=20, chunk_overlap=5, id_func=numbered)
        return IngestionPipeline(transformations=[parser, Hashed(embed_batch_size=batch)], disable_cache=not cache)

    found = everybodys(ranks, [node.to_dict() for node in sharded(make()).run(documents=copies(given))])
    same = found == [repr(node.to_dict()) for node in make().run(documents=copies(given))]
    with ranks.together("same"):
        assert set(ranks.agree(b"%d" % same)) == {b"1"}


def test_the_pipelines_own_cache(ranks: Communicator) -> None:
    """It answers where all ranks have an answer; a block beside others is another one."""
    embedding = Hashed()
    pipeline = sharded(IngestionPipeline(transformations=[sentences(), embedding]))
    first = documents(12, 60)
    second = copies(first)
    second[-1].set_content("Changed. " * 40)
    for given, called in ((first, True), (first, False), (second, True), (first, False)):
        before = len(embedding._batches)
        nodes = pipeline.run(documents=copies(given))
        assert_same(ranks, nodes, IngestionPipeline(transformations=[sentences(), Hashed()]), given)
        assert (len(embedding._batches) > before + 1) is (called and bool(nodes))


# -- stores ----------------------------------------------------------------------------------------------


def with_stores(strategy: DocstoreStrategy, store: bool = True) -> IngestionPipeline:
    return IngestionPipeline(
        transformations=[sentences(), Hashed()],
        docstore=SimpleDocumentStore(),
        docstore_strategy=strategy,
        vector_store=SimpleVectorStore() if store else None,
    )


def held(pipeline: Any) -> list[Any]:
    """What the stores hold, item by item."""
    collections = pipeline.docstore.to_dict() if pipeline.docstore else {}
    if pipeline.vector_store is not None:
        collections |= pipeline.vector_store.to_dict()
    return [(name, key, value) for name, items in collections.items() for key, value in items.items()]


def assert_same_held(ranks: Communicator, ours: Any, native: Any) -> None:
    found = everybodys(ranks, held(ours))
    if ranks.rank == 0:
        assert sorted(found) == sorted(map(repr, held(native)))


def changed(number: int) -> list[Document]:
    """The documents of run 0, and others: some new, some changed, some missing, in other places."""
    given = documents(12, 40)
    if number:
        given = [*documents(30, 20)[20:25], *given[3:]]
        given[6].set_content("Changed. " * (30 + number))
        given[-1].metadata["n"] = "changed"
    return given


@pytest.mark.filterwarnings("ignore:docstore_strategy")
@pytest.mark.parametrize(("strategy", "store"), [*((each, True) for each in DocstoreStrategy), (UPSERTS, False)])
def test_stores(ranks: Communicator, strategy: DocstoreStrategy, store: bool) -> None:
    """Runs of other documents, whose blocks are others: what is kept where doesn't show in what is kept."""
    native, ours = with_stores(strategy, store), with_stores(strategy, store)
    pipeline = sharded(ours)
    for number in (0, 0, 1, 2):
        given = changed(number)
        nodes = pipeline.run(documents=copies(given))
        assert_same(ranks, nodes, native, given)
        assert_same_held(ranks, ours, native)


def test_a_vector_store_alone(ranks: Communicator) -> None:
    """A node that another rank makes in a later run is replaced there where it was, as in one process."""
    native, ours = (
        IngestionPipeline(transformations=[sentences(), Hashed()], vector_store=SimpleVectorStore()) for _ in range(2)
    )
    pipeline = sharded(ours)
    for given in (documents(12, 40), documents(12, 40)[7:], changed(2)):
        nodes = pipeline.run(documents=copies(given))
        assert_same(ranks, nodes, native, given)
        assert_same_held(ranks, ours, native)


def by_text(number: int, document: Any) -> str:
    return f"{document.text}/{number}"


@pytest.mark.parametrize("strategy", [None, *DocstoreStrategy])
def test_nodes_of_one_id_on_several_ranks(ranks: Communicator, strategy: DocstoreStrategy | None) -> None:
    """The last is kept, as in one process."""
    native, ours = (
        IngestionPipeline(
            transformations=[SentenceSplitter(id_func=by_text), Hashed()],
            vector_store=SimpleVectorStore(),
            docstore=strategy and SimpleDocumentStore(),
            docstore_strategy=strategy or UPSERTS,
        )
        for _ in range(2)
    )
    pipeline = sharded(ours)
    for withdrawn in ((), (0, 5, 11), (0, 11)):
        given = documents(12, 40)
        for number in withdrawn:
            given[number].set_content("Withdrawn.")
        if strategy == DUPLICATES and withdrawn:
            given = [Document(text=each.text, id_=f"{each.id_} {len(withdrawn)}") for each in given]
        native.run(documents=copies(given))
        pipeline.run(documents=copies(given))
        found = everybodys(ranks, list(ours.vector_store.to_dict()["embedding_dict"].items()))
        assert sorted(found) == sorted(map(repr, native.vector_store.to_dict()["embedding_dict"].items()))


@pytest.mark.parametrize("strategy", DocstoreStrategy)
def test_nothing_is_lost_where_a_run_is_refused(ranks: Communicator, strategy: DocstoreStrategy) -> None:
    ours = with_stores(strategy)
    pipeline = sharded(ours)
    pipeline.run(documents=documents(8, 40))
    kept = everybodys(ranks, held(ours))
    # All have changed, so that natively all would be deleted first.
    new, other = (Document(text=f"{text}. " * 60, id_="new") for text in ("One", "Another"))
    with pytest.raises(ValueError, match="documents with the id 'new' are in the blocks of several ranks"):
        pipeline.run(documents=[new, *documents(8, 50), other])
    assert everybodys(ranks, held(ours)) == kept


@pytest.mark.parametrize("strategy", [UPSERTS, DELETES])
def test_a_document_as_it_was_and_changed(ranks: Communicator, strategy: DocstoreStrategy) -> None:
    """Of one id in two blocks: the store that has it is not emptied for the other before that is refused."""
    ours = with_stores(strategy)
    pipeline = sharded(ours)
    given = documents(8, 40)
    pipeline.run(documents=copies(given))
    kept = everybodys(ranks, held(ours))
    with pytest.raises(ValueError, match="documents with the id '0' are in the blocks of several ranks"):
        pipeline.run(documents=[*copies(given), Document(text="Changed. " * 60, id_="0")])
    assert everybodys(ranks, held(ours)) == kept


def test_nothing_is_lost_where_a_rank_can_not_store(ranks: Communicator) -> None:
    """What a node would have replaced on another rank stays there."""
    ours = IngestionPipeline(
        transformations=[sentences(), Hashed()], vector_store=SimpleVectorStore(), disable_cache=True
    )
    pipeline = sharded(ours)
    pipeline.run(documents=documents(12, 40))
    before = set(everybodys(ranks, list(ours.vector_store.data.embedding_dict)))
    given = documents(12, 40)[::-1]
    given[0].metadata["odd"] = object()  # which is no JSON
    with pytest.raises(Exception, match=r"serialize|rank 0"):
        pipeline.run(documents=given)
    assert set(everybodys(ranks, list(ours.vector_store.data.embedding_dict))) == before


def test_documents_that_were_seen_in_another_block(ranks: Communicator) -> None:
    given = documents(6, 40)
    given += [Document(text=each.text, id_=f"{each.id_} again", metadata=each.metadata) for each in given]
    native, ours = with_stores(DUPLICATES), with_stores(DUPLICATES)
    nodes = sharded(ours).run(documents=copies(given))
    assert_same(ranks, nodes, native, given)
    assert_same_held(ranks, ours, native)


def test_documents_of_one_id_in_several_blocks(ranks: Communicator) -> None:
    given = documents(6, 40)
    given[5] = Document(text="Another. " * 60, id_=given[0].id_)
    with pytest.raises(ValueError, match="documents with the id '0' are in the blocks of several ranks"):
        sharded(IngestionPipeline(transformations=[sentences()])).run(documents=given)
    # Nobody is anybody's neighbour where nothing is parsed.
    pipeline = IngestionPipeline(transformations=[Hashed()])
    assert_same(ranks, sharded(pipeline).run(documents=copies(given)), pipeline, given)
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="one")}
    parts = [TextNode(text=each.text, id_=f"part {each.id_}", relationships=source) for each in documents(6, 40)]
    with pytest.raises(ValueError, match="documents with the id 'one' are in the blocks of several ranks"):
        sharded(IngestionPipeline(transformations=[sentences()])).run(nodes=parts)


def test_equal_documents_that_may_have_to_be_deleted(ranks: Communicator) -> None:
    given = documents(6, 40)
    given += [Document(text=each.text, id_=f"{each.id_} again", metadata=each.metadata) for each in given]
    pipeline = sharded(with_stores(DELETES))
    pipeline.run(documents=copies(given))
    with pytest.raises(ValueError, match="has the text and metadata of another"):
        pipeline.run(documents=given)


@pytest.mark.filterwarnings("ignore:docstore_strategy")
@pytest.mark.parametrize(("strategy", "store"), [(DUPLICATES, True), (UPSERTS, False)])
def test_a_changed_document_that_another_ranks_store_has(
    ranks: Communicator, strategy: DocstoreStrategy, store: bool
) -> None:
    """One process would replace it; nothing is kept twice, or lost."""
    given = documents(8, 40)
    ours = with_stores(strategy, store)
    pipeline = sharded(ours)
    pipeline.run(documents=copies(given))
    kept = everybodys(ranks, held(ours))
    moved = [*copies(given[1:]), Document(text="Changed. " * 40, id_=given[0].id_)]
    with pytest.raises(ValueError, match="the document '0' has changed, and is in the store of another rank"):
        pipeline.run(documents=moved)
    assert everybodys(ranks, held(ours)) == kept
    # What has only moved is known to be there.
    assert everybodys(ranks, pipeline.run(documents=copies(given[::-1]))) == []


# -- what can't be, and what fails -----------------------------------------------------------------------


class Odd(Hashed):
    """Another model on another rank, that its settings say nothing of."""

    _odd: int = PrivateAttr(0)

    def __init__(self, odd: int) -> None:
        super().__init__()
        self._odd = odd

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return super()._get_text_embeddings([f"{text} {self._odd}" for text in texts])


def test_what_is_refused(ranks: Communicator) -> None:
    class OwnDocuments(SimpleDocumentStore):
        pass

    given = documents(4, 9)
    step = "transformations[1], Shouting, is not known to treat each document by itself"
    refused: dict[str, tuple[Any, dict[str, Any]]] = {
        step: (IngestionPipeline(transformations=[sentences(), Shouting()]), {}),
        "num_workers": (IngestionPipeline(transformations=[sentences()]), {"num_workers": 2}),
        "OwnDocuments": (IngestionPipeline(transformations=[sentences()], docstore=OwnDocuments()), {}),
    }
    for what, (pipeline, settings) in refused.items():
        with pytest.raises(ValueError, match="gather='shards': ") as raised:
            sharded(pipeline).run(documents=given, **settings)
        assert what in str(raised.value)
    with pytest.raises(RankError, match="rank 1 has other data than rank 0"):
        sharded(IngestionPipeline(transformations=[])).run(documents=documents(3 + ranks.rank, 9))
    with pytest.raises(RankError, match="rank 1 gives a text other vectors than rank 0"):
        sharded(IngestionPipeline(transformations=[Odd(ranks.rank)])).run()


@pytest.mark.parametrize("where", ["parser", "model"])
def test_an_error_on_one_rank_is_raised_on_all(ranks: Communicator, where: str) -> None:
    given = documents(20, 30)
    if where == "model":
        given[-1].set_content(given[-1].text + " poison")
    else:
        given[-1].metadata["n"] = "long " * 500
    pipeline = sharded(IngestionPipeline(transformations=[sentences(), Hashed(bad="poison")]))
    what = "poison is refused" if where == "model" else "Metadata length"
    with pytest.raises(ValueError if ranks.rank == ranks.size - 1 else RankError, match=what):
        pipeline.run(documents=given)
    # The ranks can go on.
    good = IngestionPipeline(transformations=[sentences(), Hashed()])
    assert_same(ranks, sharded(good).run(documents=documents(9, 9)), good, documents(9, 9))
