"""The accelerated FAISS store against the native one: contents, results, errors and effects, bit for bit."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import itertools
import pickle
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

faiss = pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.docstore.base import AddableMixin, Docstore  # noqa: E402
from langchain_community.docstore.in_memory import InMemoryDocstore  # noqa: E402
from langchain_community.vectorstores import FAISS  # noqa: E402
from langchain_community.vectorstores.utils import DistanceStrategy  # noqa: E402

from aaflow_plugins.embedding import Vectors  # noqa: E402
from langchain_aaflow import faiss_search  # noqa: E402
from langchain_aaflow.faiss_store import AcceleratedFAISS, FaissSink  # noqa: E402
from langchain_aaflow.random_ids import random_ids  # noqa: E402
from langchain_aaflow.vectorstores import accelerate_store, native_reason, sink_for, sink_for_class  # noqa: E402

DIM = 12


class HashEmbeddings(Embeddings):
    """Vectors from a digest of the text: the same text always gets the same vector, a query another."""

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim

    def vector(self, text: str) -> list[float]:
        seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8])
        return np.random.default_rng(seed).standard_normal(self.dim).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.vector("query: " + text)


class ArrayEmbeddings(HashEmbeddings):
    """What some embeddings objects return instead of lists."""

    def embed_documents(self, texts: list[str]) -> Any:
        return [np.array(self.vector(text), dtype=np.float32) for text in texts]


def contents(store: FAISS) -> Any:
    """All that a store holds, in order, down to the bits."""
    docs = store.docstore._dict.items() if isinstance(store.docstore, InMemoryDocstore) else []
    return (
        type(store.index).__name__,
        store.index.reconstruct_n(0, store.index.ntotal).tobytes() if store.index.ntotal else b"",
        [(key, list(doc.__dict__.items()), doc.model_fields_set, doc.__reduce_ex__(4)[2]) for key, doc in docs],
        list(store.index_to_docstore_id.items()),
        store._normalize_L2,
        store.distance_strategy,
    )


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns or raises, comparable."""
    try:
        return "returned", call()
    except Exception as error:
        return type(error).__name__, str(error)


def empty(store_class: type[FAISS], dim: int = DIM, **options: Any) -> FAISS:
    return store_class(HashEmbeddings(dim), faiss.IndexFlatL2(dim), InMemoryDocstore(), {}, **options)


def both(act: Callable[[FAISS], Any], **options: Any) -> None:
    """Do the same to a native and an accelerated store: same outcome, same contents."""
    native, ours = empty(FAISS, **options), empty(AcceleratedFAISS, **options)
    assert outcome(lambda: act(ours)) == outcome(lambda: act(native))
    assert contents(ours) == contents(native)


# --- adding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_L2": True},
        {"distance_strategy": DistanceStrategy.MAX_INNER_PRODUCT},
        {"distance_strategy": DistanceStrategy.COSINE},
    ],
)
@pytest.mark.parametrize("embedding", [HashEmbeddings(), ArrayEmbeddings()])
def test_from_texts_and_add_texts_of_real_text(
    real_texts: list[str], options: dict[str, Any], embedding: Embeddings
) -> None:
    texts, ids = real_texts[:400], [f"id {row}" for row in range(400)]
    metadatas = [{"row": row, "nested": {"of": [row]}} for row in range(400)]
    stores = []
    for store_class in (FAISS, accelerate_store(FAISS)):
        store = store_class.from_texts(texts[:150], embedding, metadatas[:150], ids[:150], **options)
        assert store.add_texts(iter(texts[150:300]), metadatas[150:300], ids[150:300]) == ids[150:300]
        store.add_texts(texts[300:301], ids=ids[300:301])
        rows = zip(texts[301:], np.float32(embedding.embed_documents(texts[301:])), strict=True)
        store.add_embeddings(rows, metadatas=metadatas[301:], ids=ids[301:])
        stores.append(store)
    assert contents(stores[1]) == contents(stores[0])
    assert type(stores[1]) is AcceleratedFAISS


