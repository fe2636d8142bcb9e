"""An index that rank 0 builds with the help of all, against the native one."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any

import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode, TransformComponent
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import all_counts
from llama_index_aaflow import accelerate
from llama_index_aaflow.indices import AcceleratedVectorStoreIndex
from tests.llama_index.tracing import watched
from tests.ranks.test_llama_index_ingestion import Hashed, Shouting, documents, sentences
from tests.ranks.test_llama_index_shards import copies

pytestmark = pytest.mark.own_block

#: A block of it has as many texts as are embedded at once, and some.
UNEVEN = {"embed_model": Hashed(embed_batch_size=7), "insert_batch_size": 32}


def led(**settings: Any) -> Any:
    return accelerate(VectorStoreIndex, executor=Executor(engine="mpi", **settings))


def held(index: Any) -> list[Any]:
    stores = {"nodes": index.index_struct.nodes_dict, **index.docstore.to_dict(), **index.vector_store.to_dict()}
    return [(name, key, json.dumps(value)) for name, items in stores.items() for key, value in items.items()]


def both(ranks: Communicator, given: list[Document], **settings: Any) -> tuple[Any, Any]:
    """The native index, which rank 0 makes, and ours of the same documents."""
    settings = {"transformations": [sentences()], "embed_model": Hashed(), **settings}
    native = None if ranks.rank else VectorStoreIndex.from_documents(copies(given), **settings)
    return native, led().from_documents(copies(given), **settings)


@pytest.mark.parametrize("shape", [(14, 25), (3, 5), (1, 100), (0, 0)], ids=str)
def test_the_index_of_one_process(ranks: Communicator, shape: tuple[int, int]) -> None:
    for settings in (UNEVEN, {}, {"transformations": [sentences(), Shouting()]}, {"transformations": [Shouting()]}):
        native, ours = both(ranks, documents(*shape), **settings)
        if ranks.rank:
            assert ours is None
            continue
        assert type(ours) is AcceleratedVectorStoreIndex
        assert isinstance(ours, led())
        assert not isinstance(native, led())
        assert held(ours) == held(native)
        assert ours._transformations == native._transformations
        for index in (native, ours):
            index.insert(Document(text="One more. " * 40, id_="more"))
        assert held(ours) == held(native)


def test_who_embeds(ranks: Communicator) -> None:
    """Texts are embedded once, and not by rank 0 alone."""
    model = Hashed(embed_batch_size=7)
    given = documents(40, 60)
    made = led().from_documents(given, transformations=[sentences()], embed_model=model)
    # Each rank embeds a sample text, by which ranks compare their models.
    own = sum(model._batches) - (ranks.size > 1)
    with ranks.together("how many"):
        counts = all_counts(ranks, own)
    if ranks.rank == 0:
        assert sum(counts) == len(made.docstore.docs)
        assert ranks.size == 1 or counts[0] < sum(counts)


def test_empty_texts_given_vectors_and_ids_twice(ranks: Communicator) -> None:
    given = documents(6, 25)
    given[2].text_resource.text = ""  # type: ignore[union-attr]
    given[3].embedding = [0.5] * 8
    given[4].id_ = given[5].id_ = "same"
    for settings in ({"transformations": [Shouting()]}, {}):
        native, ours = both(ranks, given, **settings)
        assert ranks.rank or held(ours) == held(native)


def test_a_storage_context(ranks: Communicator) -> None:
    contexts = [StorageContext.from_defaults(vector_store=SimpleVectorStore()) for _ in range(2)]
    settings: dict[str, Any] = {"transformations": [sentences()], "embed_model": Hashed()}
    native = VectorStoreIndex.from_documents(documents(5, 9), contexts[0], **settings)
    ours = led().from_documents(documents(5, 9) if ranks.rank == 0 else [], storage_context=contexts[1], **settings)
    if ranks.rank == 0:
        assert ours.storage_context is contexts[1]
        assert held(ours) == held(native)
        engine = ours.as_query_engine(llm=MockLLM())
        assert str(engine.query("Gamma?")) == str(native.as_query_engine(llm=MockLLM()).query("Gamma?"))


def test_a_model_that_fails(ranks: Communicator) -> None:
    given = documents(14, 25)
    given[9].text_resource.text += " poison"  # type: ignore[operator, union-attr]
    with pytest.raises((ValueError, RankError), match="poison is refused"):
        led().from_documents(given, transformations=[sentences()], embed_model=Hashed(bad="poison"))


def test_a_handler_at_rank_0_alone(ranks: Communicator) -> None:
    """What it hears of stays there, and the others have nothing to do."""
    seen: list[Any] = []
    settings: dict[str, Any] = {"transformations": [sentences()]}
    for _ in range(2):
        manager, heard = watched()
        if ranks.rank == 0:
            settings["callback_manager"] = manager
        ours = led().from_documents(documents(5, 9), embed_model=Hashed(), **settings)
        seen.append(heard)
    if ranks.rank == 0:
        manager, heard = watched()
        settings["callback_manager"] = manager
        native = VectorStoreIndex.from_documents(documents(5, 9), embed_model=Hashed(), **settings)
        assert held(ours) == held(native)
        assert seen == [heard, heard]
        assert heard


class Told(TransformComponent):
    """Writes down what it is told beside the nodes."""

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        for node in nodes:
            node.metadata["told"] = sorted(kwargs)
        return nodes


@pytest.mark.parametrize("given", [True, False])
def test_what_transformations_are_told(ranks: Communicator, given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model only if the index was given one."""
    monkeypatch.setattr(Settings, "_embed_model", Hashed())
    settings = {"embed_model": Hashed()} if given else {}
    steps = [sentences(), Told()]
    ours = led().from_documents(documents(5, 9), transformations=steps, **settings)
    if ranks.rank == 0:
        assert held(ours) == held(VectorStoreIndex.from_documents(documents(5, 9), transformations=steps, **settings))


