"""Run the tests with the oldest versions of everything that pyproject.toml admits (`constraints/oldest.txt`)."""

from __future__ import annotations

import sys

from environments import fresh, interpreter, run_tests

#: The newest Python for which those versions have wheels.
_NEWEST_MINOR = 12


def main(arguments: list[str]) -> int:
    """Return pytest's exit status, or 0 where no Python is old enough."""
    chosen: str | None = sys.executable
    if sys.version_info.minor > _NEWEST_MINOR:
        chosen = next(filter(None, map(interpreter, range(_NEWEST_MINOR, 10, -1))), None)
    if chosen is None:
        print(f"Skipped: the oldest versions need a Python up to 3.{_NEWEST_MINOR}, and there is none here")
        return 0
    python = fresh(
        ".venv-oldest", "--constraint", "constraints/oldest.txt", "--editable", ".[test]", interpreter=chosen
    )
    return run_tests(python, *arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
