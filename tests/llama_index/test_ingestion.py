"""`IngestionPipeline` accelerated against itself: nodes, cache, document store, vector store, warnings and errors."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.extractors import BaseExtractor
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    SimpleFileNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import BaseNode, Document, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection, Fault
from llama_index_aaflow import accelerate
from llama_index_aaflow.ingestion import native_reason
from llama_index_aaflow.wordllama import WordLlamaEmbedding
from tests.generated import examples
from tests.llama_index.parsing_outcomes import corpus, numbered, texts, visible
from tests.llama_index.pipelines import (
    Failing,
    Lengths,
    Shouting,
    assert_same,
    documents,
    embedding,
    ran,
    splitter,
)
from tests.llama_index.tracing import events, spans, watched

PARSERS: dict[str, Any] = {
    "sentences": splitter,
    "tokens": lambda: TokenTextSplitter(chunk_size=64, chunk_overlap=8, id_func=numbered),
    "windows": lambda: SentenceWindowNodeParser(id_func=numbered),
    "markdown": lambda: MarkdownNodeParser(id_func=numbered),
    "not known": lambda: SimpleFileNodeParser(id_func=numbered),
}

TEXTS = [
    "One sentence. " * 60,
    "# Title\nText of it. More.\n## Sub\n" + "words " * 90,
    "",
    "short",
    " \n",
    "a. b. c." * 9,
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("parser", PARSERS)
def test_nodes_and_cache(openai_server: Connection, parser: str, cached: bool, asynchronous: bool) -> None:
    """Whatever the parser: the same nodes, the same entries in the cache, and the second run asks for nothing."""

    def make() -> IngestionPipeline:
        steps = [PARSERS[parser](), embedding(openai_server, embed_batch_size=7)]
        return IngestionPipeline(transformations=steps, disable_cache=not cached)

    def call(pipeline: IngestionPipeline) -> Any:
        return (pipeline.arun if asynchronous else pipeline.run)(documents=documents(TEXTS))

    assert_same(make, call, call)
    if cached:
        pipeline = accelerate(make())
        ran(pipeline, call)
        openai_server.configure(record=True)
        ran(pipeline, call)
        assert openai_server.bodies() == []


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_requests_are_native(openai_server: Connection, cached: bool, asynchronous: bool) -> None:
    """The same texts in the same batches, whether embedding overlaps parsing or not."""

    def asked(accelerated: bool, texts: Sequence[str]) -> list[bytes]:
        pipeline = IngestionPipeline(transformations=[splitter(), embedding(openai_server, embed_batch_size=9)])
        pipeline.disable_cache = not cached
        openai_server.configure(record=True)
        pipeline = accelerate(pipeline) if accelerated else pipeline
        if asynchronous:
            asyncio.run(pipeline.arun(documents=documents(texts)))
        else:
            pipeline.run(documents=documents(texts))
        return sorted(openai_server.bodies())

    for real in (corpus(150_000), TEXTS, TEXTS[:1]):
        assert asked(True, real) == asked(False, real)


@pytest.mark.slow
def test_real_texts(openai_server: Connection) -> None:
    texts = corpus(3_000_000)

    def make() -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[splitter(chunk_size=256, chunk_overlap=20), embedding(openai_server)],
            docstore=SimpleDocumentStore(),
            vector_store=SimpleVectorStore(),
        )

    assert_same(make, lambda pipeline: pipeline.run(documents=documents(texts)))


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_texts=st.lists(texts, max_size=8), size=st.integers(1, 5), cached=st.booleans())
def test_generated_texts(openai_server: Connection, given_texts: list[str], size: int, cached: bool) -> None:
    def make() -> IngestionPipeline:
        steps = [splitter(chunk_size=40, chunk_overlap=5), embedding(openai_server, embed_batch_size=size)]
        return IngestionPipeline(transformations=steps, disable_cache=not cached)

    assert_same(make, lambda pipeline: pipeline.run(documents=documents(given_texts)))
    assert_same(make, lambda pipeline: pipeline.arun(documents=documents(given_texts)))


def test_embedding_overlaps_parsing(openai_server: Connection) -> None:
    """Requests are out before the last document is parsed; not where the cache may know the vectors."""
    asked: list[int] = []

    def counted(index: int, document: BaseNode) -> str:
        if document.node_id == "doc 39" and not index:
            time.sleep(0.1)
            asked.append(openai_server.stats()["requests"])
        return numbered(index, document)

    def requests(pipeline: IngestionPipeline) -> int:
        openai_server.configure()
        pipeline.run(documents=documents(["One sentence. " * 300] * 40))
        return asked.pop()

    def make(**settings: Any) -> IngestionPipeline:
        return accelerate(
            IngestionPipeline(
                transformations=[splitter(id_func=counted), embedding(openai_server, embed_batch_size=20)], **settings
            )
        )

    assert requests(make()) > 0
    assert requests(make(disable_cache=True)) > 0
    known = make()
    known.cache.put("key", [TextNode(text="another run's")])
    assert requests(known) == 0
    with spans():
        assert requests(make()) == 0
    assert requests(accelerate(make().model_copy(update={"docstore": SimpleDocumentStore()}))) > 0


STORES: dict[str, dict[str, Any]] = {
    f"{strategy.value}, {kind}": {"strategy": strategy, "stored": kind == "with a vector store"}
    for strategy in DocstoreStrategy
    for kind in ("with a vector store", "without")
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", STORES)
def test_document_stores(openai_server: Connection, name: str, asynchronous: bool) -> None:
    """New, unchanged, changed, doubled and missing documents under each strategy, run after run."""
    case = STORES[name]

    def make() -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[splitter(), embedding(openai_server, embed_batch_size=4)],
            docstore=SimpleDocumentStore(),
            docstore_strategy=case["strategy"],
            vector_store=SimpleVectorStore() if case["stored"] else None,
        )

    first = documents(["One sentence. " * 30, "Another one. " * 30, "third " * 50, "One sentence. " * 30])
    changed = documents(["One sentence. " * 30, "Changed now. " * 30, "third " * 50])
    doubled = [*documents(["New. " * 20]), *documents(["New. " * 20]), Document(text="New. " * 20, id_="other")]

    def call(given: Sequence[Document], **arguments: Any) -> Any:
        def run(pipeline: IngestionPipeline) -> Any:
            method = pipeline.arun if asynchronous else pipeline.run
            return method(documents=[one.model_copy(deep=True) for one in given], **arguments)

        return run

    assert_same(
        make, call(first), call(first), call(changed), call(doubled), call([]), call(first, **_store_text(False))
    )


def _store_text(value: bool) -> dict[str, Any]:
    return {"store_doc_text": value}


def test_arguments(openai_server: Connection) -> None:
    """Documents, nodes, readers and documents of the pipeline's together; collections, progress, further arguments."""

    class Reader:
        def read(self) -> list[Document]:
            return documents(["read " * 30])

    nodes: list[BaseNode] = [TextNode(text="a node. " * 40, id_="n", metadata={"k": 1})]

    def make() -> IngestionPipeline:
        pipeline = IngestionPipeline(
            transformations=[splitter(), Shouting(), embedding(openai_server, embed_batch_size=4)],
            documents=documents(["the pipeline's own. " * 20]),
        )
        pipeline.readers = [Reader()]  # type: ignore[list-item]
        return pipeline

    def mine() -> list[Document]:
        return [Document(text="given. " * 30, id_="mine")]

    assert_same(
        make,
        lambda pipeline: pipeline.run(),
        lambda pipeline: pipeline.run(documents=mine(), nodes=list(nodes)),
        lambda pipeline: pipeline.run(documents=mine(), cache_collection="other", in_place=False),
        lambda pipeline: pipeline.run(documents=mine(), show_progress=True),
        lambda pipeline: pipeline.run(documents=mine(), more="loudly"),
        lambda pipeline: pipeline.run(documents=mine(), no_such_thing=1),
        lambda pipeline: pipeline.run("positional", mine()),
        lambda pipeline: pipeline.arun(documents=mine(), cache_collection="third"),
    )


