"""A model of this process that embeds while documents are parsed: results, order of calls, failures, who calls."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import TextNode, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import PrivateAttr

from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection
from llama_index_aaflow import accelerate
from tests.generated import examples
from tests.llama_index.parsing_outcomes import corpus, numbered, texts, visible
from tests.llama_index.pipelines import Failing, Lengths, Shouting, documents, left, said_independent
from tests.llama_index.tracing import spans, watched
from tests.observed import Gauge

TEXTS = ["One sentence. " * 60, "# Title\nText of it.\n## Sub\n" + "words " * 90, "", "short", " \n", "a. b. c." * 9]


class Recorded(Lengths):
    """A model that tells what it is asked, in which thread, and may misbehave.

    Attributes:
        fault: What is wrong with the batch `at`.
    """

    fault: str = ""
    at: int = 1
    _asked: list[Any] = PrivateAttr(default_factory=list)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self._asked.append((list(texts), threading.current_thread()))
        rows: list[Any] = super()._get_text_embeddings(texts)
        if len(self._asked) != self.at + 1:
            return rows
        if self.fault == "raises":
            raise LookupError("no vectors")
        if self.fault == "resizes":
            self.embed_batch_size = 5
        faulty: dict[str, Any] = {
            "short": rows[1:],
            "long": [*rows, *rows],
            "tuples": [tuple(row) for row in rows],
            "ints": [[len(row), 1] for row in rows],
            "texts": [["a"] for _ in rows],
            "nothing": None,
        }
        return faulty.get(self.fault, rows)  # type: ignore[no-any-return]


PARSERS: dict[str, Callable[[], Any]] = {
    "sentences": lambda: SentenceSplitter(chunk_size=64, chunk_overlap=8),
    "windows": SentenceWindowNodeParser,
    "markdown": MarkdownNodeParser,
    "tokens": lambda: TokenTextSplitter(chunk_size=64, chunk_overlap=8),
    "own ids": lambda: SentenceSplitter(chunk_size=64, chunk_overlap=8, id_func=numbered),
}


def seen(steps: list[Any], given_texts: Any, *, accelerated: bool, runs: int = 1, **fields: Any) -> Any:
    """What runs give or raise, the batches, and all that is left behind; of random ids, which is where."""
    pipeline = IngestionPipeline(transformations=steps, **fields)
    pipeline = accelerate(pipeline) if accelerated else pipeline
    told = []
    for _ in range(runs):
        try:
            nodes = pipeline.run(documents=documents(given_texts))
        except Exception as error:
            told.append(repr((type(error), str(error).split("\n")[0])))
            continue
        told.append(repr(visible(list(nodes))))
        for number, node in enumerate(nodes):
            told[-1] = told[-1].replace(node.node_id, f"node {number}")
    held = repr(left(pipeline))
    for kept in pipeline.cache.cache.to_dict().values():
        for entry in kept.values():
            for number, data in enumerate(entry["nodes"]):
                held = held.replace(data["__data__"]["id_"], f"node {number}")
    asked = [batch for step in steps if isinstance(step, Recorded) for batch in step._asked]
    return told, held, [batch for batch, _ in asked], {thread for _, thread in asked}


def assert_same(make: Callable[[], list[Any]], given_texts: Any = TEXTS, **settings: Any) -> Any:
    """Assert that a pipeline and its accelerated form come to the same; gives what they come to."""
    native, ours = (seen(make(), given_texts, accelerated=accelerated, **settings) for accelerated in (False, True))
    assert ours == native
    return ours


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("parser", PARSERS)
def test_nodes_batches_and_cache(parser: str, cached: bool) -> None:
    """The same nodes and entries, of the same batches in the same order, asked for by the caller's thread."""
    for size in (1, 7, 1000):
        _, _, asked, threads = assert_same(
            lambda size=size: [PARSERS[parser](), Recorded(embed_batch_size=size)],
            runs=2,
            disable_cache=not cached,
        )
        assert asked
        assert threads == {threading.current_thread()}


