"""Pipelines that keep what became of documents: the nodes of a native run, and only what has changed is computed."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core import MockEmbedding
from llama_index.core.base.embeddings.base import BaseEmbedding
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
    TextNode,
    TransformComponent,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from pydantic import Field, PrivateAttr

from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection
from llama_index_aaflow import accelerate, incremental, incremental_files
from llama_index_aaflow.incremental_files import DAY, Folder, Kept
from llama_index_aaflow.ingestion import _Elsewhere
from llama_index_aaflow.plans import plan_of
from tests.llama_index.parsing_outcomes import corpus, numbered, texts, visible
from tests.llama_index.pipelines import Failing, Lengths, Shouting, documents, embedding, ran, splitter


class Counting(Lengths):
    """Vectors that float32 does not hold; every text asked for is noted."""

    model_name: str = "counting"  # The native cache takes one model for another of the same name.
    asked: list[str] = Field(default_factory=list, exclude=True)  # no part of what the model is

    def _get_text_embedding(self, text: str) -> list[float]:
        self.asked.append(text)
        return [len(text) / 3, -0.0]


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
            expected = _run(make(), native, asynchronous)
            assert repr(_run(incremental(make(), folder), ours, asynchronous)) == repr(expected)
            assert repr(visible(ours)) == repr(visible(native))


def _run(pipeline: IngestionPipeline, given: list[Any], asynchronous: bool = False) -> Any:
    result = asyncio.run(pipeline.arun(nodes=given)) if asynchronous else pipeline.run(nodes=given)
    return visible(list(result))


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
        assert _run(ours, documents(given)) == _run(native, documents(given))
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
    steps = [splitter(), embedding_of_nobody()]
    pipeline = incremental(IngestionPipeline(transformations=steps), tmp_path / "workers")
    elsewhere = _Elsewhere(None, type(pipeline)._setting)
    worker = pickle.loads(pickle.dumps(elsewhere.run_transformations))
    expected = visible(list(IngestionPipeline(transformations=steps).run(documents=list(given))))
    asked = steps[1].asked
    for count in (len(asked), 0):
        asked.clear()
        assert visible(list(worker(list(given), steps))) == expected
        assert len(asked) == count


def embedding_of_nobody() -> Counting:
    model = Counting()
    model.asked = []
    return model


def test_what_is_computed_again(tmp_path: Path) -> None:
    """Whatever nodes depend on makes them be computed again, and nothing else does."""

    def asked(steps: Sequence[Any] | None = None, **fields: Any) -> int:
        model = embedding_of_nobody()
        pipeline = incremental(IngestionPipeline(transformations=[*(steps or [splitter()]), model]), tmp_path)
        pipeline.run(documents=[Document(**{"text": "One sentence. " * 30, "id_": "a", **fields})])
        return len(model.asked)

    assert asked()
    assert not asked()
    one = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="s")}
    other = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="s", hash="h")}
    for changed in (
        {"id_": "b"}, {"text": "Another one. " * 30}, {"metadata": {"k": 1}}, {"metadata": {"k": True}},
        {"metadata": {"k": 1.0}}, {"metadata": {"k": "1"}}, {"metadata": {"k": [1]}}, {"embedding": [1.0]},
        {"excluded_llm_metadata_keys": ["k"]}, {"excluded_embed_metadata_keys": ["k"]}, {"text_template": "{content}"},
        {"metadata_template": "{value}"}, {"metadata_separator": " "}, {"relationships": one}, {"relationships": other},
        {"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}},
    ):  # fmt: skip
        assert asked(**changed), changed
        assert not asked(**changed), changed
    tokens = splitter(tokenizer=_words)
    named = splitter()
    named.id_func = lambda index, document: f"{index}"
    for changed_steps in (
        [splitter(chunk_size=50)], [splitter(paragraph_separator="x")], [tokens], [named],
        [splitter(include_metadata=False)], [splitter(chunking_tokenizer_fn=_words)], [MarkdownNodeParser()],
        [splitter(chunking_tokenizer_fn=_cutting("b"))], [splitter(chunking_tokenizer_fn=_cutting("c"))],
        [MarkdownNodeParser(), splitter()],
    ):  # fmt: skip
        assert asked(changed_steps)
        assert not asked(changed_steps)
    assert asked(metadata={"k": (1,)})
    assert not asked(metadata={"k": (1,)})
    for unknown in (object(), "\ud83d"):
        assert asked(metadata={"k": unknown})
        assert asked(metadata={"k": unknown})


def _words(text: str) -> list[str]:
    return text.split(" ")


def _cutting(mark: str) -> Callable[[str], list[str]]:
    return lambda text: text.split(mark)


def test_the_code_of_a_model_is_part_of_its_key(tmp_path: Path) -> None:
    def model(factor: float) -> Any:
        class Model(Lengths):
            def _get_text_embedding(self, text: str) -> list[float]:
                return [len(text) * 2.0] if factor == 2 else [len(text) * 3.0]

        class Other(Lengths):
            def _get_text_embedding(self, text: str) -> list[float]:
                return [len(text) * 3.0]

        Other.__qualname__ = Model.__qualname__
        return Model() if factor == 2 else Other()

    for factor in (2, 3):
        pipeline = incremental(IngestionPipeline(transformations=[model(factor)]), tmp_path)
        assert pipeline.run(nodes=[TextNode(text="four")])[0].embedding == [4.0 * factor]


def _defined(source: str, **names: Any) -> dict[str, Any]:
    """What a module of somebody's own defines."""
    space = {"__name__": "__main__", "BaseEmbedding": BaseEmbedding, "functools": functools, "math": math, **names}
    exec(textwrap.dedent(source), space)
    return space


