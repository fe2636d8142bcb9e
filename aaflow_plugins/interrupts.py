"""Ctrl-C while work goes on in threads: it ends the wait, and leaves no lock behind that another thread needs.

Python raises KeyboardInterrupt in the main thread between any two instructions. Within `threading.Condition` that can
be after its lock is taken and before anybody has to give it back: the thread that wants to say it is done waits for
ever then, and whoever waits for that thread does, too. So futures and threads are handled with the interrupt put off,
and waiting is done with locks of the interpreter's own, which no interrupt leaves half-taken.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class interrupts_put_off:
    """Within the block an interrupt waits for its end, or for `hear_interrupts`. Other threads never get one.

    Attributes:
        heard: What an interrupt has raised when it was heard.
    """

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        """Set up; nothing is put off yet.

        Args:
            tell: Called at once when an interrupt comes, in the middle of whatever the thread does: it has to be safe
                there, as `SimpleQueue.put` is.
        """
        self._tell = tell
        self._native: Any = None
        self._told: tuple[int, FrameType | None] | None = None
        self.heard: BaseException | None = None

    def __enter__(self) -> interrupts_put_off:
        if threading.current_thread() is threading.main_thread():
            native = signal.getsignal(signal.SIGINT)
            if callable(native):
                self._native = native
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._native is not None:
            # Unless the native handler, when it was called, has put another one in its place.
            if signal.getsignal(signal.SIGINT) == self._note:
                signal.signal(signal.SIGINT, self._native)
            self.hear_interrupts()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Within the block within this one interrupts do what they natively do: for what may wait long.

        One that has come before still waits to be heard: it would keep the block from doing anything.
        """
        if self._native is None or signal.getsignal(signal.SIGINT) != self._note:
            yield
            return
        signal.signal(signal.SIGINT, self._native)
        try:
            yield
        finally:
            self._native = signal.signal(signal.SIGINT, self._note)

    def hear_interrupts(self) -> None:
        """Let an interrupt that has come do what it natively does.

        Raises:
            KeyboardInterrupt: As Python's own handler does.
        """
        if self._told is not None:
            told, self._told = self._told, None
            try:
                if callable(self._native):
                    self._native(*told)
            except BaseException as error:
                self.heard = error
                raise

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = number, frame
        if self._tell is not None:
            self._tell()


def result_of(future: Future[T]) -> T:
    """Wait for a future: what it returns, or raises.

    Raises:
        KeyboardInterrupt: When it comes, without a lock of the future left taken.
    """
    arrived = threading.Lock()
    arrived.acquire()
    with interrupts_put_off():
        future.add_done_callback(lambda _: arrived.release())
    arrived.acquire()
    with interrupts_put_off():
        try:
            return future.result()
        finally:
            del future  # its error's traceback holds this frame
