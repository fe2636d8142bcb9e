"""Run langchain-text-splitters' own tests with every splitter they construct accelerated.

Fetches the source distribution of the installed version from PyPI, runs its tests natively and accelerated, prints both
outcomes and how much of the suite took the fast path, and exits non-zero if a single test comes out otherwise.

    python scripts/upstream_text_splitters.py
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
UPSTREAM = ROOT / ".upstream"
PACKAGE = "langchain-text-splitters"


def fetch(version: str) -> Path:
    """The folder of the unpacked source distribution; fetched once."""
    folder = UPSTREAM / f"{PACKAGE.replace('-', '_')}-{version}"
    if not (folder / "tests").is_dir():
        UPSTREAM.mkdir(exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE]
        subprocess.run([*pip, "-d", str(UPSTREAM), f"{PACKAGE}=={version}"], check=True)
        with tarfile.open(f"{folder}.tar.gz") as archive:
            # The installed package is what is tested: only the tests are taken.
            members = [member for member in archive.getmembers() if member.name.startswith(f"{folder.name}/tests/")]
            archive.extractall(UPSTREAM, members, filter="data")
    return folder


def run(folder: Path, splitters: str) -> dict[str, Any]:
    """Run the tests with 'native' or 'accelerated' splitters."""
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) / "outcomes.json"
        plugin = str(ROOT / "tests" / "upstream")
        paths = [plugin, str(folder), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "SPLITTERS": splitters,
            "SPLITTER_OUTCOMES": str(results),
        }
        configuration = Path(scratch) / "pytest.ini"
        configuration.write_text("[pytest]\nasyncio_mode = auto\n", encoding="utf-8")
        pytest = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=line", "-p", "constructed_splitters"]
        tests = ["-p", "no:cacheprovider", "-c", str(configuration), "--rootdir", str(folder), str(folder / "tests")]
        done = subprocess.run([*pytest, *tests], cwd=folder, env=environment, capture_output=True, text=True)
        if not results.is_file():
            sys.exit(f"pytest did not run:\n{done.stdout}\n{done.stderr}")
        recorded: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
        return recorded


def main() -> int:
    """Compare and report.

    Returns:
        The exit status: 0 if every test comes out as natively and some took the fast path.
    """
    version = importlib.metadata.version(PACKAGE)
    folder = fetch(version)
    native, accelerated = run(folder, "native"), run(folder, "accelerated")
    print(f"{PACKAGE} {version}: its own tests")
    for name, result in (("native", native), ("accelerated", accelerated)):
        counts = Counter(outcome.rpartition(" ")[2] for outcome in result["outcomes"].values())
        print(f"  {name:12}" + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    for title in ("constructed", "calls"):
        counts = accelerated[title]
        fast = sum(count for key, count in counts.items() if key.endswith("fast"))
        print(f"\n{title}: {fast} of {sum(counts.values())} on the fast path")
        for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"  {count:5} {key}")
    tests = native["outcomes"].keys() | accelerated["outcomes"].keys()
    different = [test for test in sorted(tests) if native["outcomes"].get(test) != accelerated["outcomes"].get(test)]
    for test in different:
        print(f"DIFFERENT {test}: {native['outcomes'].get(test)} natively, {accelerated['outcomes'].get(test)} here")
    if not any(key.endswith("fast") for key in accelerated["calls"]):
        print("nothing took the fast path")
        return 1
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
