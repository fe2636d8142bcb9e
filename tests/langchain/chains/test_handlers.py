"""Handlers of one input do not hold up the others, and find the context as natively."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, Token
from functools import partial
from types import MethodType
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager, BaseCallbackHandler
from langchain_core.callbacks import manager as native_manager
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    ensure_config,
)
from wrapt import FunctionWrapper

from aaflow_plugins import accelerate
from langchain_aaflow.chains import telling

RUN: ContextVar[UUID | None] = ContextVar("run", default=None)


class Slow(BaseCallbackHandler):
    """Takes a while at each event; counts how many it is told of at once."""

    def __init__(self) -> None:
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def _take_a_while(self, *_: Any, **__: Any) -> None:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002)
        with self._lock:
            self.at_once -= 1

    on_chain_start = on_chain_end = on_chain_error = _take_a_while


class Attaches(BaseCallbackHandler):
    """Sets a variable for the time of a run, as tracers do that build on OpenTelemetry."""

    raise_error = True

    def __init__(self) -> None:
        self.tokens: dict[UUID, Token[UUID | None]] = {}

    def on_chain_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.tokens[run_id] = RUN.set(run_id)

    def on_chain_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
        RUN.reset(self.tokens.pop(run_id))  # refused in any other context


def chain() -> Any:
    sides = RunnableParallel(left=RunnableLambda(str), run=RunnableLambda(lambda _: RUN.get() is not None))
    return RunnableParallel(sides=sides) | RunnableLambda(lambda found: found["sides"])


@pytest.mark.parametrize("limit", [None, 3])
def test_slow_handlers_are_told_side_by_side(limit: int | None) -> None:
    """As many at once as calls are, in calls and beside them; natively it is more where steps are side by side."""
    slow = Slow()
    accelerate(chain()).batch(list(range(24)), {"callbacks": [slow], "max_concurrency": limit})
    assert slow.most_at_once >= 2
    assert limit is None or slow.most_at_once <= 2 * limit


def test_a_handler_sets_and_resets_variables_in_one_context() -> None:
    inputs = list(range(12))
    natively = chain().batch(inputs, {"callbacks": [Attaches()]})
    attaches = Attaches()
    assert accelerate(chain()).batch(inputs, {"callbacks": [attaches]}) == natively
    assert not attaches.tokens
    assert all(found["run"] for found in natively)


# -- asynchronous chains -----------------------------------------------------------------------------------------


class Tells(BaseCallbackHandler):
    """Notes every event with all its details but ids, and where it is told: thread, and the runnables' context."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def _note(self, event: str, /, *args: Any, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any) -> None:
        in_loop = threading.current_thread() is threading.main_thread()
        inherited = ensure_config()
        shown = {key: repr(value) for key, value in kwargs.items()}
        where = (in_loop, sorted(inherited["tags"]), sorted(inherited["metadata"]))
        self.events.append((event, repr(args), parent_run_id is None, shown, where))

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self._note("start", *args, **kwargs)

    def on_chain_end(self, *args: Any, **kwargs: Any) -> None:
        self._note("end", *args, **kwargs)

    def on_chain_error(self, *args: Any, **kwargs: Any) -> None:
        self._note("error", *args, **kwargs)


class TellsInline(Tells):
    run_inline = True


class TellsLater(Tells, AsyncCallbackHandler):
    async def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        self._note("start", *args, **kwargs)

    async def on_chain_end(self, *args: Any, **kwargs: Any) -> None:
        self._note("end", *args, **kwargs)

    async def on_chain_error(self, *args: Any, **kwargs: Any) -> None:
        self._note("error", *args, **kwargs)


class Ignores(Tells):
    ignore_chain = True


