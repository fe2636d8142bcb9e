"""How much is tried of what there is plenty of: generated examples, and parameters of one test."""

from __future__ import annotations

import os
from collections import defaultdict
from zlib import crc32

import pytest

#: Of so many one is tried, where the same tests are run with all of them besides: `scripts/environments.py`.
_ONE_OF = int(os.environ.get("ONE_EXAMPLE_OF", "1"))


def examples(count: int) -> int:
    """The number of hypothesis's examples of a test that deserves `count`."""
    return -(-count // _ONE_OF)


def leave_tried(config: pytest.Config, tests: list[pytest.Item]) -> None:
    """Deselect all but one in so many of each test's parameters: not the first ones everywhere, always the same."""
    variants: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for test in tests:
        variants[test.nodeid.partition("[")[0]].append(test)
    chosen: set[pytest.Item] = set()
    for name, alike in variants.items():
        chosen.update(alike[crc32(name.encode()) % min(_ONE_OF, len(alike)) :: _ONE_OF])
    config.hook.pytest_deselected(items=[test for test in tests if test not in chosen])
    tests[:] = [test for test in tests if test in chosen]
