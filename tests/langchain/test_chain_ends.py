"""How batches of a chain end: by an error, cancelled, closed, by Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableLambda

from aaflow_plugins import accelerate
from tests.interrupted import lines_after_ctrl_c
from tests.langchain.rag_chain import QUESTIONS, Echo, Roots, Runs, rag


@pytest.mark.parametrize("way", ["batch", "abatch"])
@pytest.mark.parametrize("returned", [False, True])
def test_an_error_is_the_native_one_and_every_input_is_closed(way: str, returned: bool) -> None:
    results = []
    for chain in (rag(Echo(fails_on="asked 7 times")), accelerate(rag(Echo(fails_on="asked 7 times")))):
        runs = Roots() if way == "abatch" else Runs()
        config: Any = {"callbacks": [runs], "max_concurrency": 4}
        try:
            if way == "batch":
                output: Any = chain.batch(QUESTIONS[:20], config, return_exceptions=returned)
            else:
                output = asyncio.run(chain.abatch(QUESTIONS[:20], config, return_exceptions=returned))
        except LookupError as error:
            output = error
        assert not runs.open
        shown = [str(o) for o in output] if returned else str(output)
        results.append((type(output), shown, set(runs.errors) >= {"LookupError"}))
    assert results[0] == results[1]


def test_cancelling_half_way_leaves_nothing() -> None:
    model, runs = Echo(seconds=0.05), Roots()

    async def work() -> set[Any]:
        chain = accelerate(rag(model))
        task = asyncio.create_task(chain.abatch(QUESTIONS, {"max_concurrency": 8, "callbacks": [runs]}))
        while not model.calls:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(work()) == set()
    assert model.now == 0
    assert not runs.open


def test_closing_an_iterator_of_results_leaves_nothing() -> None:
    model, before = Echo(seconds=0.02), threading.active_count()
    results: Iterator[Any] = iter(accelerate(rag(model)).batch_as_completed(QUESTIONS, {"max_concurrency": 4}))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert model.calls < len(QUESTIONS)


def test_ctrl_c_as_an_iterator_of_results_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "aaflow-chain":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    model = Echo(seconds=0.02)
    with pytest.raises(KeyboardInterrupt):
        next(iter(accelerate(rag(model)).batch_as_completed(QUESTIONS, {"max_concurrency": 4})))
    assert "aaflow-chain" not in {thread.name for thread in threading.enumerate()}
    assert model.calls < len(QUESTIONS)


def test_ctrl_c_closes_every_run_and_leaves_no_thread(tmp_path: Path) -> None:
    lines = lines_after_ctrl_c(
        """
        import os, threading
        from aaflow_plugins import accelerate
        from tests.langchain.rag_chain import Echo, QUESTIONS, Runs, rag
        model, runs = Echo(seconds=0.2), Runs()
        chain = accelerate(rag(model))
        threading.Timer(0.5, os.write, (1, b"started\\n")).start()
        try:
            chain.batch(QUESTIONS, {"callbacks": [runs]})
        except KeyboardInterrupt:
            left = [t.name for t in threading.enumerate() if t.is_alive() and t is not threading.main_thread()]
            print("interrupted", left, len(runs.open), set(runs.errors), flush=True)
        """,
        tmp_path,
    )
    assert lines == ["interrupted [] 0 {'KeyboardInterrupt'}"]


@pytest.mark.parametrize("bind", [lambda retry: retry, lambda retry: retry.with_config(tags=["bound"])])
async def test_a_retry_at_the_root_does_not_retry_as_completed(bind: Any) -> None:
    """Natively a binding hands these calls on to the step within, and a retry is one."""

    def busy(value: int) -> int:
        raise ValueError(f"busy at {value}")

    def made() -> Any:
        return bind(RunnableLambda(busy).with_retry(stop_after_attempt=3, wait_exponential_jitter=False))

    inputs = [1, 2, 3, 4]
    outcomes = []
    for chain in (made(), accelerate(made())):
        tracer = Seen()
        config: Any = {"callbacks": [tracer]}
        blocking = sorted((n, repr(out)) for n, out in chain.batch_as_completed(inputs, config, return_exceptions=True))
        awaited = [(n, repr(out)) async for n, out in chain.abatch_as_completed(inputs, config, return_exceptions=True)]
        outcomes.append((blocking, sorted(awaited), sorted(tracer.names)))
    assert outcomes[1] == outcomes[0]


class Seen(BaseCallbackHandler):
    """The names of all runs."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_chain_start(self, serialized: Any, inputs: Any, *, name: str = "", **kwargs: Any) -> None:
        self.names.append(name)


async def test_a_step_that_is_cancelled_ends_all_as_completed() -> None:
    async def cancelled(value: int) -> int:
        if value == 2:
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task
        return value

    async def same(value: int) -> int:
        return value

    chain = accelerate(RunnableLambda(cancelled) | RunnableLambda(same))

    async def all_of_them() -> None:
        async for _ in chain.abatch_as_completed([1, 2, 3, 4], return_exceptions=True):
            pass

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(all_of_them(), 30)