class Fails(Tells):
    """Fails at the beginning, or at the end, of runs of one name."""

    def __init__(self, name: str, at: str, error: Exception, raising: bool) -> None:
        super().__init__()
        self.name, self.at, self.error, self.raise_error = name, at, error, raising
        self.runs: set[UUID] = set()

    def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
        super().on_chain_start(*args, **kwargs)
        if kwargs["name"] == self.name:
            if self.at == "start":
                raise self.error
            self.runs.add(kwargs["run_id"])

    def on_chain_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_chain_end(*args, **kwargs)
        if self.at == "end" and kwargs["run_id"] in self.runs:
            raise self.error


def many_kinds() -> Any:
    prompt = ChatPromptTemplate.from_template("{word} of {run}").with_config({"tags": ["p"], "metadata": {"m": 1}})
    prompt.bound.tags, prompt.bound.metadata = ["own"], {"of": "its own"}

    async def acount(value: Any) -> Any:
        await asyncio.sleep(0)
        return {"word": str(len(value)), "run": len(ensure_config()["tags"])}

    def message(value: Any) -> Any:
        return RunnableLambda(lambda given: given.to_messages()[0]) if "3" in value.to_string() else value.messages[0]

    return (
        RunnableParallel(word=RunnablePassthrough(), run=RunnableLambda(len))
        | RunnablePick("word")
        | RunnableLambda(len, afunc=acount)
        | prompt
        | RunnableLambda(message)
        | StrOutputParser()
    )


def asynchronously(chain: Any, inputs: list[Any], handlers: list[Any]) -> Any:
    config: RunnableConfig = {"callbacks": handlers, "tags": ["all"], "metadata": {"given": True}, "max_concurrency": 3}
    try:
        return [repr(output) for output in asyncio.run(chain.abatch(inputs, config, return_exceptions=True))]
    except Exception as error:
        return repr(error)


def told(handler: Tells) -> list[str]:
    return sorted(map(repr, handler.events))


INPUTS = ["a", "bb", "ccc", "", 5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [Tells()],
        lambda: [Tells(), Tells()],
        lambda: [TellsInline()],
        lambda: [TellsLater()],
        lambda: [Ignores(), Tells()],
        lambda: [Tells(), TellsInline(), TellsLater()],
    ],
    ids=["plain", "two", "inline", "coroutines", "one ignores", "mixed"],
)
def test_handlers_of_asynchronous_chains_are_told_as_natively(make: Callable[[], list[Tells]]) -> None:
    """Every event with its details, in the thread and the context in which it is told natively."""
    natively, ours = make(), make()
    assert asynchronously(accelerate(many_kinds()), INPUTS, ours) == asynchronously(many_kinds(), INPUTS, natively)
    assert [told(handler) for handler in ours] == [told(handler) for handler in natively]
    assert natively[-1].events


@pytest.mark.parametrize("event", sorted(telling._EVENTS))
def test_the_installed_release_tells_of_events_by_known_code(event: str) -> None:
    """A release that does not is exact all the same, and slow: somebody has to look at what it changed."""
    managers = [AsyncCallbackManager, *native_manager.AsyncRunManager.__subclasses__()]
    managers += native_manager.AsyncParentRunManager.__subclasses__()
    methods = [MethodType(getattr(manager, event), manager) for manager in managers if hasattr(manager, event)]
    assert event in map(telling._known_name, methods)


@pytest.mark.parametrize("name", ["ahandle_event", "_ahandle_event_for_handler"])
def test_code_that_somebody_instruments_tells_of_events_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    instrumented, events = getattr(native_manager, name), []

    async def noting(*args: Any, **kwargs: Any) -> None:
        events.append(args[1])
        await instrumented(*args, **kwargs)

    monkeypatch.setattr(native_manager, name, noting)
    found = []
    for subject in (many_kinds(), accelerate(many_kinds())):
        events.clear()
        handler = Tells()
        found.append((asynchronously(subject, INPUTS, [handler]), told(handler), sorted(events)))
    assert found[1] == found[0]
    assert found[0][2]


