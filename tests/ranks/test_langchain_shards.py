"""Shards: each rank keeps its block, and all together are, hold and find what one process's store does."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("faiss")

import faiss
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from aaflow_plugins.engines.communicator import Communicator, RankError
from aaflow_plugins.executor import Executor
from aaflow_plugins.shards import Manifest, all_counts, blocks, check_same_texts, embed_edges, embed_evenly
from faiss_aaflow.sharded import search_parts
from langchain_aaflow import ingest
from langchain_aaflow.sharded_parts import part_of
from langchain_aaflow.sharded_store import ShardedVectorStore
from tests.ranks.test_langchain_ingest import Hashed, documents


def shards(**settings: Any) -> Executor:
    return Executor(**{"engine": "mpi", "gather": "shards", "batch_size": 16, **settings})


def alone() -> Executor:
    return Executor(engine="local", batch_size=16)


def rows(store: Any) -> list[Any]:
    """Everything in a store but the ids."""
    if isinstance(store, InMemoryVectorStore):
        return [(row["text"], row["metadata"], row["vector"]) for row in store.store.values()]
    found = [store.docstore._dict[id_] for id_ in store.index_to_docstore_id.values()]
    assert store.index.ntotal == len(found) == len(store.docstore._dict)
    return [
        (each.page_content, each.metadata, store.index.reconstruct(row).tobytes()) for row, each in enumerate(found)
    ]


def hits(results: Any) -> Any:
    """Found documents and scores, bit for bit; without the ids, which are random."""
    return [(each.page_content, each.metadata, repr(score)) for each, score in results]


class Coarse(Embeddings):
    """Few different vectors, so that many are equally far from a query."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        # That of "aaa" is zero, to which nothing has a cosine.
        return [[float(value % 3 - 1) for value in text.encode()[:3].ljust(3, b"\0")] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


STORES = {
    "FAISS": (FAISS, lambda embedding: FAISS),
    "inner products": (
        FAISS,
        lambda embedding: FAISS(
            embedding,
            faiss.IndexFlatIP(len(embedding.embed_query("a"))),
            InMemoryDocstore(),
            {},
            distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
        ),
    ),
    "normalized": (
        FAISS,
        lambda embedding: FAISS(
            embedding,
            faiss.IndexFlatL2(len(embedding.embed_query("a"))),
            InMemoryDocstore(),
            {},
            normalize_L2=True,
        ),
    ),
    "InMemory": (InMemoryVectorStore, lambda embedding: InMemoryVectorStore),
}

SHAPES = {"many": (30, 40), "one huge": (1, 4000), "fewer than ranks": (2, 30), "three tiny": (3, 1)}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((kind, "many") for kind in STORES if kind != "inner products"),
        *(("FAISS", shape) for shape in SHAPES if shape != "many"),
    ],
)
def test_shards_are_one_store_in_pieces(job: Communicator, kind: str, shape: str) -> None:
    """Contents, searches, retrievers, and what is saved and loaded."""
    given = documents(*SHAPES[shape])
    splitter = RecursiveCharacterTextSplitter(chunk_size=200, chunk_overlap=20)
    embedding = Hashed()
    make = STORES[kind][1]
    whole: Any = ingest(given, splitter=splitter, embedding=embedding, vectorstore=make(embedding), executor=alone())
    executor = shards()
    found: Any = ingest(given, splitter=splitter, embedding=embedding, vectorstore=make(embedding), executor=executor)
    assert type(found) is ShardedVectorStore
    assert type(found.local) is type(whole)
    expected = rows(whole)
    start = sum(found.counts[: job.rank])
    assert len(found) == sum(found.counts) == len(expected)
    assert rows(found.local) == expected[start : start + found.counts[job.rank]]
    assert executor.report is not None
    assert [each.rows for each in executor.report.operators][-1] == found.counts[job.rank]
    assert_found(found, whole, ["alpha", expected[-1][0], ""])


def assert_found(found: ShardedVectorStore, whole: Any, queries: list[str]) -> None:
    for k in (1, 4, 10**4):
        together = found.similarity_search_with_score_batch(queries, k=k)
        assert [hits(each) for each in together] == [
            hits(whole.similarity_search_with_score(query, k=k)) for query in queries
        ]
    vector = whole.embeddings.embed_query(queries[0])
    assert hits(found.similarity_search_with_score_by_vector(vector, 3)) == hits(
        whole.similarity_search_with_score_by_vector(vector, 3)
    )
    retrieved = found.as_retriever(search_kwargs={"k": 3}).batch(queries)
    native = whole.as_retriever(search_kwargs={"k": 3}).batch(queries)
    assert [[each.page_content for each in one] for one in retrieved] == [
        [each.page_content for each in one] for one in native
    ]
    assert asyncio.run(found.asimilarity_search(queries[0], k=1)) == found.similarity_search(queries[0], k=1)