REACHED = {
    "a helper's helper": "def b(): return K\ndef a(): return b()\ndef reach(): return a()",
    "a dict": "D = {'k': [K]}\ndef reach(): return D['k'][0]",
    "a closure": "def make(k):\n    def reach(): return k\n    return reach\nreach = make(K)",
    "a default": "def reach(k=K): return k",
    "a keyword's default": "def reach(*, k=K): return k",
    "a wrapper": """
        def wrap(k):
            def wrapping(function):
                @functools.wraps(function)
                def wrapper(): return k
                return wrapper
            return wrapping
        @wrap(K)
        def reach(): return 0
    """,
    "a class": "class H:\n    k = K\n    def get(self): return self.k\ndef reach(): return H().get()",
    "a class's base": "class B:\n    k = K\nclass H(B): pass\ndef reach(): return H().k",
    "an attribute of a function": "def reach(): return reach.k\nreach.k = K",
    "an attribute of a module": "def reach(): return module.k",
    "a partial function": "def f(k): return k\ng = functools.partial(f, K)\ndef reach(): return g()",
    "a nested function": "def reach(): return (lambda: [K for _ in 'a'][0])()",
    "a recursive function": "def reach(n=1): return reach(0) if n else K",
    "installed code": "def reach(): return math.floor(K)",
}

MODEL = """
class Model(BaseEmbedding):
    def _get_text_embedding(self, text): return [float(reach())]
    def _get_query_embedding(self, text): return [1.0]
    async def _aget_query_embedding(self, text): return [1.0]
"""


@pytest.mark.parametrize("what", sorted(REACHED))
def test_whatever_code_reaches_is_part_of_its_key(tmp_path: Path, what: str) -> None:
    """A model and a tokenizer that come to other results by what they reach are others, and else the same."""
    kept = []
    for k in (1, 1, 3, 1):
        module = types.ModuleType("of_somebody")
        module.k = k
        space = _defined(textwrap.dedent(REACHED[what]) + MODEL, K=k, module=module)
        pipeline = incremental(IngestionPipeline(transformations=[space["Model"]()]), tmp_path / "model")
        assert pipeline.run(documents=[Document(text="a", id_="a")])[0].embedding == [float(k)]
        space = _defined(textwrap.dedent(REACHED[what]) + "\ndef cut(text): return text[::reach()]", K=k, module=module)

        def make(cut: Any = space["cut"]) -> IngestionPipeline:
            return IngestionPipeline(
                transformations=[TokenTextSplitter(tokenizer=cut, chunk_size=90, id_func=numbered)]
            )

        given = documents(["One two three. " * 40])
        ours = incremental(make(), tmp_path / "parser").run(documents=given)
        assert visible(ours) == visible(make().run(documents=given))
        kept.append((len(list((tmp_path / "model").iterdir())), len(list((tmp_path / "parser").iterdir()))))
    assert kept == [(1, 1), (1, 1), (2, 2), (2, 2)]


