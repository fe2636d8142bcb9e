"""The accelerated InMemoryVectorStore against the native one, whatever is done to its public dict in between."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from aaflow_plugins.embedding import Vectors
from aaflow_plugins.kept_vectors import KeptVectors
from langchain_aaflow import in_memory_store
from langchain_aaflow.in_memory_store import AcceleratedInMemoryVectorStore, InMemorySink
from langchain_aaflow.native_stores import shared_view
from langchain_aaflow.vectorstores import accelerate_store, native_reason, sink_for, sink_for_class
from tests.generated import examples
from tests.langchain.warned import caught_warnings

DIM = 12


class HashEmbeddings(Embeddings):
    """Vectors from the text's characters; a query's differ from a document's."""

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim

    def vector(self, text: str) -> list[float]:
        seed = list(text.encode("utf-8", "surrogatepass"))
        return np.random.default_rng(seed).standard_normal(self.dim).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.vector("query: " + text)


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns or raises and warns, comparable."""
    with caught_warnings() as caught:
        try:
            result: Any = ("returned", call())
        except Exception as error:
            result = (type(error).__name__, str(error))
    return result, [(warning.category, str(warning.message)) for warning in caught]


def native_of(store: InMemoryVectorStore) -> InMemoryVectorStore:
    return shared_view(store, InMemoryVectorStore)


def exact(results: list[tuple[Document, float]]) -> list[Any]:
    return [(doc.id, doc.page_content, doc.metadata, np.float64(score).tobytes()) for doc, score in results]


def assert_searches_equal(store: InMemoryVectorStore, query: Any, **options: Any) -> None:
    """One search, a second (which builds the matrix) and a third (which uses it) equal the native one."""
    native = native_of(store)

    def search(each: InMemoryVectorStore) -> Any:
        return exact(each.similarity_search_with_score_by_vector(query, **options))

    expected = outcome(lambda: search(native))
    for _ in range(3):
        assert outcome(lambda: search(store)) == expected


def filled(rows: int, dim: int = DIM, seed: int = 0) -> AcceleratedInMemoryVectorStore:
    generator = np.random.default_rng(seed)
    store = AcceleratedInMemoryVectorStore(HashEmbeddings(dim))
    for row in range(rows):
        store.store[str(row)] = {
            "id": str(row),
            "vector": generator.standard_normal(dim).tolist(),
            "text": f"text {row}",
            "metadata": {"row": row},
        }
    return store


def kept_rows(store: AcceleratedInMemoryVectorStore) -> int:
    return len(in_memory_store._kept_of(store))


# --- adding -------------------------------------------------------------------------------------------------------


def test_every_way_in(real_texts: list[str]) -> None:
    texts, metadatas = real_texts[:90], [{"row": row} for row in range(90)]
    ids = [f"id {row}" for row in range(90)]
    docs = [
        Document(text, metadata=metadata, id=id_) for text, metadata, id_ in zip(texts, metadatas, ids, strict=True)
    ]
    results = []
    for store_class in (InMemoryVectorStore, accelerate_store(InMemoryVectorStore)):
        store = store_class.from_texts(texts[:30], HashEmbeddings(), metadatas[:30], ids=ids[:30])
        added = [store.add_documents(docs[30:60]), store.add_texts(texts[60:], metadatas[60:], ids=ids[60:])]
        later = store_class.from_documents(docs[:5], HashEmbeddings())
        asyncio.run(later.aadd_documents(docs[5:9]))
        asyncio.run(later.aadd_texts(["x"], ids=["y"]))
        third = asyncio.run(store_class.afrom_documents(docs[:3], HashEmbeddings()))
        fourth = asyncio.run(store_class.afrom_texts(texts[:3], HashEmbeddings(), ids=ids[:3]))
        stores = (store, later, third, fourth)
        results.append((added, [list(each.store.items()) for each in stores]))
        assert {type(each) for each in stores} == {store_class}
    assert results[1] == results[0]


ROWS = st.lists(
    st.tuples(
        st.text(max_size=8),
        st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.lists(st.text())), max_size=3),
        st.one_of(st.none(), st.sampled_from("abcd"), st.text(max_size=2)),
    ),
    max_size=6,
)


@settings(max_examples=examples(100), deadline=None)
@given(batches=st.lists(ROWS, max_size=4))
def test_sink_adds_what_add_documents_adds(batches: Any) -> None:
    embedding = HashEmbeddings()
    native, ours = InMemoryVectorStore(embedding), InMemoryVectorStore(embedding)
    sink = sink_for(ours)
    assert isinstance(sink, InMemorySink)
    for batch in batches:
        docs = [Document(text, metadata=metadata, id=id_) for text, metadata, id_ in batch]
        expected = native.add_documents(docs)
        rows = embedding.embed_documents([doc.page_content for doc in docs])
        matrix = np.array(rows, dtype=np.float32).reshape(len(rows), DIM)
        added = sink.upsert(
            [doc.page_content for doc in docs],
            [doc.metadata for doc in docs],
            [doc.id for doc in docs],
            Vectors(matrix, exact=dict(enumerate(rows))),
        )
        for theirs, mine, doc in zip(expected, added, docs, strict=True):
            assert mine == theirs or (not doc.id and uuid.UUID(mine).version == 4)
        assert all(
            ours.store[id_]["metadata"] is doc.metadata for id_, doc in dict(zip(added, docs, strict=True)).items()
        )
    random = [key for key in ours.store if len(key) == 36]
    names = dict(zip(random, (key for key in native.store if len(key) == 36), strict=True))
    renamed = [(names.get(key, key), {**entry, "id": names.get(key, key)}) for key, entry in ours.store.items()]
    assert renamed == list(native.store.items())


def test_sink_gives_lists_of_floats() -> None:
    store = InMemoryVectorStore(HashEmbeddings(3))
    matrix = np.array([[0.1, 0.2, 0.3], [1, 2, 3]], np.float32)
    InMemorySink(store).upsert(["a", "b"], [{}, {}], ["1", None], Vectors(matrix, exact={1: [1, 2, 3]}))
    first, second = (entry["vector"] for entry in store.store.values())
    assert first == [float(np.float32(x)) for x in (0.1, 0.2, 0.3)]
    assert {type(x) for x in first} == {float}
    assert {type(x) for x in second} == {int}
    assert InMemorySink(store).dimension is None


# --- searching ----------------------------------------------------------------------------------------------------

SEARCHES: dict[str, Callable[[InMemoryVectorStore], Any]] = {
    "similarity_search": lambda s: s.similarity_search("q", k=3),
    "with_score": lambda s: s.similarity_search_with_score("q"),
    "filter": lambda s: s.similarity_search_with_score("q", k=3, filter=lambda doc: doc.metadata["row"] % 3 == 0),
    "filter nothing": lambda s: s.similarity_search_with_score("q", filter=lambda doc: False),
    "filter one": lambda s: s.similarity_search_with_score("q", filter=lambda doc: doc.id == "7"),
    "filter error": lambda s: s.similarity_search_with_score("q", filter=lambda doc: doc.metadata["none"]),
    "by_vector": lambda s: s.similarity_search_by_vector([0.25] * DIM),
    "all": lambda s: s.similarity_search_with_score_by_vector([0.25] * DIM, k=10_000),
    "none": lambda s: s.similarity_search("q", k=0),
    "negative k": lambda s: s.similarity_search("q", k=-20),
    "k of None": lambda s: s.similarity_search("q", k=None),
    "relevance": lambda s: s.similarity_search_with_relevance_scores("q"),
    "mmr": lambda s: s.max_marginal_relevance_search("q", k=3, fetch_k=10),
    "mmr_filter": lambda s: s.max_marginal_relevance_search("q", k=3, filter=lambda doc: doc.metadata["row"] > 40),
    "mmr_by_vector": lambda s: s.max_marginal_relevance_search_by_vector([0.25] * DIM, k=3),
    "search": lambda s: s.search("q", "mmr"),
    "async": lambda s: asyncio.run(s.asimilarity_search_with_score("q")),
    "async_by_vector": lambda s: asyncio.run(s.asimilarity_search_by_vector([0.25] * DIM)),
    "async_mmr": lambda s: asyncio.run(s.amax_marginal_relevance_search("q", k=2)),
    "async_plain": lambda s: asyncio.run(s.asimilarity_search("q")),
    "float32 query": lambda s: s.similarity_search_with_score_by_vector(np.full(DIM, 0.1, np.float32)),
    "whole numbers": lambda s: s.similarity_search_with_score_by_vector([1] * DIM),
    "zero query": lambda s: s.similarity_search_with_score_by_vector([0.0] * DIM),
    "NaN query": lambda s: s.similarity_search_with_score_by_vector([float("nan")] * DIM),
    "infinite query": lambda s: s.similarity_search_with_score_by_vector([float("inf")] * DIM),
    "huge query": lambda s: s.similarity_search_with_score_by_vector([1e200] * DIM),
    "short query": lambda s: s.similarity_search_with_score_by_vector([1.0]),
    "no query": lambda s: s.similarity_search_with_score_by_vector([]),
    "nested query": lambda s: s.similarity_search_with_score_by_vector([[1.0] * DIM]),
    "get_by_ids": lambda s: s.get_by_ids(["3", "1", "no"]),
}  # fmt: skip


@pytest.mark.parametrize("rows", [0, 1, 5, 60, 400])
def test_every_search(rows: int) -> None:
    store = filled(rows)
    native = native_of(store)
    for _ in range(3):
        for name, search in SEARCHES.items():
            assert outcome(lambda f=search: f(store)) == outcome(lambda f=search: f(native)), name
    assert kept_rows(store) == (rows if rows >= in_memory_store.MIN_DOCUMENTS else 0)


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 64, 128, 384, 768, 1536])
@pytest.mark.parametrize("rows", [33, 257, 2000])
def test_scores_have_the_native_bits(rows: int, dim: int) -> None:
    store = filled(rows, dim, seed=dim)
    generator = np.random.default_rng(rows)
    for k in (1, 10, rows):
        assert_searches_equal(store, generator.standard_normal(dim).tolist(), k=k)
    for share in (2, 7):
        query = generator.standard_normal(dim).tolist()
        assert_searches_equal(store, query, k=8, filter=lambda doc, n=share: doc.metadata["row"] % n == 0)
    assert kept_rows(store) == rows


@settings(max_examples=examples(80), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    dim=st.integers(1, 40),
    k=st.integers(1, 30),
    decimals=st.integers(0, 4),
)
def test_generated_stores_with_ties_zeros_and_growth(
    seed: int, sizes: list[int], dim: int, k: int, decimals: int
) -> None:
    """Rounded vectors give equal scores and zero vectors; the store grows between searches."""
    generator = np.random.default_rng(seed)
    store = AcceleratedInMemoryVectorStore(HashEmbeddings(dim))
    sink = InMemorySink(store)
    for size in sizes:
        rows = np.round(generator.standard_normal((size, dim)), decimals).tolist()
        vectors = Vectors(np.array(rows, np.float32), exact=dict(enumerate(rows)))
        sink.upsert(["text"] * size, [{} for _ in rows], [None] * size, vectors)
        query = np.round(generator.standard_normal(dim), decimals).tolist()
        assert_searches_equal(store, query, k=k)
        assert_searches_equal(store, query, k=k, filter=lambda doc: ord(doc.id[0]) % 2 == 0)


def _replace_vector(store: Any) -> None:
    store.store["7"]["vector"] = [9.0] * DIM


def _change_a_float_in_place(store: Any) -> None:
    store.store["7"]["vector"][3] = 1e6


def _change_the_last_float_in_place(store: Any) -> None:
    store.store["59"]["vector"][-1] += 5.0


def _shorten_a_vector(store: Any) -> None:
    store.store["7"]["vector"].pop()


def _delete(store: Any) -> None:
    store.delete(["7", "20"])


def _pop(store: Any) -> None:
    store.store.pop("0")


def _delete_and_put_back(store: Any) -> None:
    store.store["7"] = store.store.pop("7")


def _swap_two_vectors(store: Any) -> None:
    one, two = store.store["7"], store.store["8"]
    one["vector"], two["vector"] = two["vector"], one["vector"]


def _another_dict(store: Any) -> None:
    store.store = {key: copy.deepcopy(entry) for key, entry in reversed(store.store.items())}
    store.store["7"]["vector"][0] = 77.0


def _array_for_a_list(store: Any) -> None:
    store.store["7"]["vector"] = np.arange(DIM, dtype=float)


def _tuple_for_a_list(store: Any) -> None:
    store.store["7"]["vector"] = tuple(range(DIM))


def _whole_numbers(store: Any) -> None:
    for entry in store.store.values():
        entry["vector"] = [round(10 * value) for value in entry["vector"]]


def _whole_numbers_in_every_third(store: Any) -> None:
    for entry in list(store.store.values())[::3]:
        entry["vector"] = [round(10 * value) for value in entry["vector"]]


def _single_precision_in_every_third(store: Any) -> None:
    """A filter that leaves only these makes the native search compute in float32."""
    for entry in list(store.store.values())[::3]:
        entry["vector"] = list(np.array(entry["vector"], np.float32))


def _single_precision_in_place(store: Any) -> None:
    for entry in store.store.values():
        entry["vector"][:] = list(np.array(entry["vector"], np.float32))


def _array_for_a_float(store: Any) -> None:
    store.store["7"]["vector"][3] = np.arange(3.0)


def _nan(store: Any) -> None:
    store.store["7"]["vector"][0] = float("nan")


def _infinity(store: Any) -> None:
    store.store["7"]["vector"][0] = float("inf")


def _huge(store: Any) -> None:
    store.store["7"]["vector"][0] = 1e300


def _zero_vector(store: Any) -> None:
    store.store["7"]["vector"] = [0.0] * DIM


def _strings(store: Any) -> None:
    store.store["7"]["vector"] = ["1"] * DIM


def _other_metadata(store: Any) -> None:
    store.store["7"]["metadata"] = {"row": 0}
    store.store["8"]["text"] = "changed"


def _missing_vector(store: Any) -> None:
    del store.store["7"]["vector"]


def _add(store: Any) -> None:
    store.add_texts(["new", "newer"], [{"row": -1}, {"row": -3}], ids=["new", "newer"])


def _add_over_an_id(store: Any) -> None:
    store.add_texts(["new"], [{"row": -1}], ids=["7"])


def _add_another_dimension(store: Any) -> None:
    store.store["x"] = {"id": "x", "vector": [1.0] * (DIM + 1), "text": "x", "metadata": {"row": 3}}


def _add_through_the_native_store(store: Any) -> None:
    native_of(store).add_texts(["new"], [{"row": -1}], ids=["new"])


CHANGES = [
    _replace_vector,
    _change_a_float_in_place,
    _change_the_last_float_in_place,
    _shorten_a_vector,
    _delete,
    _pop,
    _delete_and_put_back,
    _swap_two_vectors,
    _another_dict,
    _array_for_a_list,
    _tuple_for_a_list,
    _whole_numbers,
    _whole_numbers_in_every_third,
    _single_precision_in_every_third,
    _single_precision_in_place,
    _array_for_a_float,
    _nan,
    _infinity,
    _huge,
    _zero_vector,
    _strings,
    _other_metadata,
    _missing_vector,
    _add,
    _add_over_an_id,
    _add_another_dimension,
    _add_through_the_native_store,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("searches_before", [0, 1, 2, 3])
def test_any_change_of_the_public_dict_is_noticed(change: Callable[[Any], None], searches_before: int) -> None:
    store = filled(60)
    query = np.random.default_rng(5).standard_normal(DIM).tolist()
    for _ in range(searches_before):
        store.similarity_search_by_vector(query)
    change(store)
    assert_searches_equal(store, query, k=60)
    assert_searches_equal(store, query, k=5, filter=lambda doc: doc.metadata["row"] % 3 == 0)
    if type(store.store.get("7", {}).get("vector")) is list:
        _change_a_float_in_place(store)
    assert_searches_equal(store, query, k=60)


def test_matrix_is_kept_and_grows_with_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(60)
    query = [0.5] * DIM
    seen = []
    for _ in range(3):
        store.similarity_search_by_vector(query)
        seen.append(kept_rows(store))
    assert seen == [0, 60, 60]
    buffer = in_memory_store._kept_of(store)._kept._arrays[0]
    store.similarity_search_by_vector(query)
    assert in_memory_store._kept_of(store)._kept._arrays[0] is buffer
    _add(store)
    # Every vector but the new ones is taken from the buffer.
    taken: list[int] = []
    append = KeptVectors.append
    monkeypatch.setattr(KeptVectors, "append", lambda self, new: (taken.append(len(new)), append(self, new))[1])
    assert_searches_equal(store, query)
    assert taken == [2]
    _delete(store)
    assert_searches_equal(store, query)
    assert taken == [2, 60]


def test_filter_is_asked_once_for_each_document() -> None:
    asked: list[list[str]] = [[], []]
    store = filled(60)
    for _ in range(3):
        for names, each in zip(asked, (native_of(store), store), strict=True):
            each.similarity_search_by_vector(
                [0.5] * DIM, filter=lambda doc, names=names: names.append(doc.id) or doc.id != "3"
            )
    assert asked[1] == asked[0] == [str(row) for _ in range(3) for row in range(60)]


def test_batched_searches_equal_single_ones(real_texts: list[str]) -> None:
    for rows in (5, 200):
        store = AcceleratedInMemoryVectorStore.from_texts(real_texts[:rows], HashEmbeddings())
        queries = real_texts[200:215]
        native = native_of(store)
        expected = [native.similarity_search_with_score(query, k=6) for query in queries]
        assert store.similarity_search_with_score_batch(queries, k=6) == expected
        assert store.similarity_search_batch(queries, k=6) == [[doc for doc, _ in each] for each in expected]
        vectors = [HashEmbeddings().embed_query(query) for query in queries]
        found = store.similarity_search_with_score_by_vectors(np.array(vectors), k=6)
        single = [native.similarity_search_with_score_by_vector(vector, k=6) for vector in vectors]
        assert [exact(each) for each in found] == [exact(each) for each in single]
        some = store.similarity_search_with_score_batch(queries, filter=lambda doc: len(doc.page_content) < 990)
        assert some == [
            native.similarity_search_with_score(query, filter=lambda doc: len(doc.page_content) < 990)
            for query in queries
        ]
        assert store.similarity_search_batch([]) == []
        short = outcome(lambda s=store: s.similarity_search_with_score_by_vectors([[1.0], [2.0]]))
        assert short == outcome(lambda n=native: n.similarity_search_with_score_by_vector([1.0]))


def test_searches_from_many_threads_while_the_store_grows() -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = filled(500)
    queries = np.random.default_rng(3).standard_normal((40, DIM)).tolist()
    expected = [exact(native_of(store).similarity_search_with_score_by_vector(query, k=3)) for query in queries]
    far = {"vector": [0.0] * DIM, "text": "far", "metadata": {}}

    def work(row: int) -> bool:
        store.store[f"far {row}"] = {"id": f"far {row}", **far}
        return exact(store.similarity_search_with_score_by_vector(queries[row], k=3)) == expected[row]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


# --- one object beside the other -----------------------------------------------------------------------------------


def test_view_shares_the_dict_and_pickles_without_the_matrix(tmp_path: Any) -> None:
    native = native_of(filled(60))
    view = accelerate_store(native)
    assert type(view) is AcceleratedInMemoryVectorStore
    assert type(native) is InMemoryVectorStore
    assert view.store is native.store
    before = pickle.dumps(view)
    for _ in range(3):
        view.similarity_search("q")
    assert kept_rows(view) == 60
    assert pickle.dumps(view) == before
    again = pickle.loads(before)
    assert type(again) is AcceleratedInMemoryVectorStore
    assert again.similarity_search_with_score("q") == native.similarity_search_with_score("q")
    assert vars(view) is vars(native)
    assert vars(native).keys() == {"store", "embedding"}
    copied = copy.copy(view)
    assert copied.store is view.store
    assert copied.similarity_search_with_score("q") == native.similarity_search_with_score("q")
    view.dump(str(tmp_path / "dumped.json"))
    for store_class in (InMemoryVectorStore, AcceleratedInMemoryVectorStore):
        loaded = store_class.load(str(tmp_path / "dumped.json"), HashEmbeddings())
        assert type(loaded) is store_class
        assert loaded.store == native.store
    assert accelerate_store(view) is view


def test_retriever_looks_as_the_native_one() -> None:
    store = filled(60)
    ours, theirs = store.as_retriever(), native_of(store).as_retriever()
    assert ours.tags == theirs.tags == ["InMemoryVectorStore", "HashEmbeddings"]
    assert ours._get_ls_params() == theirs._get_ls_params()
    assert ours.batch(["a", "b", "c"]) == theirs.batch(["a", "b", "c"])


class Subclass(InMemoryVectorStore):
    """A store of a user's own."""


