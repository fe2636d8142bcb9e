"""Run LangChain packages' own tests with what they build accelerated.

Fetches the source distribution of the installed version from PyPI, runs its tests natively and accelerated, prints both
outcomes and how much of the suite took the fast path, and exits non-zero if a single test comes out otherwise.

    python scripts/upstream.py                     # all suites
    python scripts/upstream.py langchain-core
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environments import fresh

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = ROOT / ".upstream"


@dataclass(frozen=True)
class Suite:
    """A package's tests.

    Args:
        package: Its name on PyPI.
        plugin: The pytest plugin in `tests/upstream` that accelerates.
        tests: Folders of its tests.
        environment: Whether the tests need an environment of their own: with what the package's project lists for its
            tests, and without packages that their snapshots don't know of.
    """

    package: str
    plugin: str
    tests: tuple[str, ...]
    environment: bool = False


SUITES = (
    Suite("langchain-text-splitters", "constructed_splitters", ("tests",)),
    Suite(
        "langchain-core",
        "batched_chains",
        tuple(f"tests/unit_tests/{folder}" for folder in ("runnables", "indexing", "tracers", "callbacks")),
        environment=True,
    ),
)


def fetch(package: str, version: str) -> Path:
    """The folder of the unpacked source distribution; fetched once."""
    folder = UPSTREAM / f"{package.replace('-', '_')}-{version}"
    if not (folder / "tests").is_dir():
        UPSTREAM.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", package]
        subprocess.run([*pip, "-d", str(UPSTREAM), f"{package}=={version}"], check=True)
        wanted = tuple(f"{folder.name}/{name}" for name in ("tests/", "pyproject.toml"))
        with tarfile.open(f"{folder}.tar.gz") as archive:
            # The installed package is what is tested: only the tests, and what they need, are taken.
            members = [member for member in archive.getmembers() if member.name.startswith(wanted)]
            archive.extractall(UPSTREAM, members, filter="data")
    return folder


def environment_for(folder: Path, package: str, version: str) -> str:
    """The Python of a fresh environment with what the package's project lists for its tests."""
    listed = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["test"]
    return str(fresh(".venv-upstream", f"{package}=={version}", "--editable", ".[langchain]", *listed))


def run(suite: Suite, folder: Path, python: str, acceleration: str) -> dict[str, Any]:
    """Run a suite, 'native' or 'accelerated'."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "outcomes.json"
        plugins = str(ROOT / "tests" / "upstream")
        paths = [plugins, str(folder), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "ACCELERATION": acceleration,
            "OUTCOMES": str(results),
        }
        configuration = Path(scratch) / "pytest.ini"
        configuration.write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
        pytest = [python, "-m", "pytest", "-q", "--no-header", "--tb=line", "-p", suite.plugin]
        tests = ["-p", "no:cacheprovider", "-c", str(configuration), "--rootdir", str(folder), *suite.tests]
        done = subprocess.run([*pytest, *tests], cwd=folder, env=environment, capture_output=True, text=True)
        if not results.is_file():
            sys.exit(f"pytest did not run:\n{done.stdout}\n{done.stderr}")
        recorded: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
        return recorded


def compare(suite: Suite) -> bool:
    """Run a suite both ways and report; whether every test comes out as natively and some took the fast path."""
    version = importlib.metadata.version(suite.package)
    folder = fetch(suite.package, version)
    python = environment_for(folder, suite.package, version) if suite.environment else sys.executable
    native, accelerated = (run(suite, folder, python, acceleration) for acceleration in ("native", "accelerated"))
    print(f"{suite.package} {version}: its own tests")
    for name, result in (("native", native), ("accelerated", accelerated)):
        counts = Counter(outcome.rpartition(" ")[2] for outcome in result["outcomes"].values())
        print(f"  {name:12}" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    for title in sorted(accelerated.keys() - {"outcomes"}, reverse=True):
        counts = accelerated[title]
        fast = sum(count for key, count in counts.items() if key.endswith("fast"))
        print(f"\n{title}: {fast} of {sum(counts.values())} on the fast path")
        for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"  {count:5} {key}")
    tests = native["outcomes"].keys() | accelerated["outcomes"].keys()
    different = [test for test in sorted(tests) if native["outcomes"].get(test) != accelerated["outcomes"].get(test)]
    for test in different:
        print(f"DIFFERENT {test}: {native['outcomes'].get(test)} natively, {accelerated['outcomes'].get(test)} here")
    taken = any(key.endswith("fast") for key in accelerated["calls"])
    if not taken:
        print("nothing took the fast path")
    print(f"{len(tests)} tests of {suite.package}, {len(different) or 'none'} with another outcome than natively")
    return taken and not different


def main(packages: list[str]) -> int:
    """Return 0 if every test of the suites comes out as natively."""
    unknown = set(packages) - {suite.package for suite in SUITES}
    if unknown:
        sys.exit(f"no suite of {', '.join(sorted(unknown))}; known: {', '.join(suite.package for suite in SUITES)}")
    same = [compare(suite) for suite in SUITES if not packages or suite.package in packages]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