def test_what_cannot_be_told_of_code_is_named(tmp_path: Path) -> None:
    """Objects, files, modules and names that are made up leave no key; a field of the model is one."""
    module = types.ModuleType("of_somebody")
    for source, name in (
        ("T = object()\ndef reach(): return T", "reach: T: object"),
        ("def reach(): return open('f').read()", "open reaches"),
        ("def reach(): return eval('1')", "eval reaches"),
        ("def reach(): return getattr(module, 'k')", "module: the module of_somebody"),
        ("def reach():\n    import of_somebody", "reach imports of_somebody"),
        ("def reach():\n    from . import re", "reach imports"),
        ("def reach(): return module.nothing", "module.nothing is not defined"),
        ("D = []\nD.append(D)\ndef reach(): return D", "holds others too deep"),
    ):
        space = _defined(textwrap.dedent(source) + MODEL, module=module)
        with pytest.raises(ValueError, match=name):
            incremental(IngestionPipeline(transformations=[space["Model"]()]), tmp_path)

    class Holding(Lengths):
        scale: float = 1.0
        _held: Any = PrivateAttr(None)

    for scale, held, files in ((1.0, None, 1), (2.0, None, 2), (2.0, [1], 3), (2.0, [1], 3)):
        model = Holding(scale=scale)
        model._held = held
        incremental(IngestionPipeline(transformations=[model]), tmp_path / "held").run(documents=documents(["a"]))
        assert len(list((tmp_path / "held").iterdir())) == files
    model._held = object()
    with pytest.raises(ValueError, match="its _held: object can't be told"):
        incremental(IngestionPipeline(transformations=[model]), tmp_path)


def test_a_method_that_was_put_in_place_of_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vector() -> Any:
        pipeline = incremental(IngestionPipeline(transformations=[MockEmbedding(embed_dim=2)]), tmp_path)
        return pipeline.run(documents=[Document(text="a", id_="a")])[0].embedding

    assert vector() == vector() == [0.5, 0.5]
    monkeypatch.setattr(MockEmbedding, "_get_text_embedding", lambda self, text: [7.0])
    assert vector() == vector() == [7.0]


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
            assert ascii(_run(incremental(make(), tmp_path), given)) == ascii(_run(make(), given))


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


@pytest.mark.parametrize("asynchronous", [False, True])
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
        assert _run(incremental(make(), tmp_path), documents(given)) == _run(make(), documents(given))


def test_other_inputs(tmp_path: Path) -> None:
    """Images and nodes are treated as natively; classes of somebody's own make the whole run native."""

    class Mine(Document):
        pass

    def given(*more: Any) -> list[BaseNode]:
        parent = Document(text="a. " * 80, id_="parent")
        return [*splitter()([parent]), *documents(["b. " * 60]), *more]

    image = ImageDocument(text="an image", id_="i", image=b"aGk=")
    for more in ([], [image], [Mine(text="mine", id_="m")]):
        steps = [splitter(chunk_size=60), embedding_of_nobody()]
        native = visible(list(IngestionPipeline(transformations=steps).run(nodes=given(*more))))
        for _ in range(2):
            steps[1].asked.clear()
            assert _run(incremental(IngestionPipeline(transformations=steps), tmp_path), given(*more)) == native
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
    model = embedding_of_nobody()
    pipeline = incremental(IngestionPipeline(transformations=[splitter(), model, Failing()]), tmp_path)
    for asked in (True, False):
        model.asked.clear()
        with pytest.raises(LookupError, match="node 3"):
            pipeline.run(documents=documents(["One sentence. " * 300]))
        assert bool(model.asked) is asked


# -- the folder ------------------------------------------------------------------------------------------


def _key(name: object) -> bytes:
    return str(name).encode().ljust(32, b".")


def _held(folder: Folder) -> dict[bytes, Kept]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entries = folder.read()
    return {key: entries.get(key) for key in entries._places}


vectors = st.lists(st.lists(st.floats(allow_nan=False) | st.floats(width=32), max_size=3), max_size=3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 9).map(_key), st.builds(Kept, st.just("text"), vectors)), max_size=4))
def test_vectors_come_back_bit_for_bit(runs: list[dict[bytes, Kept]]) -> None:
    """Of any lengths, run after run, in small pieces; what came first stays."""
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(incremental_files, "_PIECE", 9)
        patch.setattr(incremental_files, "_ROWS", 2)
        patch.setattr(incremental_files, "_MANY", 3)
        folder = Folder(path, 1)
        expected: dict[bytes, Kept] = {}
        for run in runs:
            folder.write(folder.read(), [(key, kept) for key, kept in run.items() if key not in expected], ())
            expected = {**run, **expected}
        held = _held(folder)
        assert held.keys() == expected.keys()
        assert all(repr(held[key]) == repr(kept) for key, kept in expected.items())