@pytest.mark.parametrize("ids", ["all", "some", "one missing", "none", "kwarg"])
def test_documents_with_and_without_ids(ids: str) -> None:
    def act(store: FAISS) -> Any:
        missing = {"all": (), "some": (0, 2), "one missing": (1,), "none": range(4), "kwarg": range(4)}[ids]
        docs = [Document(f"text {row}", id=None if row in missing else f"id {row}") for row in range(4)]
        added = store.add_documents(docs, **({"ids": list("abcd")} if ids == "kwarg" else {}))
        return len(added) if ids == "none" else added

    if ids == "none":
        native, ours = empty(FAISS), empty(AcceleratedFAISS)
        assert act(ours) == act(native) == 4
        assert list(ours.docstore._dict) == list(ours.index_to_docstore_id.values())
        assert all(uuid.UUID(id_).version == 4 for id_ in ours.docstore._dict)
    else:
        both(act)


async def test_async_twins() -> None:
    docs = [Document(f"text {row}", metadata={"row": row}, id=f"id {row}") for row in range(5)]
    results = []
    for store_class in (FAISS, AcceleratedFAISS):
        store = await store_class.afrom_documents(docs[:2], HashEmbeddings())
        await store.aadd_documents(docs[2:4])
        await store.aadd_texts(["more"], ids=["more"])
        other = await store_class.afrom_texts(["a", "b"], HashEmbeddings(), ids=["1", "2"])
        third = await store_class.afrom_embeddings([("a", [1.0, 2.0])], HashEmbeddings(), ids=["1"])
        results.append([contents(each) for each in (store, other, third)])
    assert results[1] == results[0]


class Text(str):
    pass


ONES, ZEROS = np.ones(DIM, np.float32), np.zeros(DIM, np.float32)

ADDITIONS: dict[str, Callable[[FAISS], Any]] = {
    "no texts": lambda s: s.add_texts([]),
    "no documents": lambda s: s.add_documents([]),
    "no embeddings": lambda s: s.add_embeddings([]),
    "an id twice in one call": lambda s: s.add_texts(["a", "b"], ids=["1", "1"]),
    "an id that is taken": lambda s: (s.add_texts(["a"], ids=["1"]), s.add_texts(["b", "c"], ids=["2", "1"])),
    "too few ids": lambda s: s.add_texts(["a", "b"], ids=["1"]),
    "too many ids": lambda s: s.add_texts(["a"], ids=["1", "2"]),
    "too few metadatas": lambda s: s.add_texts(["a", "b"], [{}], ids=["1", "2"]),
    "no metadatas for a text": lambda s: s.add_texts(["a"], [], ids=["1"]),
    "metadata from a generator": lambda s: s.add_texts(["a", "b"], ({"r": r} for r in range(2)), ids=["1", "2"]),
    "metadata that is None": lambda s: s.add_texts(["a"], [None], ids=["1"]),
    "metadata of a mapping type": lambda s: s.add_texts(["a"], [dict.fromkeys("ab")], ids=["1"]),
    "a text that is none": lambda s: s.add_embeddings([(7, [0.5] * DIM)], ids=["1"]),
    "a text of a subclass": lambda s: s.add_texts([Text("a")], ids=["1"]),
    "a lone surrogate": lambda s: s.add_texts(["\ud800"], ids=["\udc00"]),
    "an id of None": lambda s: s.add_texts(["a"], ids=[None]),
    "a number as id": lambda s: s.add_texts(["a"], ids=[7]),
    "ids in a tuple": lambda s: s.add_texts(["a", "b"], ids=("1", "2")),
    "an empty id": lambda s: s.add_texts(["a"], ids=[""]),
    "ragged vectors": lambda s: s.add_embeddings([("a", [0.5] * DIM), ("b", [0.5])], ids=["1", "2"]),
    "the wrong dimension": lambda s: s.add_embeddings([("a", [0.5])], ids=["1"]),
    "vectors of strings": lambda s: s.add_embeddings([("a", ["x"] * DIM)], ids=["1"]),
    "numbers as vectors": lambda s: s.add_embeddings([("a", 1.0), ("b", 2.0)], ids=["1", "2"]),
    "NaN": lambda s: s.add_embeddings([("a", [float("nan")] * DIM)], ids=["1"]),
    "a float beyond float32": lambda s: s.add_embeddings([("a", [1e300] * DIM)], ids=["1"]),
    "whole numbers": lambda s: s.add_embeddings([("a", list(range(DIM)))], ids=["1"]),
    "array rows": lambda s: s.add_embeddings([("a", ONES), ("b", ZEROS)], ids=["1", "2"]),
    "double rows": lambda s: s.add_embeddings([("a", np.full(DIM, 0.1)), ("b", np.zeros(DIM))], ids=["1", "2"]),
    "ragged array rows": lambda s: s.add_embeddings([("a", ONES), ("b", ONES[:3])], ids=["1", "2"]),
    "flat arrays": lambda s: s.add_embeddings([("a", np.float32(1)), ("b", np.float32(2))], ids=["1", "2"]),
}  # fmt: skip


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", ADDITIONS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_odd_and_bad_input(name: str, normalize: bool) -> None:
    """Same outcome and, also after a failure, the same contents: the index may then hold more than the docstore."""
    both(ADDITIONS[name], normalize_L2=normalize)


