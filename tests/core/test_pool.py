"""Threads for the calls of a flow: one for each that is under way, and none left behind."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from aaflow_plugins.pool import Pool
from aaflow_plugins.threads import await_threads


def test_calls_that_wait_for_one_another_end() -> None:
    pool, ended = Pool(4, "waiting"), SimpleQueue[int]()
    barrier = threading.Barrier(4, timeout=60)
    for _ in range(3):
        for _ in range(4):
            pool.submit(lambda: ended.put(barrier.wait()))
        for _ in range(4):
            ended.get(timeout=60)
            pool.ended()
    pool.close()
    await_threads("waiting")
    assert not barrier.broken


def test_threads_are_started_as_they_are_needed() -> None:
    pool, used = Pool(4, "needed"), SimpleQueue[str]()
    names = set()
    for _ in range(5):
        pool.submit(lambda: used.put(threading.current_thread().name))
        names.add(used.get(timeout=60))
        pool.ended()
    pool.close()
    await_threads("needed")
    assert len(names) == 1


def test_what_has_not_begun_when_it_closes_is_dropped() -> None:
    pool, begun, release, made = Pool(1, "closing"), threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        release.wait(60)
        made.append(1)

    pool.submit(first)
    pool.submit(lambda: made.append(2))
    begun.wait(60)
    assert pool.under_way == 2
    pool.drop()
    assert pool.under_way == 1
    pool.close()
    release.set()
    await_threads("closing")
    assert made == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("closing")]
