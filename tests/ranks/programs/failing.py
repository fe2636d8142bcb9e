"""A program for several ranks, in which one does what the first argument says."""

from __future__ import annotations

import os
import signal
import sys
import time

import pyarrow as pa

from aaflow_plugins.engines.communicator import Communicator
from aaflow_plugins.plugins import engine


def work(ranks: Communicator, what: str) -> None:
    odd = ranks.rank == 1
    if what == "error outside" and odd:
        raise ValueError("chunk 17 is bad")
    if what == "end" and odd:
        sys.exit(0)
    with ranks.together("work", chunks=18, plan="another" if what == "plan" and odd else "plan"):
        if what == "error" and odd:
            raise ValueError("chunk 17 is bad")
        if what == "error while others work":
            if odd:
                raise ValueError("chunk 17 is bad")
            for _ in range(1000):
                time.sleep(0.01)
                ranks.check()
        if what == "kill" and odd:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "interrupt":
            # In the middle of the first test of a launcher's patience nothing is known yet: say that it can begin.
            sys.stderr.write("waiting\n")
            sys.stderr.flush()
            time.sleep(60)
        if what == "columns":
            ranks.all_gather(pa.table({"a": pa.array([1], pa.int32() if odd else pa.int64())}))
        if what == "calls":
            table = pa.table({"a": [1]})
            ranks.gather(table) if odd else ranks.shuffle(table, "a")


def main(what: str) -> None:
    ranks = engine("mpi")
    began = time.monotonic()
    try:
        work(ranks, what)
    except Exception as error:
        if time.monotonic() - began > 5:
            sys.stderr.write("late: ")
        sys.stderr.write(f"rank {ranks.rank} raises {type(error).__name__}: {error}\n")
        raise


if __name__ == "__main__":
    main(sys.argv[1])
