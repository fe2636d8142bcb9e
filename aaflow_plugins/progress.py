"""Progress of a run: the callback's argument, and a bar for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from rich import progress as rich_progress
from rich.console import Console


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Attributes:
        operator: Kind of the operator that handed a batch on.
        rows: Rows it has handed on so far.
        total: Rows expected, or None where that is not known.
    """

    operator: str
    rows: int
    total: int | None


ProgressCallback: TypeAlias = Callable[[Progress], None]


@contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """Show a line for each operator on standard error while the block runs; yields the callback that feeds it.

    Args:
        title: Put before each operator's name.
    """
    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.completed:,} rows"),
        rich_progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, rich_progress.TaskID] = {}

    def show(step: Progress) -> None:
        if step.operator not in tasks:
            tasks[step.operator] = bar.add_task(f"{title}: {step.operator}", total=step.total)
        bar.update(tasks[step.operator], completed=step.rows)

    with bar:
        yield show
