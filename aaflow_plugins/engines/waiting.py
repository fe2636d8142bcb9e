"""Waiting for other ranks: by asking again and again, so that bad news is heard meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import Final, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: Seconds between two looks, at most.
_PAUSE: Final = 0.001
#: Seconds of silence after which a waiting rank says for whom it waits.
_PATIENCE: Final = 30.0

_cancelled: ContextVar[Event | None] = ContextVar("_cancelled", default=None)


@contextmanager
def cancellable(cancelled: Event) -> Iterator[None]:
    """Within the block `is_cancelled` says whether an event is set."""
    token = _cancelled.set(cancelled)
    try:
        yield
    finally:
        _cancelled.reset(token)


def is_cancelled() -> bool:
    """Whether what this is done for is not wanted any more."""
    return (cancelled := _cancelled.get()) is not None and cancelled.is_set()


def check_cancelled() -> None:
    """Raise once what this is done for is not wanted any more.

    Raises:
        asyncio.CancelledError: Then.
    """
    if is_cancelled():
        raise asyncio.CancelledError


def wait_for(
    look: Callable[[], T | None],
    whom: str | None = None,
    check: Callable[[], None] = lambda: None,
    *,
    hurried: bool = True,
) -> T:
    """What `look` finds, asked again and again.

    Args:
        look: Gives None while there is nothing.
        whom: Who is waited for, to be named when it takes long; None where waiting is all there is to do.
        check: Called in between; it may raise.
        hurried: Whether to ask again at once at first, which takes the interpreter from threads that have work to do.
    """
    began, told = time.monotonic(), whom is None
    while (found := look()) is None:
        try:
            check()
        except BaseException:
            # What came before the bad news counts: all ranks go the same way by it.
            if (found := look()) is None:
                raise
            return found
        waited = time.monotonic() - began
        # Soon on an idle machine; out of the way where ranks share cores.
        pause = min(_PAUSE, waited / 8) if waited > 0.0002 else 0
        time.sleep(pause if hurried else _PAUSE)
        if waited > _PATIENCE and not told:
            told = True
            _log.warning(
                "Waiting for %s since %.0f s: it is still at work, or does not come to the same call",
                whom,
                waited,
            )
    return found
