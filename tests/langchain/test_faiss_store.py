"""The accelerated FAISS store against the native one: contents, results, errors and effects, bit for bit."""

from __future__ import annotations

import functools
import inspect
import itertools
import pickle
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.vectorstores import FAISS
from langchain_community.vectorstores.utils import DistanceStrategy

from aaflow_plugins.embedding import Vectors
from langchain_aaflow.faiss_store import AcceleratedFAISS, FaissSink
from langchain_aaflow.vectorstores import accelerate_store, native_reason, sink_for, sink_for_class
from tests.generated import examples
from tests.langchain.faiss_stores import DIM, ArrayEmbeddings, HashEmbeddings, both, contents, empty, outcome

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


@settings(max_examples=examples(150), deadline=None)
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


def test_class_is_a_vector_store_of_the_native_kind() -> None:
    assert issubclass(accelerate_store(FAISS), FAISS)
    assert issubclass(accelerate_store(FAISS), VectorStore)
    assert accelerate_store(AcceleratedFAISS) is AcceleratedFAISS