class ShortEmbeddings(HashEmbeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return super().embed_documents(texts)[:-1]


def test_embedder_returning_the_wrong_count() -> None:
    for make in (
        lambda cls: cls.from_texts(["a", "b", "c"], ShortEmbeddings()),
        lambda cls: cls.from_texts(["a"], ShortEmbeddings()),
        lambda cls: cls.from_texts([], HashEmbeddings()),
        lambda cls: cls.from_documents([], HashEmbeddings()),
    ):
        ours = outcome(lambda make=make: make(AcceleratedFAISS))
        assert ours == outcome(lambda make=make: make(FAISS))
        assert ours[0] in ("ValueError", "IndexError")


BATCHES = st.lists(
    st.lists(
        st.tuples(
            st.text(max_size=8),
            st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.lists(st.text()), st.none()), max_size=3),
            st.one_of(st.none(), st.sampled_from("abcdefgh"), st.text(max_size=3)),
        ),
        max_size=5,
    ),
    max_size=4,
)  # fmt: skip


def _add_batches(store: FAISS, batches: Any) -> list[Any]:
    """Outcomes, random ids reduced to their kind."""
    outcomes = []
    for batch in batches:
        docs = [Document(text, metadata=metadata, id=id_) for text, metadata, id_ in batch]
        kind, result = outcome(lambda docs=docs: store.add_documents(docs))
        if kind == "returned" and not any(doc.id for doc in docs):
            result = [uuid.UUID(each).version for each in result]
        outcomes.append((kind, result))
    return outcomes


def _without_random_ids(parts: Any) -> Any:
    def blank(key: Any) -> Any:
        return "random" if isinstance(key, str) and len(key) == 36 else key

    kind, vectors, docs, rows, *rest = parts
    shown = [(blank(key), doc[1:], blank(doc[0][1])) for key, doc, *_ in docs]
    return kind, vectors, shown, [(row, blank(key)) for row, key in rows], rest


@settings(max_examples=150, deadline=None)
@given(batches=BATCHES)
def test_any_sequence_of_batches(batches: Any) -> None:
    native, ours, filled = empty(FAISS), empty(AcceleratedFAISS), empty(FAISS)
    expected = _add_batches(native, batches)
    assert _add_batches(ours, batches) == expected
    assert _without_random_ids(contents(ours)) == _without_random_ids(contents(native))
    sink, embedding, seen = FaissSink(filled), HashEmbeddings(), []
    for batch in batches:
        texts, metadatas, ids = [[each[part] for each in batch] for part in range(3)]
        matrix = np.array(embedding.embed_documents(texts), dtype=np.float32).reshape(len(batch), DIM)
        kind, result = outcome(lambda t=texts, m=metadatas, i=ids, v=matrix: sink.upsert(t, m, i, Vectors(v)))
        if kind == "returned" and not any(ids):
            result = [uuid.UUID(each).version for each in result]
        seen.append((kind, result))
    assert seen == expected
    assert _without_random_ids(contents(filled)) == _without_random_ids(contents(native))


def test_metadata_is_a_shallow_copy() -> None:
    for store in (empty(FAISS), empty(AcceleratedFAISS)):
        metadata = {"nested": []}
        store.add_texts(["a", "b"], [metadata, metadata], ids=["1", "2"])
        first, second = (store.docstore.search(id_).metadata for id_ in "12")
        assert first is not metadata
        assert first is not second
        assert first["nested"] is second["nested"] is metadata["nested"]


def test_fields_set_of_one_document_are_its_own() -> None:
    store = empty(AcceleratedFAISS)
    store.add_texts(["a", "b"], ids=["1", "2"])
    first, second = (store.docstore.search(id_) for id_ in "12")
    first.type = "Document"
    assert "type" not in second.model_fields_set
    assert second == Document(id="2", page_content="b")


# --- the docstore -----------------------------------------------------------------------------------------------


