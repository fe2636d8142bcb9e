"""What a callback handler sees of a call, as trees of runs that two calls can be compared by."""

from __future__ import annotations

import re
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from pydantic import BaseModel

from tests.langchain.chains.parts import origin

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"0x[0-9a-f]+")

STARTS = ("chain", "chat_model", "llm", "retriever", "tool")


def visible(value: Any, given: frozenset[str] = frozenset()) -> Any:
    """A value with everything spelled out that tells it from another, but for random ids and addresses.

    Args:
        value: Any value.
        given: Ids that are not random, as the user gave them.
    """
    if isinstance(value, str):
        text = _UUID.sub(lambda found: found[0] if found[0] in given else "<id>", str(value))
        return text if type(value) is str else (type(value).__name__, text)
    if isinstance(value, UUID):
        return visible(str(value), given)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseException):
        return error_of(value, given)
    if isinstance(value, Future):
        return ("Future", visible(value.exception() or value.result(), given))
    if isinstance(value, dict):
        return (type(value).__name__, [(visible(key, given), visible(item, given)) for key, item in value.items()])
    if isinstance(value, list | tuple):
        return (type(value).__name__, [visible(item, given) for item in value])
    if isinstance(value, BaseModel):
        return (type(value).__name__, visible(vars(value), given))
    return (type(value).__name__, _ADDRESS.sub("0x", visible(repr(value), given)))


def error_of(error: BaseException, given: frozenset[str] = frozenset()) -> Any:
    """An exception as what a user can tell it by: its type and its arguments."""
    return (type(error).__name__, visible(error.args, given))


@dataclass
class Run:
    """One run, with what was seen of it."""

    id: UUID
    parent: UUID | None
    kind: str
    name: Any
    tags: Any
    metadata: Any
    inputs: Any
    notes: list[Any] = field(default_factory=list)
    status: str = "open"
    outputs: Any = None
    children: list[Run] = field(default_factory=list)


class Recording:
    """All runs that a handler was told of.

    Attributes:
        impossible: What it was told that is true of no run.
        late: Runs that went on when the run above them had ended.
        broken: Errors of the recording itself.
    """

    def __init__(self, given: frozenset[str] = frozenset()) -> None:
        self.runs: dict[UUID, Run] = {}
        self.given = given
        self.impossible: list[str] = []
        self.late: list[str] = []
        self.broken: list[Exception] = []

    @property
    def roots(self) -> list[Run]:
        """The runs without a parent, in the order in which they started."""
        return [run for run in self.runs.values() if run.parent is None]

    def start(self, kind: str, serialized: Any, inputs: Any, told: dict[str, Any]) -> None:
        """A run begins."""
        id, parent = told["run_id"], told.get("parent_run_id")
        known = {key: told[key] for key in told if key not in ("run_id", "parent_run_id", "tags", "metadata", "name")}
        seen = [visible(part, self.given) for part in (inputs, serialized, known)]
        metadata = sorted((told.get("metadata") or {}).items(), key=lambda item: item[0])
        run = Run(
            id,
            parent,
            kind,
            told.get("name"),
            visible(told.get("tags"), self.given),
            visible(metadata, self.given),
            seen,
        )
        if id in self.runs:
            self.impossible.append(f"{run.name} started twice")
        if parent is not None:
            over = self.runs.get(parent)
            if over is None:
                self.impossible.append(f"{run.name} started before its parent")
            else:
                for child in over.children:
                    # A binding's run may hang from the run above its sequence, natively too: that one has no steps.
                    if child.status == "open" and 0 < step_of(child) < step_of(run):
                        self.impossible.append(f"{run.name}, a step of {over.name}, began before {child.name} ended")
                over.children.append(run)
                if over.status != "open":
                    self.late.append(f"{run.name} started after its parent {over.name} had ended")
        self.runs[id] = run

    def note(self, event: str, told: Any, id: UUID) -> None:
        """Something happens within a run."""
        run = self.runs.get(id)
        if run is None or run.status != "open":
            self.impossible.append(f"{event} outside of a run")
        else:
            run.notes.append((event, visible(told, self.given)))

    def end(self, status: str, outputs: Any, told: dict[str, Any]) -> None:
        """A run ends."""
        run = self.runs.get(told["run_id"])
        if run is None or run.status != "open":
            self.impossible.append(f"{run.name if run else 'a run unknown'} ended twice or never began")
            return
        run.status, run.outputs = status, visible(outputs, self.given)
        if told.get("inputs") is not None:  # known only now, where the input was a stream
            run.inputs = [visible(told["inputs"], self.given), *run.inputs]
        # LangChain's own: a fallback whose error is not to be handled is never closed by `batch`.
        left = "RunnableWithFallbacks"
        open_children = [child.name for child in run.children if child.status == "open" and child.name != left]
        if open_children:
            self.late.append(f"{run.name} ended before {open_children}")


