"""Pipelines that keep what became of documents: the nodes of a native run, and only what has changed is computed."""

from __future__ import annotations

import asyncio
import json
import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import (
    MarkdownNodeParser,
    SentenceSplitter,
    SentenceWindowNodeParser,
    SimpleFileNodeParser,
    TokenTextSplitter,
)
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageDocument,
    NodeRelationship,
    RelatedNodeInfo,
    TransformComponent,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection
from llama_index_aaflow import accelerate, incremental
from llama_index_aaflow.ingestion import _Elsewhere
from llama_index_aaflow.plans import plan_of
from tests.generated import examples
from tests.llama_index.parsing_outcomes import corpus, numbered, texts, visible
from tests.llama_index.pipelines import (
    Counting,
    Failing,
    Lengths,
    Shouting,
    documents,
    embedding,
    nodes_of,
    ran,
    splitter,
)


def by_source(index: int, document: BaseNode) -> str:
    """Ids that are the same each time, also for nodes of nodes."""
    return f"{document.ref_doc_id or document.node_id}-{index}"


ORDERS: dict[str, Callable[[], list[Any]]] = {
    "parse": lambda: [splitter(chunk_size=90)],
    "parse, embed": lambda: [splitter(chunk_size=90), Lengths()],
    "parse twice, embed": lambda: [MarkdownNodeParser(), splitter(chunk_size=90, id_func=by_source), Counting()],
    "embed": lambda: [Counting()],
    "embed, parse": lambda: [Lengths(), TokenTextSplitter(chunk_size=90, chunk_overlap=9, id_func=numbered)],
    "embed, parse, embed": lambda: [Lengths(), SentenceWindowNodeParser(id_func=numbered), Counting()],
    "something of one's own between": lambda: [splitter(chunk_size=90), Shouting(), Counting()],
    "parse nodes whose ids those of other documents have": lambda: [
        MarkdownNodeParser(id_func=lambda index, _: f"{index}"),
        splitter(chunk_size=90, id_func=by_source),
        Lengths(),
    ],
}

metadata = st.dictionaries(
    st.sampled_from("abc"),
    st.one_of(st.integers(), st.booleans(), st.floats(), st.none(), st.sampled_from(["x", "", "\u00e9"]))
    | st.lists(st.integers(0, 2), max_size=2),
    max_size=2,
)
fields = st.fixed_dictionaries(
    {"text": texts, "metadata": metadata},
    optional={
        "excluded_embed_metadata_keys": st.lists(st.sampled_from("abc"), max_size=2),
        "metadata_template": st.sampled_from(["{key}={value}", "{value}"]),
        "relationships": st.sampled_from(["doc 0", "elsewhere"]).map(
            lambda name: {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=name, metadata={"s": 1})}
        ),
    },
)
edits = st.lists(
    st.tuples(st.sampled_from(["add", "text", "metadata", "delete", "move", "double"]), st.integers(0, 9), fields),
    min_size=1,
    max_size=4,
)


def edited(state: list[dict[str, Any]], edit: tuple[str, int, dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The documents' fields after an edit."""
    kind, at, new = edit
    state = [dict(one) for one in state]
    if kind == "add" or not state:
        state.insert(at % (len(state) + 1), {"id_": f"doc {number + 10}", **new})
        return state
    at %= len(state)
    if kind in ("text", "metadata"):
        state[at][kind] = new[kind]
    elif kind == "delete":
        del state[at]
    elif kind == "move":
        state.insert(0, state.pop(at))
    else:
        state.append(dict(state[at]))
    return state


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    order=st.sampled_from(sorted(ORDERS)),
    first=st.lists(fields, max_size=5),
    history=edits,
    asynchronous=st.booleans(),
    cached=st.booleans(),
)
def test_edit_histories(
    order: str, first: list[dict[str, Any]], history: Any, asynchronous: bool, cached: bool
) -> None:
    """After each edit a run gives what a native run of the same documents gives, and leaves the documents so."""
    with tempfile.TemporaryDirectory() as folder:

        def make() -> IngestionPipeline:
            return IngestionPipeline(transformations=ORDERS[order](), disable_cache=not cached)

        state = [{"id_": f"doc {number}", **one} for number, one in enumerate(first)]
        for number, edit in enumerate([None, *history, None]):
            state = edited(state, edit, number) if edit else state
            native, ours = ([Document(**one) for one in state] for _ in range(2))
            expected = nodes_of(make(), native, asynchronous)
            assert repr(nodes_of(incremental(make(), folder), ours, asynchronous)) == repr(expected)
            assert repr(visible(ours)) == repr(visible(native))


@pytest.mark.parametrize("parser", [SentenceSplitter, TokenTextSplitter, SentenceWindowNodeParser, MarkdownNodeParser])
def test_real_texts(tmp_path: Path, parser: Any) -> None:
    """Nothing but the changed document's texts is embedded, and all nodes are the native ones."""

    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[parser(id_func=numbered), Counting()])

    real = list(corpus(200_000))
    incremental(make(), tmp_path).run(documents=documents(real))
    real[3] += " One more sentence."
    ours = incremental(make(), tmp_path)
    asked = ours.transformations[1].asked
    nodes = ours.run(documents=documents(real))
    changed = [node for node in nodes if node.ref_doc_id == "doc 3"]
    assert asked == [node.get_content(metadata_mode="embed") for node in changed]
    assert visible(nodes) == visible(make().run(documents=documents(real)))


