"""What bounds a batch, what ends it, and which concurrent single calls are joined."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llama_index.core.async_utils import run_jobs
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks import CallbackManager
from llama_index.core.evaluation import BatchEvalRunner, FaithfulnessEvaluator
from llama_index.core.indices.vector_store import VectorIndexRetriever
from llama_index.core.query_engine import CustomQueryEngine, RetrieverQueryEngine
from llama_index.core.schema import QueryBundle

from aaflow_plugins import batching
from aaflow_plugins.executor import Executor
from llama_index_aaflow import accelerate
from tests.llama_index.query_engines import (
    EchoLLM,
    KnownEmbedding,
    ModelError,
    index,
    known_embedding,
    outcomes,
    questions,
    shown,
    vector,
)


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    with known_embedding():
        yield


def _engine(llm: EchoLLM, **settings: Any) -> Any:
    return index(embed_model=KnownEmbedding()).as_query_engine(llm=llm, **settings)


# -- the bound -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["compact", "tree_summarize", "accumulate"])
@pytest.mark.parametrize("use_async", [False, True])
async def test_calls_keep_to_the_bound_and_fill_it(mode: str, use_async: bool) -> None:
    """Calls of the model are never more than the bound in all, those of one query side by side included."""
    llm = EchoLLM(seconds=0.02, window=760)
    ours = accelerate(_engine(llm, response_mode=mode, use_async=use_async, similarity_top_k=10))
    await ours.abatch(questions(12), max_concurrency=5)
    assert llm.most == 5
    llm = EchoLLM(seconds=0.02, window=760)
    ours = accelerate(_engine(llm, response_mode=mode, use_async=use_async, similarity_top_k=10))
    ours.batch(questions(12), max_concurrency=5)
    assert llm.most == 5


async def test_calls_of_one_query_are_made_side_by_side() -> None:
    """Where there are fewer queries than slots, the calls of one query take them."""
    llm = EchoLLM(seconds=0.02, window=760)
    ours = accelerate(_engine(llm, response_mode="accumulate", use_async=True, similarity_top_k=10))
    await ours.abatch(questions(1), max_concurrency=4)
    assert llm.most == 4
    ours.batch(questions(2), max_concurrency=6)
    assert llm.most == 6


async def test_the_bound_is_the_executors_unless_the_call_has_one() -> None:
    """And 16 where neither says anything."""
    for executor, bound, expected in ((None, None, 16), (Executor(max_concurrency=3), None, 3), (None, 2, 2)):
        llm = EchoLLM(seconds=0.02)
        ours = accelerate(_engine(llm), executor=executor)
        await ours.abatch(questions(40), max_concurrency=bound)
        assert llm.most == expected


@pytest.mark.parametrize(("bound", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
async def test_a_bad_bound_is_refused_by_name(bound: Any, error: type[Exception]) -> None:
    """Before anything is run, of no queries too."""
    ours = accelerate(_engine(EchoLLM()))
    for queries in ([], questions(2)):
        with pytest.raises(error, match="max_concurrency"):
            ours.batch(queries, max_concurrency=bound)
        with pytest.raises(error, match="max_concurrency"):
            await ours.abatch(queries, max_concurrency=bound)


async def test_a_single_query_is_no_batch() -> None:
    """A string is not taken for its letters."""
    ours = accelerate(_engine(EchoLLM()))
    for query in ("What?", QueryBundle("What?")):
        with pytest.raises(TypeError, match="queries"):
            ours.batch(query)
        with pytest.raises(TypeError, match="queries"):
            await ours.retriever.abatch(query)


async def test_no_queries_have_no_answers() -> None:
    """An empty batch asks nobody."""
    ours = accelerate(_engine(EchoLLM()))
    calls = ours.retriever._embed_model.calls
    calls.clear()
    assert ours.batch([]) == await ours.abatch([]) == []
    assert not calls


async def test_the_model_never_waits_for_retrieval() -> None:
    """Later queries are embedded and searched for while all slots wait for answers to earlier ones."""
    model, llm = KnownEmbedding(), EchoLLM(seconds=60)
    ours = accelerate(index(embed_model=model).as_query_engine(llm=llm), executor=Executor(batch_size=8))
    model.calls.clear()
    task = asyncio.ensure_future(ours.abatch(questions(64), max_concurrency=8))
    for _ in range(500):
        await asyncio.sleep(0.01)
        if sum(map(len, model.calls)) >= 24 and len(llm.prompts) == 8:
            break
    assert len(llm.prompts) == 8
    assert sum(map(len, model.calls)) == 24
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- failures --------------------------------------------------------------------------------------------


async def test_the_first_of_the_failing_queries_is_raised() -> None:
    """Not what fails first in time."""
    llm = EchoLLM(seconds=0.01)
    engine = _engine(llm)
    ours = accelerate(engine)
    queries = [*questions(4), "this fails in the model, late", "unembeddable", *questions(3)]
    native = outcomes([lambda: [engine.query(query) for query in queries]])
    for bound in (1, 3, 20):
        assert outcomes([lambda bound=bound: ours.batch(queries, max_concurrency=bound)]) == native
        with pytest.raises(ModelError) as raised:
            await ours.abatch(queries, max_concurrency=bound)
        assert [shown(raised.value)] == native


async def test_what_comes_after_a_failure_is_not_begun() -> None:
    """Nor does anything run on when the error is raised."""
    llm = EchoLLM(seconds=0.01)
    ours = accelerate(_engine(llm))
    queries = ["this fails in the model", *questions(200)]
    with pytest.raises(ModelError):
        await ours.abatch(queries, max_concurrency=4)
    asked = len(llm.prompts)
    assert asked < 20
    with pytest.raises(ModelError):
        ours.batch(queries, max_concurrency=4)
    assert len(llm.prompts) < 40
    assert len(asyncio.all_tasks()) == 1


async def test_errors_take_their_place_if_asked_for() -> None:
    """One failing query neither changes nor delays the others."""
    engine = _engine(EchoLLM())
    ours = accelerate(engine)
    queries = [*questions(3), "fails in the model", *questions(2), "unembeddable"]
    native = outcomes([lambda query=query: engine.query(query) for query in queries])
    assert shown(ours.batch(queries, return_exceptions=True)) == native
    assert shown(await ours.abatch(queries, return_exceptions=True)) == native


async def test_no_query_at_all_fails_as_natively() -> None:
    """What is no query raises what it raises."""
    engine = _engine(EchoLLM())
    ours = accelerate(engine)
    for wrong in (None, 7, ["a", "b"]):
        native = outcomes([lambda wrong=wrong: engine.query(wrong)])
        assert outcomes([lambda wrong=wrong: ours.batch([wrong])[0]]) == native


async def test_a_cancelled_batch_leaves_nothing_running() -> None:
    """Every query under way sees the cancellation."""
    llm = EchoLLM(seconds=5)
    ours = accelerate(_engine(llm))
    task = asyncio.ensure_future(ours.abatch(questions(30), max_concurrency=6))
    while len(llm.prompts) < 6:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(asyncio.all_tasks()) == 1
    assert llm._in_flight == 0


def test_an_interrupt_ends_a_batch() -> None:
    """After the calls under way, and without beginning others."""
    llm = EchoLLM(seconds=0.1)
    ours = accelerate(_engine(llm))
    before = threading.active_count()
    timer = threading.Timer(0.25, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ours.batch(questions(200), max_concurrency=4)
    timer.join()
    assert len(llm.prompts) < 40
    assert threading.active_count() <= before


async def test_a_sync_batch_works_inside_a_running_loop() -> None:
    """As in a notebook: it blocks the loop, as `query` does."""
    engine = _engine(EchoLLM(window=760), response_mode="tree_summarize", use_async=True, similarity_top_k=8)
    native = outcomes([lambda query=query: engine.query(query) for query in questions(6)])
    assert shown(accelerate(engine).batch(questions(6))) == native


def test_a_stopped_iteration_is_raised_as_natively() -> None:
    """It is an error like any other."""

    class Stops(KnownEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            raise StopIteration("no more")

    ours = accelerate(index(embed_model=Stops()).as_query_engine(llm=EchoLLM()))
    with pytest.raises(StopIteration, match="no more"):
        ours.batch(questions(3))


# -- what is joined --------------------------------------------------------------------------------------


async def test_concurrent_single_queries_are_joined_in_blocks() -> None:
    """Embedded in few calls, with the answers of single ones."""
    model = KnownEmbedding(seconds=0.005)
    engine = index(embed_model=model).as_query_engine(llm=EchoLLM())
    ours = accelerate(engine)
    queries = questions(30)
    native = outcomes([lambda query=query: engine.query(query) for query in queries])
    model.calls.clear()
    await asyncio.gather(*map(ours.aquery, queries))
    assert len(model.calls) == 30
    model.calls.clear()
    with batching():
        found = await asyncio.gather(*map(ours.aquery, queries))
    assert shown(found) == native
    assert len(model.calls) < 10
    model.calls.clear()
    with batching(), ThreadPoolExecutor(30) as pool:
        assert shown(list(pool.map(ours.query, queries))) == native
    assert len(model.calls) < 20


async def test_objects_may_join_everywhere() -> None:
    """`accelerate(..., batching=True)` needs no block; one call alone is native."""
    model = KnownEmbedding(seconds=0.005)
    ours = accelerate(index(embed_model=model).as_retriever(), batching=True)
    model.calls.clear()
    alone = await ours.aretrieve("alone")
    assert model.calls == [["alone"]]
    model.calls.clear()
    queries = ["alone"] * 5 + questions(20)
    found = await asyncio.gather(*map(ours.aretrieve, queries))
    assert shown(found[:5]) == [shown(alone)] * 5
    assert len(model.calls) < 8


async def test_a_failing_joint_call_fails_nobody_else() -> None:
    """Each query has its own error or answer."""
    model = KnownEmbedding(seconds=0.005)
    retriever = index(embed_model=model).as_retriever()
    ours = accelerate(retriever)
    queries = [*questions(6), "unembeddable", *questions(3)]
    native = outcomes([lambda query=query: retriever.retrieve(query) for query in queries])
    with batching():
        found = await asyncio.gather(*map(ours.aretrieve, queries), return_exceptions=True)
    assert shown(found) == native


async def test_vectors_that_are_kept_or_counted_are_asked_for_one_by_one() -> None:
    """A cache of embeddings sees every query."""
    from llama_index.core.storage.kvstore import SimpleKVStore

    cache = SimpleKVStore()
    cache.put("kept", {"once": vector("kept")}, collection="embeddings")
    model = KnownEmbedding(embeddings_cache=cache)
    ours = accelerate(index(embed_model=model).as_retriever())
    model.calls.clear()
    await ours.abatch(["kept", *questions(8)])
    assert sorted(model.calls) == sorted([question] for question in questions(8))
    assert set(cache.get_all(collection="embeddings")) == {"kept", *questions(8)}


async def test_queries_are_embedded_as_texts_only_where_that_is_known() -> None:
    """Whatever the user says: a model may put an instruction before its queries."""

    class Instructed(BaseEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            return vector("query: " + query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return vector("query: " + query)

        def _get_text_embedding(self, text: str) -> list[float]:
            return vector("text: " + text)

    retriever = index(embed_model=Instructed()).as_retriever()
    native = outcomes([lambda query=query: retriever.retrieve(query) for query in questions(9)])
    assert shown(accelerate(retriever, batch_queries=True).batch(questions(9))) == native


# -- who uses it -----------------------------------------------------------------------------------------


async def test_evaluation_and_jobs_work_with_accelerated_engines() -> None:
    """And their queries are joined as any other."""
    model = KnownEmbedding(seconds=0.005)
    engine = index(embed_model=model).as_query_engine(llm=EchoLLM())
    ours = accelerate(engine, batching=True)
    queries = questions(10)
    evaluator = FaithfulnessEvaluator(llm=EchoLLM())
    native = await BatchEvalRunner({"faithful": evaluator}, workers=8).aevaluate_queries(engine, queries)
    model.calls.clear()
    found = await BatchEvalRunner({"faithful": evaluator}, workers=8).aevaluate_queries(ours, queries)
    assert [vars(each) for each in found["faithful"]] == [vars(each) for each in native["faithful"]]
    assert len(model.calls) < 8
    expected = await run_jobs([engine.aquery(query) for query in queries], workers=8)
    assert shown(await run_jobs([ours.aquery(query) for query in queries], workers=8)) == shown(expected)


async def test_other_engines_and_retrievers_run_natively_several_at_once() -> None:
    """Any engine has batches; a subclass keeps its own ways."""

    class Shouting(RetrieverQueryEngine):
        def _query(self, query_bundle: QueryBundle) -> Any:
            return Response(str(super()._query(query_bundle)).upper())

        async def _aquery(self, query_bundle: QueryBundle) -> Any:
            return Response(str(await super()._aquery(query_bundle)).upper())

    class Reversing(VectorIndexRetriever):
        def _get_nodes_with_embeddings(self, query_bundle_with_embeddings: QueryBundle) -> Any:
            return super()._get_nodes_with_embeddings(query_bundle_with_embeddings)[::-1]

    class Constant(BaseQueryEngine):
        def _get_prompt_modules(self) -> Any:
            return {}

        def _query(self, query_bundle: QueryBundle) -> Any:
            return Response(query_bundle.query_str[::-1])

        async def _aquery(self, query_bundle: QueryBundle) -> Any:
            return Response(query_bundle.query_str[::-1])

    over = index()
    engines = [
        Shouting.from_args(over.as_retriever(), llm=EchoLLM()),
        RetrieverQueryEngine.from_args(Reversing(over, similarity_top_k=3), llm=EchoLLM()),
        Constant(CallbackManager()),
    ]
    for engine in engines:
        native = outcomes([lambda engine=engine, query=query: engine.query(query) for query in questions(8)])
        ours = accelerate(engine)
        assert isinstance(ours, type(engine))
        assert shown(ours.batch(questions(8))) == native


async def test_what_can_not_be_seen_with_another_class_stays_as_it_is() -> None:
    """An engine that is a pydantic model, and a subclass that somebody made of an accelerated one."""

    class Custom(CustomQueryEngine):
        def custom_query(self, query_str: str) -> str:
            return query_str

    engine = Custom()
    assert accelerate(engine) is engine
    ours: Any = type(accelerate(_engine(EchoLLM())))

    class Mine(ours):
        def _query(self, query_bundle: QueryBundle) -> Any:
            return Response("mine")

    mine = Mine.from_args(index().as_retriever(), llm=EchoLLM())
    assert accelerate(mine) is mine
    assert [str(response) for response in mine.batch(["a", "b"])] == ["mine", "mine"]


async def test_an_engine_with_batches_of_its_own_keeps_them() -> None:
    """It is returned as it is."""

    class Batched(RetrieverQueryEngine):
        def batch(self, queries: Any) -> str:
            return "mine"

    engine = Batched.from_args(index().as_retriever(), llm=EchoLLM())
    assert accelerate(engine) is engine