def test_other_transformations(openai_server: Connection) -> None:
    """Known and unknown ones in any order."""

    class Titles(BaseExtractor):
        async def aextract(self, nodes: Sequence[BaseNode]) -> list[dict[str, Any]]:
            return [{"title": f"{len(nodes)} {node.node_id}"} for node in nodes]

    def embed() -> Any:
        return embedding(openai_server, embed_batch_size=5)

    for steps in (
        list,
        lambda: [splitter()],
        lambda: [embed()],
        lambda: [embed(), splitter()],
        lambda: [MarkdownNodeParser(id_func=numbered), splitter(), embed()],
        lambda: [splitter(), embed(), Shouting()],
        lambda: [Shouting(), splitter(), embed()],
        lambda: [splitter(), Titles(), embed()],
        lambda: [splitter(), Lengths()],
        lambda: [splitter(), embed(), embed()],
        lambda: [accelerate(splitter()), accelerate(embed())],
    ):

        def make(steps: Any = steps) -> IngestionPipeline:
            return IngestionPipeline(transformations=steps())

        def call(pipeline: IngestionPipeline) -> Any:
            return pipeline.run(documents=documents(TEXTS))

        assert_same(make, call, call)
        assert_same(make, lambda pipeline: pipeline.arun(documents=documents(TEXTS)))


