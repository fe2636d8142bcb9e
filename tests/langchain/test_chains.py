"""Batches of a chain: what is joined, bounded, kept in order."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough, RunnableSequence
from langchain_core.vectorstores import InMemoryVectorStore

from aaflow_plugins import Executor, Progress, accelerate
from aaflow_plugins.plugins import load_for
from tests.langchain.rag_chain import QUESTIONS, Counting, Echo, Runs, rag


@pytest.mark.parametrize("handlers", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 5])
def test_outputs_are_native(limit: int | None, handlers: bool) -> None:
    """All four calls give what the native ones give, with a handler attached and without."""
    native, fast = rag(Echo()), accelerate(rag(Echo()))
    questions = QUESTIONS[:70]
    expected = native.batch(questions)
    runs = Runs()
    config: Any = {"max_concurrency": limit, "callbacks": [runs] if handlers else None}
    assert fast.batch(questions, config) == expected
    assert asyncio.run(fast.abatch(questions, config)) == expected
    assert [output for _, output in sorted(fast.batch_as_completed(questions, config))] == expected

    async def completed() -> list[tuple[int, Any]]:
        return [ended async for ended in fast.abatch_as_completed(questions, config)]

    assert [output for _, output in sorted(asyncio.run(completed()))] == expected
    assert not runs.open
    assert runs.started == (4 * 70 * 9 if handlers else 0)


def test_the_rest_is_native() -> None:
    chain = rag(Echo())
    fast = accelerate(chain)
    assert isinstance(fast, RunnableSequence)
    assert type(fast).__name__ == "RunnableSequence"
    assert type(fast).invoke is RunnableSequence.invoke
    assert type(fast).astream_events is RunnableSequence.astream_events
    assert fast.get_graph().draw_mermaid() == chain.get_graph().draw_mermaid()
    assert list(fast.stream(QUESTIONS[0])) == list(chain.stream(QUESTIONS[0]))
    assert type(chain) is RunnableSequence


def test_it_can_be_pickled() -> None:
    fast = accelerate(ChatPromptTemplate.from_template("{text}") | StrOutputParser() | RunnablePassthrough())
    again = pickle.loads(pickle.dumps(fast))
    assert type(again) is type(fast)
    inputs = [{"text": str(number)} for number in range(5)]
    with pytest.raises(Exception, match="validation error"):  # the parser is given a prompt, natively too
        again.batch(inputs)


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_queries_are_embedded_together_if_the_user_says_so(way: str) -> None:
    embeddings, native = Counting(), rag(Echo(), Counting())
    fast = accelerate(rag(Echo(), embeddings), batch_queries=True)
    embeddings.sizes.clear()
    outputs = fast.batch(QUESTIONS) if way == "batch" else asyncio.run(fast.abatch(QUESTIONS))
    assert embeddings.sizes == [16, 16, 16, 16, 64, 22]
    assert outputs == native.batch(QUESTIONS)


def test_queries_of_unknown_embeddings_are_embedded_one_by_one() -> None:
    embeddings = Counting()
    fast = accelerate(rag(Echo(), embeddings))
    embeddings.sizes.clear()
    fast.batch(QUESTIONS[:20])
    assert embeddings.sizes == [1] * 20


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_the_bound_is_on_all_calls_of_a_batch_together(way: str) -> None:
    model = Echo(seconds=0.005)
    chain = accelerate({"a": model, "b": model, "c": {"d": model, "e": model}} | RunnableLambda(len) | str)
    config: Any = {"max_concurrency": 3}
    outputs = chain.batch(QUESTIONS[:9], config) if way == "batch" else asyncio.run(chain.abatch(QUESTIONS[:9], config))
    assert outputs == ["3"] * 9
    assert model.peak == 3


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_an_input_does_not_wait_for_the_others(way: str) -> None:
    """The first input's first step ends only after another input has been through all steps."""
    through = threading.Event()

    def first(number: int) -> int:
        if number == 0:
            assert through.wait(10), "the other inputs wait for this one"
        return number

    def second(number: int) -> int:
        through.set()
        return number

    chain = accelerate(RunnableLambda(first) | RunnableLambda(second))
    numbers = list(range(5))
    assert (chain.batch(numbers) if way == "batch" else asyncio.run(chain.abatch(numbers))) == numbers


def test_few_inputs_run_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    native = RunnableSequence.batch
    monkeypatch.setattr(RunnableSequence, "batch", lambda *a, **k: calls.append(len(a[1])) or native(*a, **k))
    fast = accelerate(rag(Echo()))
    fast.batch(QUESTIONS[:1])
    fast.batch(QUESTIONS[:2])
    assert calls[0] == 1
    assert 2 in calls


