"""Where it was measured, and with which versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aaflow_plugins.engines.launching import available_cores

_DISTRIBUTIONS = (
    "aaflow-plugins",
    "dask",
    "faiss-cpu",
    "langchain",
    "langchain-community",
    "langchain-core",
    "langchain-openai",
    "langchain-text-splitters",
    "langgraph",
    "llama-index-core",
    "llama-index-embeddings-openai",
    "llama-index-vector-stores-faiss",
    "numpy",
    "openai",
    "orjson",
    "pyarrow",
    "pybase64",
    "pydantic",
    "ray",
    "splintr-rs",
    "tiktoken",
    "wordllama",
)


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system, and the load before anything was started."""
    try:
        load = round(os.getloadavg()[0], 2)
    except OSError:
        load = None
    return {
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_before": load,
    }


def versions() -> dict[str, str]:
    """Python, the commit, and every distribution that takes part; `-` for what is not there."""
    found = {"python": platform.python_version(), "commit": _commit()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def _commit() -> str:
    """The checkout's commit, marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return "-"
    return done.stdout.strip() or "-"


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
