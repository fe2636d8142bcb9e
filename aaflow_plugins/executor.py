"""Runs a schedule on this process: bounded stages, work side by side, results in input order.

One driving thread pulls batches through the stages. CPU stages run in it (Python code holds the interpreter lock
anyway), and model calls that go one at a time; calls that go side by side run in pool threads or on an event loop;
split work may run in worker processes. A concurrent stage pulls ahead until its window is full, then hands on its
oldest result: order is kept, nothing is unbounded, and no stage waits for another to finish.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from aaflow_plugins.background import background_loop
from aaflow_plugins.clock import Clock
from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.engines.tasks import TaskPool
from aaflow_plugins.interrupts import interrupts_put_off, result_of
from aaflow_plugins.operators import Embed, Load, MapStage, Operator, Resource, Split, Stage, StoppedError, StreamStage
from aaflow_plugins.plan import Plan
from aaflow_plugins.progress import Progress, ProgressCallback
from aaflow_plugins.remote import RemoteCall
from aaflow_plugins.report import OperatorReport, Report
from aaflow_plugins.scheduler import Resources, Schedule, Sizes, Step, batches, check_count, schedule
from aaflow_plugins.shards import share_of
from aaflow_plugins.threads import await_threads
from aaflow_plugins.worker import RemoteStage, unpicklable

T = TypeVar("T")
_END: Any = object()
_GATHER: Final = ("root", "all", "shards")
_runs = itertools.count(1)


class Executor:
    """Runs plans. Holds settings only: one executor may serve many threads at once.

    Attributes:
        resources: What a run may use.
        batch_size: Texts a model call, for embedders without a grouping of their own; None keeps the native one.
        progress: Called in the driving thread whenever an operator has handed a batch on.
        engine: Whose ranks take part.
        gather: Where the results of several ranks are.
        partitioned: Whether each rank brings documents of its own.
        report: The report of the run that ended last, or None.
    """

    def __init__(
        self,
        *,
        max_concurrency: int | None = None,
        batch_size: int | None = None,
        processes: int = 0,
        memory_limit: int = Resources.memory_limit,
        progress: ProgressCallback | None = None,
        engine: str = "auto",
        gather: str = "root",
        partitioned: bool = False,
    ) -> None:
        """Set up; nothing is started.

        Args:
            max_concurrency: Model calls in flight. None: each embedder's own default (16 for hosted clients that
                are known to be safe, 1 for what is not known).
            batch_size: Texts a model call for an embeddings class that is not known to us. None: the native
                composition, which is all texts in one call for a list of documents, and 1,000 for an iterator.
            processes: Worker processes for splitting. 0: split in this process.
            memory_limit: Bytes in flight between source and store, predicted.
            progress: Progress callback.
            engine: "local": this process by itself. "mpi": all ranks of the job that `mpirun`, `srun` or
                `aaflow launch` has started; each makes the same calls. "cylon": the same, with Cylon to shuffle rows
                where it passes a check. "auto": "mpi" in a job of several ranks, else "local". Or the name of an
                engine that a plug-in brings.
            gather: Where the results of an ingestion on several ranks are. "root": at rank 0, which leads. "all": each
                rank has them all. "shards": each rank keeps those of its own block of the documents.
            partitioned: Whether the documents are spread already, each rank being given its own; else all ranks are
                given the same. Not for "root".

        Raises:
            TypeError: If a number is not an int, `progress` no function, or `partitioned` no bool; the message names
                the argument.
            ValueError: If a number is out of range, or `gather` not known; the message names the argument.
        """
        if batch_size is not None:
            check_count("batch_size", batch_size, 1)
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be a function that is given a Progress, not {progress!r}")
        self.resources = Resources(max_concurrency=max_concurrency, processes=processes, memory_limit=memory_limit)
        self.batch_size = batch_size
        self.progress = progress
        self.engine = engine
        if gather not in _GATHER:
            raise ValueError(f"gather must be one of {', '.join(map(repr, _GATHER))}, not {gather!r}")
        if not isinstance(partitioned, bool):
            raise TypeError(f"partitioned must be True or False, not {partitioned!r}")
        if partitioned and gather == "root":
            raise ValueError("partitioned: rank 0, which leads, has all documents; give gather='shards' or 'all'")
        self.gather = gather
        self.partitioned = partitioned
        self.report: Report | None = None

    def __repr__(self) -> str:
        return f"Executor({self.resources}, batch_size={self.batch_size})"

    def __getstate__(self) -> dict[str, Any]:
        # A callback or a report of a past run need not be picklable, and has no meaning elsewhere.
        return {**self.__dict__, "progress": None, "report": None}

    def of_rank(self, ranks: Communicator) -> Executor:
        """What this executor's settings mean for one rank: its share of the model calls in flight, and no other rank.

        Its report is not this one's.
        """
        own = copy.copy(self)
        bound = self.resources.max_concurrency
        own.resources = replace(self.resources, max_concurrency=bound and share_of(bound, ranks))
        own.engine, own.gather, own.partitioned = "local", "root", False
        return own

    def schedule(self, plan: Plan, sizes: Sizes | None = None) -> Schedule:
        """The schedule that `run` would follow."""
        return self._schedule(plan, sizes, None)

    def _schedule(self, plan: Plan, sizes: Sizes | None, pool: TaskPool | None) -> Schedule:
        resources = replace(self.resources, tasks=pool.slots) if pool else self.resources
        return schedule(plan, sizes or Sizes(), resources)

    def run(
        self,
        plan: Plan,
        source: Iterable[Any],
        consume: Callable[[Iterator[Any]], T],
        *,
        sizes: Sizes | None = None,
        total: int | None = None,
        progress: ProgressCallback | None = None,
        pool: TaskPool | None = None,
    ) -> T:
        """Run `plan` over `source` and give `consume` the iterator of outgoing batches.

        Works with or without an event loop in the calling thread, and from several threads at once.

        Args:
            plan: The plan; its first operator is a `Load`.
            source: The items to load, read lazily and once.
            consume: Called in this thread with the batches in input order; its result is returned.
            sizes: What is known of the source.
            total: Items in the source, for progress; None if not known.
            progress: Called instead of the executor's own callback.
            pool: Other ranks, which serve the same plan.

        Raises:
            BaseException: What an operator or the source raised, as it was raised, earliest item first. Work that
                is under way is awaited, work that has not begun is dropped, and nothing is left running.
        """
        return _Run(self, plan, self._schedule(plan, sizes, pool), total, progress, None, pool).drive(source, consume)

    async def arun(
        self,
        plan: Plan,
        source: Iterable[Any] | AsyncIterable[Any],
        consume: Callable[[Iterator[Any]], T],
        *,
        sizes: Sizes | None = None,
        total: int | None = None,
        progress: ProgressCallback | None = None,
        pool: TaskPool | None = None,
    ) -> T:
        """Like `run`, with asynchronous stages and sources on the running loop, which is never blocked.

        A thread of its own drives the run, so that many runs on one loop cannot starve its default executor.
        Cancelling the awaiting task cancels the calls in flight and returns once nothing is left running.
        """
        loop = asyncio.get_running_loop()
        run = _Run(self, plan, self._schedule(plan, sizes, pool), total, progress, loop, pool)
        if isinstance(source, AsyncIterable):
            source = run.bridge(source)
        result: Future[T] = Future()
        context = contextvars.copy_context()

        def drive() -> None:
            try:
                result.set_result(context.run(run.drive, source, consume))
            except StopIteration as error:
                # No future takes it; a coroutine that lets one out raises this.
                stopped = RuntimeError("coroutine raised StopIteration")
                stopped.__cause__ = error
                result.set_exception(stopped)
            except BaseException as error:
                result.set_exception(error)

        driver = threading.Thread(target=drive, name="aaflow-run", daemon=True)
        driver.start()
        waiter = asyncio.wrap_future(result)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            run.cancel()
            await asyncio.wait([waiter])
            if not waiter.cancelled():
                waiter.exception()  # retrieved: the cancellation is what the caller hears of
            raise
        finally:
            if waiter.done():
                driver.join()  # it has said so as the last thing it does


class _Run:
    """One run of one plan: its clocks, pools and calls in flight."""

    def __init__(
        self,
        executor: Executor,
        plan: Plan,
        steps: Schedule,
        total: int | None,
        progress: ProgressCallback | None,
        loop: asyncio.AbstractEventLoop | None,
        pool: TaskPool | None = None,
    ) -> None:
        self._executor = executor
        self._plan = plan
        self._schedule = steps
        self._total = total
        self._progress = progress or executor.progress
        self._loop = loop
        self._pool = pool
        self._report = Report(
            [OperatorReport(op.kind, op.name, op.native, alone=op.elsewhere is None) for op in plan.operators],
            fingerprint=plan.fingerprint(),
            in_flight_bytes=steps.in_flight_bytes,
        )
        self._clock = Clock(self._report)
        self._thread_names = f"aaflow-{next(_runs)}-"
        self._pools: list[ThreadPoolExecutor] = []
        self._closers: list[Callable[[], None]] = []
        self._in_flight: set[Future[Any]] = set()
        self._lock = threading.Lock()
        self._cancelled = False

    def drive(self, source: Iterable[Any], consume: Callable[[Iterator[Any]], T]) -> T:
        cpu = time.process_time()
        try:
            return consume(self._pipeline(source))
        except StoppedError as stopped:
            raise stopped.error from None
        finally:
            self._shut_down()
            self._clock.stop()
            self._report.cpu_seconds = time.process_time() - cpu
            self._executor.report = self._report

    def cancel(self) -> None:
        """Stop as soon as possible; called from another thread."""
        with self._lock:
            self._cancelled = True
            in_flight = list(self._in_flight)
        for future in in_flight:
            future.cancel()

    def bridge(self, source: AsyncIterable[Any]) -> Iterator[Any]:
        """Read an asynchronous source on the run's loop, item by item."""
        iterator = source.__aiter__()

        async def step() -> Any:
            return await anext(iterator, _END)

        while (item := result_of(self._on_loop(step()))) is not _END:
            yield item

    # -- the pipeline ------------------------------------------------------------------------------------

    def _pipeline(self, source: Iterable[Any]) -> Iterator[Any]:
        load, *others = self._plan.operators
        if not isinstance(load, Load):
            raise TypeError(f"a plan that runs begins with a Load, not {load.kind} {load.name}")
        steps = self._schedule
        groups = batches(self._until_cancelled(source), load.size_of, steps.batch_rows, steps.batch_bytes)
        stream: Iterator[Any] = self._clock.timed(map(load.batch_of, groups), 0)
        stream = self._counted(stream, 0)
        for index, operator in enumerate(others, 1):
            step = steps.steps[index]
            for stage in self._stages(operator, step, index):
                stream = self._stage(stage, step, index, stream)
            stream = self._counted(stream, index)
        return stream

    def _until_cancelled(self, source: Iterable[Any]) -> Iterator[Any]:
        for item in source:
            yield item
            if self._cancelled:
                raise CancelledError

    def _stages(self, operator: Operator, step: Step, index: int) -> Iterable[Stage]:
        if step.resource is Resource.RANK and self._pool is not None and operator.elsewhere is not None:
            assert isinstance(operator, Split | Embed)
            return operator.stages(partial(self._on_ranks, self._pool, step, index, operator.elsewhere))
        if step.resource is not Resource.PROCESS or not isinstance(operator, Split) or not operator.remote:
            if isinstance(operator, Split) and self._executor.resources.processes:
                why = "it is not known to do the same in another process"
                self._report.notes.append(f"{operator.kind} {operator.name} runs in this process: {why}")
            return operator.stages()
        reason = unpicklable(operator.remote.function)
        if reason:
            self._report.notes.append(f"{operator.kind} {operator.name} runs in this process: {reason}")
            return operator.stages()
        remote = RemoteStage(operator, step.slots, self._report.notes)
        self._closers.append(remote.close)
        return [MapStage(remote.call)]

    def _stage(self, stage: Stage, step: Step, index: int, stream: Iterator[Any]) -> Iterator[Any]:
        if isinstance(stage, StreamStage):
            return self._clock.timed(stage.run(stream), index)
        if step.resource is Resource.CPU:
            return self._clock.timed(self._one_by_one(stage, index, stream), index)
        return self._clock.timed(self._side_by_side(stage, step, index, stream), index)

    def _one_by_one(self, stage: MapStage, index: int, stream: Iterator[Any]) -> Iterator[Any]:
        """Make one call after the other in the driving thread."""
        report = self._report.operators[index]
        for item in stream:
            report.peak_in_flight = 1
            yield self._called_here(stage.call, item, report.kind, stage.model)

    def _side_by_side(self, stage: MapStage, step: Step, index: int, stream: Iterator[Any]) -> Iterator[Any]:
        """Keep `step.slots` calls going over a window of `step.window` items; hand results on in order."""
        submit = self._submitter(stage, step, index)
        report = self._report.operators[index]
        window: deque[Future[Any]] = deque()
        exhausted = False
        failure: Exception | None = None
        while True:
            while not exhausted and len(window) < step.window and not _any_failed(window):
                try:
                    item = next(stream, _END)
                except Exception as error:
                    # What came before the failing item still goes all the way: where a run stops depends on
                    # the data, not on how far a later stage happened to be.
                    if self._cancelled:
                        raise
                    failure, item = error, _END
                if item is _END:
                    exhausted = True
                else:
                    with interrupts_put_off():
                        window.append(submit(item))
                    report.peak_in_flight = max(report.peak_in_flight, len(window))
            if not window:
                if failure:
                    raise failure
                return
            head = window.popleft()
            with self._clock.waiting(index):
                try:
                    result = result_of(head)
                except StopIteration as error:
                    raise StoppedError(error) from error
            yield result

    def _on_ranks(
        self,
        pool: TaskPool,
        step: Step,
        index: int,
        elsewhere: RemoteCall,
        call: Callable[[Any], Any],
        stream: Iterator[Any],
    ) -> Iterator[Any]:
        """Have all ranks make the calls, this one in the driving thread while it has nothing else to do."""
        report, model = self._report.operators[index], isinstance(self._plan.operators[index], Embed)
        under_way = 0

        def read() -> Iterator[Any]:
            nonlocal under_way
            for item in stream:
                under_way += 1
                report.peak_in_flight = max(report.peak_in_flight, under_way)
                yield item

        def here(item: Any) -> Any:
            return self._called_here(call, item, report.kind, model)

        @contextmanager
        def waiting() -> Iterator[None]:
            with self._clock.waiting(index), self._spent(report.kind, "other ranks", model):
                yield

        results = pool.each(index, elsewhere, here, read(), at_once=step.slots, held=step.window, waiting=waiting)
        for result in results:
            under_way -= 1
            yield result

    def _called_here(self, call: Callable[[Any], Any], item: Any, kind: str, model: bool) -> Any:
        """Make a call in the driving thread."""
        with self._spent(kind, "driver", model):
            try:
                return call(item)
            except StopIteration as error:
                raise StoppedError(error) from error

    @contextmanager
    def _spent(self, kind: str, lane: str, model: bool) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._clock.add_span(kind, lane, start, time.perf_counter(), model)

    def _submitter(self, stage: MapStage, step: Step, index: int) -> Callable[[Any], Future[Any]]:
        clock = self._clock
        numbers = itertools.count()
        failed = _EarliestFailure()
        if stage.acall is not None:
            acall = stage.acall
            slots = asyncio.Semaphore(step.slots)

            async def on_loop(number: int, item: Any) -> Any:
                async with slots:
                    with failed.watch(number), clock.call(index, stage.model, in_thread=False):
                        return await acall(item)

            return lambda item: self._on_loop(on_loop(next(numbers), item))

        kind = self._plan.operators[index].kind
        pool = ThreadPoolExecutor(step.slots, thread_name_prefix=f"{self._thread_names}{kind}")
        self._pools.append(pool)

        def in_thread(number: int, item: Any) -> Any:
            with failed.watch(number), clock.call(index, stage.model, in_thread=True):
                return stage.call(item)

        return lambda item: self._track(pool.submit(contextvars.copy_context().run, in_thread, next(numbers), item))

    def _counted(self, stream: Iterator[Any], index: int) -> Iterator[Any]:
        report = self._report.operators[index]
        kind, progress = report.kind, self._progress
        for batch in stream:
            if self._cancelled:
                raise CancelledError
            report.rows += batch.num_rows
            report.batches += 1
            report.bytes_copied += batch.bytes_copied
            if progress:
                progress(Progress(kind, report.rows, self._total if index == 0 else None))
            yield batch

    # -- calls in flight ---------------------------------------------------------------------------------

    def _on_loop(self, coroutine: Any) -> Future[Any]:
        return self._track(asyncio.run_coroutine_threadsafe(coroutine, self._loop or background_loop()))

    def _track(self, future: Future[Any]) -> Future[Any]:
        with self._lock:
            self._in_flight.add(future)
            cancelled = self._cancelled
        future.add_done_callback(self._forget)
        if cancelled:
            future.cancel()
        return future

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            self._in_flight.discard(future)

    def _shut_down(self) -> None:
        """Drop what has not begun, await what has: nothing is left running, no write is cut in half."""
        with interrupts_put_off():
            with self._lock:
                in_flight = list(self._in_flight)
            for future in in_flight:
                future.cancel()
        for pool in self._pools:
            pool.shutdown(wait=True, cancel_futures=True)
        if self._pools:
            await_threads(self._thread_names)
        for close in self._closers:
            close()


def _any_failed(window: deque[Future[Any]]) -> bool:
    """True once a call in the window has failed: what comes after it would be thrown away."""
    with interrupts_put_off():
        return any(f.done() and (f.cancelled() or f.exception() is not None) for f in window)


class _EarliestFailure:
    """Keeps calls from beginning after an earlier item's call has failed: their results would be thrown away."""

    def __init__(self) -> None:
        self._number = float("inf")

    @contextmanager
    def watch(self, number: int) -> Iterator[None]:
        if number > self._number:
            raise CancelledError
        try:
            yield
        except BaseException:
            self._number = min(self._number, number)
            raise
