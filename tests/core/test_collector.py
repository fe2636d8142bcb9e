"""Pausing the cyclic collector always ends with it as it was."""

from __future__ import annotations

import gc
import os
import threading
import warnings
import weakref

import pytest

from aaflow_plugins.collector import paused_collector, rare_collector, spared_collector


def test_paused_inside_and_restored() -> None:
    """The collector is off inside the block and on again after it, after an error too."""
    with paused_collector():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), paused_collector():
        raise KeyError
    assert gc.isenabled()


def test_stays_off_if_it_was_off() -> None:
    """A collector that the user has switched off is not switched on."""
    gc.disable()
    try:
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_nested() -> None:
    """The outermost pause decides."""
    with paused_collector():
        with paused_collector():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_overlapping_threads() -> None:
    """The collector comes back when the last of overlapping pauses ends, in whichever thread."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with paused_collector():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with paused_collector():
        thread.start()
        assert inside.wait(10)
    assert not gc.isenabled()
    leave.set()
    thread.join(10)
    assert gc.isenabled()


def test_many_threads() -> None:
    """Any number of pauses at once leaves the collector running."""

    def pause() -> None:
        for _ in range(300):
            with paused_collector():
                assert not gc.isenabled()

    threads = [threading.Thread(target=pause) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_inside_a_pause_of_another_thread() -> None:
    """A forked child has a running collector, whatever the parent's threads were doing."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with paused_collector():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Forking with threads: the very case.
        child = os.fork()
    if child == 0:
        before = gc.isenabled()
        with paused_collector():
            during = gc.isenabled()
        os._exit(0 if before and not during and gc.isenabled() else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(status) == 0


def test_what_is_alive_is_spared_and_nothing_else() -> None:
    """Inside the block older objects are frozen, new garbage is collected; after it everything is as before."""

    class Node:
        pass

    def cycle() -> weakref.ref[Node]:
        node = Node()
        node.itself = node  # type: ignore[attr-defined]
        return weakref.ref(node)

    gc.disable()
    older = cycle()
    with spared_collector():
        gc.enable()
        with spared_collector():
            assert gc.get_freeze_count() > 1_000
            newer = cycle()
            gc.collect()
            assert newer() is None
            assert older() is not None
        assert gc.get_freeze_count() > 1_000
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert older() is None


def test_what_the_user_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with spared_collector():
            assert gc.get_freeze_count() <= count
        assert gc.get_freeze_count() > 1_000
    finally:
        gc.unfreeze()


def test_rarely() -> None:
    """No full collection for many objects, young garbage is collected, and the thresholds are restored."""
    before = gc.get_threshold()
    full = gc.get_stats()[2]["collections"]
    with rare_collector(), rare_collector():
        kept = [[index] for index in range(200_000)]
        cycle = _Cycle()
        gone = weakref.ref(cycle)
        del cycle
        kept += [[index] for index in range(200_000)]
        assert gc.get_stats()[2]["collections"] == full
        assert gone() is None
    assert gc.get_threshold() == before
    with pytest.raises(KeyError), rare_collector():
        raise KeyError
    assert gc.get_threshold() == before
    with rare_collector():
        gc.set_threshold(*before[:2], 77)
    assert gc.get_threshold() == (*before[:2], 77)
    gc.set_threshold(*before)


class _Cycle:
    def __init__(self) -> None:
        self.itself = self
