"""Whether Cylon can be used: an installed pycylon may end the process, or give wrong rows without a word.

So two ranks of a job of their own try it first, on questions with known answers (`cylon_answers`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final

from aaflow_plugins.engines.launching import launch_command, unlaunched_environment

#: What is tried, in this order. Without the last an engine that shuffles by int64 alone does well.
STEPS: Final = ("the import", "the Arrow round trip", "the shuffle of strings", "the shuffle by strings")

#: Seconds for all of it.
SECONDS: Final = 60
#: Seconds that a launcher gets to see that its ranks have ended.
_GRACE: Final = 15
_EXCEPTION: Final = re.compile(r"^\w[\w.]*(?:Error|Exception)\b.*", re.MULTILINE)
_LONGEST: Final = 200


@dataclass(frozen=True)
class Verdict:
    """What is known of the pycylon that this process would import.

    Attributes:
        fault: Why it can't be used, in one line; empty if it can.
        string_keys: Whether it also shuffles rightly by strings, which the engine does not ask for.
    """

    fault: str
    string_keys: bool = False


def found() -> Verdict:
    """Whether pycylon is installed, without importing it."""
    return Verdict("" if find_spec("pycylon") else "pycylon is not installed")


def check(seconds: int = SECONDS) -> Verdict:
    """Try pycylon in processes of their own.

    Args:
        seconds: How long it may take.
    """
    missing = found()
    if missing.fault:
        return missing
    passed, fault = _tried(seconds)
    if len(passed) >= len(STEPS) - 1:
        return Verdict("", string_keys=len(passed) == len(STEPS))
    return Verdict(f"{_name()} found, but it fails its self-check: {STEPS[len(passed)]} {fault}")


def _tried(seconds: int) -> tuple[list[str], str]:
    """The steps that went well, and what became of the next."""
    # Without the directory that Python puts first for a module: this process may have none.
    program = ["-P", "-m", "aaflow_plugins.engines.cylon_answers", str(seconds)]
    environment = {**unlaunched_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        command = launch_command(2, program)
    except FileNotFoundError as error:
        return [], f"was not tried: {error}"
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        try:
            said, trace = job.communicate(timeout=seconds + _GRACE)
        except subprocess.TimeoutExpired:
            job.kill()
            return [], f"gave no answer within {seconds} s"
    passed = [line for line in said.decode("utf-8", "replace").splitlines() if line in STEPS]
    return passed, _fault(job.returncode, trace.decode("utf-8", "replace"), seconds)


def _fault(status: int, trace: str, seconds: int) -> str:
    """In a few words, what a job ended by."""
    number = -status if status < 0 else status - 128
    if number == signal.SIGALRM:
        return f"gave no answer within {seconds} s"
    if number in set(signal.Signals):
        return f"ended by {signal.Signals(number).name}"
    error = _EXCEPTION.search(trace)
    if error is None:
        return f"ended with status {status}"
    return f"raised {error[0]}"[:_LONGEST].rstrip()


def _name() -> str:
    try:
        return f"pycylon {version('pycylon')}"
    except PackageNotFoundError:  # on the path, but not installed
        return "pycylon"
