"""Embedding models that a plug-in knows, in the blocking calls: native results and events, several batches at once."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from pydantic import PrivateAttr

import wordllama_aaflow
from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from llama_index_aaflow.embeddings import native_reason
from llama_index_aaflow.wordllama import WordLlamaEmbedding
from tests.generated import examples
from tests.llama_index.pipelines import Lengths, documents, said_independent
from tests.llama_index.tracing import events, spans, watched
from tests.observed import Gauge, outcome

TEXTS = [f"{number} {'words ' * (number % 7)}" for number in range(40)]


class Independent(Lengths):
    """A model that threads may call.

    Attributes:
        bad: Texts that it fails for, after a while if they are the first of them.
    """

    bad: tuple[str, ...] = ()
    gauge: ClassVar[Gauge] = Gauge(0.001)
    _threads: set[str] = PrivateAttr(default_factory=set)

    def _get_text_embedding(self, text: str) -> list[float]:
        self._threads.add(threading.current_thread().name)
        self.gauge(text)
        if text in self.bad[:1]:
            time.sleep(0.02)
        if text in self.bad:
            raise LookupError(text)
        return [len(text) / 3, -0.0]


class Unknown(Lengths):
    """Another one."""


@pytest.fixture(autouse=True, scope="module")
def known() -> Iterator[None]:
    with said_independent(Independent):
        yield


def seen(texts: list[Any], *, accelerated: bool, listening: bool = False, **fields: Any) -> Any:
    """What embedding nodes gives or raises, and all that handlers are told of it."""
    manager, told = watched()
    model = Independent(callback_manager=manager, **fields)
    model = accelerate(model, executor=Executor(max_concurrency=4)) if accelerated else model
    with spans() if listening else nullcontext() as traced, events() if listening else nullcontext() as evented:
        result = outcome(lambda: model([TextNode(text=text, id_=str(at)) for at, text in enumerate(texts)]))
    return result, repr(told), traced, evented


@pytest.mark.parametrize("bad", [(), ("9 words words ",), (TEXTS[30], TEXTS[33]), (TEXTS[0], TEXTS[1])])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("listening", [False, True])
def test_vectors_errors_events_and_spans(listening: bool, size: int, bad: tuple[str, ...]) -> None:
    for texts in (TEXTS, TEXTS[:1], []):
        fields: dict[str, Any] = {"listening": listening, "embed_batch_size": size, "bad": bad}
        assert seen(texts, accelerated=True, **fields) == seen(texts, accelerated=False, **fields)


@settings(max_examples=examples(40), deadline=None)
@given(texts=st.lists(st.text(max_size=5), max_size=12), size=st.integers(1, 5))
def test_generated_texts(texts: list[str], size: int) -> None:
    assert seen(texts, accelerated=True, embed_batch_size=size) == seen(texts, accelerated=False, embed_batch_size=size)


def test_as_many_batches_at_once_as_the_executor_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_aaflow.side_by_side.threads_for_models", lambda: 2)
    for executor, expected in ((None, 2), (Executor(max_concurrency=5), 5), (Executor(max_concurrency=1), 1)):
        model = accelerate(Independent(embed_batch_size=1), executor=executor)
        Independent.gauge.peak = 0
        model.get_text_embedding_batch(TEXTS)
        assert Independent.gauge.peak == expected


def test_what_is_kept_between_batches_is_kept_in_order() -> None:
    """Entries of the model's cache come in the native order, and what is there already is not asked for."""
    kept = []
    for accelerated in (False, True):
        store = SimpleKVStore()
        model = Independent(embed_batch_size=2, embeddings_cache=store)
        model = accelerate(model) if accelerated else model
        given_texts = [*TEXTS[:7], *TEXTS[:3], *TEXTS[5:11]]
        vectors = [model.get_text_embedding_batch(given_texts) for _ in range(2)]
        entries = store.get_all(collection="embeddings")
        kept.append((vectors, [(text, list(entry.values())) for text, entry in entries.items()]))
    assert kept[1] == kept[0]