@settings(max_examples=examples(40), deadline=None)
@given(given_texts=st.lists(texts, max_size=8), size=st.integers(1, 5), cached=st.booleans())
def test_generated_texts(given_texts: list[str], size: int, cached: bool) -> None:
    assert_same(
        lambda: [SentenceSplitter(chunk_size=40, chunk_overlap=5), Recorded(embed_batch_size=size)],
        given_texts,
        disable_cache=not cached,
    )


def test_real_texts_stores_and_further_steps() -> None:
    real = corpus(400_000)
    assert_same(
        lambda: [SentenceSplitter(chunk_size=256, chunk_overlap=20), Recorded(embed_batch_size=50)],
        real,
        runs=2,
    )
    # What comes behind the model may change the nodes: the entry before stays what it is.
    assert_same(lambda: [PARSERS["sentences"](), Recorded(embed_batch_size=3), Shouting()])
    assert_same(lambda: [PARSERS["sentences"](), Recorded(embed_batch_size=3), Failing()])


def test_document_and_vector_stores() -> None:
    """What a run leaves in stores, by their own ids."""

    def stored(accelerated: bool) -> Any:
        pipeline = IngestionPipeline(
            transformations=[PARSERS["sentences"](), Recorded(embed_batch_size=3)],
            docstore=SimpleDocumentStore(),
            vector_store=SimpleVectorStore(),
        )
        nodes = (accelerate(pipeline) if accelerated else pipeline).run(documents=documents(TEXTS))
        held = repr((pipeline.docstore.to_dict(), pipeline.vector_store.to_dict()))
        for number, node in enumerate(nodes):
            held = held.replace(node.node_id, f"node {number}")
        return held

    assert stored(True) == stored(False)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("fault", ["raises", "short", "long", "tuples", "ints", "texts", "nothing", "resizes"])
def test_a_model_that_misbehaves(fault: str, at: int, cached: bool) -> None:
    assert_same(
        lambda: [PARSERS["sentences"](), Recorded(embed_batch_size=3, fault=fault, at=at)],
        disable_cache=not cached,
    )


class Independent(Recorded):
    """A model of which a plug-in says that threads may call it."""


@pytest.fixture
def known() -> Iterator[None]:
    with said_independent(Independent):
        yield