def test_vectors_are_asked_for_once(openai_server: Connection, tmp_path: Path) -> None:
    """With OpenAI's client: requests for the changed document alone, and the same vectors."""

    def make(**settings: Any) -> Any:
        steps = [splitter(), embedding(openai_server, embed_batch_size=7, **settings)]
        return IngestionPipeline(transformations=steps)

    def requested(pipeline: Any, given: Sequence[str]) -> int:
        openai_server.configure(record=True)
        assert visible(pipeline.run(documents=documents(given))) == visible(make().run(documents=documents(given)))
        bodies = [json.loads(body)["input"] for body in openai_server.bodies()]
        native = len(make().transformations[0](documents(given)))
        return sum(map(len, bodies)) - native

    given = [f"One sentence of {number}. " * 40 for number in range(12)]
    nodes = len(splitter()(documents(given)))
    assert requested(incremental(make(), tmp_path), given) == nodes
    assert requested(incremental(make(api_key="another"), tmp_path), given) == 0
    given[5] = "Changed. " * 100
    assert requested(accelerate(incremental(make(), tmp_path)), given) == len(splitter()([Document(text=given[5])]))
    assert requested(incremental(make(dimensions=8), tmp_path / "new"), given[:0]) == 0
    arun = incremental(make(), tmp_path, executor=Executor(max_concurrency=2)).arun
    openai_server.configure(record=True)
    asyncio.run(arun(documents=documents(given)))
    assert openai_server.bodies() == []


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("strategy", DocstoreStrategy)
def test_stores(tmp_path: Path, strategy: DocstoreStrategy, stored: bool) -> None:
    """Document stores and vector stores hold what they hold natively, run after run; the cache is left alone."""

    def make() -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[splitter(), Counting()],
            docstore=SimpleDocumentStore(),
            docstore_strategy=strategy,
            vector_store=SimpleVectorStore() if stored else None,
        )

    native, ours = make(), incremental(make(), tmp_path)
    runs = (["a. " * 60, "b. " * 60], ["a. " * 60, "c. " * 60, "a. " * 60], ["b. " * 60])
    for run in runs:

        def call(pipeline: IngestionPipeline, run: list[str] = run) -> Any:
            return pipeline.run(documents=documents(run))

        expected = ran(native, call)
        result, told, left = ran(ours, call)
        assert (result, told) == expected[:2]
        assert (left[0], *left[2:]) == (expected[2][0], *expected[2][2:])
        assert not any(entry["nodes"] for entry in ours.cache.cache.to_dict().get("llama_cache", {}).values())


def test_the_native_cache_keeps_what_follows(tmp_path: Path) -> None:
    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter(), Shouting(), Lengths()])

    native, ours = make(), incremental(make(), tmp_path)
    given = ["a. " * 60, "b. " * 60]
    for _ in range(2):
        assert nodes_of(ours, documents(given)) == nodes_of(native, documents(given))
    entries = ours.cache.cache.to_dict()["llama_cache"]
    assert len(entries) == 2
    assert entries.items() <= native.cache.cache.to_dict()["llama_cache"].items()


