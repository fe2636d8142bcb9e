"""Runs keep order, bounds and errors, whatever the timing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aaflow_plugins import Executor, Progress
from aaflow_plugins.dataplane.batch import Batch
from aaflow_plugins.operators import Split
from aaflow_plugins.plan import Plan
from aaflow_plugins.remote import RemoteCall
from tests.core.plans import HashEmbedder, jitter, split_words, text_batch, word_plan
from tests.interrupted import lines_after_ctrl_c
from tests.observed import Gauge

TEXTS = [f"the {n} quick brown foxes of line {n * n} jump" for n in range(150)]


def drain(batches: Iterator[Any]) -> None:
    deque(batches, maxlen=0)


def run(embedder: HashEmbedder, executor: Executor, **options: Any) -> list[tuple[str, bytes]]:
    stored: list[tuple[str, bytes]] = []
    executor.run(word_plan(embedder, stored, **options), iter(TEXTS), drain)
    return stored


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, bytes]]:
    stored = run(HashEmbedder(1), Executor())
    assert [word for word, _ in stored] == [word for text in TEXTS for word in text.split()]
    return stored


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_output_is_the_same_for_any_number_of_workers_and_any_delays(
    workers: int, asynchronous: bool, expected: list[tuple[str, bytes]]
) -> None:
    for seed in range(3):
        embedder = HashEmbedder(delay=jitter(seed))
        executor = Executor(max_concurrency=workers)
        assert run(embedder, executor, asynchronous=asynchronous, jitter=jitter(seed + 10)) == expected


@pytest.mark.parametrize("processes", [1, 2])
def test_worker_processes_give_the_same_output(processes: int, expected: list[tuple[str, bytes]]) -> None:
    executor = Executor(processes=processes)
    assert run(HashEmbedder(), executor) == expected
    assert executor.report
    assert executor.report.notes == []


def test_model_calls_overlap_up_to_the_bound_and_not_beyond() -> None:
    gauge = Gauge(0.005)

    class Counting(HashEmbedder):
        def send(self, request: Any) -> Any:
            return self._answer(gauge(request))

    executor = Executor(max_concurrency=6)
    run(Counting(), executor)
    assert gauge.peak == 6
    assert executor.report
    assert executor.report.operators[2].peak_in_flight <= 12


def test_the_source_is_read_no_further_ahead_than_the_windows_allow() -> None:
    """With a stuck first request, only what fits the windows has been read from the source."""
    read = 0
    release = threading.Event()

    def source() -> Iterator[str]:
        nonlocal read
        for _ in range(10 * executor.resources.batch_rows):
            read += 1
            yield "one two three four five"

    class Stuck(HashEmbedder):
        def send(self, request: Any) -> Any:
            release.wait(10)
            return self._answer(request)

    executor = Executor(max_concurrency=2)
    threading.Timer(0.5, lambda: (seen.append(read), release.set())).start()
    seen: list[int] = []
    executor.run(word_plan(Stuck(), []), source(), drain)
    assert seen[0] <= 2 * executor.resources.batch_rows


def test_the_first_error_comes_out_as_it_was_raised_and_earlier_rows_are_stored_once() -> None:
    stored: list[tuple[str, bytes]] = []
    embedder = HashEmbedder(4, fail_at=10)
    with pytest.raises(ConnectionError, match="request 10"):
        Executor().run(word_plan(embedder, stored), iter(TEXTS), drain)
    words = [word for text in TEXTS for word in text.split()]
    assert [word for word, _ in stored] == words[: len(stored)]
    assert len(stored) == 50
    assert max(embedder.sent) < 10 + 2 * 4 + 1, "calls go on after the error"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_with_one_call_at_a_time_none_begins_after_a_failure(asynchronous: bool) -> None:
    embedder = HashEmbedder(1, fail_at=10)
    with pytest.raises(ConnectionError):
        Executor().run(word_plan(embedder, [], asynchronous=asynchronous), iter(TEXTS), drain)
    assert embedder.sent == list(range(11))


def test_an_error_in_the_source_comes_out_after_what_was_read_before_it() -> None:
    def source() -> Iterator[str]:
        yield from TEXTS[:10]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        Executor().run(word_plan(HashEmbedder(), []), source(), drain)
    assert not [t for t in threading.enumerate() if t.name.startswith("aaflow-") and t.name != "aaflow-loop"]


async def test_run_works_where_an_event_loop_is_running(expected: list[tuple[str, bytes]]) -> None:
    assert run(HashEmbedder(), Executor(), asynchronous=True) == expected


async def test_arun_leaves_the_loop_free_and_reads_asynchronous_sources(expected: list[tuple[str, bytes]]) -> None:
    async def source() -> AsyncIterator[str]:
        for text in TEXTS:
            yield text

    stored: list[tuple[str, bytes]] = []
    plan = word_plan(HashEmbedder(delay=jitter(1)), stored, asynchronous=True, jitter=jitter(2))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticker = asyncio.create_task(tick())
    await Executor().arun(plan, source(), drain)
    ticker.cancel()
    assert stored == expected
    assert ticks > 10


async def test_many_runs_on_one_loop_do_not_starve_each_other(expected: list[tuple[str, bytes]]) -> None:
    """Not even where the loop has fewer threads than there are runs."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    stores: list[list[tuple[str, bytes]]] = [[] for _ in range(6)]
    executor = Executor()
    await asyncio.gather(
        *(executor.arun(word_plan(HashEmbedder(), store, asynchronous=True), TEXTS, drain) for store in stores)
    )
    assert all(store == expected for store in stores)