def few_words(count: int) -> list[Document]:
    random = np.random.default_rng(5)
    return [
        Document(page_content="".join(random.choice(list("abc"), 4)), metadata={"n": number, "even": number % 2 == 0})
        for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["FAISS", "inner products", "InMemory"])
def test_equal_scores_come_in_the_order_of_one_store(job: Communicator, kind: str) -> None:
    """Which of them are found, too; with filters, thresholds and many results."""
    embedding, given = Coarse(), few_words(230)
    make = STORES[kind][1]
    settings = {"splitter": None, "embedding": embedding}
    whole: Any = ingest(given, vectorstore=make(embedding), executor=alone(), **settings)
    found: Any = ingest(given, vectorstore=make(embedding), executor=shards(), **settings)
    queries = ["abc", "bca", "ccc", "zzz"]
    for k in (1, 7, 130):
        together = found.similarity_search_with_score_batch(queries, k=k)
        for query, one in zip(queries, together, strict=True):
            assert hits(one) == hits(whole.similarity_search_with_score(query, k=k)), (k, query)
    options: list[dict[str, Any]] = [{"filter": lambda held: held.metadata["even"]}]
    if kind != "InMemory":
        options = [{"filter": {"even": True}, "fetch_k": 50}, {"filter": {"n": -1}}, {"score_threshold": 0.9}]
    for option in options:
        assert hits(found.similarity_search_with_score("abc", 9, **option)) == hits(
            whole.similarity_search_with_score("abc", 9, **option)
        )
    if kind == "InMemory":
        assert hits(found.similarity_search_with_score("abc", None)) == hits(  # type: ignore[arg-type]
            whole.similarity_search_with_score("abc", None)
        )
        with pytest.raises(TypeError, match="positional"):
            found.similarity_search("abc", 3, {"even": True})
    else:
        for behind in (({"even": {"$in": {"a", "b", "c", True}}},), ({"even": True}, 9)):
            assert hits(found.similarity_search_with_score("abc", 3, *behind)) == hits(
                whole.similarity_search_with_score("abc", 3, *behind)
            )
    native = whole.max_marginal_relevance_search("abc", 5, fetch_k=40)
    assert [each.metadata for each in found.max_marginal_relevance_search("abc", 5, fetch_k=40)] == [
        each.metadata for each in native
    ]


@pytest.mark.parametrize("kind", ["normalized", "InMemory"])
def test_all_ranks_have_it_all(job: Communicator, kind: str) -> None:
    """With the same ids everywhere, those of the store's own making among them."""
    given, embedding = documents(20, 100), Hashed()
    given[3].metadata["kept"] = (date(2026, 11, 23), b"\xff", np.float32(0.1))
    make = STORES[kind][1]
    store = make(embedding)
    settings: dict[str, Any] = {"splitter": None, "embedding": embedding}
    found = ingest(given, vectorstore=store, executor=shards(gather="all"), **settings)
    whole = ingest(given, vectorstore=make(embedding), executor=alone(), **settings)
    assert rows(found) == rows(whole)
    assert type(found) is type(whole)
    assert isinstance(store, type) or found is store
    ids = found.index_to_docstore_id if isinstance(found, FAISS) else list(found.store)
    with job.together("ids"):
        assert len(job.agree(str(ids).encode())) == 1
    assert hits(found.similarity_search_with_score("a")) == hits(whole.similarity_search_with_score("a"))


@pytest.mark.parametrize("gather", ["shards", "all"])
@pytest.mark.parametrize("ids", ["listed", "made"])
def test_given_ids(job: Communicator, gather: str, ids: str) -> None:
    given = [Document(page_content=f"text {number}", metadata={"n": number}) for number in range(50)]
    wanted: Any = [f"id {number}" for number in range(50)]
    if ids == "made":
        wanted = _id_of
    found: Any = ingest(
        given, splitter=None, embedding=Hashed(), vectorstore=FAISS, ids=wanted, executor=shards(gather=gather)
    )
    results = found.similarity_search_with_score("text", 50)
    assert {each.id: each.metadata["n"] for each, _ in results} == {f"id {number}": number for number in range(50)}


def _id_of(chunk: Document) -> str:
    return f"id {chunk.metadata['n']}"


