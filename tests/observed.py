"""What tests of both adapters look at: log records, and whole files of real text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path


@contextmanager
def logged(name: str) -> Iterator[list[logging.LogRecord]]:
    """What a logger is told inside the block."""
    records: list[logging.LogRecord] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger = logging.getLogger(name)
    handler = Recorder()
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def whole_files(kinds: Sequence[Sequence[Path]], characters: int, *, errors: str) -> tuple[str, ...]:
    """The texts of files, one of each kind in turn, up to a number of characters in all."""
    texts: list[str] = []
    total = 0
    for row in zip_longest(*kinds):
        for path in row:
            if path is None or total >= characters:
                continue
            text = path.read_text(encoding="utf-8", errors=errors)
            texts.append(text)
            total += len(text)
        if total >= characters:
            break
    return tuple(texts)
