"""The files that the tests of the house look at: those under version control, or all of an unpacked sdist."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def files() -> list[Path]:
    """Every text file of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.parts[-3:])]
    binary = {".png", ".pyc", ".gz", ".whl", ".ico"}
    return sorted(path for path in paths if path.is_file() and path.suffix not in binary)


def documents() -> list[Path]:
    """Every Markdown file of the project."""
    return [path for path in files() if path.suffix == ".md"]


def pyproject() -> dict[str, Any]:
    """The project's settings."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def frameworks() -> tuple[str, ...]:
    """Packages that the core must never import, as the contracts between packages name them."""
    contracts = pyproject()["tool"]["importlinter"]["contracts"]
    return tuple(
        name
        for contract in contracts
        if contract["type"] == "forbidden" and contract["source_modules"] == ["aaflow_plugins"]
        for name in contract["forbidden_modules"]
    )