def test_docstore_dict_grows_in_place_while_nobody_holds_it() -> None:
    """Copying it at each call is what makes native adding quadratic."""
    store = empty(AcceleratedFAISS)
    store.add_texts(["a"], ids=["1"])
    before = id(store.docstore._dict)
    for row in range(2, 50):
        store.add_texts(["a"], ids=[str(row)])
    assert id(store.docstore._dict) == before
    assert list(store.docstore._dict) == [str(row) for row in range(1, 50)]


@pytest.mark.parametrize("hold", [lambda d: d, lambda d: d.items(), lambda d: iter(d.values())])
def test_whoever_holds_the_docstore_dict_sees_what_was_there(hold: Callable[[Any], Any]) -> None:
    for store in (empty(FAISS), empty(AcceleratedFAISS)):
        store.add_texts(["a"], ids=["1"])
        held = hold(store.docstore._dict)
        store.add_texts(["b"], ids=["2"])
        assert len(list(held)) == 1
        assert list(store.docstore._dict) == ["1", "2"]


def test_listing_documents_while_adding() -> None:
    for store in (empty(FAISS), empty(AcceleratedFAISS)):
        store.add_texts(["a", "b"], ids=["1", "2"])
        for key, doc in store.docstore._dict.items():
            store.add_texts([doc.page_content + "!"], ids=[key + "!"])
        assert list(store.docstore._dict) == ["1", "2", "1!", "2!"]


def test_dict_given_to_the_docstore_is_left_alone() -> None:
    for store_class in (FAISS, AcceleratedFAISS):
        given: dict[str, Document] = {}
        store = store_class(HashEmbeddings(), faiss.IndexFlatL2(DIM), InMemoryDocstore(given), {})
        store.add_texts(["a"], ids=["1"])
        assert given == {}


class ListDocstore(Docstore, AddableMixin):
    """A docstore of a user's own."""

    def __init__(self) -> None:
        self.added: list[Any] = []

    def add(self, texts: dict[str, Document]) -> None:
        self.added.append(dict(texts))

    def search(self, search: str) -> Any:
        return next((batch[search] for batch in self.added if search in batch), "none")


class ReadOnlyDocstore(Docstore):
    def search(self, search: str) -> Any:
        return "none"


def test_docstores_of_other_kinds() -> None:
    seen = []
    for store_class in (FAISS, AcceleratedFAISS):
        docstore = ListDocstore()
        store = store_class(HashEmbeddings(), faiss.IndexFlatL2(DIM), docstore, {})
        store.add_texts(["a", "b"], ids=["1", "2"])
        store.add_texts(["c"], ids=["1"])
        seen.append((docstore.added, store.similarity_search_with_score("q")))
        refusing = store_class(HashEmbeddings(), faiss.IndexFlatL2(DIM), ReadOnlyDocstore(), {})
        with pytest.raises(ValueError, match="should support adding"):
            refusing.add_texts(["a"])
        assert refusing.index.ntotal == 0
    assert seen[1] == seen[0]


# --- the sink ---------------------------------------------------------------------------------------------------


def test_sink_copies_no_vector() -> None:
    """Beyond the index's own copy, which numpy doesn't allocate, a fraction of the buffer is needed."""
    rows, dim = 2000, 768
    matrix = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)
    store = empty(FAISS, dim)
    sink = FaissSink(store)
    texts, metadatas, ids = ["text"] * rows, [{}] * rows, [str(row) for row in range(rows)]
    tracemalloc.start()
    try:
        sink.upsert(texts, metadatas, ids, Vectors(matrix))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert store.index.ntotal == rows
    assert peak < matrix.nbytes / 2


@pytest.mark.parametrize("normalize", [False, True])
def test_sink_takes_a_read_only_arrow_buffer_and_leaves_it_as_it_is(normalize: bool) -> None:
    matrix = np.random.default_rng(0).standard_normal((50, DIM)).astype(np.float32)
    before = matrix.tobytes()
    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel().tolist(), pa.float32()), DIM)
    view = column.values.to_numpy(zero_copy_only=True).reshape(50, DIM)
    assert not view.flags.writeable
    native, filled = empty(FAISS, normalize_L2=normalize), empty(FAISS, normalize_L2=normalize)
    texts, ids = [f"text {row}" for row in range(50)], [str(row) for row in range(50)]
    native.add_embeddings(zip(texts, matrix.tolist(), strict=True), [{}] * 50, ids)
    for vectors, rows in ((view[:20], slice(0, 20)), (matrix[20:], slice(20, 50))):
        FaissSink(filled).upsert(texts[rows], [{}] * len(vectors), ids[rows], Vectors(vectors))
    assert contents(filled) == contents(native)
    assert view.tobytes() == matrix.tobytes() == before


