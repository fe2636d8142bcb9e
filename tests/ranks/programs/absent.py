"""A program whose rank 1 ends before it has met the others, in the way that the first argument says."""

from __future__ import annotations

import sys

from mpi4py import MPI  # as a script with some MPI of its own does

from aaflow_plugins.plugins import engine

if MPI.COMM_WORLD.rank == 1:
    if sys.argv[1] == "error":
        raise OSError("no input")
    sys.exit(4 if sys.argv[1] == "status" else 0)
with engine("mpi").together("plan"):
    raise AssertionError("unreachable")