def in_threads(make: Callable[[], list[Any]], given_texts: Any = TEXTS, **settings: Any) -> set[threading.Thread]:
    """Assert that a pipeline and its accelerated form come to the same; the threads that the latter's model was in.

    Batches are the same ones, in whatever order.
    """
    native, ours = (seen(make(), given_texts, accelerated=accelerated, **settings) for accelerated in (False, True))
    assert ours[:2] == native[:2]
    assert sorted(map(repr, ours[2])) == sorted(map(repr, native[2]))
    threads: set[threading.Thread] = ours[3]
    return threads


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("parser", PARSERS)
def test_a_model_that_threads_may_call(parser: str, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_index_aaflow.ingestion_beside.threads_for_models", lambda: 3)
    for size in (1, 7, 1000):
        threads = in_threads(
            lambda size=size: [PARSERS[parser](), Independent(embed_batch_size=size)], runs=2, disable_cache=not cached
        )
        # Other parsers may call functions of the user's, which see documents in their order.
        assert (threading.current_thread() not in threads) == (parser in ("sentences", "windows", "markdown"))


@pytest.mark.usefixtures("known")
def test_threads_call_a_model_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the executor says, and as there are cores if it says nothing."""
    gauge = Gauge(0.005)

    def embed(model: Any, texts: list[str]) -> list[list[float]]:
        return [[float(len(text))] for text in gauge(texts)]

    monkeypatch.setattr(Independent, "_get_text_embeddings", embed)
    monkeypatch.setattr("llama_index_aaflow.ingestion_beside.threads_for_models", lambda: 2)
    steps = [PARSERS["sentences"](), Independent(embed_batch_size=1)]
    for executor, expected in ((None, 2), (Executor(max_concurrency=4), 4), (Executor(max_concurrency=1), 1)):
        gauge.peak = 0
        accelerate(IngestionPipeline(transformations=steps), executor=executor).run(documents=documents(TEXTS))
        assert gauge.peak == expected


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("field", ["embeddings_cache", "rate_limiter"])
def test_a_model_that_keeps_something_between_batches_is_called_by_one_thread(field: str) -> None:
    if field not in Independent.model_fields:
        pytest.skip(f"this version of LlamaIndex has no {field}")
    if field == "embeddings_cache":
        kept: Any = SimpleKVStore()
    else:
        from llama_index.core.rate_limiter import TokenBucketRateLimiter

        kept = TokenBucketRateLimiter(requests_per_minute=6_000_000)
    model = Independent(embed_batch_size=1, **{field: kept})
    accelerate(IngestionPipeline(transformations=[PARSERS["sentences"](), model])).run(documents=documents(TEXTS))
    assert {thread for _, thread in model._asked} == {threading.current_thread()}


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("failing", [0, 2, 30])
def test_the_first_error_of_a_model_that_threads_call(
    failing: int, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised, and leaves what it natively leaves, whatever happens to the batches after it."""
    monkeypatch.setattr("llama_index_aaflow.ingestion_beside.threads_for_models", lambda: 3)
    steps = [PARSERS["sentences"](), Independent(embed_batch_size=3)]
    order = [tuple(batch) for batch in seen(steps, TEXTS, accelerated=False)[2]]
    bad = order[failing:]

    def embed(model: Any, texts: list[str]) -> list[list[float]]:
        if tuple(texts) in bad:
            time.sleep(0.01 if tuple(texts) == bad[0] else 0)
            raise LookupError(bad.index(tuple(texts)))
        return [[float(len(text)), 1.0] for text in texts]

    monkeypatch.setattr(Independent, "_get_text_embeddings", embed)
    native, ours = (
        seen(
            [PARSERS["sentences"](), Independent(embed_batch_size=3)],
            TEXTS,
            accelerated=accelerated,
            disable_cache=not cached,
        )
        for accelerated in (False, True)
    )
    assert ours[:2] == native[:2]
    assert ("LookupError" in ours[0][0]) == bool(bad)


@pytest.mark.usefixtures("known")
def test_after_an_error_no_further_batch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """But those that are under way."""
    begun: list[str] = []
    second = threading.Event()

    def embed(model: Any, texts: list[str]) -> list[list[float]]:
        begun.append(texts[0])
        if len(begun) == 1:
            assert second.wait(10)
            raise LookupError("no vectors")
        second.set()
        time.sleep(0.2)  # until the first has failed
        return [[1.0] for _ in texts]

    monkeypatch.setattr(Independent, "_get_text_embeddings", embed)
    pipeline = IngestionPipeline(transformations=[PARSERS["sentences"](), Independent(embed_batch_size=1)])
    with pytest.raises(LookupError, match="no vectors"):
        accelerate(pipeline, executor=Executor(max_concurrency=2)).run(documents=documents(TEXTS))
    assert len(begun) == 2


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("kind", [Recorded, Independent])
def test_a_failed_run_leaves_nothing_to_the_collector(kind: type[Recorded]) -> None:
    def held() -> int:
        return sum(type(each) is TextNode for each in gc.get_objects())

    steps = [PARSERS["sentences"](), kind(embed_batch_size=3, fault="raises", at=2)]
    gc.collect()
    before = held()
    gc.disable()
    try:
        with contextlib.suppress(LookupError):
            accelerate(IngestionPipeline(transformations=steps)).run(documents=documents(TEXTS))
        assert held() <= before
    finally:
        gc.enable()


SCRIPT = """
import sys, threading, time
from llama_index.core import Document, MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index_aaflow import accelerate

model = OpenAIEmbedding(api_base=sys.argv[1], api_key="none", embed_batch_size=2) if sys.argv[1:] else MockEmbedding(3)
pipeline = accelerate(IngestionPipeline(transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=8), model]))

def run():
    threading.main_thread().join()
    nodes = pipeline.run(documents=[Document(text="One sentence here. " * 200) for _ in range(5)])
    print(len(nodes), {len(node.embedding) for node in nodes})

threading.Thread(target=run).start()
"""


@pytest.mark.parametrize("hosted", [False, True])
def test_a_run_that_outlives_the_main_thread(hosted: bool, openai_server: Connection) -> None:
    """No pool takes calls then; natively there is none."""
    command = [sys.executable, "-c", SCRIPT, *([openai_server.base_url] if hosted else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 50


def test_a_model_that_changes_as_it_works() -> None:
    """The cache knows it by what it was before."""

    class Counting(Lengths):
        count: int = 0

        def _get_text_embedding(self, text: str) -> list[float]:
            self.count += 1
            return super()._get_text_embedding(text)

    assert_same(lambda: [PARSERS["sentences"](), Counting(embed_batch_size=3)], runs=2)


def test_a_parser_that_fails() -> None:
    """Its error is the native one. That the model has been asked already is not native, and makes no difference."""

    def make() -> list[Any]:
        return [SentenceSplitter(chunk_size=5, chunk_overlap=0), Lengths(embed_batch_size=1)]

    # The metadata of the last one takes as many tokens as there are.
    native, ours = (seen(make(), ["a"] * 1_001, accelerated=accelerated)[:2] for accelerated in (False, True))
    assert ours == native
    assert "ValueError" in ours[0][0]


def test_parsing_goes_on_meanwhile() -> None:
    """The model is asked before the last document is parsed, unless somebody could tell."""

    def overlapped(parser: Any, **fields: Any) -> bool:
        threads: list[bool] = []

        class Watching(Lengths):
            def _get_text_embedding(self, text: str) -> list[float]:
                threads.append(any(thread.name.startswith("aaflow-parser") for thread in threading.enumerate()))
                return super()._get_text_embedding(text)

        pipeline = IngestionPipeline(transformations=[parser, Watching(embed_batch_size=1, **fields)])
        accelerate(pipeline).run(documents=documents(["One sentence. " * 400] * 20))
        return threads[0]

    assert overlapped(SentenceSplitter())
    assert overlapped(SentenceWindowNodeParser())
    assert not overlapped(SentenceSplitter(id_func=numbered))
    assert not overlapped(SentenceSplitter(tokenizer=lambda text: text.split()))
    manager, _ = watched()
    assert not overlapped(SentenceSplitter(callback_manager=manager))
    assert not overlapped(SentenceSplitter(), callback_manager=manager)
    with spans():
        assert not overlapped(SentenceSplitter())


def test_a_cache_that_may_know_the_vectors_is_asked_first() -> None:
    model = Recorded(embed_batch_size=3)
    pipeline = accelerate(IngestionPipeline(transformations=[PARSERS["sentences"](), model]))
    pipeline.cache.put("key", [TextNode(text="another run's")])
    pipeline.run(documents=documents(TEXTS))
    asked = len(model._asked)
    pipeline.run(documents=documents(TEXTS))
    assert len(model._asked) == asked


def test_entries_hold_vectors_of_their_own() -> None:
    """Changing a node afterwards changes no entry of the cache."""
    pipeline = accelerate(IngestionPipeline(transformations=[PARSERS["sentences"](), Lengths()]))
    nodes = pipeline.run(documents=documents(TEXTS))
    before = repr(pipeline.cache.cache.to_dict())
    for node in nodes:
        node.metadata["n"] = "changed"
        node.embedding[0] = -1.0
        node.relationships.clear()
    assert repr(pipeline.cache.cache.to_dict()) == before


def test_vectors_that_a_model_keeps_are_its_own() -> None:
    """Nodes have copies of lists that anybody else has, as natively."""

    class Keeping(Lengths):
        _kept: list[Any] = PrivateAttr(default_factory=list)

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            rows: list[Any] = super()._get_text_embeddings(texts)
            self._kept += rows
            return rows

    model = Keeping(embed_batch_size=3)
    nodes = accelerate(IngestionPipeline(transformations=[PARSERS["sentences"](), model])).run(
        documents=documents(TEXTS)
    )
    before = repr(model._kept)
    for node in nodes:
        node.embedding[0] = -1.0
    assert repr(model._kept) == before


def test_an_interrupt_in_the_model_leaves_the_parsers_entry() -> None:
    """As natively, where the parser is through before the model begins."""

    class Interrupted(Lengths):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            if "a. b." in texts[-1]:  # of the last document
                raise KeyboardInterrupt
            return super()._get_text_embeddings(texts)  # type: ignore[no-any-return]

    kept = []
    for accelerated in (False, True):
        pipeline = IngestionPipeline(transformations=[PARSERS["sentences"](), Interrupted(embed_batch_size=1)])
        with pytest.raises(KeyboardInterrupt):
            (accelerate(pipeline) if accelerated else pipeline).run(documents=documents(TEXTS))
        (entries,) = pipeline.cache.cache.to_dict().values()
        kept.append([[data["__data__"]["text"] for data in entry["nodes"]] for entry in entries.values()])
    assert kept[0] == kept[1]
    assert kept[0][0]


class Upper(TransformComponent):
    """Changes the nodes that it is given."""

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        for node in nodes:
            node.set_content(node.get_content().upper())
        return nodes


class Tag(TransformComponent):
    """To the cache it is what `Upper` is: the nodes alone tell them apart."""

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        for node in nodes:
            node.metadata["tag"] = 1
        nodes.reverse()
        return nodes


@pytest.mark.parametrize("more", [(Upper, Tag), (Tag, Upper), (Tag, Recorded), (Upper, Tag, Recorded)])
def test_steps_behind_the_model_and_the_cache(more: Sequence[Any]) -> None:
    """They change the nodes in place: each key is of the nodes as they are by then."""
    assert_same(lambda: [PARSERS["sentences"](), Recorded(), *(make() for make in more)], runs=2)


def vectors(entry: Any) -> list[Any]:
    """Those of the nodes that a cache's entry holds."""
    return [data["__data__"]["embedding"] for data in entry["nodes"]]


def test_documents_that_come_with_vectors() -> None:
    """Their nodes have them until the model gives others, and the parser's entry says so."""
    seen = []
    for wrap in (lambda pipeline: pipeline, accelerate):
        given, cache = documents(TEXTS), IngestionCache()
        given[1].embedding = [1.0, 2.0]
        wrap(IngestionPipeline(transformations=[PARSERS["sentences"](), Recorded()], cache=cache)).run(documents=given)
        (entries,) = cache.cache.to_dict().values()
        seen.append([(key, vectors(entry)) for key, entry in entries.items()])
    assert [1.0, 2.0] in seen[0][0][1]
    assert seen[1] == seen[0]


class Reusing(Lengths):
    """A model that writes into the lists that it gave before."""

    _given: list[Any] = PrivateAttr(default_factory=list)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        for row in self._given:
            row[0] += 1.0
        rows = super()._get_text_embeddings(texts)
        self._given += rows
        return rows


@pytest.mark.parametrize("disable_cache", [False, True])
def test_a_model_that_changes_what_it_gave(disable_cache: bool) -> None:
    """Natively nodes get their vectors when all are there."""
    seen = []
    for wrap in (lambda pipeline: pipeline, accelerate):
        steps = [PARSERS["sentences"](), Reusing(embed_batch_size=3)]
        nodes = wrap(IngestionPipeline(transformations=steps, disable_cache=disable_cache)).run(
            documents=documents(TEXTS * 5)
        )
        seen.append([node.embedding for node in nodes])
    assert seen[1] == seen[0]
