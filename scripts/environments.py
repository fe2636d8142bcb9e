"""Fresh virtual environments, made with pip as a user makes them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def fresh(name: str, *requirements: str, interpreter: str = sys.executable) -> Path:
    """Make the environment `name` in the project's folder anew, install into it, and return its Python."""
    folder = ROOT / name
    print(f"Setting up {name}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    # As in the Makefile.
    subprocess.run([python, "-m", "pip", "install", "-qq", "--upgrade", "pip"], cwd=ROOT, check=True)
    subprocess.run([python, "-m", "pip", "install", "-qq", "--no-compile", *requirements], cwd=ROOT, check=True)
    return python


def interpreter(minor: int) -> str | None:
    """A Python 3.`minor` of this machine that can make environments: on the PATH, or of pyenv's."""
    named = shutil.which(f"python3.{minor}")
    pyenv = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
    for found in (named, *map(str, reversed(pyenv))):
        # What pyenv puts on the PATH only says how to choose a version, unless one is chosen.
        if found and subprocess.run([found, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0:
            return found
    return None


def run_tests(python: Path, *arguments: str, folder: Path = ROOT) -> int:
    """Run pytest in `folder` and return its exit status: without what is slow, and with few generated examples.

    `make test` has it all.
    """
    few = {"CHAIN_EXAMPLES": "40", "ONE_EXAMPLE_OF": "3", **os.environ}
    return subprocess.run(
        [python, "-m", "pytest", "-m", "not slow and not at_length", *arguments], cwd=folder, env=few
    ).returncode
