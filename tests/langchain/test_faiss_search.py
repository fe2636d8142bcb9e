"""Searches of the accelerated FAISS store, one by one and batched, against native single ones, bit for bit."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

faiss = pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.docstore.in_memory import InMemoryDocstore  # noqa: E402
from langchain_community.vectorstores import FAISS  # noqa: E402
from langchain_community.vectorstores.utils import DistanceStrategy  # noqa: E402

from aaflow_plugins.embedding import Vectors  # noqa: E402
from faiss_aaflow import search as faiss_search  # noqa: E402
from langchain_aaflow.faiss_store import AcceleratedFAISS, FaissSink  # noqa: E402
from tests.faiss_certainty import certainty  # noqa: E402
from tests.generated import examples  # noqa: E402
from tests.langchain.faiss_stores import DIM, HashEmbeddings, outcome  # noqa: E402

SEARCHES: dict[str, Callable[[FAISS], Any]] = {
    "similarity_search": lambda s: s.similarity_search("q", k=3),
    "with_score": lambda s: s.similarity_search_with_score("q", k=3),
    "filter": lambda s: s.similarity_search_with_score("q", k=3, filter={"even": True}, fetch_k=9),
    "callable": lambda s: s.similarity_search("q", k=2, filter=lambda m: m["row"] > 4, fetch_k=30),
    "threshold": lambda s: s.similarity_search_with_score("q", k=9, score_threshold=18.0),
    "by_vector": lambda s: s.similarity_search_by_vector([0.25] * DIM),
    "with_score_by_vector": lambda s: s.similarity_search_with_score_by_vector([0.25] * DIM, k=100),
    "relevance": lambda s: s.similarity_search_with_relevance_scores("q"),
    "mmr": lambda s: s.max_marginal_relevance_search("q", k=3, fetch_k=10),
    "mmr_filter": lambda s: s.max_marginal_relevance_search("q", k=3, filter={"even": False}),
    "mmr_by_vector": lambda s: s.max_marginal_relevance_search_by_vector([0.25] * DIM, k=3),
    "search": lambda s: s.search("q", "mmr"),
    "bad k": lambda s: s.similarity_search("q", k=0),
    "bad vector": lambda s: s.similarity_search_by_vector([1.0]),
    "bad filter": lambda s: s.similarity_search("q", filter={"$no": 1}),
    "async": lambda s: asyncio.run(s.asimilarity_search_with_score("q")),
    "async_by_vector": lambda s: asyncio.run(s.asimilarity_search_by_vector([0.25] * DIM)),
    "async_relevance": lambda s: asyncio.run(s.asimilarity_search_with_relevance_scores("q")),
    "async_mmr": lambda s: asyncio.run(s.amax_marginal_relevance_search("q", k=2)),
    "get_by_ids": lambda s: s.get_by_ids(["3", "1", "no"]),
}


@pytest.mark.parametrize("strategy", [None, *DistanceStrategy])
@pytest.mark.filterwarnings("ignore:Relevance scores")
def test_every_search(strategy: DistanceStrategy | None, real_texts: list[str]) -> None:
    options = {} if strategy is None else {"distance_strategy": strategy}
    metadatas = [{"row": row, "even": row % 2 == 0} for row in range(60)]
    ids = [str(row) for row in range(60)]
    stores = [
        store_class.from_texts(real_texts[:60], HashEmbeddings(), metadatas, ids, **options)
        for store_class in (FAISS, AcceleratedFAISS)
    ]
    for name, search in SEARCHES.items():
        theirs, ours = (outcome(lambda s=store, f=search: f(s)) for store in stores)
        assert ours == theirs, name


def store_of(matrix: Any, metric: str, **options: Any) -> AcceleratedFAISS:
    """A store around an index of these vectors; documents only where a search will look."""
    index = faiss.IndexFlatL2(matrix.shape[1]) if metric == "l2" else faiss.IndexFlatIP(matrix.shape[1])
    store = AcceleratedFAISS(HashEmbeddings(matrix.shape[1]), index, InMemoryDocstore(), {}, **options)
    sink = FaissSink(store)
    count = len(matrix)
    sink.upsert(
        [f"text {row}" for row in range(count)],
        [{"even": row % 2 == 0} for row in range(count)],
        [str(row) for row in range(count)],
        Vectors(np.ascontiguousarray(matrix, dtype=np.float32)),
    )
    return store


def assert_batch_is_single(store: FAISS, queries: Any, **options: Any) -> None:
    native = object.__new__(FAISS)
    native.__dict__ = store.__dict__
    theirs = [native.similarity_search_with_score_by_vector(query, **options) for query in queries]
    ours = store.similarity_search_with_score_by_vectors(queries, **options)
    assert len(ours) == len(theirs)
    for mine, single in zip(ours, theirs, strict=True):
        assert [doc.id for doc, _ in mine] == [doc.id for doc, _ in single]
        assert all(a[0] is b[0] for a, b in zip(mine, single, strict=True))
        assert np.array([score for _, score in mine]).tobytes() == np.array([s for _, s in single]).tobytes()
        assert [type(score) for _, score in mine] == [type(score) for _, score in single]


def spread(rows: int, dim: int, seed: int = 0) -> tuple[Any, Any]:
    """Unit vectors in clusters, as text embeddings are, and queries near some of them."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((200, dim))
    points = centres[generator.integers(0, 200, rows)] + 0.7 * generator.standard_normal((rows, dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    queries = points[generator.integers(0, rows, 24)] + 0.3 * generator.standard_normal((24, dim)) / dim**0.5
    return points.astype(np.float32), queries.astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("dim", [3, 8, 64, 128, 384, 768, 1536])
@pytest.mark.parametrize("rows", [3000, 10_307])
def test_batched_search_equals_single_searches(dim: int, metric: str, rows: int, monkeypatch: Any) -> None:
    """For every dimension, below and above the size at which faiss changes its routine for one query."""
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    points, queries = spread(rows, dim)
    store = store_of(points, metric)
    assert_batch_is_single(store, queries, k=4)
    if (dim, metric) != (3, "ip"):  # there the routines of some releases of faiss give the same bits
        _, way = faiss_search._trusted[store.index]
        assert way is not None, "no routine gives the scores of a single search: the batch is slow"


def test_most_queries_are_answered_from_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the equality above would say nothing about rescoring."""
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    certain = certainty(monkeypatch)
    for metric in ("l2", "ip"):
        points, queries = spread(10_307, 384)
        assert_batch_is_single(store_of(points, metric), queries, k=4)
    assert len(certain) == 48
    assert np.mean(certain) > 0.9


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_rounding_errors_stay_within_the_bound(metric: str) -> None:
    """What decides whether a cut-off is certain: no score of either routine is off by more than the bound."""
    for dim in (8, 384, 1536):
        points, queries = spread(3000, dim)
        points *= np.random.default_rng(2).uniform(0.1, 3, (3000, 1)).astype(np.float32)
        index = store_of(points, metric).index
        bound = faiss_search.ErrorBound(index)
        ids = np.arange(3000)
        products = points.astype(np.float64) @ queries.astype(np.float64).T
        lengths = np.linalg.norm(points.astype(np.float64), axis=1)
        for row, query in enumerate(queries[:5].astype(np.float64)):
            true = products[:, row] if metric == "ip" else np.square(points.astype(np.float64) - query).sum(axis=1)
            reach = bound.growth * (
                lengths * np.linalg.norm(query) if metric == "ip" else (lengths + np.linalg.norm(query)) ** 2
            )
            for way in (faiss_search.by_subset, faiss_search.by_product):
                assert (np.abs(way(index, queries[row : row + 1], ids[None])[0] - true) <= reach + bound.tiny).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_cut_off_within_the_rounding_error_is_not_certain(metric: str) -> None:
    points, queries = spread(3000, 64)
    error = faiss_search.ErrorBound(store_of(points, metric).index)
    scores = np.array([0.5, 0.6, 0.7, 0.8], np.float32)
    kth, better = (0.6, 1) if metric == "l2" else (0.7, -1)
    ids = np.arange(4)

    def top(cut_off: float, ranked: Any = scores) -> Any:
        return faiss_search._certain_top(error, queries[:1], ranked, ids, cut_off, 2)

    found = top(kth + 0.1 * better)
    assert found[1].tolist() == ([[0, 1]] if metric == "l2" else [[3, 2]])
    assert found[0].tolist() == [[scores[row] for row in found[1][0]]]
    assert top(kth + 1e-6 * better) is None
    assert top(kth - 0.1 * better) is None
    assert top(kth + 0.1 * better, np.array([0.5, 0.6, 0.6, 0.7], np.float32)) is None
    assert top(kth + 0.1 * better, np.full(4, np.nan, np.float32)) is None
    assert top(float("nan")) is None


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_options_of_batched_search(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    points, queries = spread(3000, 48)
    for normalize in (False, True):
        store = store_of(points, metric, normalize_L2=normalize)
        assert_batch_is_single(store, queries, k=1)
        assert_batch_is_single(store, queries, k=130)
        assert_batch_is_single(store, queries, k=2999)
        assert_batch_is_single(store, queries, k=4000)
        assert_batch_is_single(store, queries, k=3, filter={"even": True}, fetch_k=15)
        assert_batch_is_single(store, queries, k=9, score_threshold=0.5)
        assert_batch_is_single(store, queries.tolist(), k=5)
        assert_batch_is_single(store, queries[:1], k=5)
        assert_batch_is_single(store, queries[:0], k=5)
        assert_batch_is_single(store, np.asfortranarray(queries), k=5)


def _small_integers(generator: Any) -> Any:
    return generator.integers(-1, 2, (2000, 6))


def _duplicates(generator: Any) -> Any:
    return np.repeat(generator.standard_normal((100, 6)), 20, axis=0)


def _wide_range(generator: Any) -> Any:
    return generator.standard_normal((2000, 6)) * 10.0 ** generator.integers(-20, 20, (2000, 1))


def _near_ties(generator: Any) -> Any:
    return 1 + 1e-6 * generator.standard_normal((2000, 6))


def _not_numbers(generator: Any) -> Any:
    points = generator.standard_normal((2000, 6))
    points[generator.integers(0, 2000, 300), 0] = np.nan
    points[generator.integers(0, 2000, 300), 1] = np.inf
    return points


def _all_zero(generator: Any) -> Any:
    return np.zeros((2000, 6))


def _far_from_origin(generator: Any) -> Any:
    return 1000 + generator.standard_normal((2000, 6))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(
    "make",
    [_small_integers, _duplicates, _wide_range, _near_ties, _not_numbers, _all_zero, _far_from_origin],
)
def test_ties_and_extremes_in_batched_search(make: Any, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batch's answer isn't certain, each query is searched alone: also the order of ties is the same."""
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 100)
    generator = np.random.default_rng(1)
    points = make(generator).astype(np.float32)
    store = store_of(points, metric)
    queries = np.concatenate([points[:12], points[-6:], generator.standard_normal((12, 6))]).astype(np.float32)
    for k in (1, 4, 20):
        assert_batch_is_single(store, queries, k=k)


@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 400),
    dim=st.integers(1, 40),
    k=st.integers(1, 30),
    decimals=st.integers(0, 6),
    metric=st.sampled_from(["l2", "ip"]),
)
def test_batched_search_of_generated_vectors(
    seed: int, rows: int, dim: int, k: int, decimals: int, metric: str
) -> None:
    generator = np.random.default_rng(seed)
    store = store_of(np.round(generator.standard_normal((rows, dim)), decimals), metric)
    queries = np.round(generator.standard_normal((20, dim)), decimals).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss_search, "MIN_VECTORS", 1)
        assert_batch_is_single(store, queries, k=k)