def test_doubled_ids_and_nodes_of_one_source(openai_server: Connection) -> None:
    """Where nodes of one input neighbour those of another, they are parsed together."""

    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter(), embedding(openai_server)])

    one = "One sentence. " * 4000
    same = [Document(text=one, id_="same"), Document(text="two. " * 9, id_="same"), Document(text=one, id_="same")]
    nodes = splitter(chunk_size=500).get_nodes_from_documents(documents([one]))
    assert_same(
        make,
        lambda pipeline: pipeline.run(documents=[document.model_copy(deep=True) for document in same]),
        lambda pipeline: pipeline.run(nodes=[node.model_copy(deep=True) for node in nodes]),
    )


def test_the_cache_is_hit_both_ways(openai_server: Connection, tmp_path: Path) -> None:
    """What one has persisted the other finds, in a file of the same content."""

    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter(), embedding(openai_server)], docstore=SimpleDocumentStore())

    given = documents(TEXTS)
    native, ours = make(), accelerate(make())
    expected = visible(native.run(documents=[one.model_copy(deep=True) for one in given]))
    ours.run(documents=[one.model_copy(deep=True) for one in given])
    native.persist(str(tmp_path / "native"))
    ours.persist(str(tmp_path / "ours"))
    for name in ("llama_cache", "docstore.json"):
        assert (tmp_path / "native" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    openai_server.configure(record=True)
    for reader, folder in ((accelerate(make()), "native"), (make(), "ours")):
        reader.cache = IngestionCache.from_persist_path(str(tmp_path / folder / "llama_cache"))
        assert [node.to_dict() for node in reader.run(documents=[one.model_copy(deep=True) for one in given])] == [
            {**node, "class_name": "TextNode"} for node in _dicts(expected, native, given)
        ]
    assert openai_server.bodies() == []
    loaded = accelerate(make())
    loaded.load(str(tmp_path / "native"))
    assert loaded.run(documents=given) == []


def _dicts(_: Any, native: IngestionPipeline, given: list[Document]) -> list[dict[str, Any]]:
    again = native.model_copy(update={"docstore": None})
    return [node.to_dict() for node in again.run(documents=[one.model_copy(deep=True) for one in given])]


class _FailingStore(SimpleVectorStore):
    """A vector store that refuses what it is given."""

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        super().add(list(nodes)[:3])
        raise ConnectionError("the store is away")


def _raising(index: int, document: BaseNode) -> str:
    if document.node_id == "doc 4":
        raise LookupError("doc 4")
    return numbered(index, document)


class _Nameless:
    """An `id_func` that is no function."""

    def __call__(self, index: int, document: Any) -> str:
        return numbered(index, document)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_failure_leaves_what_it_leaves_natively(openai_server: Connection, cached: bool, asynchronous: bool) -> None:
    """Documents, vectors and cache entries of before the failure stay; the error is the same."""
    real = ["One sentence. " * 30] * 4 + ["Another. " * 30]

    def failing(steps: Any, store: Any = SimpleVectorStore) -> Any:
        def make() -> IngestionPipeline:
            return IngestionPipeline(
                transformations=steps(),
                docstore=SimpleDocumentStore(),
                vector_store=store(),
                disable_cache=not cached,
            )

        def call(pipeline: IngestionPipeline) -> Any:
            return (pipeline.arun if asynchronous else pipeline.run)(documents=documents(real))

        return assert_same(make, call)[0]

    def embed() -> Any:
        return embedding(openai_server, embed_batch_size=4)

    assert failing(lambda: [splitter(id_func=_raising), embed()])[0] is LookupError
    # The cache can't name this one's parser: nothing has been asked of it.
    nameless = failing(lambda: [splitter(id_func=_Nameless()), embed()])[0]
    assert not cached or nameless.__name__ == "PydanticSerializationError"
    assert failing(lambda: [splitter(), Failing(), embed()])[0] is LookupError
    assert failing(lambda: [splitter(), embed(), Failing(at=5)])[0] is LookupError
    assert failing(lambda: [splitter(), embed()], _FailingStore)[0] is ConnectionError
    assert failing(lambda: [splitter(chunk_size=3, chunk_overlap=0), embed()])[0] is ValueError
    openai_server.configure(faults=[Fault(list(range(1, 200)), status=400)])
    assert failing(lambda: [splitter(), embed()])[0].__name__ == "BadRequestError"
    for kind in ("count", "extra", "empty", "text"):
        openai_server.configure(faults=[Fault(list(range(1, 200)), kind=kind)])
        failing(lambda: [splitter(), embed()])


def test_no_documents(openai_server: Connection) -> None:
    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter(), embedding(openai_server)])

    assert_same(
        make,
        lambda pipeline: pipeline.run(),
        lambda pipeline: pipeline.run(documents=[]),
        lambda pipeline: pipeline.run(documents=documents(["", " "])),
        lambda pipeline: pipeline.run(documents="text"),
        lambda pipeline: pipeline.run(documents=[1]),
        lambda pipeline: pipeline.arun(),
    )