def test_a_counting_function_sees_the_inputs_in_order() -> None:
    seen: list[str] = []

    def note(text: str) -> int:
        seen.append(text)
        return len(seen)

    def slow(number: str) -> str:
        time.sleep(0.001 * (3 - int(number) % 4))
        return number

    inputs = [str(number) for number in range(24)]
    chain = accelerate(RunnableLambda(slow) | RunnableLambda(note) | str)
    assert chain.batch(inputs, {"max_concurrency": 1}) == [str(number + 1) for number in range(24)]
    assert seen == inputs


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_ten_thousand_inputs_hold_a_bounded_number_of_them(way: str) -> None:
    begun = ended = peak = 0

    def first(number: int) -> int:
        nonlocal begun, peak
        begun += 1
        peak = max(peak, begun - ended)
        return number

    def last(number: int) -> int:
        nonlocal ended
        ended += 1
        return number

    from langchain_aaflow import any_order

    chain = accelerate(RunnableLambda(any_order(first)) | RunnableLambda(any_order(last)))
    inputs, config = list(range(10_000)), {"max_concurrency": 4}
    outputs = chain.batch(inputs, config) if way == "batch" else asyncio.run(chain.abatch(inputs, config))  # type: ignore[arg-type]
    assert outputs == inputs
    assert peak <= 4 + 2 * 64 + 4


def test_batch_works_where_a_loop_runs() -> None:
    async def work() -> list[str]:
        return accelerate(rag(Echo())).batch(QUESTIONS[:10])

    assert asyncio.run(work()) == rag(Echo()).batch(QUESTIONS[:10])


def test_progress_and_report() -> None:
    steps: list[Progress] = []
    executor = Executor(progress=steps.append)
    accelerate(rag(Echo()), executor=executor).batch(QUESTIONS)
    assert [step.rows for step in steps] == list(range(1, 151))
    assert {(step.operator, step.total) for step in steps} == {("inputs", 150)}
    assert executor.report is not None
    assert [op.rows for op in executor.report.operators] == [150] * 5
    model = executor.report.operators[3]
    assert model.name == "generate Echo"
    assert model.busy_seconds >= 150 * 0.002


def test_the_executor_bounds_what_the_config_does_not() -> None:
    model = Echo()
    accelerate(rag(model), executor=Executor(max_concurrency=2)).batch(QUESTIONS[:30])
    assert model.peak == 2