def test_what_is_left_native(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Subclass(HashEmbeddings())
    assert accelerate_store(store) is store
    assert accelerate_store(Subclass) is Subclass
    assert "subclass" in (native_reason(store) or "")
    assert sink_for(store) is None
    patched = InMemoryVectorStore(HashEmbeddings())
    patched.add_documents = lambda *args, **kwargs: []  # type: ignore[method-assign]
    assert accelerate_store(patched) is patched
    assert accelerate_store(HashEmbeddings()) is not None  # type: ignore[type-var]
    assert "no LangChain vector store" in (native_reason(HashEmbeddings()) or "")
    assert sink_for(InMemoryVectorStore) is None  # type: ignore[arg-type]
    monkeypatch.setattr(in_memory_store, "_arithmetic", False)
    unknown = filled(60)
    for _ in range(3):
        unknown.similarity_search("q")
    assert kept_rows(unknown) == 0


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        *((InMemoryVectorStore, name) for name in ("add_documents", "aadd_documents", "add_texts", "aadd_texts")),
        *((VectorStore, name) for name in ("add_texts", "aadd_texts")),
        (InMemoryVectorStore, "_similarity_search_with_score_by_vector"),
        (AcceleratedInMemoryVectorStore, "add_documents"),
    ],
)
def test_replaced_methods_of_the_class_are_called(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [filled(3), *([native_of(filled(3))] if owner is not AcceleratedInMemoryVectorStore else [])]
    native = getattr(owner, name)
    monkeypatch.setattr(owner, name, functools.wraps(native)(lambda *args, **kwargs: native(*args, **kwargs)))
    for store in stores:
        assert name in (native_reason(store) or "")
        assert sink_for(store) is None
        assert sink_for_class(type(store), HashEmbeddings()) is None
        assert accelerate_store(store) is store
    monkeypatch.undo()
    assert all(native_reason(store) is None for store in stores)


@pytest.mark.parametrize("name", ["from_documents", "afrom_documents", "from_texts", "afrom_texts"])
def test_replaced_ways_of_making_a_store_are_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    native = getattr(InMemoryVectorStore, name).__func__
    around = functools.wraps(native)(lambda *args, **kwargs: native(*args, **kwargs))
    monkeypatch.setattr(InMemoryVectorStore, name, classmethod(around))
    assert sink_for_class(InMemoryVectorStore, HashEmbeddings()) is None
    assert sink_for(InMemoryVectorStore(HashEmbeddings())) is not None


def test_arithmetic_is_compared_with_the_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_memory_store.arithmetic_is_known()
    monkeypatch.setattr(in_memory_store, "_arithmetic", None)
    native = in_memory_store.native_similarity._cosine_similarity
    monkeypatch.setattr(in_memory_store.native_similarity, "_cosine_similarity", lambda x, y: native(x, y) + 1e-16)
    assert not in_memory_store.arithmetic_is_known()


def test_faiss_and_its_package_are_imported_only_for_a_faiss_store() -> None:
    code = (
        "import sys; from langchain_core.vectorstores import InMemoryVectorStore as S;"
        "from langchain_aaflow.vectorstores import accelerate_store, native_reason;"
        "assert accelerate_store(S) is not S; assert native_reason(7);"
        "assert not {'faiss', 'langchain_community'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
