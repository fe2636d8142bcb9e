"""An index whose nodes are spread over the ranks, against one process's."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import QueryBundle
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, SimpleVectorStore

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import MANIFEST, Manifest
from llama_index_aaflow import accelerate
from llama_index_aaflow.sharded_index import _KIND
from tests.ranks.test_llama_index_ingestion import Hashed, Shouting, documents, sentences
from tests.ranks.test_llama_index_shards import copies, everybodys

pytestmark = pytest.mark.own_block

#: A block of it has as many texts as are embedded at once, and some.
UNEVEN = {"embed_model": Hashed(embed_batch_size=7), "insert_batch_size": 32}


class Alike(Hashed):
    """Many texts have the same vector."""

    def _one(self, text: str, beside: bytes) -> list[Any]:
        return [1.0, 1.0 + len(text) % 3, float(len(text) % 2)]


def sharded(**settings: Any) -> Any:
    return accelerate(VectorStoreIndex, executor=Executor(engine="mpi", gather="shards", **settings))


@pytest.fixture
def folder(ranks: Communicator) -> Iterator[Path]:
    """One for all ranks."""
    own = tempfile.mkdtemp() if ranks.rank == 0 else ""
    with ranks.together("folder"):
        (first, *_) = ranks.agree(own.encode())
    yield Path(first.decode())
    with ranks.together("end"):
        pass
    if own:
        shutil.rmtree(own)


def both(ranks: Communicator, given: list[Document], **settings: Any) -> tuple[Any, Any]:
    """The native index, which rank 0 makes, and ours of the same documents."""
    settings = {"transformations": [sentences()], "embed_model": Hashed(), **settings}
    native = None if ranks.rank else VectorStoreIndex.from_documents(copies(given), **settings)
    return native, sharded().from_documents(copies(given), **settings)


def held(index: Any) -> list[Any]:
    stores = {"nodes": index.index_struct.nodes_dict, **index.docstore.to_dict(), **index.vector_store.to_dict()}
    return [(name, key, json.dumps(value)) for name, items in stores.items() for key, value in items.items()]


def assert_same_held(ranks: Communicator, native: Any, ours: Any) -> None:
    found, ids = everybodys(ranks, held(ours)), everybodys(ranks, list(ours.vector_store.data.embedding_dict))
    if ranks.rank == 0:
        assert sorted(found) == sorted(map(repr, held(native)))
        assert ids == list(map(repr, native.vector_store.data.embedding_dict))


def written(answers: list[Any]) -> list[Any]:
    return [[(repr(each.to_dict()), type(each.score)) for each in answer] for answer in answers]


def assert_same_answers(ranks: Communicator, native: Any, ours: Any, queries: list[str], **settings: Any) -> None:
    """On rank 0 the native answers; the same on all."""
    retriever = ours.as_retriever(**settings)
    found = [retriever.retrieve(queries[0]), *retriever.batch(queries), *asyncio.run(retriever.abatch(queries[1:]))]
    if ranks.rank == 0:
        native_retriever = native.as_retriever(**settings)
        assert written(found) == written(
            [native_retriever.retrieve(query) for query in [queries[0], *queries, *queries[1:]]]
        )
    with ranks.together("answers"):
        ranks.compare(repr(written(found)).encode(), "has other answers")


QUERIES = ["alpha beta", "Gamma?", "epsilon zeta eta theta", "delta " * 20]


@pytest.mark.parametrize("shape", [(14, 25), (3, 5), (1, 100), (0, 0)], ids=str)
def test_the_index_of_one_process(ranks: Communicator, shape: tuple[int, int]) -> None:
    settings = UNEVEN if shape[0] == 14 else {}
    native, ours = both(ranks, documents(*shape), **settings)
    assert isinstance(ours, VectorStoreIndex)
    assert_same_held(ranks, native, ours)
    assert ours.local.index_struct is ours.index_struct
    assert_same_answers(ranks, native, ours, QUERIES, similarity_top_k=5)
    assert_same_answers(ranks, native, ours, QUERIES[:1], similarity_top_k=1000)


def test_documents_that_are_spread_already(ranks: Communicator) -> None:
    given = documents(4 * ranks.size, 9)
    settings = {"transformations": [sentences()], "embed_model": Hashed()}
    native = None if ranks.rank else VectorStoreIndex.from_documents(copies(given), **settings)
    own = given[4 * ranks.rank : 4 * ranks.rank + 4]
    assert_same_held(ranks, native, sharded(partitioned=True).from_documents(copies(own), **settings))


def test_equal_scores(ranks: Communicator) -> None:
    """One process leaves equal ones in the order of its heap, which ids decide, too."""
    native, ours = both(ranks, documents(14, 25), embed_model=Alike())
    for top in (1, 7, 30):
        assert_same_answers(ranks, native, ours, QUERIES, similarity_top_k=top)


def test_filters(ranks: Communicator) -> None:
    native, ours = both(ranks, documents(14, 25))
    few = MetadataFilter(key="n", value=20, operator=FilterOperator.GT)
    assert_same_answers(ranks, native, ours, QUERIES, similarity_top_k=4, filters=MetadataFilters(filters=[few]))


def test_vectors_without_a_direction(ranks: Communicator) -> None:
    class Nowhere(Hashed):
        def _one(self, text: str, beside: bytes) -> list[Any]:
            return [0.0, 0.0] if "lpha" in text else [float(len(text)), 1.0]

    native, ours = both(ranks, documents(24, 12), embed_model=Nowhere())
    with np.errstate(invalid="ignore"):
        assert_same_answers(ranks, native, ours, QUERIES, similarity_top_k=6)


def test_a_query_engines_retriever(ranks: Communicator) -> None:
    native, ours = both(ranks, documents(9, 50))
    bundle = QueryBundle("seven", embedding=Hashed()._get_text_embedding("eight"))
    response = ours.as_query_engine(llm=MockLLM()).query(bundle)
    if ranks.rank == 0:
        expected = native.as_query_engine(llm=MockLLM()).query(bundle)
        assert str(response) == str(expected)
        assert written([response.source_nodes]) == written([expected.source_nodes])


def test_save_and_load(ranks: Communicator, folder: Path) -> None:
    native, ours = both(ranks, documents(24, 30))
    # A save of more ranks is there already.
    if ranks.rank == 0:
        (folder / MANIFEST).write_text("{", encoding="utf-8")
    ours.save(folder)
    loaded = sharded().load(folder, embed_model=Hashed())
    assert_same_answers(ranks, native, loaded, QUERIES, similarity_top_k=5)
    assert_same_held(ranks, native, loaded)
    # One process takes all shards, and many ranks have few to take.
    alone = accelerate(VectorStoreIndex, executor=Executor(engine="local", gather="shards")).load(
        folder, embed_model=Hashed()
    )
    ids = everybodys(ranks, list(ours.vector_store.data.embedding_dict))
    assert list(map(repr, alone.vector_store.data.embedding_dict)) == ids
    if ranks.rank == 0:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        manifest["rows"] = manifest["rows"][:1]
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with ranks.together("written"):
        pass
    loaded = sharded().load(folder, embed_model=Hashed())
    assert len(loaded.as_retriever(similarity_top_k=1000).retrieve("x")) == manifest_rows(folder)[0]


def manifest_rows(folder: Path) -> list[int]:
    rows: list[int] = json.loads((folder / MANIFEST).read_text("utf-8"))["rows"]
    return rows


def test_an_index_beside_others(ranks: Communicator, folder: Path) -> None:
    """As natively, nobody is given one of several that are in the same stores."""
    context = StorageContext.from_defaults(vector_store=SimpleVectorStore())
    settings: dict[str, Any] = {"transformations": [sentences()], "embed_model": Hashed()}
    sharded().from_documents(copies(documents(6, 20)), context, **settings)
    second = sharded().from_documents(copies(documents(9, 20)[6:]), context, **settings)
    with pytest.raises(ValueError, match="Expected a single index, but got 2 instead: an index in shards"):
        second.save(folder)
    context.persist(str(Manifest.shard(folder, ranks.rank)))
    if ranks.rank == 0:
        Manifest(_KIND, [0] * ranks.size, None).write(folder)
    with ranks.together("written"):
        pass
    with pytest.raises((ValueError, RankError), match="Expected a single index, but got 2 instead"):
        sharded().load(folder, embed_model=Hashed())


def test_nodes_of_one_id_in_several_blocks(ranks: Communicator) -> None:
    """One process would keep the last: several ranks would each have one, and count all of them as found."""

    def same(number: int, document: Any) -> str:
        return f"{document.metadata['n']}"

    given = [Document(text=f"text {number}", id_=f"{number}", metadata={"n": number % 4}) for number in range(8)]
    with pytest.raises(ValueError, match=r"nodes with the id '[0-3]' were made of documents in the blocks of several"):
        sharded().from_documents(given, transformations=[SentenceSplitter(id_func=same)], embed_model=Hashed())


def test_folders_without_whole_shards(ranks: Communicator, folder: Path) -> None:
    with pytest.raises((FileNotFoundError, RankError), match="no such file"):
        sharded().load(folder)
    _, ours = both(ranks, documents(6, 9))
    ours.save(folder)
    manifest = (folder / MANIFEST).read_text("utf-8")
    with ranks.together("read"):
        pass
    if ranks.rank == 0:
        (folder / MANIFEST).write_text(manifest.replace('"rows": [\n  ', '"rows": [\n  9'), "utf-8")
    with ranks.together("written"):
        pass
    with pytest.raises((ValueError, RankError), match="vectors, and not 9"):
        sharded().load(folder, embed_model=Hashed())


def test_what_is_refused(ranks: Communicator) -> None:
    class OwnVectors(SimpleVectorStore):
        pass

    given = documents(6, 20)
    with pytest.raises(ValueError, match=r"transformations\[0\], Shouting, is not known to treat each document"):
        sharded().from_documents(given, transformations=[Shouting()], embed_model=Hashed())
    context = StorageContext.from_defaults(vector_store=OwnVectors())
    with pytest.raises(ValueError, match="vector_store: a OwnVectors is not known to be searched in parts"):
        sharded().from_documents(given, context, transformations=[sentences()], embed_model=Hashed())
    some = [each.model_copy(update={"embedding": [0.1] * 8 if number else None}) for number, each in enumerate(given)]
    with pytest.raises(ValueError, match="some nodes come with embeddings and some without"):
        sharded().from_documents(some, transformations=[Hashed(embed_batch_size=1)][1:] or None, embed_model=Hashed())
    _, ours = both(ranks, given)
    with pytest.raises(NotImplementedError, match="an index in shards takes no more documents"):
        ours.insert(given[0])
    kept = list(ours.docstore.docs)
    for change in (lambda: ours.update_ref_doc(given[0]), lambda: ours.refresh_ref_docs(given)):
        with pytest.raises(NotImplementedError, match="an index in shards takes no more documents"):
            change()
    assert list(ours.docstore.docs) == kept
    with pytest.raises(ValueError, match="vector_store_query_mode 'mmr' needs all vectors in one store"):
        ours.as_retriever(vector_store_query_mode="mmr")
    with pytest.raises(RankError, match="rank 1 runs something else: not with rank 0's queries"):
        ours.as_retriever().retrieve(f"rank {ranks.rank}")
    with pytest.raises(ValueError, match="only the class VectorStoreIndex is kept on several ranks"):
        accelerate(VectorStoreIndex.from_documents([], embed_model=Hashed()), executor=Executor(gather="shards"))


def test_an_error_on_one_rank_is_raised_on_all(ranks: Communicator) -> None:
    _, ours = both(ranks, documents(12, 40))
    if ranks.rank == ranks.size - 1:
        ours._docstore = SimpleDocumentStore()
    with pytest.raises(ValueError if ranks.rank == ranks.size - 1 else RankError, match=r"doc_id \S+ not found"):
        ours.as_retriever(similarity_top_k=1000).retrieve("anything")


def test_the_text_of_all_ranks(ranks: Communicator) -> None:
    """Whatever a retriever finds is sent as it is."""
    given = [
        *documents(6, 9),
        Document(text="Ein Größerer.", id_="ü", metadata={"a": [1, None, {"b": 0.1}], "c": 1e300}),
    ]
    native, ours = both(ranks, given)
    assert_same_answers(ranks, native, ours, ["x"], similarity_top_k=50)
