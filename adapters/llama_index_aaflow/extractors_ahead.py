"""Extractors that begin with a node when those before are through with it, instead of with all nodes.

Natively each extractor of a pipeline makes its calls after the one before has got its last answer, and towards the end
of each less and less is in flight. Here, where nobody can tell, a slot that the first has no call for is given to the
next. The prompts are made natively, of copies of the nodes that are always as far as their own answers. The native code
applies one extractor after the other as ever, and where it would make a call it waits for that call's end: nodes,
cache, progress bars, retries and errors are its own.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar, copy_context
from types import SimpleNamespace
from typing import Any, Final

from llama_index.core import async_utils
from llama_index.core.schema import TextNode

from aaflow_plugins.plugins import load_for
from llama_index_aaflow.extractor_jobs import OfNodes, has_known_jobs, jobs_of
from llama_index_aaflow.ingestion_overlap import SETTINGS, are_plain, nothing_kept
from llama_index_aaflow.listening import nobody_listens
from llama_index_aaflow.native_classes import StandsFor, with_names

#: Seconds in which calls end after an interrupt; natively they are left as they are.
_PATIENCE: Final = 1.0


@contextmanager
def ahead(steps: list[Any], bounds: Sequence[int | None], settings: dict[str, Any]) -> Iterator[list[Any]]:
    """The steps for a native function that applies them, extractors among them making their calls early.

    Args:
        steps: Accelerated transformations.
        bounds: For each that is an extractor how many calls it may have in flight.
        settings: Keyword arguments of the native function.
    """
    chain = _chain(steps, bounds, settings)
    try:
        yield steps if chain is None else chain.among(steps)
    finally:
        if chain is not None:
            chain.close()


@asynccontextmanager
async def ahead_on_loop(
    steps: list[Any], bounds: Sequence[int | None], settings: dict[str, Any]
) -> AsyncIterator[list[Any]]:
    """The same for a native coroutine."""
    chain = _chain(steps, bounds, settings)
    try:
        yield steps if chain is None else chain.among(steps)
    finally:
        if chain is not None:
            await chain.aclose()


def jobs_ahead(jobs: list[Any]) -> list[Any] | None:
    """What stands for the jobs that an extractor is about to run here; None if it has to run them."""
    stage = _stage.get()
    return stage.jobs(jobs) if stage is not None else None


def _chain(steps: list[Any], bounds: Sequence[int | None], settings: dict[str, Any]) -> _Chain | None:
    """The first extractors in a row that have one bound; None if there aren't two, or somebody could tell."""
    if not (SETTINGS.issuperset(settings) and nothing_kept(settings.get("cache"), settings.get("cache_collection"))):
        return None
    for first, bound in enumerate(bounds):
        end = first
        while end < len(steps) and bounds[end] == bound and _is_known(steps[end], steps):
            end += 1
        if end - first > 1 and bound is not None and bound > 0:
            return _Chain(first, steps[first:end], bound) if nobody_listens() else None
    return None


def _is_known(extractor: Any, steps: list[Any]) -> bool:
    return (
        isinstance(extractor, StandsFor)
        and has_known_jobs(extractor)
        # Of two that are the same, the cache may have what the second makes from the first.
        and sum(isinstance(step, extractor.aaflow_native) for step in steps) == 1
        and _may_be_asked_early(extractor.llm)  # type: ignore[attr-defined]
    )


def _may_be_asked_early(model: Any) -> bool:
    return (
        not model.callback_manager.handlers
        and model.output_parser is None
        and bool(load_for(model).aaflow_independent_answers(model=model))
    )


