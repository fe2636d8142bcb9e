"""Build the source distribution and, from it, the wheel; check what they hold; test the wheel alone.

The tests run in a fresh environment and in an unpacked source distribution without the packages, so that
nothing but the wheel can be imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from environments import ROOT, fresh, run_tests

_OUTSIDE_THE_PACKAGES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks/chat_completions.py",
    "benchmarks/openai_server.py",
    "constraints/oldest.txt",
    "pyproject.toml",
    "scripts/wheel.py",
    "tests/conftest.py",
)

#: What a fault of the packaging would show in: every package is imported, every hook called, native stores are filled,
#: the command and what the documentation shows are run.
_TESTS = (
    *(
        f"tests/core/test_cli.py::test_{name}"
        for name in ("demo_on_a_folder_of_the_users", "doctor_names_versions_and_fast_paths", "explain_shows_the_plan")
    ),
    "tests/core/test_plugins.py",
    *(f"tests/house/test_{name}.py" for name in ("contributing", "documentation", "imports", "packaging")),
    "tests/langchain/test_comparing.py",
    "tests/langchain/test_standard_embeddings.py",
    "tests/langchain/test_standard_vectorstores.py",
    "tests/llama_index/test_node_parsers.py",
)


def main(arguments: list[str]) -> int:
    """Return pytest's exit status; anything wrong before that ends the program with a message."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", "dist"], cwd=ROOT, check=True)
    (wheel,) = (ROOT / "dist").glob("*.whl")
    (sdist,) = (ROOT / "dist").glob("*.tar.gz")
    packages = {folder.name: folder for folder in (ROOT / "aaflow_plugins", *_packages(ROOT / "adapters"))}
    _check_wheel(wheel, packages)
    _check_sdist(sdist, packages)
    print(f"{wheel.name} and {sdist.name} hold what they should: {', '.join(packages)}", flush=True)
    python = fresh(".venv-wheel", f"{wheel}[dev]")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        shutil.rmtree(unpacked / "aaflow_plugins")
        shutil.rmtree(unpacked / "adapters")
        _check_origin(python, packages, unpacked)
        return run_tests(python, *(arguments or _TESTS), folder=unpacked)


def _packages(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/__init__.py"))


def _check_wheel(wheel: Path, packages: dict[str, Path]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
        _check("top-level names", {name.split("/")[0] for name in names}, {*packages, metadata})
        files = {name for name in names if not name.startswith(metadata)}
        wanted = {f"{name}/{file}" for name, folder in packages.items() for file in _files(folder)}
        _check("files", files, wanted)
        _require(names, [f"{package}/py.typed" for package in packages])
        _require(names, [f"{metadata}/licenses/LICENSE"])
        entry_points = archive.read(f"{metadata}/entry_points.txt").decode()
    _require(entry_points, ["[console_scripts]", "aaflow = aaflow_plugins.cli:main", "[aaflow_plugins]"])


def _check_sdist(sdist: Path, packages: dict[str, Path]) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    _require(names, _OUTSIDE_THE_PACKAGES)
    _require(names, [f"{folder.relative_to(ROOT)}/py.typed" for folder in packages.values()])
    stray = sorted(name for name in names if name.startswith((".venv", ".git/", ".upstream", "benchmarks/results/")))
    _check("stray files of the sdist", set(stray), set())


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path.relative_to(folder).as_posix() for path in paths]


def _check(what: str, found: set[str], wanted: set[str]) -> None:
    if found != wanted:
        sys.exit(f"{what}: not wanted {sorted(found - wanted)}, missing {sorted(wanted - found)}")


def _require(found: Iterable[str], wanted: Iterable[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        sys.exit(f"missing from the distribution: {missing}")


def _check_origin(python: Path, packages: Iterable[str], folder: Path) -> None:
    """The packages are imported from the wheel's environment also where the tests run."""
    code = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]), sep='\\n')"
    found = subprocess.run([python, "-c", code, *packages], cwd=folder, check=True, capture_output=True, text=True)
    for file in found.stdout.split():
        if not Path(file).is_relative_to(python.parent.parent):
            sys.exit(f"imported from {file}, not from the wheel")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
