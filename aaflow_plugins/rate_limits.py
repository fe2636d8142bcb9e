"""How many calls an endpoint takes at once, learnt from its refusals and shared by all who call it.

A service that answers "too many requests" tells it to one caller and means them all. So all callers of an endpoint
pass through one limiter. It lets everybody through until the first refusal. From then on it bounds the calls in
flight by additive increase and multiplicative decrease, which is how TCP shares a link and what makes competing
callers converge on a fair and full use of it (Chiu & Jain, "Analysis of the Increase and Decrease Algorithms for
Congestion Avoidance in Computer Networks", Computer Networks and ISDN Systems 17, 1989).
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from functools import lru_cache


class Answer(Enum):
    """What became of a call."""

    #: The endpoint did what it was asked for.
    SUCCEEDED = auto()
    #: The endpoint refused: too many calls.
    LIMITED = auto()
    #: Anything else, which says nothing about how many calls are too many.
    FAILED = auto()


#: Seconds after which one more call starts although the bound is reached, if none has started or ended meanwhile:
#: those in flight may be stuck behind the very ones that wait, as the calls of a loop whose thread waits for others.
STALL = 10.0


class AdaptiveBound:
    """The bound itself: what follows from the calls started and their answers, and from nothing else.

    - There is none until a call is refused. Then it is half of the calls in flight, and at least 1.
    - It grows by 1 after as many successes as it is wide.
    - Only answers to calls that started under the present bound change it: those of one burst halve it once, as the
      losses of one window do in TCP (RFC 6582).
    - No call starts before the longest wait that any refusal asked for is over.

    Attributes:
        bound: The most calls in flight, but for a stall; None before the first refusal.
        in_flight: Calls started and not yet answered.
        not_before: The time before which no call starts.
    """

    def __init__(self) -> None:
        self.bound: int | None = None
        self.in_flight = 0
        self.not_before = -math.inf
        self._last_move = -math.inf
        self._decreases = 0
        self._successes = 0

    def wait(self, now: float) -> float:
        """Seconds until a call may start, unless one ends before; 0 for at once."""
        full = self.bound is not None and self.in_flight >= self.bound
        opens = max(self.not_before, self._last_move + STALL) if full else self.not_before
        return max(0.0, opens - now)

    def start(self, now: float) -> int:
        """Count a call as in flight; returns which bound it starts under, for `end`."""
        self.in_flight += 1
        self._last_move = now
        return self._decreases

    def end(self, started: int, answer: Answer, now: float, retry_after: float = 0.0) -> None:
        """Count a call as answered.

        Args:
            started: What `start` returned for it.
            answer: What became of it.
            now: The time, in seconds.
            retry_after: With a refusal, the seconds during which the endpoint wants no call.
        """
        if answer is Answer.LIMITED:
            self.not_before = max(self.not_before, now + retry_after)
        if started == self._decreases:
            if answer is Answer.LIMITED:
                self.bound = max(1, self.in_flight // 2)
                self._decreases += 1
                self._successes = 0
            elif answer is Answer.SUCCEEDED and self.bound is not None:
                self._successes += 1
                if self._successes == self.bound:
                    self.bound += 1
                    self._successes = 0
        self.in_flight -= 1
        self._last_move = now


#: How one who waits is told to look again.
_Wake = Callable[[], object]


class RateLimiter:
    """Lets calls start as an `AdaptiveBound` admits them, from any thread and any event loop.

    Those who wait stand in one line for all threads and one for each event loop, and are served in turn. Nothing is
    handed to one who waits: the first of each line is woken and takes what is there. So a loop that is busy, or
    blocked by a call of its own that waits here too, holds up nobody else.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state = AdaptiveBound()
        self._lines: dict[asyncio.AbstractEventLoop | None, deque[_Wake]] = {}
        # Reentrant: the garbage collector may close an abandoned coroutine at any moment, in this very thread, and
        # that leaves its line or releases its call.
        self._lock = threading.RLock()

    @property
    def bound(self) -> int | None:
        """The most calls in flight; None before the first refusal."""
        return self._state.bound

    @property
    def in_flight(self) -> int:
        """Calls started and not yet released."""
        return self._state.in_flight

    def acquire(self) -> int:
        """Wait until a call may start, and count it as in flight; returns what `release` wants to know of it.

        Called where an event loop runs, it doesn't wait: calls of that loop would wait for it in turn.
        """
        if (started := self._start(None)) is not None:
            return started
        if _loop_runs_here():
            with self._lock:
                return self._state.start(self._clock())
        turn = threading.Event()
        with self._waiting(None, turn.set) as wake:
            while (started := self._start(None, wake)) is None:
                turn.wait(self._patience(None, wake))
                turn.clear()
        return started

    async def aacquire(self) -> int:
        """Like `acquire`, on the running event loop. Who is cancelled leaves the line, and nothing else behind."""
        loop = asyncio.get_running_loop()
        if (started := self._start(loop)) is not None:
            return started
        turn = asyncio.Event()
        with self._waiting(loop, lambda: loop.call_soon_threadsafe(turn.set)) as wake:
            while (started := self._start(loop, wake)) is None:
                patience = self._patience(loop, wake)
                timer = None if patience is None else loop.call_later(patience, turn.set)
                try:
                    await turn.wait()
                finally:
                    if timer is not None:
                        timer.cancel()
                turn.clear()
        return started

    def release(self, started: int, answer: Answer, retry_after: float = 0.0) -> None:
        """Count a call as answered; called once for each `acquire`, from any thread.

        Args:
            started: What `acquire` returned for it.
            answer: What became of it.
            retry_after: With a refusal, the seconds during which the endpoint wants no call.
        """
        with self._lock:
            self._state.end(started, answer, self._clock(), retry_after)
            for loop in list(self._lines):
                self._wake_first(loop)

    def _start(self, loop: asyncio.AbstractEventLoop | None, wake: _Wake | None = None) -> int | None:
        """Start a call if it may, and whoever wants it is the first of its line, or nobody waits there."""
        with self._lock:
            line = self._lines.get(loop)
            first = line[0] if line else None
            now = self._clock()
            return self._state.start(now) if first is wake and not self._state.wait(now) else None

    def _patience(self, loop: asyncio.AbstractEventLoop | None, wake: _Wake) -> float | None:
        """Seconds after which the first of a line looks again; None for all others, who wait to be woken."""
        with self._lock:
            line = self._lines.get(loop)
            return self._state.wait(self._clock()) if line and line[0] is wake else None

    @contextmanager
    def _waiting(self, loop: asyncio.AbstractEventLoop | None, wake: _Wake) -> Iterator[_Wake]:
        with self._lock:
            self._lines.setdefault(loop, deque()).append(wake)
        try:
            yield wake
        finally:
            with self._lock:
                line = self._lines.get(loop)
                if line and wake in line:
                    line.remove(wake)
                self._wake_first(loop)

    def _wake_first(self, loop: asyncio.AbstractEventLoop | None) -> None:
        line = self._lines.get(loop)
        try:
            if line:
                line[0]()
        except RuntimeError:
            line = None  # its loop is closed: nobody there waits any more
        if not line:
            self._lines.pop(loop, None)


def _loop_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_registry_lock = threading.Lock()


@lru_cache(maxsize=256)
def _limiter(endpoint: Hashable) -> RateLimiter:
    return RateLimiter()


def limiter_of(endpoint: Hashable) -> RateLimiter:
    """The limiter that all callers of `endpoint` in this process share; the 256 last called are remembered."""
    with _registry_lock:
        return _limiter(endpoint)


def _after_fork_in_child() -> None:
    # The threads whose calls are in flight, and that may hold a lock, do not exist here.
    global _registry_lock
    _registry_lock = threading.Lock()
    _limiter.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
