"""Puts the last results into README.md, between the marks that name each benchmark."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from benchmarks.harness import Benchmark
from benchmarks.results import Results
from benchmarks.table import markdown


def fill(readme: Path, folder: Path, benchmarks: Iterable[Benchmark]) -> list[str]:
    """Replace what stands between `<!-- results: NAME -->` and `<!-- end of results -->`.

    Args:
        readme: The file that is changed.
        folder: Where the results' JSON files are; a benchmark without one keeps what it has.
        benchmarks: All benchmarks.

    Returns:
        Names of the benchmarks that were filled in.

    Raises:
        ValueError: If results are of a quick run, or the file has no place for them. Nothing is written.
    """
    text = readme.read_text(encoding="utf-8")
    filled = []
    for benchmark in benchmarks:
        path = folder / f"{benchmark.name}.json"
        if not path.exists():
            continue
        results = Results.read(path)
        if results.quick:
            raise ValueError(f"{path.name} is of a quick run, which says nothing: it does not go into {readme.name}")
        place = re.compile(rf"(?<=<!-- results: {re.escape(benchmark.name)} -->\n).*?(?=<!-- end of results -->)", re.S)
        # In a replacement, unlike here, a backslash would mean something.
        content = f"\n{markdown(results, benchmark)}\n".replace("\\", r"\\")
        text, places = place.subn(content, text)
        if not places:
            raise ValueError(f"{readme.name} has no place for {benchmark.name}")
        filled.append(benchmark.name)
    readme.write_text(text, encoding="utf-8")
    return filled
