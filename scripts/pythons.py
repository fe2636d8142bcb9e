"""Run on the other supported Pythons that this machine has the tests that depend on the interpreter.

Threads, event loops, imports, and native functions known by their code. Arguments like `3.13` choose Pythons; all
others go to pytest.
"""

from __future__ import annotations

import sys

from environments import ROOT, fresh, interpreter, run_tests

_SUPPORTED = range(11, 14)
_TESTS = (
    # Without the command and the ranks, whose processes take long to start.
    *sorted(
        path.relative_to(ROOT).as_posix()
        for path in ROOT.glob("tests/core/test_*.py")
        if path.stem not in ("test_cli", "test_ranks")
    ),
    "tests/house/test_contributing.py",
    "tests/house/test_imports.py",
    *sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/langchain/test_split*.py")),
    # Native functions rebuilt or told by their code, event loops and threads.
    *(
        f"tests/llama_index/test_{name}.py"
        for name in (
            "ingestion_turns",
            "ingestion_workers",
            "node_parsers",
            "query_concurrency",
            "sentences",
        )
    ),
)


def main(arguments: list[str]) -> int:
    """Return the first exit status that is not 0."""
    status = 0
    chosen_minors = [minor for minor in _SUPPORTED if f"3.{minor}" in arguments] or _SUPPORTED
    tests = [each for each in arguments if each not in {f"3.{minor}" for minor in _SUPPORTED}]
    for minor in chosen_minors:
        if minor == sys.version_info.minor:
            continue
        chosen = interpreter(minor)
        if chosen is None:
            print(f"Skipped: there is no working Python 3.{minor} here")
            continue
        python = fresh(f".venv-3.{minor}", "--editable", ".[test]", interpreter=chosen)
        status = status or run_tests(python, *(tests or _TESTS))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
