"""How rows with finished vectors enter a FAISS store, and its docstore, against the native way."""

from __future__ import annotations

import tracemalloc
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from langchain_core.documents import Document

faiss = pytest.importorskip("faiss")
pytest.importorskip("langchain_community")

from langchain_community.docstore.base import AddableMixin, Docstore  # noqa: E402
from langchain_community.docstore.in_memory import InMemoryDocstore  # noqa: E402
from langchain_community.vectorstores import FAISS  # noqa: E402

from aaflow_plugins.embedding import Vectors  # noqa: E402
from aaflow_plugins.random_ids import random_ids  # noqa: E402
from langchain_aaflow.faiss_store import AcceleratedFAISS, FaissSink  # noqa: E402
from tests.langchain.faiss_stores import DIM, HashEmbeddings, contents, empty, outcome  # noqa: E402

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