def test_what_is_left_when_a_model_fails(ranks: Communicator) -> None:
    """Batches that were embedded before are in the stores, as natively."""
    settings: dict[str, Any] = {"transformations": [sentences()], "insert_batch_size": 8}
    stores = []
    for make in (VectorStoreIndex, led()):
        given = documents(14, 25)
        given[9].text_resource.text += " poison"  # type: ignore[operator, union-attr]
        context = StorageContext.from_defaults()
        with pytest.raises((ValueError, RankError)):
            make.from_documents(given, context, embed_model=Hashed(bad="poison"), **settings)
        stores.append((context.docstore.to_dict(), context.vector_store.to_dict()))
    if ranks.rank == 0:
        assert len(stores[0][0]["docstore/data"]) > 8
        assert stores[1] == stores[0]


class Down(Hashed):
    """What it needs is missing here."""

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        raise ValueError("no device")


Down.__qualname__ = Hashed.__qualname__


def test_a_model_that_fails_on_one_rank(ranks: Communicator) -> None:
    if ranks.size == 1:
        return
    model = Hashed() if ranks.rank != 1 else Down()
    with pytest.raises(RankError, match="rank 1 failed: ValueError: no device"):
        led().from_documents(documents(4, 9), transformations=[sentences()], embed_model=model)


def test_a_class_made_of_it(ranks: Communicator) -> None:
    """Its ways are its own, and each process's."""

    class Mine(led()):  # type: ignore[misc]
        def _get_node_with_embedding(self, nodes: Any, show_progress: bool = False) -> Any:
            return [node.model_copy(update={"embedding": [1.0, 2.0]}) for node in nodes]

    made = Mine.from_documents(documents(3, 5), transformations=[sentences()], embed_model=Hashed())
    assert type(made) is Mine
    assert next(iter(made.vector_store.data.embedding_dict.values())) == [1.0, 2.0]


def test_what_ranks_have_to_agree_on(ranks: Communicator) -> None:
    if ranks.size == 1:
        return
    with pytest.raises(RankError, match="rank 1"):
        led().from_documents(documents(4 + ranks.rank, 9), transformations=[sentences()], embed_model=Hashed())
    model = Hashed(embed_batch_size=5 + ranks.rank)
    with pytest.raises(RankError, match="rank 1"):
        led().from_documents(documents(4, 9), transformations=[sentences()], embed_model=model)


def test_an_index_of_nodes_is_each_ranks_own(ranks: Communicator) -> None:
    nodes = [TextNode(text="one", id_="1")]
    made = led()(nodes=nodes, embed_model=Hashed())
    assert type(made) is AcceleratedVectorStoreIndex
    assert held(made) == held(VectorStoreIndex(nodes=nodes, embed_model=Hashed()))


def test_an_index_for_all_ranks(ranks: Communicator) -> None:
    given = documents(14, 25)
    settings: dict[str, Any] = {"transformations": [sentences()], "embed_model": Hashed()}
    native = VectorStoreIndex.from_documents(copies(given), **settings)
    ours = led(gather="all").from_documents(copies(given) if ranks.rank == 0 else [], **settings)
    assert type(ours) is AcceleratedVectorStoreIndex
    assert held(ours) == held(native)
    assert ours._transformations == native._transformations
    for index in (native, ours):
        index.insert(Document(text="One more. " * 40, id_="more"))
        index.delete_ref_doc("3", delete_from_docstore=True)
    assert held(ours) == held(native)
    found = [index.as_retriever(similarity_top_k=5).retrieve("Gamma?") for index in (native, ours)]
    assert [repr(each.to_dict()) for each in found[1]] == [repr(each.to_dict()) for each in found[0]]


class Kind(StrEnum):
    """What JSON gives back as a string."""

    ONE = "one"


@pytest.mark.parametrize("value", [(1, 2), Kind.ONE, "\ud83d" + "\ude00"], ids=["tuple", "enumeration", "halves"])
def test_what_does_not_go_to_all_ranks(ranks: Communicator, value: Any) -> None:
    given = [Document(text="one two", id_="1", metadata={"set": value})]
    with pytest.raises((TypeError, RankError), match="JSON has no form"):
        led(gather="all").from_documents(given, transformations=[Shouting()], embed_model=Hashed())
    with pytest.raises(ValueError, match="storage_context"):
        led(gather="all").from_documents([], StorageContext.from_defaults(), embed_model=Hashed())