def test_an_executor_that_takes_no_calls_is_the_handlers_error(caplog: pytest.LogCaptureFixture) -> None:
    async def shout(word: str) -> str:
        return word.upper()

    async def run(subject: Any) -> list[str]:
        executor = ThreadPoolExecutor()
        executor.shutdown()
        asyncio.get_running_loop().set_default_executor(executor)
        outputs: list[str] = await subject.abatch(["a", "b", "c"], {"callbacks": [Tells()]})
        return outputs

    chain, found = RunnableLambda(shout) | RunnableLambda(shout), []
    for subject in (chain, accelerate(chain)):
        caplog.clear()
        found.append((asyncio.run(run(subject)), sorted(caplog.messages)))
    assert found[1] == found[0]
    assert found[0][1]


class FailsToBegin(BaseCallbackHandler):
    """Fails at the beginning of every run; the later if that stops the run."""

    def __init__(self, raise_error: bool) -> None:
        self.raise_error = raise_error

    def on_chain_start(self, *_: Any, **__: Any) -> None:
        if self.raise_error:
            time.sleep(0.05)
        raise KeyError(f"raised: {self.raise_error}")


def test_what_fails_beside_a_handler_that_stops_the_run_is_told(caplog: pytest.LogCaptureFixture) -> None:
    chain, found = RunnableLambda(str) | RunnableLambda(str), []
    for subject in (chain, accelerate(chain)):
        caplog.clear()
        handlers: list[Any] = [FailsToBegin(raise_error=True), FailsToBegin(raise_error=False)]
        found.append((asynchronously(subject, [1], handlers), sorted(caplog.messages)))
    assert found[1] == found[0]
    assert len(found[0][1]) == 2


