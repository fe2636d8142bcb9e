"""An interrupt at any moment ends a run, and nothing waits for a lock that it has left taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from aaflow_plugins.interrupts import interrupts_put_off, result_of


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    native = signal.getsignal(signal.SIGINT)
    reached = []

    def interrupted() -> None:
        with interrupts_put_off():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached
    assert signal.getsignal(signal.SIGINT) is native


def test_an_error_of_the_block_is_raised() -> None:
    with pytest.raises(ValueError, match="own"), interrupts_put_off():
        raise ValueError("own")


def test_other_threads_leave_the_handler_alone() -> None:
    found = []

    def look() -> None:
        with interrupts_put_off():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]


def test_an_ignored_interrupt_stays_ignored() -> None:
    native = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_put_off():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, native)


def test_a_result_is_that_of_the_future() -> None:
    done: Future[int] = Future()
    later: Future[int] = Future()
    failed: Future[int] = Future()
    done.set_result(1)
    failed.set_exception(StopIteration(3))
    threading.Timer(0.01, later.set_result, [2]).start()
    assert (result_of(done), result_of(later)) == (1, 2)
    with pytest.raises(StopIteration):
        result_of(failed)


def test_what_waits_is_interrupted_as_natively() -> None:
    """It may wait for long, or put another handler in place."""
    native = signal.getsignal(signal.SIGINT)
    told = []
    try:
        with interrupts_put_off() as interrupts:
            with pytest.raises(KeyboardInterrupt), interrupts.let_through():
                signal.raise_signal(signal.SIGINT)
            with interrupts.let_through():
                signal.signal(signal.SIGINT, lambda *_: told.append(1))
            signal.raise_signal(signal.SIGINT)
            assert not told
            interrupts.hear_interrupts()
            assert told == [1]
        signal.raise_signal(signal.SIGINT)
        assert told == [1, 1]
    finally:
        signal.signal(signal.SIGINT, native)


def test_a_handler_that_puts_another_in_its_place() -> None:
    native = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.SIG_IGN))
        with interrupts_put_off() as interrupts:
            signal.raise_signal(signal.SIGINT)
            interrupts.hear_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, native)


@pytest.mark.parametrize("run", ["executor", "asynchronous", "chain"])
def test_at_each_lock_that_the_main_thread_takes(tmp_path: Path, run: str) -> None:
    """The interrupt comes when a condition's lock is taken, and nobody is there yet to give it back."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, faulthandler, signal, sys, threading, time
        from langchain_core.runnables import RunnableLambda
        from aaflow_plugins import Executor, accelerate
        from tests.core.plans import HashEmbedder, word_plan

        class Slow(HashEmbedder):
            def send(self, request):
                time.sleep(0.002)
                return self._answer(request)

            async def asend(self, request):
                await asyncio.sleep(0.002)
                return self._answer(request)

        chain = accelerate(RunnableLambda(str) | RunnableLambda(lambda x: time.sleep(0.002)))
        def run():
            if sys.argv[1] == "chain":
                chain.batch(list(range(6)), {"max_concurrency": 2})
            else:
                plan = word_plan(Slow(), [], asynchronous=sys.argv[1] == "asynchronous")
                Executor(max_concurrency=2).run(plan, iter(["a b c d e"] * 10), list)

        enter, moment = threading.Condition.__enter__, 0
        def interrupted_enter(condition):
            global moment
            taken = enter(condition)
            if threading.get_ident() == threading.main_thread().ident:
                moment -= 1
                if moment == 0:
                    signal.raise_signal(signal.SIGINT)
            return taken

        faulthandler.dump_traceback_later(90, exit=True)
        threading.Condition.__enter__ = interrupted_enter
        for last in range(1, 1000):
            moment = last
            try:
                run()
                if moment > 0:
                    break
            except KeyboardInterrupt:
                pass
            left = [each.name for each in threading.enumerate() if each.name.startswith("aaflow-")]
            assert set(left) <= {"aaflow-loop"}, left
        moment = 0
        run()
        print("interrupted at", last - 1)
        """)
    )
    done = subprocess.run(
        [sys.executable, script, run],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 10


def test_at_lines_of_a_flow(tmp_path: Path) -> None:
    """All runs that handlers were told of have ended, and no thread is left."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import faulthandler, signal, sys, threading, time
        from langchain_core.callbacks import BaseCallbackHandler
        from langchain_core.runnables import RunnableLambda, RunnableParallel
        from aaflow_plugins import accelerate

        class Counting(BaseCallbackHandler):
            def __init__(self):
                self.open, self.lock = 0, threading.Lock()

            def on_chain_start(self, *args, **kwargs):
                with self.lock:
                    self.open += 1

            def on_chain_end(self, *args, **kwargs):
                with self.lock:
                    self.open -= 1

            on_chain_error = on_chain_end

        chain = accelerate(RunnableParallel(a=RunnableLambda(str)) | RunnableLambda(lambda x: time.sleep(0.001)))
        moment = 0

        def trace(frame, event, argument):
            # Where a handler of the whole chain is told, an interrupt leaves its run open, as natively.
            known = frame.f_code.co_filename.endswith("thread_flow.py") and frame.f_code.co_name != "here"
            return count if known else None

        def count(frame, event, argument):
            global moment
            if event == "line":
                moment -= 1
                if moment == 0:
                    signal.raise_signal(signal.SIGINT)
            return count

        faulthandler.dump_traceback_later(90, exit=True)
        # A prime number: which lines they are differs from loop to loop.
        for last in range(1, 10_000, 23):
            moment, counting = last, Counting()
            sys.settrace(trace)
            try:
                chain.batch([1, 2, 3], {"max_concurrency": 2, "callbacks": [counting]})
                sys.settrace(None)
                assert moment > 0, f"nobody heard of the interrupt at {last}"
                break
            except KeyboardInterrupt:
                sys.settrace(None)
            assert counting.open == 0, last
            assert not [each.name for each in threading.enumerate() if each.name.startswith("aaflow-")], last
        print("interrupted at", last)
        """)
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 500
