"""`arun` that embeds while it parses: to whatever else is on its loop it is the native one."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter, node_utils
from llama_index.core.schema import BaseNode, Document, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from aaflow_plugins.executor import Executor
from benchmarks.openai_server import Connection, Fault
from llama_index_aaflow import accelerate, incremental
from tests.llama_index.parsing_outcomes import numbered, visible
from tests.llama_index.pipelines import documents, embedding, left, ran, splitter
from tests.llama_index.tracing import spans

TEXTS = ["One sentence. " * 300] * 40
WRAPS: tuple[Callable[[Any], Any], ...] = (lambda pipeline: pipeline, accelerate)


def id_of(index: int, document: BaseNode) -> str:
    """Ids that are the same each time; when one of the last documents has its turn something else happens."""
    if document.node_id == "doc 30" and not index:
        happens[0]()
    return numbered(index, document)


happens: list[Callable[[], Any]] = [bool]


@pytest.fixture(autouse=True)
def ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gives nodes their ids by default is no function of the user's."""
    monkeypatch.setattr(node_utils, "default_id_func", id_of)


def pipeline(server: Connection, *, does: Callable[[], Any] = bool, **settings: Any) -> IngestionPipeline:
    """A pipeline in whose runs something else happens from now on when they come to one of the last documents."""
    happens[:] = [does]
    model = {name: settings.pop(name) for name in ("num_workers",) if name in settings}
    steps = [splitter(id_func=id_of), embedding(server, embed_batch_size=20, **model)]
    return IngestionPipeline(transformations=steps, **settings)


async def assert_no_task_is_left(*pipelines: IngestionPipeline) -> None:
    """Assert that nothing goes on; clients are closed, which don't outlive their loop."""
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await close(*pipelines)


async def close(*pipelines: IngestionPipeline) -> None:
    """Close the clients of pipelines, which don't outlive their loop."""
    for each in pipelines:
        client = each.transformations[1]._aclient  # type: ignore[attr-defined]
        if client is not None:
            await client.close()


def test_requests_are_out_while_it_parses(openai_server: Connection) -> None:
    """Not where the cache may know the vectors, or where somebody listens."""

    def overlaps(**settings: Any) -> bool:
        openai_server.configure()
        asked: list[int] = []

        def look() -> None:
            time.sleep(0.1)
            asked.append(openai_server.stats()["requests"])

        async def run() -> None:
            made = accelerate(pipeline(openai_server, does=look, **settings))
            await made.arun(documents=documents(TEXTS))
            await close(made)

        asyncio.run(run())
        return asked[0] > 0

    assert overlaps()
    assert overlaps(disable_cache=True)
    assert overlaps(docstore=SimpleDocumentStore(), vector_store=SimpleVectorStore())
    known = IngestionCache()
    known.put("key", [TextNode(text="another run's")])
    assert not overlaps(cache=known)
    with spans():
        assert not overlaps()


def test_bounds(openai_server: Connection) -> None:
    """As many requests at once as the model's workers, or the executor, say."""

    def most(executor: Executor | None = None, **settings: Any) -> Any:
        openai_server.configure(base_ms=30)
        made = accelerate(pipeline(openai_server, **settings), executor=executor)

        async def run() -> None:
            await made.arun(documents=documents(TEXTS))
            await close(made)

        asyncio.run(run())
        return openai_server.stats()["max_in_flight"]

    assert most(num_workers=3) == 3
    assert most(Executor(max_concurrency=2)) == 2
    assert most(Executor(max_concurrency=2), num_workers=3) == 2
    assert most(Executor(max_concurrency=3), num_workers=2) == 2
    assert most() > 3


def test_the_documents_as_they_were(openai_server: Connection) -> None:
    """Natively nothing can change them on the way."""

    async def run(wrap: Callable[[Any], Any]) -> Any:
        given = documents(TEXTS)

        async def change() -> None:
            await asyncio.sleep(0)
            for document in given:
                document.metadata["n"] = "changed"
                document.text_resource.text = "changed"  # type: ignore[union-attr]
                document.excluded_embed_metadata_keys.append("n")
            given.clear()

        made = wrap(pipeline(openai_server))
        changing = asyncio.create_task(change())
        nodes = await made.arun(documents=given)
        await changing
        await close(made)
        return visible(list(nodes)), left(made)

    native, ours = (asyncio.run(run(wrap)) for wrap in WRAPS)
    assert ours == native
    assert native[0]


