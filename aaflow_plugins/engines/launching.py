"""Starting the ranks of a job, and knowing that one has been started."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

#: Where launchers say how many ranks there are, and which this is: Open MPI, MPICH and Intel MPI, MVAPICH, srun.
_SIZES: Final = {
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "PMI_SIZE": "PMI_RANK",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
}

#: The process that a launcher has started: what it starts itself inherits the variables above, but is no rank.
_RANK: Final = "AAFLOW_RANK_PROCESS"

#: Variables by which a rank finds its job, with those above: Open MPI's and PRRTE's, MPICH's and Intel MPI's, Slurm's.
_OF_JOBS: Final = (*_SIZES, _RANK, "OMPI_", "PMIX_", "PRTE_", "PMI_", "PMI2_", "HYDI_", "MPI_LOCAL", "MV2_", "SLURM_")


#: How many threads Rust's pools have.
_TOKENIZER_THREADS: Final = "RAYON_NUM_THREADS"


def launched_ranks() -> int:
    """Ranks of the job that a launcher has started this process in; 1 without one. MPI is not asked."""
    return 1 if is_child() else _size()


def rank() -> int:
    """The number of this process among the ranks that a launcher has started, from 0; 0 without one. MPI is not asked.

    A process that a rank has started is none of them, and has 0.
    """
    said = next((each for size, each in _SIZES.items() if _is_number(size)), "")
    return int(os.environ[said]) if _is_number(said) and not is_child() else 0


def is_child() -> bool:
    """Whether this process was started, or forked, by a rank."""
    return os.environ.get(_RANK, str(os.getpid())) != str(os.getpid())


def rank_environment(ranks: int) -> dict[str, str]:
    """The environment for ranks on this machine: they share out its cores, where the user has not said how many.

    Hugging Face's tokenizers, and other libraries written in Rust, would start a thread a core in each rank. How many
    there are changes no result. Numeric libraries are left alone (`OMP_NUM_THREADS`): last bits of what they compute
    may depend on it.

    Args:
        ranks: How many there are.
    """
    return {_TOKENIZER_THREADS: str(max(1, available_cores() // ranks)), **os.environ}


def unlaunched_environment() -> dict[str, str]:
    """The environment without what tells of a job: a launcher that gets it starts one of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OF_JOBS)}


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _size() -> int:
    return next((int(os.environ[name]) for name in _SIZES if _is_number(name)), 1)


def _is_number(name: str) -> bool:
    return os.environ.get(name, "").isdigit()


def _leave() -> None:
    """At the end of a rank that has started MPI and has not met the others: they may wait for it.

    Without that, MPI would wait for them in turn.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and not is_child() and mpi.Is_initialized() and not mpi.Is_finalized():
        # By its name: to know that ranks are launched takes no engine.
        import_module("aaflow_plugins.engines.mpi").leave()


if _size() > 1:
    os.environ.setdefault(_RANK, str(os.getpid()))
    atexit.register(_leave)


def launch_command(ranks: int, program: Sequence[str]) -> list[str]:
    """The command that runs a Python program as several ranks on this machine.

    Args:
        ranks: How many.
        program: What follows `python`.

    Raises:
        FileNotFoundError: If there is no launcher.
    """
    found = launcher()
    flags: list[str] = []
    if "Open MPI" in (said := _version(found)) or "prte" in said.lower():
        # Open MPI refuses both unless it is told that they are meant.
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--allow-run-as-root")
        flags.append("--oversubscribe")
    return [found, "-n", str(ranks), *flags, sys.executable, *program]


def launcher() -> str:
    """The launcher of this environment, else the first on the path.

    Raises:
        FileNotFoundError: If there is none.
    """
    beside = Path(sys.executable).parent
    for name in ("mpirun", "mpiexec"):
        found = shutil.which(name, path=str(beside)) or shutil.which(name)
        if found:
            return found
    raise FileNotFoundError("no `mpirun` or `mpiexec` is found: pip install 'aaflow-plugins[mpi]' brings one")


def _version(launcher: str) -> str:
    return subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
