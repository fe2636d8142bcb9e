"""A batch in a job of several ranks: each rank takes a contiguous block of the inputs.

All ranks call `batch` (or `abatch`) with the same inputs. What one process would return is at rank 0, the others
getting an empty list; or on all ranks; or each rank keeps what comes of its own block, which is one of
`aaflow_plugins.shards.blocks([1] * len(inputs), ranks)`: see the `gather` of `Executor`. `max_concurrency` is for all
ranks together: each has its share, and at least one call.

Outputs go from rank to rank as the adapter writes them, and are equal copies. What it can't write does not travel, nor
does an exception as an output: that input is run again where its output is wanted. Once all have ended their blocks,
rank 0 raises the error that one process would raise (another rank's by running that input again), and the other ranks
raise a `RankError`. A batch that does not allow blocks is run by rank 0 alone, which its report notes. Nothing of it is
run again: for an exception as an output the other ranks have a `RankError` that tells of it, and those that are to have
what can't travel raise, while rank 0 has its outputs.

Each rank's handlers and tracers see the runs of its own inputs, its executor's report tells of them, and what models
and functions count or cache is that rank's share. A batch within a rank's block stays in its process.

Only an executor that names an engine, or a `gather` other than "root", makes `batch` a call of all ranks. With
`Executor()` it stays in its process, in any job: a chain may be called by one rank alone, by an evaluation or within
somebody's function, and would wait there for ranks that never come.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from aaflow_plugins.cancellation import uncancelled
from aaflow_plugins.engines.communicator import Communicator, RankError, within_a_block
from aaflow_plugins.engines.event_loop import in_thread
from aaflow_plugins.engines.waiting import wait_for
from aaflow_plugins.executor import Executor
from aaflow_plugins.plugins import ranks_of
from aaflow_plugins.shards import blocks

_log = logging.getLogger(__name__)


class NoDataError(TypeError):
    """Something does not travel from rank to rank.

    Attributes:
        kind: The name of its class.
    """

    def __init__(self, value: Any) -> None:
        self.kind = f"{type(value).__module__}.{type(value).__qualname__}"
        super().__init__(f"a {self.kind} is no plain data")


def ranks_for(executor: Executor | None) -> Communicator | None:
    """The ranks among which a batch is divided; None if this process runs all of it.

    Raises:
        ValueError: If there is no such engine, or if each rank is to bring inputs of its own.
        ImportError: If what the engine needs is not installed.
    """
    if executor is None or not _is_shared(executor):
        return None
    ranks = ranks_of(executor)
    if ranks.size == 1:
        return None
    if executor.partitioned:
        raise ValueError("executor: partitioned is for documents; a batch takes the same inputs on all ranks")
    return ranks


async def aranks_for(executor: Executor | None) -> Communicator | None:
    """Like `ranks_for`; the first call waits for the other ranks, and not in the running loop.

    If the task is cancelled meanwhile it comes to the call with the others, as cancelled: they are to hear of it.
    """
    if executor is None or not _is_shared(executor):
        return None
    await uncancelled(in_thread(lambda _: ranks_for(executor)))
    return ranks_for(executor)


def is_for_ranks(executor: Executor | None) -> bool:
    """Whether a batch with this executor is a call of all ranks, where there are several."""
    if executor is None:
        return False
    return executor.engine not in ("auto", "local") or (executor.engine == "auto" and executor.gather != "root")


def _is_shared(executor: Executor) -> bool:
    return is_for_ranks(executor) and not within_a_block()


@dataclass
class Outcome:
    """Where a run of some inputs failed, once it has.

    Attributes:
        position: The number of the step, of what was tried there, and of the input; None if that is not known.
    """

    position: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Job:
    """One batch, as a rank has prepared it.

    Attributes:
        count: Number of all inputs.
        inputs: What tells them from others, the same in every process.
        settings: Likewise what decides the outputs beside them.
        alone: Why rank 0 runs all of it; None if each rank takes a block.
        run: Makes the outputs of the inputs of some numbers in this process; it notes where they failed, if it is given
            where to. Without that they are run again.
        write: An output as what travels; raises `NoDataError` if it would not come back equal, of the same types.
        read: What `write` was given; raises ImportError or AttributeError if that can't be made here.
    """

    count: int
    inputs: bytes
    settings: bytes
    alone: str | None
    run: Callable[[Sequence[int], Outcome | None], list[Any]]
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]


def batch_on(ranks: Communicator, executor: Executor, job: Job) -> list[Any]:
    """Run a batch on all ranks, each of which makes this call.

    Args:
        ranks: The ranks, of which there are several.
        executor: Its `gather` says where the outputs are wanted: at "root", on "all" ranks, or as "shards".
        job: The batch.

    Returns:
        The outputs, in order: of all inputs at rank 0, and none elsewhere; or on all ranks; or of this rank's block.

    Raises:
        RankError: If another rank fails, or has other inputs or other settings.
        TypeError: If something that this rank is to have can't travel, and can't be made here again.
        Exception: At rank 0 the error that one process would raise.
    """
    with ranks.together("batch", gather=executor.gather, alone=job.alone, chain=job.settings.hex()):
        ranks.compare(job.inputs, "has other inputs than rank 0: give all ranks the same")
        batch = _Batch(ranks, executor, job)
        outputs = batch.outputs()
    if batch.lacking is not None:
        raise batch.lacking  # outside of the block: rank 0 lacks nothing, and is to keep what it has
    return outputs


@dataclass
class _Batch:
    ranks: Communicator
    executor: Executor
    job: Job
    #: The inputs of each rank, and those that it is to run.
    blocks: list[range] = field(init=False)
    parts: list[range] = field(init=False)
    #: What is raised if this rank is to have what it can't have.
    lacking: TypeError | None = None

    def __post_init__(self) -> None:
        count = self.job.count
        self.blocks = blocks([1] * count, self.ranks.size)
        alone = [range(count), *[range(count, count)] * (self.ranks.size - 1)]
        self.parts = self.blocks if self.job.alone is None else alone

    def outputs(self) -> list[Any]:
        own = self._own_outputs()
        wanted = self._wanted()
        mine = self.parts[self.ranks.rank]
        if self.job.alone is None and self.executor.gather == "shards":
            return own
        found = {number: output for number, output in zip(mine, own, strict=True) if number in wanted}
        if self.job.alone is None or self.executor.gather != "root":
            self._receive(own, wanted, found)
        return [] if self.lacking else [found[number] for number in wanted]

    def _wanted(self) -> range:
        """The inputs whose outputs this rank returns."""
        if self.executor.gather == "shards":
            return self.blocks[self.ranks.rank]
        return range(self.job.count if self.executor.gather == "all" or not self.ranks.rank else 0)

    def _own_outputs(self) -> list[Any]:
        part, outcome = self.parts[self.ranks.rank], Outcome()
        failure: Exception | None = None
        outputs: list[Any] = []
        try:
            outputs = self.job.run(part, outcome) if part else []
            if part and self.job.alone and self.executor.report:
                self.executor.report.notes.append(f"rank 0 ran all inputs: {self.job.alone}")
        except Exception as error:
            failure = error
        said = _Failure.of(failure, part, outcome).to_json() if failure is not None else b""
        failures = [_Failure.from_json(rank, each) for rank, each in enumerate(self._meet(said)) if each]
        try:
            if failures:
                self._raise(min(failures, key=lambda each: each.position), failure)
        finally:
            failure = None  # its traceback holds this frame
        return outputs

    def _raise(self, first: _Failure, own: Exception | None) -> None:
        """Raise at rank 0 what one process would raise: the error of the earliest step, there of the first input."""
        if not self.ranks.rank:
            if first.rank == 0 and own is not None:
                raise own
            self._run_again(range(*first.again))
        self._meet(b"")
        if first.rank == self.ranks.rank and own is not None:
            raise own
        raise RankError(first.rank, f"failed: {first.what}; run again at rank 0, that did not")

    def _receive(self, own: list[Any], wanted: range, found: dict[int, Any]) -> None:
        """Add to `found` what other ranks have."""
        root = self.executor.gather == "root"
        leads = root and not self.ranks.rank
        # Rank 0, which nobody asks there, sends nothing.
        table = self._table([] if leads else own)
        came = self.ranks.gather(table) if root else self.ranks.all_gather(table)
        again: dict[int, str | None] = {}
        if came is not None:
            first = self.parts[0].stop if root else 0
            missing = [number for number in wanted if number not in found]
            rows = came.take(pa.array([number - first for number in missing], pa.int64()))
            for number, row in zip(missing, rows.to_pylist(), strict=True):
                data, failed = row["data"], row["failed"]
                if failed is not None and self.job.alone is not None:
                    found[number] = RankError(0, f"failed: {failed.decode()}")
                    continue
                if data is None:
                    again[number] = row["kind"]
                    continue
                try:
                    found[number] = self.job.read(data)
                except (ImportError, AttributeError) as error:
                    again[number] = str(error)
        kinds = ", ".join(sorted({kind for kind in again.values() if kind}))
        if again and self.job.alone is not None:
            self.lacking = TypeError(
                f"{kinds} can't come from rank 0, which ran the batch alone ({self.job.alone}): give "
                "Executor(gather='root')"
            )
        elif again:
            found.update(self._made_again(list(again), kinds))
        self._meet(b"")  # the others may have something to run again

    def _made_again(self, numbers: Sequence[int], kinds: str) -> dict[int, Any]:
        """The outputs that can't come, made here.

        Args:
            numbers: Those of the inputs.
            kinds: What of the outputs is no exception; empty if all are.
        """
        if kinds:
            _log.warning(
                "Of %d outputs %d can't come from other ranks, and are made again here (%s): let them be text or plain "
                "data, or give Executor(gather='shards')",
                self.job.count,
                len(numbers),
                kinds,
            )
        return dict(zip(numbers, self._run_again(numbers), strict=True))

    def _run_again(self, numbers: Sequence[int]) -> list[Any]:
        """Outputs of inputs that another rank has run; the executor keeps the report of this rank's own."""
        report = self.executor.report
        try:
            return self.job.run(numbers, None)
        finally:
            self.executor.report = report

    def _table(self, outputs: Sequence[Any]) -> pa.Table:
        """Outputs as what travels: as they are written, or the class of what is no data, or what an exception says."""
        data: list[bytes | None] = []
        kinds: list[str | None] = []
        failed: list[bytes | None] = []
        for output in outputs:
            written, kind, said = None, None, None
            if isinstance(output, Exception):
                said = f"{type(output).__name__}: {output}".encode(errors="backslashreplace")
            else:
                try:
                    written = self.job.write(output)
                except NoDataError as error:
                    kind = error.kind
            data.append(written)
            kinds.append(kind)
            failed.append(said)
        columns = {"data": pa.array(data, pa.large_binary()), "kind": pa.array(kinds, pa.string())}
        return pa.table({**columns, "failed": pa.array(failed, pa.large_binary())})

    def _meet(self, said: bytes) -> list[bytes]:
        """What each rank says, once all have come here. That may take long, and nobody complains meanwhile."""
        ranks = self.ranks
        if ranks.rank:
            ranks.post(0, pa.py_buffer(said or b"\0"))
            _, told = wait_for(ranks.poll, check=ranks.check)
            return [bytes.fromhex(each) for each in json.loads(told.to_pybytes())]
        everything = [said] * ranks.size
        for _ in range(1, ranks.size):
            rank, message = wait_for(ranks.poll, check=ranks.check)
            everything[rank] = message.to_pybytes().removeprefix(b"\0")
        told = pa.py_buffer(json.dumps([each.hex() for each in everything]).encode())
        for rank in range(1, ranks.size):
            ranks.post(rank, told)
        return everything


@dataclass(frozen=True)
class _Failure:
    """What a rank says of the failure of its part.

    Attributes:
        rank: Its number.
        position: The step, what was tried there, and the input: of several failures the lowest is raised.
        again: First and last but one of the inputs that fail again.
        what: The error.
    """

    rank: int
    position: list[int]
    again: list[int]
    what: str

    @classmethod
    def of(cls, error: Exception, part: range, outcome: Outcome) -> _Failure:
        what = f"{type(error).__name__}: {error}"
        if outcome.position is None:
            return cls(0, [0, 0, part.start], [part.start, part.stop], what)
        step, turn, index = outcome.position
        return cls(0, [step, turn, part[index]], [part[index], part[index] + 1], what)

    def to_json(self) -> bytes:
        return json.dumps([self.position, self.again, self.what]).encode()

    @classmethod
    def from_json(cls, rank: int, said: bytes) -> _Failure:
        return cls(rank, *json.loads(said))