class Counted:
    """What is left of a method by those who put callable objects in its place."""

    def __init__(self, method: Any, events: list[str]) -> None:
        self.method, self.events = method, events

    def __get__(self, source: Any, _: Any) -> Any:
        return partial(self, source)

    def __call__(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        self.events.append(self.method.__name__)
        return self.method(source, *args, **kwargs)


def wrapped(method: Any, events: list[str]) -> Any:
    """The method as instrumentation leaves it: with all attributes of the original, and equal to it."""

    def noting(method: Any, _: Any, args: Any, kwargs: Any) -> Any:
        events.append(method.__name__)
        return method(*args, **kwargs)

    return FunctionWrapper(method, noting)


@pytest.mark.parametrize(
    ("owner", "name", "instrument"),
    [
        (native_manager, "ahandle_event", wrapped),
        (native_manager, "_ahandle_event_for_handler", wrapped),
        (AsyncCallbackManager, "on_chain_start", wrapped),
        (AsyncCallbackManager, "on_chain_start", Counted),
        (native_manager.AsyncCallbackManagerForChainRun, "on_chain_end", wrapped),
        (native_manager.AsyncCallbackManagerForChainRun, "on_chain_end", Counted),
    ],
)
def test_instrumentation_that_passes_for_the_code_it_wraps_is_run(
    owner: Any, name: str, instrument: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = (many_kinds(), accelerate(many_kinds()))
    asynchronously(subjects[1], INPUTS, [Tells()])  # what is known of the original is known by now
    events: list[str] = []
    monkeypatch.setattr(owner, name, instrument(getattr(owner, name), events))
    found = []
    for subject in subjects:
        events.clear()
        handler = Tells()
        found.append((asynchronously(subject, INPUTS, [handler]), told(handler), sorted(events)))
    assert found[1] == found[0]
    assert found[0][2]


@pytest.mark.parametrize("raising", [False, True])
@pytest.mark.parametrize("error", [KeyError("no"), NotImplementedError("later")])
@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize("name", ["RunnableSequence", "RunnableParallel<word,run>", "len", "StrOutputParser"])
def test_a_handler_that_fails(
    name: str, at: str, error: Exception, raising: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, or the run's error, as natively."""
    found = []
    for chain in (many_kinds(), accelerate(many_kinds())):
        caplog.clear()
        handlers = [Fails(name, at, error, raising), Tells()]
        with caplog.at_level(logging.WARNING):
            outputs = asynchronously(chain, INPUTS, handlers)
        logs = sorted(record.getMessage() for record in caplog.records)
        found.append((outputs, logs, *map(told, handlers)) if isinstance(outputs, list) else (outputs, set(logs)))
    assert found[1] == found[0]
    assert (raising and isinstance(error, KeyError)) or found[0][1]


@pytest.mark.parametrize("coroutine", [False, True])
def test_what_an_inline_handler_sets_at_a_beginning_is_seen_in_the_run_and_at_its_end(coroutine: bool) -> None:
    seen: list[Any] = []

    class Sets(BaseCallbackHandler):
        run_inline = True

        def on_chain_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
            RUN.set(run_id)

        def on_chain_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
            seen.append(RUN.get() == run_id)

    class SetsLater(Sets, AsyncCallbackHandler):
        async def on_chain_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
            RUN.set(run_id)

        async def on_chain_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
            seen.append(RUN.get() == run_id)

    found = []
    for subject in (chain(), accelerate(chain())):
        seen.clear()
        handler = SetsLater() if coroutine else Sets()
        found.append((asyncio.run(subject.abatch(list(range(5)), {"callbacks": [handler]})), sorted(seen)))
    assert found[1] == found[0]
    assert all(each["run"] for each in found[1][0])


@pytest.mark.parametrize("name", ["ignore_chain", "on_chain_start"])
def test_a_handler_that_can_not_be_asked(name: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("not now")

    handler: Any = type("Broken", (BaseCallbackHandler,), {name: property(fail)})
    found = []
    for subject in (chain(), accelerate(chain())):
        caplog.clear()
        outputs = asyncio.run(subject.abatch(list(range(5)), {"callbacks": [handler()]}))
        found.append((outputs, sorted(record.getMessage() for record in caplog.records)))
    assert found[1] == found[0]
    assert found[0][1]


def test_handlers_that_wait_for_one_another() -> None:
    """Natively each event has a thread of the executor: what waits for another input's event gets it."""

    class Waits(BaseCallbackHandler):
        def __init__(self) -> None:
            self.barrier = threading.Barrier(3, timeout=60)

        def on_chain_start(self, *_: Any, parent_run_id: UUID | None, **__: Any) -> None:
            if parent_run_id is None:
                self.barrier.wait()

    waits = Waits()
    asyncio.run(accelerate(many_kinds()).abatch(["a", "bb", "ccc"], {"callbacks": [waits]}))
    assert not waits.barrier.broken


def test_handlers_are_told_one_thing_at_a_time_where_that_is_the_bound() -> None:
    """As natively for a sequence: 1 is what users set for handlers that are not thread-safe."""
    slow = Slow()
    prompt = ChatPromptTemplate.from_template("{word}")
    accelerate(prompt | RunnableLambda(str) | StrOutputParser()).batch(
        [{"word": "a"}] * 6, {"callbacks": [slow], "max_concurrency": 1}
    )
    assert slow.most_at_once == 1


class Redacts(BaseCallbackHandler):
    """Changes what it is told of."""

    def on_chain_start(self, _: Any, inputs: Any, **__: Any) -> None:
        if isinstance(inputs, dict):
            inputs["word"] = "redacted"

    def on_chain_end(self, outputs: Any, **_: Any) -> None:
        if isinstance(outputs, ChatPromptValue):
            outputs.messages.append(HumanMessage("added"))
        elif isinstance(outputs, dict):
            outputs["run"] = "changed"


@pytest.mark.parametrize("way", ["batch", "abatch"])
def test_what_a_handler_changes_is_changed_for_what_follows(way: str) -> None:
    prompt = ChatPromptTemplate.from_template("{word} {run}")
    chain = (
        RunnableParallel(word=RunnablePick("word"), run=RunnablePassthrough()) | prompt | (lambda it: it.to_string())
    )
    found = []
    for subject in (chain, accelerate(chain)):
        inputs: list[Any] = [{"word": "secret"} for _ in range(5)]
        config: RunnableConfig = {"callbacks": [Redacts()]}
        found.append(subject.batch(inputs, config) if way == "batch" else asyncio.run(subject.abatch(inputs, config)))
    assert found[1] == found[0]
    assert "added" in found[0][0]
    assert "secret" not in found[0][0]


def test_a_handler_changes_what_is_given_for_several_inputs() -> None:
    lock = threading.Lock()

    class Counts(BaseCallbackHandler):
        def on_chain_start(self, _: Any, inputs: Any, *, parent_run_id: UUID | None, **__: Any) -> None:
            with lock:
                if parent_run_id is None:
                    inputs["word"] += 1

    chain = RunnablePick("word") | RunnableLambda(str)
    found = []
    for subject in (chain, accelerate(chain)):
        found.append(asyncio.run(subject.abatch([{"word": 0}] * 5, {"callbacks": [Counts()]})))
    assert found[1] == found[0] == ["5"] * 5


def test_handlers_of_branches_that_wait_for_one_another() -> None:
    barrier = threading.Barrier(2, timeout=60)

    class Waits(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, name: str, **__: Any) -> None:
            if name in ("left", "right"):
                barrier.wait()

    sides = RunnableParallel({name: RunnableLambda(len, name=name) for name in ("left", "right")})
    asyncio.run(accelerate(sides | RunnablePick("left")).abatch(["a", "bb", "ccc"], {"callbacks": [Waits()]}))
    assert not barrier.broken


def test_handlers_of_one_event_that_wait_for_one_another() -> None:
    barrier = threading.Barrier(2, timeout=60)

    class Waits(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, **__: Any) -> None:
            barrier.wait()

    asyncio.run(accelerate(many_kinds()).abatch(["a", "bb", "ccc"], {"callbacks": [Waits(), Waits()]}))
    assert not barrier.broken


def test_a_run_begins_and_ends_for_every_input_of_a_batch_that_fails() -> None:
    """Natively all of them have begun by then; here some begin when it is known."""

    def fails(value: int) -> int:
        if value == 2:
            raise ValueError("two")
        return value

    async def failing(handler: Tells, chain: Any) -> None:
        with pytest.raises(ValueError, match="two"):
            await chain.abatch(list(range(300)), {"callbacks": [handler], "max_concurrency": 2})

    roots = []
    for subject in (RunnableLambda(fails) | str, accelerate(RunnableLambda(fails) | str)):
        handler = Tells()
        asyncio.run(failing(handler, subject))
        roots.append(sorted(event[:2] for event in handler.events if event[2]))
    assert roots[1] == roots[0]
    assert len(roots[0]) == 600


def test_slow_handlers_of_asynchronous_chains_are_told_side_by_side() -> None:
    slow = Slow()
    asyncio.run(accelerate(chain()).abatch(list(range(24)), {"callbacks": [slow]}))
    assert slow.most_at_once >= 2


def test_cancelled_while_handlers_are_told() -> None:
    """Every run that handlers have seen beginning is ended."""

    class Halts(Tells):
        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(0.003)
            super().on_chain_start(*args, **kwargs)

    async def cancelled(handler: Tells, after: float) -> None:
        running = asyncio.create_task(accelerate(many_kinds()).abatch(["a", "bb", "c", "dd"], {"callbacks": [handler]}))
        await asyncio.sleep(after)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    for milliseconds in (1, 2, 5, 8, 13):
        halts = Halts()
        asyncio.run(cancelled(halts, milliseconds / 1000))
        names = [event[0] for event in halts.events]
        assert names.count("start") == names.count("end") + names.count("error") > 0
