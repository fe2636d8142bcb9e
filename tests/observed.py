"""What tests of both adapters look at: what calls come to, log records, and whole files of real text."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns (a float's repr is exact, and tells 1 from 1.0), or the class and text of what it raises."""
    try:
        return repr(call())
    except Exception as error:
        return type(error), str(error)


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


class Gauge:
    """How many calls are at work at the same time; each takes a while, and returns what it is given."""

    def __init__(self, seconds: float = 0.002) -> None:
        self._seconds = seconds
        self.now = self.peak = self.calls = 0
        self._lock = threading.Lock()

    def __call__(self, value: Any) -> Any:
        with self._lock:
            self.now, self.calls = self.now + 1, self.calls + 1
            self.peak = max(self.peak, self.now)
        time.sleep(self._seconds)
        with self._lock:
            self.now -= 1
        return value