def test_trust_in_a_routine_ends_with_the_index_it_was_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    points, queries = spread(10_500, 16)
    store = store_of(points[:9000], "l2")
    assert_batch_is_single(store, queries, k=4)
    before = faiss_search._trusted[store.index]
    extra = [str(row) for row in range(9000, 10_500)]
    FaissSink(store).upsert(extra, [{}] * 1500, extra, Vectors(points[9000:]))
    assert_batch_is_single(store, queries, k=4)
    assert faiss_search._trusted[store.index] != before


def test_untrusted_routines_mean_single_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_search, "MIN_VECTORS", 1000)
    monkeypatch.setattr(faiss_search, "by_subset", lambda index, queries, ids: np.zeros(ids.shape, np.float32))
    monkeypatch.setattr(faiss_search, "by_product", lambda index, queries, ids: np.zeros(ids.shape, np.float32))
    points, queries = spread(3000, 16)
    store = store_of(points, "l2")
    assert_batch_is_single(store, queries, k=4)
    assert faiss_search._trusted[store.index][1] is None


def assert_answers_are_single(index: Any, queries: Any, k: int = 4) -> None:
    for row, (scores, ids) in enumerate(faiss_search.search_each(index, queries, k)):
        single = index.search(queries[row : row + 1], k)
        assert ids.tolist() == single[1].tolist()
        assert scores.tobytes() == single[0].tobytes()


