"""Versions: the package's own, and the oldest ones that it admits and is tested with."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

import aaflow_plugins
from tests.house.repository import ROOT, pyproject

#: Extras that need what the oldest versions exclude: wordllama wants numpy 2; or only tools.
NOT_TESTED_AT_THE_OLDEST = {"demo", "all", "bench", "dev"}


def declared() -> list[Requirement]:
    project = pyproject()["project"]
    groups = [project["dependencies"]]
    groups += [
        needs for extra, needs in project["optional-dependencies"].items() if extra not in NOT_TESTED_AT_THE_OLDEST
    ]
    found = [Requirement(text) for needs in groups for text in needs]
    return [requirement for requirement in found if requirement.name != project["name"]]


def oldest() -> dict[str, Version]:
    lines = (ROOT / "constraints" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name: Version(pin) for name, pin in pins}


def test_every_lower_bound_is_the_version_tested() -> None:
    """A bound below what the tests run with would be a promise nobody has looked at."""
    pins = oldest()
    assert sorted(pins) == sorted({requirement.name for requirement in declared()})
    for requirement in declared():
        (bound,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
        pin = pins[requirement.name]
        assert pin.release[: len(bound.release)] == bound.release, requirement.name


def test_hard_dependencies_stay_few() -> None:
    needs = [Requirement(text).name for text in pyproject()["project"]["dependencies"]]
    assert sorted(needs) == ["numpy", "pluggy", "pyarrow", "rich", "typer"]


def test_version_is_the_distributions() -> None:
    assert aaflow_plugins.__version__ == version("aaflow-plugins") == pyproject()["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(aaflow_plugins.__version__)}\]", changelog, re.MULTILINE)


def test_the_command_is_installed() -> None:
    result = subprocess.run([Path(sys.executable).parent / "aaflow", "--help"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "doctor" in result.stdout
