"""The contracts between packages and layers hold, and would be noticed if they did not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.house.repository import ROOT

pytest.importorskip("importlinter")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sysconfig.get_path("scripts")) / "lint-imports"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([command, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packages and their contracts, to be broken."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("aaflow_plugins", "langchain_aaflow", "llama_index_aaflow"):
        package = find_spec(name)
        assert package is not None
        assert package.submodule_search_locations
        shutil.copytree(package.submodule_search_locations[0], tmp_path / name)
    return tmp_path


def test_every_contract_is_kept(copied: Path) -> None:
    result = lint(copied)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("aaflow_plugins/dataplane/batch.py", "import langchain_core", "The core imports no framework"),
        ("aaflow_plugins/plan.py", "import langchain_aaflow.documents", "The core imports no framework"),
        ("aaflow_plugins/executor.py", "import mpi4py", "mpi4py is imported by the engine that needs it alone"),
        ("aaflow_plugins/operators.py", "import tiktoken", "Tokenizers are imported by aaflow_plugins.tokenizers"),
        ("aaflow_plugins/dataplane/batch.py", "import aaflow_plugins.plan", "The core is built in layers"),
        ("aaflow_plugins/new_idea.py", "import json", "The core is built in layers"),
        ("langchain_aaflow/plans.py", "import llama_index.core", "An adapter knows its own framework"),
        (
            "llama_index_aaflow/node_parsers.py",
            "import langchain_core",
            "The LlamaIndex adapter knows its own framework",
        ),
    ],
)
def test_a_broken_contract_is_noticed(copied: Path, module: str, line: str, broken: str) -> None:
    with (copied / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    result = lint(copied)
    assert result.returncode == 1
    verdicts = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(verdict.startswith(broken) for verdict in verdicts) or broken in result.stdout.partition("Broken")[2]