def test_events_and_spans(openai_server: Connection) -> None:
    """Handlers are told the same in the same order."""

    def seen(accelerated: bool, asynchronous: bool) -> Any:
        manager, told = watched()
        pipeline = IngestionPipeline(
            transformations=[
                splitter(callback_manager=manager),
                embedding(openai_server, embed_batch_size=3, callback_manager=manager),
            ]
        )
        pipeline = accelerate(pipeline) if accelerated else pipeline
        with spans() as traced, events() as evented:
            if asynchronous:
                asyncio.run(pipeline.arun(documents=documents(TEXTS)))
            else:
                pipeline.run(documents=documents(TEXTS))
        return told, traced, evented

    for asynchronous in (False, True):
        assert seen(True, asynchronous) == seen(False, asynchronous)


def test_callbacks_alone(openai_server: Connection) -> None:
    """A parser whose handlers listen is called once; the model's handlers are told in order anyhow."""

    def seen(accelerated: bool, parser_too: bool) -> Any:
        manager, told = watched()
        pipeline = IngestionPipeline(
            transformations=[
                splitter(**({"callback_manager": manager} if parser_too else {})),
                embedding(openai_server, embed_batch_size=3, callback_manager=manager),
            ]
        )
        (accelerate(pipeline) if accelerated else pipeline).run(documents=documents(TEXTS))
        return told

    for parser_too in (False, True):
        assert seen(True, parser_too) == seen(False, parser_too)


def test_it_is_the_native_object_to_everybody(openai_server: Connection) -> None:
    model = embedding(openai_server, embed_batch_size=3)
    native = IngestionPipeline(name="n", transformations=[splitter(), model], docstore=SimpleDocumentStore())
    fast = accelerate(native, executor=Executor(max_concurrency=3))
    assert isinstance(fast, IngestionPipeline)
    assert type(fast).__name__ == "IngestionPipeline"
    assert native_reason(fast) is None
    assert accelerate(fast) is fast
    assert fast.transformations == native.transformations
    assert fast.docstore is native.docstore
    assert fast.model_dump(exclude={"cache", "docstore"}) == native.model_dump(exclude={"cache", "docstore"})
    openai_server.configure(base_ms=200)
    fast.run(documents=documents(["One sentence. " * 300]))
    assert openai_server.stats()["max_in_flight"] == 3
    assert model._client is not None  # the user's own object has the connections, as natively
    restored = pickle.loads(pickle.dumps(accelerate(IngestionPipeline(transformations=[splitter(), model]))))
    expected = IngestionPipeline(transformations=[splitter(), model]).run(documents=documents(TEXTS))
    assert visible(restored.run(documents=documents(TEXTS))) == visible(expected)
    assert type(fast.model_copy()) is type(fast)


def test_what_is_not_known_is_native() -> None:
    class Own(IngestionPipeline):
        def run(self, *args: Any, **kwargs: Any) -> list[str]:  # type: ignore[override]
            return ["own"]

    own = Own(transformations=[])
    assert accelerate(own) is own
    assert native_reason(own) == f"{Own.__qualname__} overrides run"

    class Named(IngestionPipeline):
        more: str = "more"

    named = accelerate(Named(transformations=[splitter()]))
    assert isinstance(named, Named)
    assert named.more == "more"
    assert visible(named.run(documents=documents(TEXTS))) == visible(splitter()(documents(TEXTS)))


def test_patched_functions_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = accelerate(IngestionPipeline(transformations=[splitter()]))
    module = "llama_index.core.ingestion.pipeline.run_transformations"
    monkeypatch.setattr(module, lambda nodes, steps, **_: [len(nodes), len(steps)])
    assert pipeline.run(documents=documents(TEXTS)) == [len(TEXTS), 1]


def test_cancelling_a_run_ends_its_requests(openai_server: Connection) -> None:
    openai_server.configure(base_ms=3000)

    async def cancelled() -> None:
        pipeline = accelerate(IngestionPipeline(transformations=[splitter(), embedding(openai_server)]))
        call = asyncio.create_task(pipeline.arun(documents=documents(TEXTS)))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    begun = time.perf_counter()
    asyncio.run(cancelled())
    assert time.perf_counter() - begun < 2


def test_a_real_model() -> None:
    """A static model in this process, under a class of somebody's own."""
    pytest.importorskip("wordllama")

    def make() -> IngestionPipeline:
        model = WordLlamaEmbedding(embed_batch_size=64)
        return IngestionPipeline(transformations=[SentenceSplitter(id_func=numbered), model])

    real = corpus(200_000)
    assert_same(make, lambda pipeline: pipeline.run(documents=documents(real)))