async def test_cancelling_arun_stops_the_calls_in_flight() -> None:
    finished = []

    class Slow(HashEmbedder):
        async def asend(self, request: Any) -> Any:
            await asyncio.sleep(30)
            finished.append(request)

    task = asyncio.create_task(Executor().arun(word_plan(Slow(), [], asynchronous=True), TEXTS, drain))
    await asyncio.sleep(0.1)
    start = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - start < 5
    assert finished == []
    assert not [t for t in threading.enumerate() if t.name == "aaflow-run"]


def test_several_threads_share_one_executor(expected: list[tuple[str, bytes]]) -> None:
    executor = Executor()
    results: list[list[tuple[str, bytes]]] = []
    threads = [threading.Thread(target=lambda: results.append(run(HashEmbedder(), executor))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 6


def _run_in_fork(queue: Any) -> None:
    queue.put(run(HashEmbedder(), Executor(), asynchronous=True))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_runs_plans_of_its_own(expected: list[tuple[str, bytes]]) -> None:
    run(HashEmbedder(), Executor(), asynchronous=True)  # the parent's background loop exists before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_run_in_fork, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(30)
    assert child.exitcode == 0


def test_ctrl_c_ends_the_run_and_leaves_nothing_running(tmp_path: Path) -> None:
    lines = lines_after_ctrl_c(
        """
        import os, threading, time
        from aaflow_plugins import Executor
        from tests.core.plans import HashEmbedder, word_plan
        started = threading.Event()
        class Slow(HashEmbedder):
            def send(self, request):
                os.write(1, b"started\\n")
                time.sleep(0.3)
                return self._answer(request)
        stored = []
        try:
            Executor(max_concurrency=2).run(word_plan(Slow(), stored), iter(["a b c d e"] * 1000), list)
        except KeyboardInterrupt:
            # A thread that was interrupted before it began is still named by `enumerate`, and is not alive.
            left = [t.name for t in threading.enumerate() if t.is_alive() and t is not threading.main_thread()]
            print("interrupted", left, flush=True)
        """,
        tmp_path,
    )
    assert "interrupted []" in lines


class NotPicklable:
    def __call__(self, record: Any) -> Any:
        return split_words(record)

    def __reduce__(self) -> Any:
        raise TypeError("it holds a lock")


def dies(record: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def raises(record: Any) -> Any:
    raise RuntimeError("in the worker")


def warns(record: Any) -> Any:
    logging.getLogger("aaflow.test").warning("from %s", "the worker")
    return split_words(record)


def remote_plan(function: Any) -> Plan:
    load, split, *others = word_plan(HashEmbedder(), []).operators
    assert isinstance(split, Split)
    assert split.remote
    remote = RemoteCall(split.remote.pack, function, split.remote.unpack)
    return Plan([load, dataclasses.replace(split, remote=remote), *others])


@pytest.mark.parametrize(
    ("function", "note"),
    [(NotPicklable(), "it holds a lock"), (dies, "a worker process ended"), (raises, None)],
)
def test_what_a_worker_cannot_do_is_done_here_and_said(
    function: Any, note: str | None, expected: list[tuple[str, bytes]]
) -> None:
    executor = Executor(processes=2)
    words = executor.run(remote_plan(function), TEXTS, lambda bs: [w for b in bs for w in b.native("text")])
    assert words == [word for word, _ in expected]
    assert executor.report
    assert bool(note) == bool(executor.report.notes)
    assert all(note in text for text in executor.report.notes if note)


def test_text_without_a_utf8_form_is_split_here() -> None:
    texts = ["fine words", "lone \ud800 surrogate"]
    words = Executor(processes=1).run(
        Plan(remote_plan(split_words).operators[:2]), texts, lambda bs: [w for b in bs for w in b.native("text")]
    )
    assert words == ["fine", "words", "lone", "\ud800", "surrogate"]


def test_a_workers_log_records_are_logged_here(caplog: pytest.LogCaptureFixture) -> None:
    Executor(processes=1).run(remote_plan(warns), TEXTS[:3], drain)
    assert [record.getMessage() for record in caplog.records if record.name == "aaflow.test"] == ["from the worker"]


def test_the_report_counts_rows_batches_time_and_copies(tmp_path: Path) -> None:
    steps: list[Progress] = []
    executor = Executor(max_concurrency=2, progress=steps.append)
    stored = run(HashEmbedder(delay=lambda: 0.001), executor)
    report = executor.report
    assert report
    load, split, embed, upsert = report.operators
    assert (load.rows, split.rows, embed.rows, upsert.rows) == (len(TEXTS), len(stored), len(stored), len(stored))
    assert embed.busy_seconds >= 0.001 * len(stored) / 5
    assert 0 < embed.cpu_seconds < embed.busy_seconds
    assert 0 < split.cpu_seconds <= 1.1 * split.busy_seconds
    assert (load.alone, upsert.alone) == (True, True)
    assert 0 < report.model_seconds <= report.wall_seconds
    assert report.framework_share is not None
    assert 0 <= report.framework_share < 1
    assert json.loads(report.to_json())["operators"][2]["kind"] == "embed"
    assert "framework-owned share" in str(report)
    assert steps[-1] == Progress("upsert", len(stored), None)
    report.timeline(tmp_path / "timeline.json")
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert {"driver"} < {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert all(event["dur"] > 0 for event in events if event["ph"] == "X")


def test_a_slice_of_an_arrow_column_shares_its_buffer() -> None:
    batch = Batch(text_batch([]).schema, {"text": text_batch(["a", "b"]).arrow("text")}, 2)
    from aaflow_plugins.operators import slice_batch

    assert slice_batch(batch, 1, 2).native("text") == ["b"]
    assert slice_batch(batch, 1, 2).arrow("text").buffers()[2].address == batch.arrow("text").buffers()[2].address


@pytest.mark.parametrize(("concurrency", "in_the_callers"), [(1, True), (2, False)])
def test_one_model_call_at_a_time_is_made_in_the_callers_thread(concurrency: int, in_the_callers: bool) -> None:
    """As natively: a client may be bound to its thread, a SQLite cache for one."""
    threads = set()

    class Noting(HashEmbedder):
        def send(self, request: Any) -> Any:
            threads.add(threading.current_thread())
            return self._answer(request)

    executor = Executor()
    run(Noting(concurrency), executor)
    assert (threads == {threading.current_thread()}) is in_the_callers
    assert executor.report
    assert executor.report.model_seconds > 0