def _ordinary(points: Any, queries: Any) -> None:
    pass


def _first_query_zero(points: Any, queries: Any) -> None:
    queries[0] = 0


def _first_query_one_hot(points: Any, queries: Any) -> None:
    queries[0] = 0
    queries[0, 1] = 1


def _all_queries_zero(points: Any, queries: Any) -> None:
    queries[:] = 0


def _all_queries_one_hot(points: Any, queries: Any) -> None:
    queries[:] = np.eye(8, queries.shape[1], dtype=np.float32)


def _first_query_is_a_row_held_thousands_of_times(points: Any, queries: Any) -> None:
    points[::4] = points[0]
    queries[0] = points[0]


def _many_rows_zero(points: Any, queries: Any) -> None:
    points[::4] = 0
    queries[0] = 0


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("rows", "dim"), [(10_500, 3), (12_000, 64), (10_500, 384), (30_500, 16)])
@pytest.mark.parametrize(
    "degenerate",
    [
        _ordinary,
        _first_query_zero,
        _first_query_one_hot,
        _all_queries_zero,
        _all_queries_one_hot,
        _first_query_is_a_row_held_thousands_of_times,
        _many_rows_zero,
    ],
)
def test_degenerate_queries_do_not_mislead(
    degenerate: Any, rows: int, dim: int, metric: str, request: pytest.FixtureRequest
) -> None:
    """Any routine gives the scores of a query of zeros; the one trusted must be that of all other queries, too."""
    # With one thread faiss uses the routine that is tried first.
    request.addfinalizer(partial(faiss.omp_set_num_threads, faiss.omp_get_max_threads()))
    faiss.omp_set_num_threads(2)
    generator = np.random.default_rng(3)
    points = generator.standard_normal((rows, dim), dtype=np.float32)
    queries = generator.standard_normal((16, dim), dtype=np.float32)
    degenerate(points, queries[:8])
    index = faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)
    index.add(points)
    for k in (4, 1) if dim == 64 else (4,):
        assert_answers_are_single(index, queries[:8], k)
        assert_answers_are_single(index, queries[8:], k)
    # Rows of zeros can be the nearest of all, and then nothing tells.
    if (dim, metric) != (3, "ip") and degenerate is not _many_rows_zero:
        assert faiss_search._trusted[index][1] is not None