def test_it_is_the_native_object_to_everybody() -> None:
    native = Independent(embed_batch_size=3)
    fast = accelerate(native)
    assert fast is not native
    assert isinstance(fast, Independent)
    assert (repr(fast), fast.to_dict()) == (repr(native), native.to_dict())
    assert accelerate(fast) is fast
    again = pickle.loads(pickle.dumps(fast))
    assert type(again) is type(fast)
    assert again.get_text_embedding_batch(TEXTS) == native.get_text_embedding_batch(TEXTS)
    assert asyncio.run(fast.aget_text_embedding_batch(TEXTS)) == native.get_text_embedding_batch(TEXTS)
    assert fast.get_query_embedding("query") == native.get_query_embedding("query")


def test_what_is_not_known_is_native() -> None:
    unknown = Unknown()
    assert accelerate(unknown) is unknown
    assert native_reason(unknown) == "Unknown is not known"
    own = Independent()
    vars(own)["get_text_embedding_batch"] = lambda *_, **__: [[0.0]]
    assert accelerate(own) is own
    assert "its own get_text_embedding_batch" in (native_reason(own) or "")


@pytest.mark.parametrize("given", ["native", "accelerated"])
def test_an_index_and_a_pipeline_use_threads(given: str) -> None:
    """With the vectors that they natively have."""

    def model() -> Any:
        made = Independent(embed_batch_size=1)
        return accelerate(made) if given == "accelerated" else made

    texts = [f"{text} {'A sentence. ' * 30}" for text in TEXTS[:6]]
    natively = VectorStoreIndex.from_documents(documents(texts), embed_model=Independent(embed_batch_size=1))
    asked = model()
    index = accelerate(VectorStoreIndex).from_documents(documents(texts), embed_model=asked)
    vectors = [list(each.vector_store.data.embedding_dict.values()) for each in (natively, index)]
    assert vectors[1] == vectors[0]
    assert index._embed_model is asked
    assert not any(name == "MainThread" for name in asked._threads)

    asked = model()
    steps: list[Any] = [SentenceSplitter(chunk_size=64, chunk_overlap=0), asked]
    nodes = [
        make(IngestionPipeline(transformations=steps)).run(documents=documents(texts)) for make in (accelerate, _itself)
    ]
    assert [node.embedding for node in nodes[0]] == [node.embedding for node in nodes[1]]


def _itself(pipeline: Any) -> Any:
    return pipeline


def test_a_real_model(real_texts: list[str]) -> None:
    pytest.importorskip("wordllama", reason="its model needs numpy 2")
    native = WordLlamaEmbedding(embed_batch_size=7)
    assert native_reason(native) is None
    texts = [text[:2000] for text in real_texts[:100]]
    assert accelerate(native, executor=Executor(max_concurrency=3)).get_text_embedding_batch(
        texts
    ) == native.get_text_embedding_batch(texts)


def test_a_real_model_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wordllama = pytest.importorskip("wordllama", reason="its model needs numpy 2")
    loads, load = [], wordllama.WordLlama.load

    def slowly(*given: Any, **settings: Any) -> Any:
        loads.append(threading.current_thread().name)
        time.sleep(0.1)
        return load(*given, **settings)

    monkeypatch.setattr(wordllama.WordLlama, "load", slowly)
    wordllama_aaflow._model.cache_clear()
    model = accelerate(WordLlamaEmbedding(embed_batch_size=1), executor=Executor(max_concurrency=4))
    model.get_text_embedding_batch(TEXTS)
    assert len(loads) == 1


def test_a_text_has_the_same_vector_in_any_company(real_texts: list[str]) -> None:
    pytest.importorskip("wordllama", reason="its model needs numpy 2")
    texts = ["", " ", *(text[: 31 * number] for number, text in enumerate(real_texts[:100]))]
    given = wordllama_aaflow.embed(texts)
    assert given.tobytes() == wordllama_aaflow._model().embed(texts).tobytes()
    assert given.tobytes() == b"".join(wordllama_aaflow.embed([text]).tobytes() for text in texts)
