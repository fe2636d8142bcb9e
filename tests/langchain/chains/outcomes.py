"""Running a chain in one of the ways that take many inputs, and all that can be seen of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from langchain_core.runnables import Runnable, RunnableConfig

from tests.langchain.chains.generated import Spec, build
from tests.langchain.chains.parts import REQUEST, World, origin
from tests.langchain.chains.recording import Recording, error_of, handler, tree, visible
from tests.langchain.warned import caught_warnings

METHODS = ("batch", "abatch", "batch_as_completed", "abatch_as_completed")


@dataclass(frozen=True)
class Call:
    """One way of calling a chain.

    Args:
        method: One of `METHODS`.
        count: How many inputs.
        return_exceptions: As LangChain's.
        max_concurrency: As LangChain's.
        configs: 'none', 'one' for all inputs, or 'each' its own.
        handler: 'sync', 'inline', 'async', or '' for none.
        run_ids: Whether configs give ids of runs.
        keywords: Keyword arguments for the first step.
    """

    method: str = "batch"
    count: int = 4
    return_exceptions: bool = False
    max_concurrency: int | None = None
    configs: str = "none"
    handler: str = "sync"
    run_ids: bool = False
    keywords: bool = False

    @property
    def asynchronous(self) -> bool:
        """Whether it runs in an event loop."""
        return self.method.startswith("a")

    @property
    def inputs(self) -> list[str]:
        """The inputs, each with its origin."""
        return [f"#{number}. What of {number * 7 % 5}?" for number in range(self.count)]

    @property
    def ids(self) -> list[UUID]:
        """The ids given to runs."""
        return [UUID(int=number + 1) for number in range(self.count if self.configs == "each" else 1)]

    def config(self, recording: Recording) -> Any:
        """The config, or the list of them."""

        def one(number: int) -> RunnableConfig:
            config: RunnableConfig = {}
            if self.handler:
                config["callbacks"] = [handler(self.handler, recording)]
            if self.max_concurrency:
                config["max_concurrency"] = self.max_concurrency
            if self.configs != "none":
                config["tags"] = ["all", f"tag {number}"]
                config["metadata"] = {"number": number, "of": "the caller"}
                config["run_name"] = f"run {number}"
                config["configurable"] = {"temperature": number / 2}
                if number % 2:
                    config["configurable"] |= {"which": "second", "suffix": f"!{number}"}
                if self.run_ids:
                    config["run_id"] = self.ids[number]
            return config

        return [one(number) for number in range(self.count)] if self.configs == "each" else one(0)


def settled(spec: Spec, call: Call) -> bool:
    """Whether a comparison can tell anything.

    A binding gives one `run_id` to the runs of all inputs, so that no handler can tell them apart. Keyword arguments
    that a loop's first step does not take fail without saying for which input, in an order that is left to timing.
    """
    runs_told_apart = not call.run_ids or call.configs == "each" or call.count == 1 or spec.kind == "sequence"
    return runs_told_apart and not (call.keywords and call.asynchronous and not call.return_exceptions)


calls = st.builds(
    Call,
    method=st.sampled_from(METHODS[:2] * 3 + METHODS),
    count=st.sampled_from([4, 3, 5, 6, 7, 8, 1, 2]),
    return_exceptions=st.booleans(),
    max_concurrency=st.sampled_from([None, None, 1, 2, 3]),
    configs=st.sampled_from(["none", "one", "each"]),
    handler=st.sampled_from(["sync", "inline", "async", ""]),
    run_ids=st.sampled_from([False, False, True]),
    keywords=st.sampled_from([False] * 9 + [True]),
)


@dataclass(frozen=True)
class Outcome:
    """All that can be seen of a call.

    Attributes:
        pieces: What came out and which runs were seen, by input; of a call that raised, its error and runs.
        impossible: What the handler was told that is true of no run.
        late: Runs that went on when the run above them had ended.
        peak: How many slow parts were at work, at most, at the same time.
        native: Whether what was called is the native chain itself.
        failing: The origin of the error that the call raised, an input or one of its elements; '' if it does not say.
    """

    pieces: dict[str, Any]
    impossible: list[str]
    late: list[str]
    peak: int
    native: bool
    failing: str

    @property
    def failed(self) -> bool:
        """Whether anything went wrong within."""
        return "raised" in self.pieces or "'error'" in repr(self.pieces)


def run(spec: Spec, call: Call, accelerate: Callable[[Any], Any], seed: int = 0, leading: str = "") -> Outcome:
    """Build a chain, accelerate it, and call it.

    Args:
        spec: What the chain is made of.
        call: How to call it.
        accelerate: Gives the object to call for the native chain.
        seed: What delays follow from. All but 0 slow every part down.
        leading: The origin of the input that has a head start: it comes first, and its parts are faster. Of one of its
            elements: only that one's parts are, and what it comes from.
    """
    given = frozenset(map(str, call.ids)) if call.run_ids else frozenset()
    world, recording = World(seed, leading), Recording(given)
    native = build(spec, world)
    chain = accelerate(native)
    order = sorted(range(call.count), key=lambda number: (not leading.startswith(f"#{number}."), number))
    inputs = [call.inputs[number] for number in order]
    config = call.config(recording)
    if call.configs == "each":
        config = [config[number] for number in order]
    error: Exception | None = None
    outputs: dict[int, Any] = {}
    token = REQUEST.set("the caller's")
    try:
        with caught_warnings() as caught:
            try:
                outputs = {order[place]: output for place, output in _called(chain, call, inputs, config).items()}
            except Exception as raised:
                error = raised
    finally:
        REQUEST.reset(token)
    assert not recording.broken, recording.broken
    pieces = _raised(spec, call, recording, error) if error else _returned(call, recording, outputs)
    pieces["inputs"] = sorted(inputs)
    if not error:  # else it is left to timing how many of the other inputs came as far as to a warning
        pieces["warnings"] = sorted((warning.category.__name__, visible(str(warning.message))) for warning in caught)
    return Outcome(pieces, recording.impossible, recording.late, world.peak, chain is native, origin(error))


def _returned(call: Call, recording: Recording, outputs: dict[int, Any]) -> dict[str, Any]:
    pieces: dict[str, Any] = {}
    for number, text in enumerate(call.inputs):
        runs = [root for root in recording.roots if origin(root.inputs).startswith(origin(text))]
        trees = sorted((tree(root, call.asynchronous) for root in runs), key=repr)
        pieces[f"input {number}"] = (visible(outputs.get(number, "nothing"), recording.given), trees)
    return {**pieces, "count": (len(outputs), len(recording.roots))}


def _raised(spec: Spec, call: Call, recording: Recording, error: Exception) -> dict[str, Any]:
    """The runs to compare of a call that raised: those that do not depend on timing.

    Natively a failure leaves it to timing which of the other inputs are still begun, and how far they get. What is
    certain is the run of the failing input, and, for a sequence, that the root of every input is closed with the error.
    """
    failing = origin(error)
    own = [tree(root, call.asynchronous) for root in recording.roots if failing.startswith(origin(root.inputs) or " ")]
    closed = sorted(((root.inputs, root.status, root.outputs) for root in recording.roots), key=repr)
    certain = spec.kind == "sequence" and call.method in ("batch", "abatch")
    return {"raised": (error_of(error, recording.given), own, closed if certain else None)}


def differences(spec: Spec, call: Call, accelerate: Callable[[Any], Any], reruns: int = 30) -> list[str]:
    """What an accelerated chain does that the native one never does; [] if they are the same.

    What LangChain leaves to timing, such as which of several failing branches fails first, may come out in more than
    one way: the native chain is then run again, with other delays, until it has done the same for each input. Where it
    is left to timing which of several failing inputs fails first, the input in question is given a head start, or
    the one of its elements.

    Args:
        spec: What the chain is made of.
        call: How to call it.
        accelerate: Gives the accelerated object for a native chain.
        reruns: How often the native chain may be run again.
    """
    found = run(spec, call, accelerate)
    first = native = run(spec, call, _native)
    unexplained = set(found.pieces) | set(native.pieces)
    for seed in range(1, reruns + 2):
        unexplained -= {key for key in unexplained if found.pieces.get(key, found) == native.pieces.get(key, native)}
        if call.asynchronous and found.failed and _warned(found) <= _warned(native):
            # What comes beside a failure natively goes on, and warns; here it is cancelled.
            unexplained.discard("warnings")
        if not unexplained:
            break
        # A pool of threads gives the error of the first input that fails, whatever the timing.
        first_has_id = call.run_ids and call.configs == "one"
        leading = "" if call.method == "batch" or first_has_id else found.failing
        whole = leading.partition(".")[0] + "." if leading else ""
        native = run(spec, call, _native, seed, leading if seed % 4 < 2 else whole)
    # LangChain's own: BaseLLM.batch calls itself without end where its context, not its config, has a max_concurrency;
    # a sequence returns fewer outputs than it had inputs if a step (a RouterRunnable) raises for all after some failed.
    if "RecursionError" in repr(first.pieces) or first.pieces.get("count", (call.count,))[0] != call.count:
        return []
    lines = [f"{key}{first_difference(first.pieces.get(key), found.pieces.get(key))}" for key in sorted(unexplained)]
    if not first.impossible:
        lines += found.impossible
    if not first.late and not (call.asynchronous and found.failed):
        lines += found.late
    if call.max_concurrency and not found.native and _bounded(spec, call) and found.peak > call.max_concurrency:
        lines.append(f"{found.peak} at work at once, {call.max_concurrency} allowed")
    return lines


def _warned(outcome: Outcome) -> Counter[Any]:
    return Counter(outcome.pieces.get("warnings", ()))


def _bounded(spec: Spec, call: Call) -> bool:
    """Whether `max_concurrency` bounds the whole: not so where a function runs a chain, or where it runs natively."""
    in_order = any(
        node.kind == "generator" or node.options.get("form") in ("yields", "counts") for node in spec.nodes()
    )
    return call.count > 2 and not in_order and not any(node.kind == "calling" for node in spec.nodes())


def first_difference(native: Any, here: Any) -> str:
    """Where two visible values differ first, and how."""
    if type(native) is type(here) and isinstance(native, list | tuple):
        for number, (one, other) in enumerate(zip(native, here, strict=False)):
            if one != other:
                return f"[{number}]{first_difference(one, other)}"
    return f"\n  natively: {native!r:.600}\n  here:     {here!r:.600}"


def _native(chain: Any) -> Any:
    return chain


def _called(chain: Runnable[Any, Any], call: Call, inputs: list[str], config: Any) -> dict[int, Any]:
    keywords = {"suffix": "%"} if call.keywords else {}
    method = getattr(chain, call.method)
    if call.method == "batch":
        return dict(enumerate(method(inputs, config, return_exceptions=call.return_exceptions, **keywords)))
    if call.method == "batch_as_completed":
        return dict(method(inputs, config, return_exceptions=call.return_exceptions, **keywords))

    async def acall() -> dict[int, Any]:
        loop = asyncio.get_running_loop()
        # A failed gather leaves tasks behind whose errors nobody asks for.
        loop.set_exception_handler(lambda loop, context: None)
        # Threads enough that slow inputs do not hold up the one that has a head start.
        loop.set_default_executor(ThreadPoolExecutor(32))
        async with _nothing_left():
            awaited = method(inputs, config, return_exceptions=call.return_exceptions, **keywords)
            if call.method == "abatch":
                return dict(enumerate(await awaited))
            return {number: output async for number, output in awaited}

    return asyncio.run(acall())


@asynccontextmanager
async def _nothing_left() -> AsyncIterator[None]:
    """Wait for tasks that a failed gather has left behind: when they end is nobody's promise."""
    try:
        yield
    finally:
        while left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left)