def test_files_are_merged_and_old_entries_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of files is bounded; what is used stays, of vectors of any length; what is not goes."""
    now = time.time()
    folder = Folder(str(tmp_path), 30)
    for day in range(100):
        monkeypatch.setattr(time, "time", lambda day=day: now + day * DAY)
        entries = folder.read()
        used = [key for key in (_key(0), _key(1)) if key in entries]
        folder.write(entries, [(_key(day), Kept(str(day), [[float(day)] * (day % 3 + 1)]))], used)
        assert len(list(tmp_path.iterdir())) <= incremental_files._MANY + 3
    held = _held(folder)
    assert {_key(0), _key(1), *(_key(day) for day in range(80, 100))} <= held.keys()
    assert not {_key(day) for day in range(2, 30)} & held.keys()
    assert held[_key(1)] == Kept("1", [[1.0, 1.0]])


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_a_damaged_file_is_told_of_once_and_not_believed(tmp_path: Path, harm: str) -> None:
    def run() -> Any:
        pipeline = incremental(IngestionPipeline(transformations=[splitter(), Lengths()]), tmp_path)
        return _run(pipeline, documents(["One sentence. " * 30]))

    expected = run()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:middle], "changed": flipped, "empty": b""}[harm])
    with pytest.warns(UserWarning, match=r"\.arrow is damaged .* computed again"):
        assert run() == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert run() == expected


@pytest.mark.parametrize("what", ["folder", "loop", "pipe", "unreadable"])
def test_what_cannot_be_read_is_told_of_and_left_alone(tmp_path: Path, what: str) -> None:
    def run() -> Any:
        return _run(incremental(IngestionPipeline(transformations=[splitter()]), tmp_path), documents(["One."]))

    path = tmp_path / "a.arrow"
    if what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "pipe":
        os.mkfifo(path)
    elif os.geteuid() == 0:
        pytest.skip("root reads all files")
    else:
        path.touch(0)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"a\.arrow can't be read"):
            assert run() == _run(IngestionPipeline(transformations=[splitter()]), documents(["One."]))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    pipeline = incremental(IngestionPipeline(transformations=[splitter()]), tmp_path / "loop")
    with pytest.warns(UserWarning, match=r"loop can't be read"):
        assert pipeline.run(documents=documents(["One."]))


def test_an_entry_outlasts_its_last_use_though_uses_are_noted_daily(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    folder = Folder(str(tmp_path), 2)
    folder.write(folder.read(), [(_key("used"), Kept("1", []))], ())
    monkeypatch.setattr(time, "time", lambda: now + 0.9 * DAY)
    folder.write(folder.read(), [], [_key("used")])
    monkeypatch.setattr(time, "time", lambda: now + 2.5 * DAY)
    for number in range(40):
        folder.write(folder.read(), [(_key(number), Kept("1", []))], ())
    assert len(list(tmp_path.iterdir())) < 40
    assert _key("used") in _held(folder)
    monkeypatch.setattr(time, "time", lambda: now + 3.5 * DAY)
    for number in range(40, 80):
        folder.write(folder.read(), [(_key(number), Kept("1", []))], ())
    assert _key("used") not in _held(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    pipeline = incremental(IngestionPipeline(transformations=[splitter(), Lengths()]), tmp_path / "file")
    with pytest.warns(UserWarning, match="could not be kept in"):
        assert pipeline.run(documents=documents(["One sentence."]))


WRITER = """
import sys
from llama_index_aaflow import incremental_files
from llama_index_aaflow.incremental_files import Folder, Kept
incremental_files._MANY = 3
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
folder = Folder(path, 30)
for number in range(count):
    key = f"{name}{number}".encode().ljust(32, b".")
    folder.write(folder.read(), [(key, Kept("payload" * 1000, [[1.0, number + 0.1]]))], ())
    print(number, flush=True)
"""


def _writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_file_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    """Whether another process has merged it, or it was never there."""
    folder = Folder(str(tmp_path), float("inf"))
    folder.write(folder.read(), [(_key(1), Kept("1", []))], ())
    (tmp_path / "gone.arrow").symlink_to(tmp_path / "nowhere")
    assert _held(folder) == {_key(1): Kept("1", [])}


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each adds entries one by one, and merges what all have written."""
    writers = [_writer(tmp_path, name, 40) for name in "abc"]
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    held = _held(Folder(str(tmp_path), 30))
    assert held.keys() == {_key(f"{name}{number}") for name in "abc" for number in range(40)}


def test_a_killed_writer_leaves_what_was_written(tmp_path: Path) -> None:
    """Killed at any moment: whatever it had finished is there, and nothing is damaged."""
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        with _writer(folder, "a", 10_000) as writer:
            assert writer.stdout
            done = [writer.stdout.readline() for _ in range(20 + attempt)]
            time.sleep(0.0007 * attempt)
            writer.send_signal(signal.SIGKILL)
            done += writer.stdout.readlines()
        finished = {_key(f"a{number}") for number in range(len([line for line in done if line.endswith("\n")]))}
        assert finished <= _held(Folder(str(folder), 30)).keys()