def test_documents_that_are_spread(job: Communicator) -> None:
    """Each rank brings its own, which an iterator gives."""
    given = documents(40, 100)
    block = blocks([1] * 40, job.size)[job.rank]
    settings: dict[str, Any] = {"splitter": None, "embedding": Hashed(), "vectorstore": FAISS}
    found: Any = ingest(iter(given[block.start : block.stop]), executor=shards(partitioned=True), **settings)
    whole: Any = ingest(given, executor=alone(), **settings)
    assert rows(found.local) == rows(whole)[block.start : block.stop]
    assert hits(found.similarity_search_with_score("alpha")) == hits(whole.similarity_search_with_score("alpha"))


def test_no_documents(job: Communicator) -> None:
    with pytest.raises((ValueError, RankError), match="no documents, so no FAISS could be made"):
        ingest([], splitter=None, embedding=Hashed(), vectorstore=FAISS, executor=shards())
    found: Any = ingest([], splitter=None, embedding=Hashed(), vectorstore=InMemoryVectorStore, executor=shards())
    assert (len(found), found.similarity_search("a")) == (0, [])


class Changed(FAISS):
    """Not known."""


class Reversing(RecursiveCharacterTextSplitter):
    def split_documents(self, documents: Any) -> list[Document]:
        return super().split_documents(list(reversed(list(documents))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vectorstore": Changed}, "vectorstore: a Changed can't be kept in shards"),
        ({"splitter": Reversing()}, "splitter: Reversing may look at several documents at once"),
        ({"executor": shards(batch_size=None)}, r"give Executor\(batch_size=\.\.\.\)"),
        ({"ids": ["a", "b", "c", "d", "b"]}, "duplicate ids, 'b' for one; shards hold each id once"),
        ({"ids": ["a", "b"]}, "2 ids for 5 chunks"),
    ],
    ids=["store", "splitter", "embeddings", "ids that are equal", "too few ids"],
)
def test_what_shards_can_not_give(job: Communicator, settings: dict[str, Any], said: str) -> None:
    """It is an error on all ranks, before anything is embedded."""
    embedding = Hashed()
    given = {"splitter": None, "embedding": embedding, "vectorstore": FAISS, "executor": shards(), **settings}
    with pytest.raises((ValueError, RankError), match=said):
        ingest([Document(page_content=text) for text in "abcde"], **given)
    assert embedding.calls <= 1  # the sample that ranks compare


def test_a_store_that_is_not_empty(job: Communicator) -> None:
    store = InMemoryVectorStore(Hashed())
    store.add_texts(["a"])
    with pytest.raises((ValueError, RankError), match="it is not empty"):
        ingest([Document(page_content="b")], splitter=None, vectorstore=store, executor=shards())


def test_ids_of_some_documents_only(job: Communicator) -> None:
    given = [Document(page_content=text, id=text if text < "d" else None) for text in "abcdef"]
    with pytest.raises((ValueError, RankError), match="some chunks have an id and some have none"):
        ingest(given, splitter=None, embedding=Hashed(), vectorstore=FAISS, executor=shards())


def test_an_error_on_one_rank(job: Communicator) -> None:
    """It is raised on all, and the ranks can go on."""
    given = documents(30, 100)
    given[-1].page_content += " poison"
    with pytest.raises((ValueError, RankError), match="poison is refused"):
        ingest(given, splitter=None, embedding=Hashed(bad="poison"), vectorstore=FAISS, executor=shards(batch_size=2))
    found: Any = ingest(given[:9], splitter=None, embedding=Hashed(), vectorstore=FAISS, executor=shards())
    assert len(found.similarity_search("a", 20)) == 9
    if job.size > 1:
        with pytest.raises(RankError, match="rank 1 runs something else: not with rank 0's k"):
            found.similarity_search("a", k=1 + job.rank)


def test_metadata_that_does_not_travel(job: Communicator) -> None:
    given = [Document(page_content=text, metadata={"odd": Hashed}) for text in "abcdefgh"]
    found: Any = ingest(given, splitter=None, embedding=Hashed(), vectorstore=FAISS, executor=shards())
    if job.size > 1:
        with pytest.raises((TypeError, RankError), match=r"can't go to another rank: a abc\.ABCMeta is no"):
            found.similarity_search("a", 8)
        # Where all are to go to all ranks, nothing is embedded before.
        with pytest.raises(
            (TypeError, RankError), match=r"document '[a-h]' can't go to another rank: a abc\.ABCMeta is no"
        ):
            ingest(given, splitter=None, embedding=Hashed(bad="c"), vectorstore=FAISS, executor=shards(gather="all"))