def test_runs_side_by_side_share_a_cache(openai_server: Connection) -> None:
    """The second finds what the first has parsed: random ids are the same."""

    async def run(wrap: Callable[[Any], Any]) -> Any:
        cache = IngestionCache()
        steps = [SentenceSplitter(chunk_size=64, chunk_overlap=8), embedding(openai_server)]
        made = wrap(IngestionPipeline(transformations=steps, cache=cache))
        runs = await asyncio.gather(*(made.arun(documents=documents(TEXTS)) for _ in range(3)))
        entries = [len(entry["nodes"]) for entry in cache.cache.to_dict()[cache.collection].values()]
        await close(made)
        ids = [[node.node_id for node in nodes] for nodes in runs]
        return ids[0] == ids[1] == ids[2], entries, [[node.text for node in nodes] for nodes in runs]

    native, ours = (asyncio.run(run(wrap)) for wrap in WRAPS)
    assert ours == native
    assert native[0]


async def _cancelled(call: Awaitable[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


async def _timed(timeout: asyncio.Timeout, call: Awaitable[Any]) -> None:
    async with timeout:
        await call


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_cancelling_it_while_it_parses(openai_server: Connection, cached: bool, timed: bool) -> None:
    """The parser is through, and its entry is in the cache, as natively; no task is left."""
    openai_server.configure(base_ms=3000)

    async def run(wrap: Callable[[Any], Any]) -> Any:
        loop = asyncio.get_running_loop()

        timeout = asyncio.timeout(1000)

        def cancel() -> None:
            timeout.reschedule(0) if timed else task.cancel("why")

        made = wrap(
            pipeline(
                openai_server,
                does=lambda: loop.call_soon(cancel),
                disable_cache=not cached,
                docstore=SimpleDocumentStore(),
                vector_store=SimpleVectorStore(),
            )
        )
        call = made.arun(documents=documents(TEXTS))
        task = asyncio.create_task(_timed(timeout, call) if timed else call)
        with pytest.raises(TimeoutError if timed else asyncio.CancelledError):
            await task
        assert task.cancelling() == (0 if timed else 1)
        await assert_no_task_is_left(made)
        return left(made)

    native, ours = (asyncio.run(run(wrap)) for wrap in WRAPS)
    assert ours == native
    assert bool(native[1]) is cached


def test_cancelling_it_while_it_waits_for_another(openai_server: Connection) -> None:
    openai_server.configure(base_ms=3000)

    async def run(wrap: Callable[[Any], Any]) -> Any:
        first, second = (wrap(pipeline(openai_server)) for _ in range(2))
        runs = [asyncio.create_task(each.arun(documents=documents(TEXTS))) for each in (first, second)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in reversed(runs):
            task.cancel()
            await _cancelled(task)
        await assert_no_task_is_left(first, second)
        return left(first), left(second)

    native, ours = (asyncio.run(run(wrap)) for wrap in WRAPS)
    assert ours == native
    assert native[1][1]


def test_an_interrupt_while_it_parses(openai_server: Connection) -> None:
    """Ctrl-C cancels the task that `asyncio.run` was given."""
    openai_server.configure(base_ms=3000)
    seen = []
    for wrap in WRAPS:
        made = wrap(pipeline(openai_server, does=lambda: signal.raise_signal(signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(made.arun(documents=documents(TEXTS)))
        seen.append(left(made))
    assert seen[1] == seen[0]
    assert seen[0][1]


def _fail() -> None:
    raise LookupError("document 30")


@pytest.mark.parametrize("failing", ["parser", "model", "both"])
@pytest.mark.parametrize("cached", [False, True])
def test_the_first_error(openai_server: Connection, cached: bool, failing: str) -> None:
    """That of the parser, if it fails; the model's else. Requests end with the run."""
    does = bool if failing == "model" else _fail
    expected = "BadRequestError" if failing == "model" else "LookupError"

    async def run(wrap: Callable[[Any], Any]) -> Any:
        made = wrap(pipeline(openai_server, does=does, disable_cache=not cached, docstore=SimpleDocumentStore()))
        with pytest.raises(Exception, match=r"document 30|400") as caught:
            await made.arun(documents=documents(TEXTS))
        await close(made)
        return type(caught.value), str(caught.value), left(made)

    def come_to(wrap: Callable[[Any], Any]) -> Any:
        faults = [] if failing == "parser" else [Fault(list(range(1, 999)), status=400)]
        openai_server.configure(base_ms=1, faults=faults)
        return asyncio.run(run(wrap))

    native, ours = map(come_to, WRAPS)
    assert ours == native
    assert native[0].__name__ == expected


def test_no_task_is_left_behind_an_error(openai_server: Connection) -> None:
    openai_server.configure(base_ms=3000)

    async def run() -> None:
        made = accelerate(pipeline(openai_server, does=_fail))
        with pytest.raises(LookupError):
            await made.arun(documents=documents(TEXTS))
        await assert_no_task_is_left(made)

    asyncio.run(run())


def test_a_model_that_is_changed_meanwhile(openai_server: Connection) -> None:
    """Batches are those of when the parser is through."""

    async def run(wrap: Callable[[Any], Any]) -> Any:
        def change() -> None:
            model.embed_batch_size = 7

        made = wrap(pipeline(openai_server, does=change))
        model = made.transformations[1]
        nodes = await made.arun(documents=documents(TEXTS))
        await assert_no_task_is_left(made)
        return visible(list(nodes)), left(made)

    native, ours = (asyncio.run(run(wrap)) for wrap in WRAPS)
    assert ours == native


def test_incremental(openai_server: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New, known and changed documents."""
    monkeypatch.setattr(node_utils, "default_id_func", numbered)
    openai_server.configure()

    def seen(wrap: Callable[[Any], Any]) -> Any:
        model = embedding(openai_server, embed_batch_size=20, reuse_client=False)  # each run has a loop of its own
        made = wrap(IngestionPipeline(transformations=[splitter(), model], disable_cache=True))
        outcomes = []
        for given in (TEXTS, TEXTS, ["Another one. " * 300, *TEXTS[1:], "A new one. " * 300]):
            result, _, _ = ran(made, lambda pipeline, given=given: pipeline.arun(documents=documents(given)))
            outcomes.append(result)
        return outcomes

    assert seen(lambda made: incremental(made, tmp_path / "kept")) == seen(lambda made: made)


def test_nested_metadata_and_nodes_are_parsed_at_once(openai_server: Connection) -> None:
    """What isn't known to be copied in no time."""
    nested = [Document(text=TEXTS[0], id_=str(number), metadata={"a": [number]}) for number in range(9)]
    nodes = [TextNode(text=TEXTS[0], id_=str(number)) for number in range(9)]
    for given in ({"documents": nested}, {"nodes": nodes}):
        native, ours = (
            ran(wrap(pipeline(openai_server)), lambda pipeline, given=given: pipeline.arun(**given)) for wrap in WRAPS
        )
        assert ours == native


def test_an_id_func_is_given_the_documents(openai_server: Connection) -> None:
    """One of the user's may note something in them."""

    def marking(index: int, document: BaseNode) -> str:
        document.metadata["nodes"] = index + 1
        return numbered(index, document)

    async def run(wrap: Callable[[Any], Any]) -> Any:
        steps = [splitter(id_func=marking), embedding(openai_server)]
        made, given = wrap(IngestionPipeline(transformations=steps)), documents(TEXTS)
        nodes = await made.arun(documents=given)
        await close(made)
        return visible(list(nodes)), visible(given)

    native, ours = (asyncio.run(run(wrap)) for wrap in WRAPS)
    assert ours == native


def test_without_a_loop() -> None:
    """A parser alone waits for nothing."""
    call = accelerate(IngestionPipeline(transformations=[splitter()])).arun(documents=documents(TEXTS))
    with pytest.raises(StopIteration) as returned:
        call.send(None)
    assert visible(returned.value.value) == visible(splitter()(documents(TEXTS)))