def test_progress_arguments_and_workers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The native progress bar; further arguments go to the transformations; a worker's batch is a run of its own."""

    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter(), Shouting(), Lengths()])

    def told(pipeline: IngestionPipeline) -> set[str]:
        pipeline.run(documents=documents(["a. " * 60]), show_progress=True)
        bars = [line.split("|") for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if "|" in line]
        # The oldest versions have bars of what is parsed and embedded instead.
        return {bar[0] + bar[2].split("[")[0] for bar in bars if bar[0].startswith("Applying")}

    ours = incremental(make(), tmp_path)
    assert told(ours) == told(ours) == told(make())
    given = documents(["a. " * 60, "b. " * 60, "a. " * 60])
    for arguments in ({"more": "loudly"}, {"in_place": False}, {"cache_collection": "other"}, {"no_such_thing": 1}):

        def call(pipeline: IngestionPipeline, arguments: Any = arguments) -> Any:
            return pipeline.run(documents=[one.model_copy(deep=True) for one in given], **arguments)

        assert ran(incremental(make(), tmp_path), call)[:2] == ran(make(), call)[:2]
    steps = [splitter(), Counting()]
    pipeline = incremental(IngestionPipeline(transformations=steps), tmp_path / "workers")
    elsewhere = _Elsewhere(None, type(pipeline)._setting)
    worker = pickle.loads(pickle.dumps(elsewhere.run_transformations))
    expected = visible(list(IngestionPipeline(transformations=steps).run(documents=list(given))))
    asked = steps[1].asked
    for count in (len(asked), 0):
        asked.clear()
        assert visible(list(worker(list(given), steps))) == expected
        assert len(asked) == count


def test_metadata_that_cannot_be_written(tmp_path: Path) -> None:
    """What holds itself, or is nested deep, is computed each time; texts that differ in surrogates differ."""

    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter()], disable_cache=True)

    itself: dict[str, Any] = {}
    itself["self"] = itself
    deep: list[Any] = []
    for _ in range(600):
        deep = [deep]
    for held in (itself, deep):
        for _ in range(2):
            hidden = {"excluded_embed_metadata_keys": ["m"], "excluded_llm_metadata_keys": ["m"]}
            given = [Document(text="x", id_="a", metadata={"m": held}, **hidden)]
            assert len(incremental(make(), tmp_path).run(documents=given)) == len(make().run(documents=given)) == 1
    for text in ("\ud83d\ude00", "\U0001f600", "\ud83d\ude00", "\U0001f600"):
        for given in ([Document(text="x", metadata={"k": text}, id_="a")], [Document(text="x", id_=text)]):
            assert ascii(nodes_of(incremental(make(), tmp_path), given)) == ascii(nodes_of(make(), given))


def test_nested_metadata_is_shared_as_natively(tmp_path: Path) -> None:
    """A list in a document's metadata is one object in all its nodes, and in what they relate to."""

    class Appending(TransformComponent):
        def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
            for node in nodes:
                node.metadata["tags"].append(node.get_content()[:3])
            return nodes

    def make() -> IngestionPipeline:
        return IngestionPipeline(transformations=[splitter(chunk_size=90), Appending()], disable_cache=True)

    def given() -> list[Document]:
        return [Document(text="One two. " * 90, id_=name, metadata={"tags": ["a"], "n": 1}) for name in "ab"]

    def told(pipeline: Any) -> Any:
        inputs = given()
        nodes = pipeline.run(documents=inputs)
        infos = [info.metadata.get("tags") for node in nodes for info in node.relationships.values()]
        lists = [*(one.metadata["tags"] for one in [*inputs, *nodes]), *infos]
        return visible(nodes), visible(inputs), [[one is other for other in lists] for one in lists]

    expected = told(make())
    for _ in range(2):
        assert told(incremental(make(), tmp_path)) == expected
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("asynchronous", [pytest.param(False, marks=pytest.mark.at_length), True])
def test_one_document_in_two_batches_of_workers(tmp_path: Path, asynchronous: bool) -> None:
    """Its nodes have ids of their own; documents that are there once are kept."""

    def run(names: str) -> list[str]:
        pipeline: Any = incremental(
            IngestionPipeline(transformations=[SentenceSplitter(), MockEmbedding(embed_dim=2)]), tmp_path
        )
        given = [Document(text="x", id_=name) for name in names]
        many = pipeline.arun(documents=given, num_workers=2) if asynchronous else None
        nodes = asyncio.run(many) if many else pipeline.run(documents=given, num_workers=2)
        return [node.node_id for node in nodes]

    for _ in range(2):
        assert len(set(run("aa"))) == 2
    assert not tmp_path.exists() or not list(tmp_path.iterdir())
    assert run("ab") == run("ab")