@pytest.mark.parametrize("metric", [faiss.IndexFlatL2, faiss.IndexFlatIP])
def test_rows_that_threads_share(job: Communicator, metric: Any) -> None:
    """With several threads faiss searches 10,000 vectors or more by another routine, whose last bits differ."""
    if job.size != 2:
        pytest.skip("threads of more ranks than there are cores wait for each other")
    random = np.random.default_rng(3)
    vectors = random.standard_normal((12_000, 24)).astype(np.float32)
    vectors[7000:7500] = vectors[:500]
    queries = np.concatenate([random.standard_normal((5, 24)).astype(np.float32), vectors[[3, 400]]])
    block = blocks([1] * len(vectors), job.size)[job.rank]
    whole, own = metric(24), metric(24)
    whole.add(vectors)
    own.add(vectors[block.start : block.stop])
    most = faiss.omp_get_max_threads()
    for threads, k in ((1, 6), (2, 6)):
        faiss.omp_set_num_threads(threads)
        try:
            with job.together("search"):
                found = search_parts(job, own, block.start, len(vectors), queries, k)
            expected = [whole.search(query[None], k) for query in queries]
        finally:
            faiss.omp_set_num_threads(most)
        assert found is not None
        for number, (scores, numbers) in enumerate(expected):
            assert found[0][number].tobytes() == scores[0].tobytes()
            if threads == 1 or scores[0][-1] not in scores[0][:-1]:
                assert found[1][number][:-1].tolist() == numbers[0][:-1].tolist()


# -- on disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(job: Communicator, tmp_path: Path) -> Path:
    """One folder for all ranks: rank 0's."""
    with job.together("folder"):
        name = job.broadcast(None if job.rank else pa.table({"name": [str(tmp_path / "kept")]}))
    return Path(name["name"][0].as_py())


class Single(Hashed):
    """The texts beside a text have no part in its vector."""

    def _one(self, text: str, beside: bytes) -> Any:
        return super()._one(text, b"")


@pytest.mark.parametrize("kind", ["inner products", "InMemory"])
def test_shards_are_loaded_by_any_number_of_ranks(job: Communicator, kind: str, folder: Path) -> None:
    """By those that saved them, by one process, and where there are fewer or more ranks than shards."""
    given, embedding = documents(23, 40), Single()
    make = STORES[kind][1]
    settings: dict[str, Any] = {"splitter": None, "embedding": embedding}
    whole: Any = ingest(given, vectorstore=make(embedding), executor=alone(), **settings)
    found: Any = ingest(given, vectorstore=make(embedding), executor=shards(), **settings)
    found.save(folder)
    options = {} if kind == "InMemory" else {"allow_dangerous_deserialization": True}
    again = ShardedVectorStore.load(folder, embedding, executor=shards(), **options)
    assert rows(again.local) == rows(found.local)
    assert_found(again, whole, ["alpha", "beta"])
    one = ShardedVectorStore.load(folder, embedding, executor=alone(), **options)
    assert rows(one.local) == rows(whole)
    assert_found(one, whole, ["alpha"])
    for count in (1, 2 * job.size + 1):
        with job.together("as so many ranks would have saved it"):
            if not job.rank:
                saved = [
                    part_of(
                        ingest(
                            given[block.start : block.stop], vectorstore=make(embedding), executor=alone(), **settings
                        )
                    )
                    for block in blocks([1] * len(given), count)
                ]
                for number, part in enumerate(saved):
                    part.save(Manifest.shard(folder, number))
                kind_name = type(whole).__name__
                Manifest(kind_name, [part.rows for part in saved], saved[0].width, saved[0].settings).write(folder)
        other = ShardedVectorStore.load(folder, embedding, executor=shards(), **options)
        start = sum(other.counts[: job.rank])
        assert rows(other.local) == rows(whole)[start : start + other.counts[job.rank]]
        assert len(other) == len(given)
        assert_found(other, whole, ["alpha"])


def test_a_folder_that_is_not_whole(job: Communicator, folder: Path) -> None:
    """No manifest, or a shard that is missing or has lost rows."""
    embedding = Single()
    with pytest.raises((FileNotFoundError, RankError), match="saving them never ended"):
        ShardedVectorStore.load(folder, embedding, executor=shards())
    found: Any = ingest(
        documents(9, 9), splitter=None, embedding=embedding, vectorstore=InMemoryVectorStore, executor=shards()
    )
    found.save(folder)
    last = Manifest.shard(folder, job.size - 1)
    with job.together("fewer rows"):
        if not job.rank:
            (last / "store.json").write_text("{}")
    with pytest.raises((ValueError, RankError), match="have 0 rows, where the manifest says"):
        ShardedVectorStore.load(folder, embedding, executor=shards())
    with job.together("no shard"):
        if not job.rank:
            last.rename(folder / "elsewhere")
    with pytest.raises((FileNotFoundError, RankError), match="the manifest says that this shard exists"):
        ShardedVectorStore.load(folder, embedding, executor=shards())