@pytest.mark.parametrize("store_class", [FAISS, AcceleratedFAISS])
@pytest.mark.parametrize("options", [{}, {"normalize_L2": True}, {"distance_strategy": "MAX_INNER_PRODUCT"}])
def test_sink_that_makes_the_store_with_its_first_rows(store_class: type[FAISS], options: dict[str, Any]) -> None:
    docs = [Document(f"text {row}", metadata={"row": row}, id=f"id {row}") for row in range(6)]
    embedding = HashEmbeddings()
    native = FAISS.from_documents(docs[:4], embedding, **options)
    native.add_documents(docs[4:])
    sink = FaissSink.for_class(store_class, embedding, **options)
    assert sink.store is None
    assert sink.dimension is None
    for part in (docs[:4], docs[4:]):
        texts = [doc.page_content for doc in part]
        matrix = np.array(embedding.embed_documents(texts), dtype=np.float32)
        ids = [doc.id for doc in part]
        assert sink.upsert(texts, [doc.metadata for doc in part], ids, Vectors(matrix)) == ids
    assert type(sink.store) is store_class
    assert sink.dimension == DIM
    assert sink.store.embedding_function is embedding
    assert contents(sink.store) == contents(native)
    refused = FaissSink.for_class(store_class, embedding)
    nothing = Vectors(np.empty((0, DIM), np.float32))
    assert outcome(lambda: refused.upsert([], [], [], nothing)) == outcome(lambda: FAISS.from_documents([], embedding))


def test_sink_takes_float32_of_rows_known_more_exactly() -> None:
    native, filled = empty(FAISS), empty(FAISS)
    row = [0.1] * DIM
    native.add_embeddings([("a", row)], [{}], ["1"])
    FaissSink(filled).upsert(["a"], [{}], ["1"], Vectors(np.array([row], np.float32), exact={0: row}))
    assert contents(filled) == contents(native)