def test_nothing_is_remembered_where_the_routines_agree() -> None:
    index = faiss.IndexFlatL2(8)
    index.add(np.zeros((10_500, 8), dtype=np.float32))
    queries = np.random.default_rng(0).standard_normal((8, 8), dtype=np.float32)
    assert_answers_are_single(index, queries)
    assert index not in faiss_search._trusted
    index.reset()
    index.add(np.random.default_rng(1).standard_normal((10_500, 8), dtype=np.float32))
    assert_answers_are_single(index, queries)
    assert index in faiss_search._trusted


@pytest.mark.parametrize("kind", ["IVF4,Flat", "HNSW8", "SQ8"])
def test_other_indexes(kind: str, real_texts: list[str], request: pytest.FixtureRequest) -> None:
    """Adding is the same call whatever the index; searches of several queries go one by one."""
    embedding = HashEmbeddings()
    vectors = np.array(embedding.embed_documents(real_texts[:300]), dtype=np.float32)
    stores = []
    request.addfinalizer(partial(faiss.omp_set_num_threads, faiss.omp_get_max_threads()))
    faiss.omp_set_num_threads(1)  # threads link an HNSW graph in an order of their own
    for store_class in (FAISS, AcceleratedFAISS):
        index = faiss.index_factory(DIM, kind)
        index.train(vectors)
        store = store_class(embedding, index, InMemoryDocstore(), {})
        store.add_texts(real_texts[:300], ids=[str(row) for row in range(300)])
        stores.append(store)
    native, ours = stores
    queries = real_texts[300:330]
    expected = [native.similarity_search_with_score(query, k=5) for query in queries]
    assert ours.similarity_search_with_score_batch(queries, k=5) == expected
    assert ours.similarity_search_batch(queries, k=5) == [[doc for doc, _ in each] for each in expected]
    assert "one by one" in (faiss_search.batch_search_reason(ours.index) or "")


