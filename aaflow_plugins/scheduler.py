"""Plan + sizes + resources -> Schedule, before anything runs.

Nothing here looks at a clock, at the load of the machine or at the data itself: two calls with equal arguments give
equal schedules. Timing decides only when a slot is used, never what is in a batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeVar

from aaflow_plugins.operators import Call, Embed, Load, Operator, Resource, Split
from aaflow_plugins.plan import Plan

T = TypeVar("T")
MIB = 2**20


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Attributes:
        max_concurrency: Model calls in flight; None leaves each embedder its own default.
        processes: Worker processes for splitting; 0 splits in this process, which is faster on few cores.
        tasks: Tasks that all ranks of the job take at once; 0 where there is one rank.
        memory_limit: Bytes in flight between the source and the store.
        batch_rows: Documents a batch.
        batch_bytes: Bytes of documents a batch; a larger document is a batch by itself.
    """

    max_concurrency: int | None = None
    processes: int = 0
    tasks: int = 0
    memory_limit: int = 512 * MIB
    batch_rows: int = 512
    batch_bytes: int = 2 * MIB

    def __post_init__(self) -> None:
        """Refuse what no run could use.

        Raises:
            TypeError: If a number is not an int; names the argument.
            ValueError: If it is out of range; names the argument.
        """
        if self.max_concurrency is not None:
            check_count("max_concurrency", self.max_concurrency, 1)
        check_count("processes", self.processes, 0)
        check_count("tasks", self.tasks, 0)
        for name in ("memory_limit", "batch_rows", "batch_bytes"):
            check_count(name, getattr(self, name), 1)
        if self.processes > 4 * (os.cpu_count() or 1):
            raise ValueError(f"processes must be at most 4 a core, not {self.processes}")


def check_count(name: str, value: object, least: int) -> None:
    """Refuse a number of things that is not a whole number, or too small.

    Raises:
        TypeError: If `value` is not an int.
        ValueError: If it is less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True)
class Sizes:
    """What is known of the source before it is read.

    Attributes:
        item_bytes: Bytes of each item, in order; None for a source that can be read only once.
    """

    item_bytes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Step:
    """How one operator of the plan runs.

    Attributes:
        resource: What its work occupies.
        slots: Calls at once.
        window: Batches (or requests) begun but not yet handed on, in order, at most.
        bytes_each: Predicted bytes of one of them.
    """

    resource: Resource
    slots: int
    window: int
    bytes_each: int

    @property
    def in_flight_bytes(self) -> int:
        """Predicted bytes this step holds at most."""
        return self.window * self.bytes_each

    def describe(self) -> str:
        """One line for `explain()`."""
        return (
            f"{self.slots} at once on {self.resource.value}, at most {self.window} in flight "
            f"of about {self.bytes_each / MIB:.2f} MiB"
        )


@dataclass(frozen=True)
class Schedule:
    """Batch boundaries, slots and memory, fixed.

    Attributes:
        steps: One for each operator of the plan, in order.
        batch_rows: Items a batch at most.
        batch_bytes: Bytes a batch at most, save for a single larger item.
        boundaries: `(start, stop)` of each batch of the source, where its sizes are known.
        bounded: False if an operator waits for all of its input and the source's size is not known.
        in_flight_bytes: Sum over the steps: the predicted memory between source and store.
    """

    steps: tuple[Step, ...]
    batch_rows: int
    batch_bytes: int
    boundaries: tuple[tuple[int, int], ...] | None = None
    bounded: bool = True
    in_flight_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Add up the bound."""
        object.__setattr__(self, "in_flight_bytes", sum(step.in_flight_bytes for step in self.steps))


def schedule(plan: Plan, sizes: Sizes, resources: Resources) -> Schedule:
    """Decide how `plan` runs. A pure function: equal arguments, equal schedules.

    Every concurrent operator would like a window of twice its slots, so that a slow head never idles the others.
    Every window holds one item at the least; what the memory limit leaves beyond that is shared out in
    proportion to the wishes.
    """
    # Smaller where ranks share them, so that all have some.
    size = max(1, resources.batch_bytes // 8) if resources.tasks else resources.batch_bytes
    known = sizes.item_bytes is not None
    whole = float(sum(sizes.item_bytes or ()))
    each = float(size)
    wishes: list[Step] = []
    for operator in plan.operators:
        each, whole = max(1.0, each * operator.growth), whole * operator.growth
        resource, slots = _placement(operator, resources)
        window = 1 if resource is Resource.CPU else 2 * slots
        item = operator.item_bytes or int(each)
        if operator.whole_input and known:
            window, item = 1, max(item, int(whole))
        wishes.append(Step(resource, slots, window, item))
    least = sum(step.bytes_each for step in wishes)
    more = sum(step.in_flight_bytes for step in wishes) - least
    share = min(1.0, max(0.0, (resources.memory_limit - least) / more)) if more else 1.0
    steps = tuple(_shrink(step, share) for step in wishes)
    first = plan.operators[0]
    rows = first.rows if isinstance(first, Load) and first.rows else resources.batch_rows
    boundaries = None
    if sizes.item_bytes is not None:
        cuts = batches(sizes.item_bytes, int, rows, size)
        ends = list(accumulate(len(batch) for batch in cuts))
        boundaries = tuple(zip([0, *ends], ends, strict=False))
    bounded = known or not any(operator.whole_input for operator in plan.operators)
    return Schedule(steps, rows, size, boundaries, bounded)


def batches(items: Iterable[T], size_of: Callable[[T], int], rows: int, size: int) -> Iterator[list[T]]:
    """Cut a stream greedily into batches of at most `rows` items and `size` bytes; a larger item goes alone."""
    batch: list[T] = []
    held = 0
    for item in items:
        item_size = size_of(item)
        if batch and (len(batch) >= rows or held + item_size > size):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += item_size
    if batch:
        yield batch


def _placement(operator: Operator, resources: Resources) -> tuple[Resource, int]:
    if resources.tasks and operator.elsewhere:
        bound = resources.max_concurrency if isinstance(operator, Embed) else None
        return Resource.RANK, min(resources.tasks, bound or resources.tasks)
    if isinstance(operator, Split) and operator.remote and not operator.whole and resources.processes:
        return Resource.PROCESS, resources.processes
    if isinstance(operator, Embed | Call):
        slots = resources.max_concurrency or operator.slots
        # One call at a time is made where the native call would be made: a client may be bound to its thread, and
        # a model that computes in this process is slower in another one.
        alone = slots == 1 and operator.resource is Resource.THREAD
        return Resource.CPU if alone else operator.resource, slots
    return operator.resource, operator.slots


def _shrink(step: Step, share: float) -> Step:
    window = 1 + int((step.window - 1) * share)
    return replace(step, slots=min(step.slots, window), window=window)