def test_each_alternative_answers_for_itself() -> None:
    """Steps that are made anew for an input must not be taken for each other."""
    field = ConfigurableField(id="which")
    first = RunnablePassthrough().configurable_alternatives(field, default_key="none", model=Echo())
    second = Echo().configurable_alternatives(
        ConfigurableField(id="other"), default_key="echo", picky=Echo(fails_on="asked 3")
    )
    chain = first | RunnableLambda(lambda value: getattr(value, "content", value)) | second
    configs: Any = [
        {"configurable": {"which": ("none", "model")[n % 2], "other": ("echo", "picky")[n // 2 % 2]}}
        for n in range(len(QUESTIONS))
    ]
    expected = chain.batch(QUESTIONS, configs, return_exceptions=True)
    for _ in range(3):
        assert list(map(str, accelerate(chain).batch(QUESTIONS, configs, return_exceptions=True))) == list(
            map(str, expected)
        )


def test_explain_says_what_runs_natively_and_why() -> None:
    chain = rag(Echo()) | RunnableLambda(lambda text, config: text)
    text = load_for(chain).aaflow_plan(obj=chain).explain()
    assert "retrieve VectorStoreRetriever, queries embedded and searched together" in text
    assert "natively: its function is given its run's configuration" in text


IDENTITY = RunnableLambda(lambda value: value)


def same(make: Any, inputs: list[Any], **kwargs: Any) -> Any:
    """What native and accelerated `batch` and `abatch` give alike."""
    expected = make().batch(inputs, **kwargs)
    fast = accelerate(make())
    assert fast.batch(inputs, **kwargs) == expected
    assert asyncio.run(fast.abatch(inputs, **kwargs)) == expected
    return expected


def test_functions_are_below_a_run_though_nobody_sees_it() -> None:
    """Code that looks for its run finds one, listened to or not."""
    from langchain_core.callbacks import dispatch_custom_event
    from langchain_core.runnables import ensure_config

    def tell(value: int) -> int:
        dispatch_custom_event("seen", value)
        assert ensure_config()["callbacks"].parent_run_id is not None
        return value

    assert same(lambda: IDENTITY | RunnableLambda(tell), [1, 2, 3]) == [1, 2, 3]


def test_handlers_of_a_model_itself_are_told_the_run_above() -> None:
    parents: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, parent_run_id: Any = None, tags: Any = None, **__: Any) -> None:
            parents.append((parent_run_id is not None, tags))

    chain = IDENTITY | Echo(callbacks=[Listener()])
    accelerate(chain).batch(["a", "b", "c"])
    assert parents == [(True, ["seq:step:2"])] * 3


def test_a_runnable_that_is_looked_up_is_invoked() -> None:
    from operator import itemgetter

    inputs = [{"chosen": RunnableLambda(lambda given: sorted(given))}] * 4
    assert same(lambda: IDENTITY | itemgetter("chosen"), inputs) == [["chosen"]] * 4


def test_a_bound_function_may_return_a_runnable() -> None:
    """The configuration of a binding need not have every key."""
    doubled = RunnableLambda(lambda value: RunnableLambda(lambda given: 2 * given))
    assert same(lambda: IDENTITY | doubled.with_config(configurable={"a": 1}), [1, 2, 3]) == [2, 4, 6]


def test_steps_side_by_side_take_no_longer_than_natively() -> None:
    """Without a bound, LangChain's own is on inputs: their calls side by side all go on."""
    peak = Echo(seconds=0.05)
    accelerate({"a": peak, "b": peak, "c": peak} | RunnableLambda(len)).batch(QUESTIONS[:12])
    native = Echo(seconds=0.05)
    ({"a": native, "b": native, "c": native} | RunnableLambda(len)).batch(QUESTIONS[:12])
    assert peak.peak >= native.peak - 3


def test_first_results_come_first() -> None:
    """A bounded batch brings what has begun to its end before it begins more."""
    begun: list[int] = []

    def first(number: int) -> int:
        begun.append(number)
        time.sleep(0.002)
        return number

    from langchain_aaflow import any_order

    chain = accelerate(RunnableLambda(any_order(first)) | RunnableLambda(any_order(lambda number: number)))
    next(iter(chain.batch_as_completed(list(range(100)), {"max_concurrency": 2})))
    assert len(begun) < 10


def test_slow_asynchronous_handlers_of_roots_are_told_at_once() -> None:
    from langchain_core.callbacks import AsyncCallbackHandler

    class Slow(AsyncCallbackHandler):
        now = peak = 0

        async def on_chain_start(self, *_: Any, **__: Any) -> None:
            Slow.now += 1
            Slow.peak = max(Slow.peak, Slow.now)
            await asyncio.sleep(0.01)
            Slow.now -= 1

    asyncio.run(accelerate(IDENTITY | IDENTITY).abatch(list(range(40)), {"callbacks": [Slow()]}))
    assert Slow.peak >= 40


def test_fallbacks_are_accelerated_by_themselves() -> None:
    embeddings = Counting()
    wrapped = rag(Echo(), embeddings).with_fallbacks([IDENTITY])
    embeddings.sizes.clear()
    fast = accelerate(wrapped, batch_queries=True)
    assert type(fast).__name__ == type(wrapped).__name__
    assert fast.batch(QUESTIONS[:70]) == rag(Echo()).batch(QUESTIONS[:70])
    assert embeddings.sizes == [16, 16, 16, 16, 6]


def test_what_is_marked_in_order_goes_one_by_one() -> None:
    from langchain_aaflow import in_order

    seen: list[str] = []

    @in_order
    def number(text: str) -> int:
        seen.append(text)
        time.sleep(0.0005)
        return len(seen)

    chain = accelerate(IDENTITY | RunnableLambda(number) | IDENTITY)
    for _ in range(3):
        seen.clear()
        assert chain.batch(QUESTIONS[:60], {"max_concurrency": 16}) == list(range(1, 61))
        seen.clear()
        assert asyncio.run(chain.abatch(QUESTIONS[:60])) == list(range(1, 61))


def test_a_variable_that_is_given_another_store_is_left_alone() -> None:
    def build() -> tuple[Any, Any]:
        store = InMemoryVectorStore.from_texts(["old"], DeterministicFakeEmbedding(size=8))

        def found(query: str) -> str:
            return store.similarity_search(query, k=1)[0].page_content

        def reload() -> None:
            nonlocal store
            store = InMemoryVectorStore.from_texts(["new"], DeterministicFakeEmbedding(size=8))

        return RunnableLambda(found) | str, reload

    chain, reload = build()
    fast = accelerate(chain, batching=True)
    assert fast.invoke("which?") == "old"
    reload()
    assert fast.invoke("which?") == "new"