def test_ids_are_those_given_first(tmp_path: Path) -> None:
    """An index that was filled by the run before knows the nodes of unchanged documents."""

    def ids(texts: Sequence[str]) -> list[str]:
        pipeline = incremental(
            IngestionPipeline(transformations=[SentenceSplitter(chunk_size=60, chunk_overlap=0)]), tmp_path
        )
        return [node.node_id for node in pipeline.run(documents=documents(texts))]

    first = ids(["a. " * 60, "b. " * 60])
    assert len(set(first)) == len(first)
    assert ids(["a. " * 60, "b. " * 60]) == first
    second = ids(["a. " * 60, "c. " * 60])
    assert second[: len(second) // 2] == first[: len(first) // 2]
    assert not set(second[len(second) // 2 :]) & set(first)


def test_ids_that_nodes_of_several_documents_have(tmp_path: Path) -> None:
    """Where a parser may take one document's nodes for another's, it is applied to all of them."""

    def make() -> IngestionPipeline:
        named = MarkdownNodeParser(id_func=lambda index, _: f"{index}")
        return IngestionPipeline(transformations=[named, splitter(chunk_size=90, id_func=by_source)])

    for second in ("# B\nOne sentence.", "# C\nAnother one."):
        given = ["# A\nOne sentence.", second]
        assert nodes_of(incremental(make(), tmp_path), documents(given)) == nodes_of(make(), documents(given))


def test_other_inputs(tmp_path: Path) -> None:
    """Images and nodes are treated as natively; classes of somebody's own make the whole run native."""

    class Mine(Document):
        pass

    def given(*more: Any) -> list[BaseNode]:
        parent = Document(text="a. " * 80, id_="parent")
        return [*splitter()([parent]), *documents(["b. " * 60]), *more]

    image = ImageDocument(text="an image", id_="i", image=b"aGk=")
    for more in ([], [image], [Mine(text="mine", id_="m")]):
        steps = [splitter(chunk_size=60), Counting()]
        native = visible(list(IngestionPipeline(transformations=steps).run(nodes=given(*more))))
        for _ in range(2):
            steps[1].asked.clear()
            assert nodes_of(incremental(IngestionPipeline(transformations=steps), tmp_path), given(*more)) == native
        assert len(steps[1].asked) == (1 if more else 0) if Mine not in map(type, more) else len(native)


def test_pickling_copies_and_the_class(tmp_path: Path) -> None:
    """A copy, from another process too, goes on in the same folder."""
    pipeline = IngestionPipeline(transformations=[splitter(), Lengths()])
    ours = incremental(accelerate(pipeline, executor=Executor(max_concurrency=3)), tmp_path)
    assert isinstance(ours, IngestionPipeline)
    assert type(ours).__name__ == "IngestionPipeline"
    assert type(ours)._executor.resources.max_concurrency == 3
    for copy in (pickle.loads(pickle.dumps(ours)), ours.model_copy(), incremental(ours, tmp_path)):
        assert type(copy)._setting == type(ours)._setting
    assert type(pipeline) is IngestionPipeline
    assert accelerate(ours) is ours


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    class Mine(IngestionPipeline):
        def run(self, *given: Any, **settings: Any) -> Any:
            return []

    class Contextual(Lengths):
        def get_text_embedding_batch(self, *given: Any, **settings: Any) -> Any:
            return []

    for steps, reason in (
        ([Shouting(), splitter()], "Shouting is not known to treat each document by itself"),
        ([SimpleFileNodeParser()], "SimpleFileNodeParser is not known"),
        ([Contextual()], "Contextual is not known"),
        ([splitter(tokenizer=b"".join)], "told from others"),
        ([], "no transformations"),
    ):
        with pytest.raises(ValueError, match=f"^pipeline: nothing of it .*{reason}"):
            incremental(IngestionPipeline(transformations=steps), tmp_path)
    with pytest.raises(ValueError, match="overrides run"):
        incremental(Mine(transformations=[splitter()]), tmp_path)
    with pytest.raises(ValueError, match=r"^keep_days must be positive, not 0"):
        incremental(IngestionPipeline(transformations=[splitter()]), tmp_path, keep_days=0)
    with pytest.raises(TypeError, match=r"^pipeline: an IngestionPipeline is needed, not SentenceSplitter"):
        incremental(splitter(), tmp_path)


def test_what_is_kept_is_explained(tmp_path: Path) -> None:
    pipeline = IngestionPipeline(transformations=[splitter(), Shouting(), Lengths()])
    reason = "Shouting is not known to treat each document by itself"
    kept = [{"kept": "by document"}, {"not kept": reason}, {}]
    for ours, expected in ((accelerate(pipeline), [{}, {}, {}]), (incremental(pipeline, tmp_path), kept)):
        plan = plan_of(ours)
        assert plan
        assert [dict(operator.config) for operator in plan.operators[1:]] == expected


def test_a_failure_later_on_keeps_what_is_finished(tmp_path: Path) -> None:
    model = Counting()
    pipeline = incremental(IngestionPipeline(transformations=[splitter(), model, Failing()]), tmp_path)
    for asked in (True, False):
        model.asked.clear()
        with pytest.raises(LookupError, match="node 3"):
            pipeline.run(documents=documents(["One sentence. " * 300]))
        assert bool(model.asked) is asked
