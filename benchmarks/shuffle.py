"""Rows to the ranks that own their keys: Arrow buffers as they are, against pickled tables."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aaflow_plugins.dataplane.vectors import to_arrow
from aaflow_plugins.plugins import engine
from benchmarks.harness import Benchmark, Case, Contender, Scale
from benchmarks.measure import Work
from benchmarks.results import CaseResult

_RANKS = 2
_PICKLED, _OURS = "mpi4py's `alltoall` of tables (pickled)", "ours (`shuffle`)"
_OUT_OF_BAND = "the same by `mpi4py.util.pkl5`"

Way = Callable[[pa.Table], pa.Table]


def pickled(table: pa.Table) -> pa.Table:
    """What the documentation of mpi4py has for objects of any kind."""
    from mpi4py import MPI

    return _exchanged(table, MPI.COMM_WORLD)


def pickled_out_of_band(table: pa.Table) -> pa.Table:
    """What it has for objects with large buffers, which go beside the pickles."""
    from mpi4py import MPI
    from mpi4py.util import pkl5

    return _exchanged(table, pkl5.Intracomm(MPI.COMM_WORLD))


def ours(table: pa.Table) -> pa.Table:
    """The engine's own."""
    ranks = engine("mpi")
    with ranks.together("shuffle"):
        return ranks.shuffle(table, "key")


def _exchanged(table: pa.Table, world: Any) -> pa.Table:
    owners = np.mod(table["key"].to_numpy(), world.size)
    parts = [table.take(pa.array(np.flatnonzero(owners == rank))) for rank in range(world.size)]
    return pa.concat_tables(world.alltoall(parts))


def _table(parameters: Mapping[str, Any], rank: int) -> pa.Table:
    rows, dimension = parameters["rows"], parameters["dimension"]
    random = np.random.default_rng(rank)
    columns: dict[str, Any] = {"key": random.integers(0, 2**62, rows)}
    if dimension:
        columns["vector"] = to_arrow(random.standard_normal((rows, dimension), dtype=np.float32))
    else:
        columns["text"] = pa.array([f"row {number}" for number in range(rows)])
    return pa.table(columns)


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for batch in table.combine_chunks().to_batches():
        digest.update(pa.concat_batches([batch]).serialize())
    return digest.hexdigest()


def _work(way: Way) -> Callable[[Mapping[str, Any]], Work]:
    def prepare(parameters: Mapping[str, Any]) -> Work:
        table = _table(parameters, engine("mpi").rank)
        before = table.slice(0, 1000) if parameters["first"] else table
        return Work(run=lambda _: way(table), digest=_digest, warm_up=lambda: way(before))

    return prepare


def _cases(scale: Scale) -> list[Case]:
    few = 100 if scale.quick else 1
    narrow, wide = {"rows": 1_000_000 // few, "dimension": 0}, {"rows": 100_000 // few, "dimension": 384}
    shapes = {
        "1,000,000 rows a rank, int64 + text": {**narrow, "first": False},
        "100,000 rows a rank, int64 + 384 floats": {**wide, "first": False},
        "100,000 rows a rank, int64 + 384 floats, a process's first call": {**wide, "first": True},
    }
    return [Case(name, shape, (_PICKLED, _OUT_OF_BAND, _OURS)) for name, shape in shapes.items()]


def _notes(case: CaseResult, _: Sequence[CaseResult]) -> list[str]:
    rows, dimension = case.parameters["rows"], case.parameters["dimension"]
    size = rows * (8 + (4 * dimension if dimension else 10))
    rates = "; ".join(
        f"{each.name} {rows / wall / 1e6:.1f} million rows and {size / wall / 2**20:,.0f} MiB a second"
        for each in case.contenders
        if (wall := each.spread("wall").median)
    )
    return [f"A rank's rows a second: {rates}."]


BENCHMARK = Benchmark(
    name="shuffle",
    home="benchmarks.shuffle:BENCHMARK",
    title="A shuffle between ranks",
    protocol=(
        f"{_RANKS} ranks of an MPI job on this machine; every row goes to the rank that its key modulo {_RANKS} names. "
        "Timed: from a table in memory to the table of a rank's own rows. Half of the rows stay where they are. Before "
        "that: the tables, and a shuffle of all of them, so that memory is there which Arrow's pool keeps from call to "
        "call (and which no extra peak counts); for a process's first call, a shuffle of a thousand rows alone. That "
        "one takes as long as the system, on a virtual machine its host, needs to find memory."
    ),
    metric="wall",
    contenders=(
        Contender(_PICKLED, "native", _work(pickled), ranks=_RANKS),
        Contender(_OUT_OF_BAND, "native", _work(pickled_out_of_band), ranks=_RANKS),
        Contender(_OURS, "ours", _work(ours), ranks=_RANKS),
    ),
    cases=_cases,
    notes=_notes,
)