def test_saving_anew_takes_the_manifest_away_first(job: Communicator, folder: Path) -> None:
    """Should it fail half-way, nobody takes what is there for whole."""
    found: Any = ingest(
        documents(9, 9), splitter=None, embedding=Single(), vectorstore=InMemoryVectorStore, executor=shards()
    )
    found.save(folder)
    if job.rank == job.size - 1:
        found.local.dump = None
    with pytest.raises((TypeError, RankError), match="'NoneType' object is not callable"):
        found.save(folder)
    with pytest.raises((FileNotFoundError, RankError), match="saving them never ended"):
        ShardedVectorStore.load(folder, Single(), executor=shards())


def spread(job: Communicator, random: np.random.Generator, sizes: list[int]) -> tuple[list[str], int, list[str], int]:
    """Texts in blocks of random sizes: all of them, where this rank's begin, this rank's, and how many a batch has."""
    counts = random.choice(sizes, job.size).tolist()
    batch_size = int(random.choice([1, 2, 4, 7, 30]))
    whole = [f"text {number} \ud800" for number in range(sum(counts))]
    start = sum(counts[: job.rank])
    return whole, start, whole[start : start + counts[job.rank]], batch_size


def test_batches_are_those_of_one_process(job: Communicator) -> None:
    """Whatever the blocks: batches across several of them, blocks without a text, none at all."""
    random = np.random.default_rng(7)
    with job.together("edges"):
        for _ in range(12):
            whole, start, own, batch_size = spread(job, random, [0, 1, 2, 5, 13])
            made: list[list[str]] = []

            def embed(batch: list[str], made: Any = made, number: Any = whole.index) -> list[list[float]]:
                made.append(batch)
                return [[0.1 + number(text), len(batch)] for text in batch]

            edges = embed_edges(job, own, batch_size, embed)
            # While some embed batches across blocks, who has a batch of its own waits for nobody.
            begins = any(position % batch_size == 0 for position in range(start, start + len(own)))
            assert len(made) == (begins and job.size > 1)
            between = own[len(edges.first) : len(own) - len(edges.last)]
            vectors = list(edges.first)
            for position in range(0, len(between), batch_size):
                vectors += embed(between[position : position + batch_size])
            vectors += edges.last
            batches = [whole[position : position + batch_size] for position in range(0, len(whole), batch_size)]
            lengths = [len(batch) for batch in batches for _ in batch][start : start + len(own)]
            assert vectors == [[0.1 + start + row, length] for row, length in enumerate(lengths)]
            assert all(batch in batches for batch in made)
            assert sum(all_counts(job, len(made))) == len(batches)


def test_batches_are_shared_evenly(job: Communicator) -> None:
    """Whatever the blocks, a rank embeds one batch more than another at the most, and those of one process."""
    random = np.random.default_rng(8)
    with job.together("evenly"):
        for _ in range(12):
            whole, start, own, batch_size = spread(job, random, [0, 1, 2, 5, 40])
            runs: list[list[str]] = []

            def embed(run: list[str], runs: Any = runs, number: Any = whole.index) -> list[list[float]]:
                runs.append(run)
                return [[0.1 + number(text)] for text in run]

            vectors = embed_evenly(job, own, batch_size, embed)
            assert vectors == [[0.1 + start + row] for row in range(len(own))]
            run = runs[0] if runs else []
            first = whole.index(run[0]) if run else 0
            assert run == whole[first : first + len(run)]
            assert first % batch_size == 0
            assert len(run) % batch_size == 0 or first + len(run) == len(whole)
            batches = all_counts(job, -(-len(run) // batch_size))
            assert sum(batches) == -(-len(whole) // batch_size)
            assert max(batches) - min(batches) <= 1


def test_vectors_missing(job: Communicator) -> None:
    error = "2 vectors for 3 texts" if job.rank == 0 else "rank 0 failed: ValueError: 2 vectors for 3 texts"
    with pytest.raises((ValueError, RankError), match=error), job.together("missing"):
        embed_evenly(job, ["a", "b", "c"] if job.rank == 0 else [], 3, lambda run: [[1.0]] * (len(run) - 1))


def test_other_texts(job: Communicator) -> None:
    if job.size == 1:
        pytest.skip("one rank has nobody's texts but its own")
    with pytest.raises(RankError, match="rank 1 has other data than rank 0"), job.together("texts"):  # noqa: PT012
        check_same_texts(job, ["a", "b"])
        check_same_texts(job, ["a", str(job.rank)])