def test_random_ids_are_version_4_uuids(monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (0, 1, 31, 32, 1000):
        ids = random_ids(count)
        assert len(set(ids)) == count
        assert all(type(id_) is str and str(uuid.UUID(id_)) == id_ for id_ in ids)
        assert all((uuid.UUID(id_).version, uuid.UUID(id_).variant) == (4, uuid.RFC_4122) for id_ in ids)
    bits = np.array([int(uuid.UUID(id_)) & 1 for id_ in random_ids(4000)])
    assert 0.4 < bits.mean() < 0.6
    monkeypatch.setattr(uuid, "uuid4", lambda: "known")
    assert random_ids(40) == ["known"] * 40


# --- one object beside the other ---------------------------------------------------------------------------------


def test_view_shares_everything_with_the_native_store() -> None:
    native = FAISS.from_texts(["a", "b"], HashEmbeddings(), ids=["1", "2"])
    view = accelerate_store(native)
    assert type(view) is AcceleratedFAISS
    assert isinstance(view, FAISS)
    assert type(native) is FAISS
    view.add_texts(["c"], ids=["3"])
    native.add_texts(["d"], ids=["4"])
    view.delete(["1"])  # Natively this puts a new dict in place of the old one.
    assert native.index_to_docstore_id == view.index_to_docstore_id == {0: "2", 1: "3", 2: "4"}
    assert native.similarity_search_with_score("q") == view.similarity_search_with_score("q")
    assert accelerate_store(view) is view


def test_pickle_and_retriever() -> None:
    view = AcceleratedFAISS.from_texts(["a", "b"], HashEmbeddings(), ids=["1", "2"])
    again = pickle.loads(pickle.dumps(view))
    assert type(again) is AcceleratedFAISS
    assert contents(again) == contents(view)
    native = FAISS.from_texts(["a", "b"], HashEmbeddings(), ids=["1", "2"])
    ours, theirs = view.as_retriever(search_kwargs={"k": 1}), native.as_retriever(search_kwargs={"k": 1})
    assert ours.tags == theirs.tags == ["FAISS", "HashEmbeddings"]
    assert ours._get_ls_params() == theirs._get_ls_params()
    assert ours.invoke("a") == theirs.invoke("a")
    assert ours.batch(["a", "b"]) == theirs.batch(["a", "b"])


def test_save_and_load_in_both_directions(tmp_path: Any) -> None:
    options = {"allow_dangerous_deserialization": True}
    texts, ids = ["a", "b", "c"], ["1", "2", "3"]
    files = {}
    for store_class in (FAISS, AcceleratedFAISS):
        store = store_class.from_texts(texts, HashEmbeddings(), ids=ids)
        store.save_local(str(tmp_path / store_class.__qualname__))
        files[store_class] = [path.read_bytes() for path in sorted((tmp_path / store_class.__qualname__).iterdir())]
        for reader in (FAISS, AcceleratedFAISS):
            loaded = reader.load_local(str(tmp_path / store_class.__qualname__), HashEmbeddings(), **options)
            assert type(loaded) is reader
            assert contents(loaded) == contents(store)
            copied = reader.deserialize_from_bytes(store.serialize_to_bytes(), HashEmbeddings(), **options)
            assert contents(copied) == contents(store)
    assert files[AcceleratedFAISS] == files[FAISS]


def test_delete_and_merge() -> None:
    results = []
    for store_class in (FAISS, AcceleratedFAISS):
        store = store_class.from_texts(list("abcdef"), HashEmbeddings(), ids=list("123456"))
        store.delete(["2", "5"])
        store.merge_from(store_class.from_texts(["g"], HashEmbeddings(), ids=["7"]))
        results.append((contents(store), outcome(lambda s=store: s.delete(["9"])), outcome(store.delete)))
    assert results[1] == results[0]


class Subclass(FAISS):
    """A store of a user's own: what its methods mean is not known."""


def test_what_is_left_native() -> None:
    store = Subclass.from_texts(["a"], HashEmbeddings(), ids=["1"])
    assert accelerate_store(store) is store
    assert accelerate_store(Subclass) is Subclass
    assert "subclass of FAISS" in (native_reason(store) or "")
    assert sink_for(store) is None
    patched = FAISS.from_texts(["a"], HashEmbeddings(), ids=["1"])
    patched.add_texts = lambda *args, **kwargs: []  # type: ignore[method-assign]
    assert accelerate_store(patched) is patched
    assert "add_texts" in (native_reason(patched) or "")
    assert native_reason(FAISS) is None
    assert isinstance(sink_for(FAISS.from_texts(["a"], HashEmbeddings())), FaissSink)


def wrapped(function: Any) -> Any:
    """As instrumentation wraps a method."""

    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def _replace(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    found = inspect.getattr_static(owner, name)
    is_made = isinstance(found, classmethod)
    monkeypatch.setattr(owner, name, classmethod(wrapped(found.__func__)) if is_made else wrapped(found))


@pytest.mark.parametrize("owner", [FAISS, VectorStore, AcceleratedFAISS])
@pytest.mark.parametrize("name", ["add_documents", "aadd_documents", "add_texts", "aadd_texts"])
def test_replaced_methods_of_the_class_are_called(owner: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    native, ours = empty(FAISS), empty(AcceleratedFAISS)
    _replace(monkeypatch, owner, name)
    assert name in (native_reason(ours) or "")
    assert sink_for(ours) is None
    if owner is not AcceleratedFAISS:
        assert name in (native_reason(native) or "")
        assert sink_for(native) is None
        assert accelerate_store(native) is native
        assert sink_for_class(FAISS, HashEmbeddings()) is None
    monkeypatch.undo()
    assert native_reason(native) is native_reason(ours) is native_reason(FAISS) is None


@pytest.mark.parametrize("name", ["from_documents", "afrom_documents", "from_texts", "afrom_texts"])
def test_replaced_ways_of_making_a_store_are_called(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = empty(FAISS)
    _replace(monkeypatch, FAISS, name)
    assert sink_for_class(FAISS, HashEmbeddings()) is None
    assert isinstance(sink_for(store), FaissSink)


def test_methods_replaced_before_the_import_are_noticed() -> None:
    code = (
        "import functools; from langchain_community.vectorstores import FAISS; native = FAISS.add_documents;"
        "FAISS.add_documents = functools.wraps(native)(lambda *a, **k: native(*a, **k));"
        "from langchain_aaflow.vectorstores import native_reason;"
        "assert native_reason(FAISS) == 'add_documents of this store is replaced', native_reason(FAISS)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


# --- several threads ----------------------------------------------------------------------------------------------


def test_rows_stay_whole_when_threads_fill_one_store() -> None:
    made = FaissSink.for_class(FAISS, HashEmbeddings())
    given = empty(FAISS)
    for sinks in ([made] * 8, [FaissSink(given) for _ in range(8)]):

        def fill(thread: int, sinks: Any = sinks) -> list[str]:
            added = []
            for batch in range(40):
                ids = [f"{thread}.{batch}.{row}" for row in range(5)]
                vectors = np.repeat(np.float32([[thread * 1000 + batch * 10 + row] for row in range(5)]), DIM, axis=1)
                assert sinks[thread].upsert(ids, [{}] * 5, ids, Vectors(vectors)) == ids
                added += ids
            return added

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            with ThreadPoolExecutor(8) as pool:
                added = sorted(itertools.chain.from_iterable(pool.map(fill, range(8))))
        finally:
            sys.setswitchinterval(interval)
        store = sinks[0].store
        assert sorted(store.docstore._dict) == sorted(store.index_to_docstore_id.values()) == added
        assert list(store.index_to_docstore_id) == list(range(store.index.ntotal)) == list(range(1600))
        for row, id_ in store.index_to_docstore_id.items():
            thread, batch, place = map(int, id_.split("."))
            assert store.index.reconstruct(row)[0] == thread * 1000 + batch * 10 + place
        assert contents(pickle.loads(pickle.dumps(store))) == contents(store)


# --- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [[""] * 40, [None] * 3, ["", None, ""], ["1", None, None], ["1", "", ""], ["1", "", None], ["1", "1"], [], ["0"]],
)
def test_refused_are_the_ids_that_the_native_call_refuses(ids: list[Any]) -> None:
    for held in ([], ["0", None], ["0", ""]):
        native, ours = empty(FAISS), empty(FAISS)
        for store in (native, ours):
            if held:
                store.add_documents([Document("held", id=id_) for id_ in held])
        if not ids:
            assert FaissSink(ours).refusal(ids) is None
            continue
        kind, _ = outcome(lambda store=native: store.add_documents([Document("a", id=id_) for id_ in ids]))
        assert (FaissSink(ours).refusal(ids) is None) == (kind == "returned")


def test_refusal_of_many_ids_is_linear() -> None:
    ids = [f"id {row}" for row in range(100_000)]
    ids[-1] = ids[-2]
    start = time.process_time()
    assert FaissSink(empty(FAISS)).refusal(ids) == "duplicate ids, 'id 99998' for one"
    assert time.process_time() - start < 5


# --- searching ----------------------------------------------------------------------------------------------------

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
    certain: list[bool] = []
    top = faiss_search._certain_top

    def counted(*args: Any) -> Any:
        answer = top(*args)
        certain.append(answer is not None)
        return answer

    monkeypatch.setattr(faiss_search, "_certain_top", counted)
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
        bound = faiss_search._ErrorBound(index)
        ids = np.arange(3000)
        products = points.astype(np.float64) @ queries.astype(np.float64).T
        lengths = np.linalg.norm(points.astype(np.float64), axis=1)
        for row, query in enumerate(queries[:5].astype(np.float64)):
            true = products[:, row] if metric == "ip" else np.square(points.astype(np.float64) - query).sum(axis=1)
            reach = bound.growth * (
                lengths * np.linalg.norm(query) if metric == "ip" else (lengths + np.linalg.norm(query)) ** 2
            )
            for way in (faiss_search._by_subset, faiss_search._by_product):
                assert (np.abs(way(index, queries[row : row + 1], ids) - true) <= reach + bound.tiny).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_cut_off_within_the_rounding_error_is_not_certain(metric: str) -> None:
    points, queries = spread(3000, 64)
    error = faiss_search._ErrorBound(store_of(points, metric).index)
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


@settings(max_examples=60, deadline=None)
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
    monkeypatch.setattr(faiss_search, "_by_subset", lambda index, query, ids: np.zeros(len(ids), np.float32))
    monkeypatch.setattr(faiss_search, "_by_product", lambda index, query, ids: np.zeros(len(ids), np.float32))
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


def test_class_is_a_vector_store_of_the_native_kind() -> None:
    assert issubclass(accelerate_store(FAISS), FAISS)
    assert issubclass(accelerate_store(FAISS), VectorStore)
    assert accelerate_store(AcceleratedFAISS) is AcceleratedFAISS