def step_of(run: Run) -> int:
    """The number of a step of a sequence; 0 if it is none."""
    found = re.search(r"seq:step:(\d+)", str(run.tags))
    return int(found[1]) if found else 0


def _recorder(base: type[BaseCallbackHandler], asynchronous: bool) -> type[BaseCallbackHandler]:
    """A handler class that records: the same methods, as functions or as coroutine functions."""

    def method(record: Any) -> Any:
        def told(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                record(self, *args, **kwargs)
            except Exception as error:  # LangChain would only log it
                self.recording.broken.append(error)

        async def atold(self: Any, *args: Any, **kwargs: Any) -> None:
            told(self, *args, **kwargs)

        return atold if asynchronous else told

    def started(kind: str) -> Any:
        return lambda self, serialized, given, /, **told: self.recording.start(kind, serialized, given, told)

    def ended(status: str) -> Any:
        return lambda self, outputs, /, **told: self.recording.end(status, outputs, told)

    methods = {f"on_{kind}_start": method(started(kind)) for kind in STARTS}
    methods |= {f"on_{kind}_end": method(ended("end")) for kind in STARTS if kind != "chat_model"}
    methods |= {f"on_{kind}_error": method(ended("error")) for kind in STARTS if kind != "chat_model"}
    methods["on_llm_new_token"] = method(
        lambda self, token, *, run_id, **told: self.recording.note("token", token, run_id)
    )
    methods["on_custom_event"] = method(
        lambda self, name, data, /, *, run_id, **told: self.recording.note(name, data, run_id)
    )

    def __init__(self: Any, recording: Recording) -> None:
        self.recording = recording

    return type("Recorder", (base,), {"__init__": __init__, **methods})


Recorder = _recorder(BaseCallbackHandler, asynchronous=False)
AsyncRecorder = _recorder(AsyncCallbackHandler, asynchronous=True)


class InlineRecorder(Recorder):  # type: ignore[misc,valid-type]
    """A handler that asks to be called in the loop's own thread, as tracers do."""

    run_inline = True


def handler(kind: str, recording: Recording) -> BaseCallbackHandler:
    """A handler that records: 'sync', 'inline' or 'async'."""
    made: BaseCallbackHandler = {"sync": Recorder, "inline": InlineRecorder, "async": AsyncRecorder}[kind](recording)
    return made


#: Tags of children that follow one another, or are branches: not the elements of a batch.
_STEPS = re.compile(r"seq:step:|map:key:|condition:|branch:|retry:")


def tree(run: Run, asynchronous: bool) -> Any:
    """A run and all below it, as far as LangChain determines them.

    Left out, since it depends on timing natively:

    - the order of the branches of a RunnableParallel, and of the elements of a batch (a RunnableEach is one);
    - of a batch that failed, the elements other than the failing one: a thread pool takes back those that have not
      begun, and a loop goes on with those that have;
    - of a RunnableParallel that failed in a loop, the branches other than the failing one, likewise.

    Args:
        run: The run on top.
        asynchronous: Whether it ran in an event loop.
    """
    children = run.children
    branches = any("map:key:" in str(child.tags) for child in children)
    # Whatever else has several children gives them all the same input.
    elements = len({origin(child.inputs) for child in children if not _STEPS.search(str(child.tags))}) > 1
    if run.status == "error" and (elements or (branches and asynchronous)):
        children = [child for child in children if child.outputs == run.outputs]
    if run.status == "error" and elements:
        failing = origin(run.outputs)
        children = [child for child in children if failing.startswith(origin(child.inputs))]
    below = [tree(child, asynchronous) for child in children]
    if elements or branches:
        below.sort(key=repr)
    return (run.kind, run.name, run.tags, run.metadata, run.inputs, run.notes, run.status, run.outputs, below)