class _Chain:
    """Extractors in a row."""

    def __init__(self, first: int, extractors: list[Any], limit: int) -> None:
        self._first, self._extractors, self._limit = first, extractors, limit
        self._runner: asyncio.Runner | None = None
        #: The nodes that the next extractor has to be given, and its number.
        self._nodes: Any = None
        self._next = 0
        #: Extractors before this number go on; one has failed, whose jobs have all ended.
        self._end = 0
        self._failed: int | None = None
        self._work: list[OfNodes] = []
        self._ends: list[list[asyncio.Future[Any]]] = []
        self._ready: list[tuple[int, int]] = []
        self._tasks: dict[asyncio.Task[None], int] = {}

    def among(self, steps: list[Any]) -> list[Any]:
        """Steps with what stands for these extractors."""
        stages = [_Stage(self, number, extractor) for number, extractor in enumerate(self._extractors)]
        return [*steps[: self._first], *stages, *steps[self._first + len(stages) :]]

    def expects(self, number: int, nodes: Any, kwargs: dict[str, Any]) -> bool:
        """Whether an extractor is applied where its calls were, or are to be, made early."""
        # The oldest versions hand this on from `run`.
        plain = kwargs in ({}, {"show_progress": False})
        if number == 0:
            self._nodes = nodes
            self._end = len(self._extractors) if plain and _are_known(nodes) else 0
        elif not (plain and number == self._next and nodes is self._nodes):
            self._stop(0)
        return number < self._end or number == self._failed

    def keep_loop(self) -> bool:
        """Have one event loop for all blocking calls; False if natively each has a thread with its own."""
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:
            loop = None
        if loop is not None and loop.is_running():
            self._stop(0)
            return False
        if loop is None or loop.is_closed():
            self._runner = asyncio.Runner()
        return True

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine as the native blocking calls do; where each of them would have a loop of its own, in one."""
        native: Any = async_utils
        runner = self._runner
        if runner is None:
            return native.asyncio_run(coroutine)
        ways = SimpleNamespace(
            get_event_loop=_no_loop, run=lambda coroutine: runner.run(coroutine, context=copy_context())
        )
        return with_names(native.asyncio_run, {**vars(async_utils), "asyncio": ways})(coroutine)

    def applied(self, number: int, nodes: Any) -> None:
        """Be told what an extractor gave."""
        self._nodes, self._next = nodes, number + 1

    def ends(self, number: int) -> list[asyncio.Future[Any]]:
        """The ends of an extractor's jobs, in the native order."""
        if not self._ends:
            self._begin()
        return self._ends[number]

    def close(self) -> None:
        """Be done with all calls."""
        self._leave()
        if self._runner is not None:
            self._runner.close()
        elif self._tasks and not self._loop.is_closed():
            # An interrupt may have come between a task and its next step: such a task never ends. What has been
            # interrupted may have left word for its loop to stop.
            with suppress(RuntimeError):
                self._loop.run_until_complete(asyncio.wait(list(self._tasks), timeout=_PATIENCE))

    async def aclose(self) -> None:
        """Be done with all calls."""
        self._leave()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(_stage.set, None)
        self._copies = list(map(_copied, self._nodes))
        self._work = [jobs_of(extractor, self._copies) for extractor in self._extractors]
        self._ends = [[self._loop.create_future() for _ in range(jobs.count)] for jobs in self._work]
        for place in range(len(self._copies)):
            self._arrive(0, place)
        self._start()

    def _arrive(self, number: int, place: int) -> None:
        """Have a node come to an extractor."""
        if number < self._end and (job := self._work[number].arrived(place)) is not None:
            heapq.heappush(self._ready, (number, job))

    def _start(self) -> None:
        """Start what there are slots for: jobs of the first extractors first, in the native order."""
        while self._ready and len(self._tasks) < self._limit:
            number, job = heapq.heappop(self._ready)
            task = self._loop.create_task(self._run(number, job), context=self._context.copy())
            self._tasks[task] = number
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._start()

    async def _run(self, number: int, job: int) -> None:
        try:
            result = await self._work[number].call(job)
        except (KeyboardInterrupt, SystemExit):
            raise  # out of the loop, wherever it is
        except BaseException as error:
            self._fail(number, error)
        else:
            self._answer(number, job, result)

    def _answer(self, number: int, job: int, result: Any) -> None:
        end = self._ends[number][job]
        if end.done():
            return
        end.set_result(result)
        extractor = self._extractors[number]
        for place, metadata in self._work[number].answered(job, result):
            node = self._copies[place]
            node.metadata.update(metadata)
            if not extractor.disable_template_rewrite:
                node.text_template = extractor.node_text_template
            self._arrive(number + 1, place)

    def _fail(self, number: int, error: BaseException) -> None:
        """Have an extractor fail: what comes after it depends on what the native code makes of that."""
        if number >= self._end:
            return
        self._stop(number)
        self._failed = number
        for end in self._ends[number]:
            if not end.done():
                end.set_exception(error)
                end.exception()  # it may be that nobody asks

    def _stop(self, number: int) -> None:
        """Go on with the extractors before a number alone."""
        self._end, self._failed = min(self._end, number), None
        self._ready = [each for each in self._ready if each[0] < number]
        for task, stage in self._tasks.items():
            if stage >= number:
                task.cancel()

    def _leave(self) -> None:
        self._stop(0)
        for ends in self._ends:
            for end in ends:
                end.cancel()


def _no_loop() -> Any:
    raise RuntimeError


_stage: ContextVar[_Stage | None] = ContextVar("aaflow_extractor", default=None)


class _Stage:
    """An extractor, as the native code applies it."""

    def __init__(self, chain: _Chain, number: int, extractor: Any) -> None:
        self._chain, self._number, self._extractor = chain, number, extractor
        self._taken = False

    def to_dict(self, **kwargs: Any) -> Any:
        """What the cache knows the extractor by."""
        return self._extractor.to_dict(**kwargs)

    def __call__(self, nodes: Any, **kwargs: Any) -> Any:
        """Extract from nodes."""
        chain = self._chain
        if not chain.expects(self._number, nodes, kwargs) or (self._number == 0 and not chain.keep_loop()):
            return self._extractor(nodes, **kwargs)
        with self._running():
            made = chain.run(self._extractor.acall(nodes, **kwargs))
        chain.applied(self._number, made)
        return made

    async def acall(self, nodes: Any, **kwargs: Any) -> Any:
        """Extract from nodes."""
        chain = self._chain
        if not chain.expects(self._number, nodes, kwargs):
            return await self._extractor.acall(nodes, **kwargs)
        with self._running():
            made = await self._extractor.acall(nodes, **kwargs)
        chain.applied(self._number, made)
        return made

    def jobs(self, jobs: list[Any]) -> list[Any] | None:
        """What stands for jobs; None when they are run once more."""
        if self._taken:
            return None
        self._taken = True
        for job in jobs:
            job.close()
        return [_end(end) for end in self._chain.ends(self._number)]

    @contextmanager
    def _running(self) -> Iterator[None]:
        token = _stage.set(self)
        try:
            yield
        finally:
            _stage.reset(token)


async def _end(end: asyncio.Future[Any]) -> Any:
    return await end


def _are_known(nodes: Any) -> bool:
    return (
        type(nodes) is list
        and all(type(node) is TextNode for node in nodes)
        and are_plain(nodes)
        # What one is given would be seen in another.
        and len({id(node.metadata) for node in nodes}) == len(nodes)
    )


def _copied(node: Any) -> Any:
    copied = node.model_copy()
    copied.metadata = dict(node.metadata)
    return copied
