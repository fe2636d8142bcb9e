"""`num_workers`: the same as worker processes give, in this process where the transformations are known."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import BaseNode, Document, TransformComponent
from llama_index.core.storage.docstore import SimpleDocumentStore

from benchmarks.openai_server import Connection
from llama_index_aaflow import accelerate
from tests.llama_index.parsing_outcomes import visible
from tests.llama_index.pipelines import Shouting, documents, embedding, left, ran, splitter
from tests.llama_index.tracing import spans

TEXTS = ["One sentence. " * 60, "Two of them. " * 40, "", "short", "third " * 80]


class Remembering(TransformComponent):
    """A transformation that changes itself."""

    count: int = 0

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        self.count += 1
        for node in nodes:
            node.metadata["count"] = self.count
        return nodes


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", started)


@pytest.mark.parametrize("asynchronous", [pytest.param(False, marks=pytest.mark.at_length), True])
def test_worker_processes(openai_server: Connection, asynchronous: bool) -> None:
    """The same nodes in the same order, the same cache, the given documents as they were: as native processes do."""

    def make(steps: Any) -> IngestionPipeline:
        return IngestionPipeline(transformations=steps, docstore=SimpleDocumentStore())

    def seen(accelerated: bool, steps: Any) -> Any:
        given = documents(TEXTS)
        pipeline = accelerate(make(steps)) if accelerated else make(steps)
        method = pipeline.arun if asynchronous else pipeline.run
        openai_server.configure(record=True)
        outcome = ran(pipeline, lambda _: method(documents=given, num_workers=2))
        again = ran(pipeline, lambda _: method(documents=documents(["more " * 90] * 2), num_workers=2))
        return outcome, again, visible(given), sorted(openai_server.bodies()), left(pipeline)

    cases = [
        lambda: [splitter(), embedding(openai_server, embed_batch_size=5)],
        lambda: [embedding(openai_server, embed_batch_size=2)],
        lambda: [splitter(), Remembering(), embedding(openai_server, embed_batch_size=5)],
    ]
    for steps in cases if asynchronous else cases[:1]:  # natively a blocking run starts two interpreters
        assert seen(True, steps()) == seen(False, steps())


@pytest.mark.usefixtures("no_processes")
def test_known_transformations_run_here(openai_server: Connection) -> None:
    def make() -> IngestionPipeline:
        return accelerate(IngestionPipeline(transformations=[splitter(), embedding(openai_server)]))

    given, pipeline = documents(TEXTS), make()
    nodes = pipeline.run(documents=given, num_workers=2)
    assert visible(asyncio.run(make().arun(documents=given, num_workers=2))) == visible(nodes)
    assert accelerate(IngestionPipeline(transformations=[splitter()])).run(documents=[], num_workers=2) == []
    with pytest.raises(AssertionError, match="a process was started"):
        accelerate(IngestionPipeline(transformations=[splitter(), Shouting()])).run(documents=given, num_workers=2)
    with spans(), pytest.raises(AssertionError, match="a process was started"):
        pipeline.run(documents=documents(["other"]), num_workers=2)


@pytest.mark.usefixtures("no_processes")
def test_nothing_but_results_comes_back(openai_server: Connection) -> None:
    """Batches work on copies: the given nodes have no embeddings, and the model no client."""
    model = embedding(openai_server)
    given: list[Any] = [Document(text=text, id_=text) for text in ("a", "b", "c")]
    nodes = accelerate(IngestionPipeline(transformations=[model])).run(nodes=given, num_workers=2)
    assert [node.embedding for node in given] == [None] * 3
    assert all(node.embedding for node in nodes)
    assert model._client is None


@pytest.mark.usefixtures("no_processes")
def test_errors(openai_server: Connection) -> None:
    """What a batch raises is raised, what can't be pickled is refused, and too many workers are warned of."""
    broken = splitter(chunk_size=3, chunk_overlap=0)
    with pytest.raises(ValueError, match="Metadata length"):
        accelerate(IngestionPipeline(transformations=[broken])).run(documents=documents(TEXTS), num_workers=2)
    with pytest.raises(ValueError, match="Metadata length"):
        asyncio.run(
            accelerate(IngestionPipeline(transformations=[broken])).arun(documents=documents(TEXTS), num_workers=2)
        )
    unpicklable = splitter(id_func=lambda index, document: f"{document.node_id}-{index}")
    nodes = accelerate(IngestionPipeline(transformations=[unpicklable])).run(documents=documents(TEXTS), num_workers=2)
    assert nodes[0].node_id != "doc 0-0"  # natively the function is lost on the way to a process, with a warning
    document = Document(text="a", metadata={"lock": pickle.Pickler})
    with pytest.warns(UserWarning, match="num_workers"):
        accelerate(IngestionPipeline(transformations=[splitter()])).run(documents=[document], num_workers=1000)
