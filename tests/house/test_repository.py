"""The files of the project hold nothing of the machine they were written on."""

from __future__ import annotations

import re

import pytest

from tests.house.repository import ROOT, documents, files

#: Put together here, so that this file does not match.
HOMES = re.compile(
    "(?<![A-Za-z0-9_.~-])/(?:" + "|".join(("work", "root", r"home/\w+", r"Users/\w+")) + ")/[A-Za-z0-9_.]"
)
TEMPORARY = re.compile(r"(?<![\w.])/" + "tmp/")


@pytest.mark.parametrize("text", ["/work" + "/main/x", "see /root" + "/x", '"/home' + '/ann/x"', "(/Users" + "/ann/x)"])
def test_pattern_finds_machine_paths(text: str) -> None:
    assert HOMES.search(text)


@pytest.mark.parametrize("text", ["https://example.org/work" + "/x", "~/work" + "/x", "net" + "work/x", "and/or"])
def test_pattern_leaves_other_text(text: str) -> None:
    assert not HOMES.search(text)


def test_no_file_holds_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if HOMES.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_document_holds_a_temporary_path() -> None:
    found = [path.name for path in documents() if TEMPORARY.search(path.read_text(encoding="utf-8"))]
    assert not found
