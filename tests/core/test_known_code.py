"""What the digests of native code are taken with."""

from __future__ import annotations

import inspect
import threading

from aaflow_plugins.known_code import structure


def test_many_threads_at_once() -> None:
    """Python 3.11 fails where two threads make trees at the same time."""
    classes = (inspect.Signature, inspect.Parameter, threading.Thread, threading.Condition) * 3
    expected = [structure(each) for each in classes]
    found: list[object] = []

    def look() -> None:
        try:
            found.append([structure(each) for each in classes])
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6