def test_batch_embeds_queries_as_queries_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = AcceleratedFAISS.from_texts(list("abcdef"), HashEmbeddings())
    asked: list[str] = []
    vector = HashEmbeddings.embed_query
    monkeypatch.setattr(HashEmbeddings, "embed_query", lambda self, q: (asked.append(q), vector(self, q))[1])
    found = store.similarity_search_with_score_batch(["x", "y", "x"], k=2)
    assert asked == ["x", "y", "x"]
    assert found == [store.similarity_search_with_score(query, k=2) for query in ["x", "y", "x"]]


@pytest.mark.parametrize("queries", [[[1.0], [2.0, 3.0]], [[1.0], [2.0]], [["x"], ["y"]]])
def test_bad_query_vectors(queries: Sequence[Any]) -> None:
    store = AcceleratedFAISS.from_texts(list("abc"), HashEmbeddings())
    single = outcome(lambda: store.similarity_search_with_score_by_vector(queries[0]))
    assert outcome(lambda: store.similarity_search_with_score_by_vectors(queries)) == single
    assert single[0] != "returned"


def test_memory_is_that_of_a_block_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queries and results there are."""
    # The routine that copies the candidates' vectors, whichever a single search uses here.
    monkeypatch.setattr(faiss_search, "_rescorer", lambda *_: faiss_search.by_product)
    points, _ = spread(4000, 256)
    index = store_of(points, "l2").index
    tracemalloc.start()
    try:
        for _ in faiss_search.search_each(index, points[:600] + np.float32(0.01), 300):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All candidates of all queries would be 190 MB.
    assert peak < 40 * 2**20


def test_more_queries_than_a_block_and_numbers_that_are_none(recwarn: pytest.WarningsRecorder) -> None:
    points, _ = spread(10_500, 8)
    queries = np.concatenate([points[:300] + np.float32(0.01), points[:9]])
    queries[3, 0], queries[260, 1], queries[301, 2] = np.inf, np.nan, -np.inf
    for metric in ("l2", "ip"):
        for k in (1, 7):
            assert_answers_are_single(store_of(points, metric).index, queries, k)
    assert not [each for each in recwarn if each.category is RuntimeWarning]
