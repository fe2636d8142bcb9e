"""A script in a process of its own that gets Ctrl-C once it has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path


def lines_after_ctrl_c(code: str, folder: Path) -> list[str]:
    """What a script prints after its first line, which is "started", when Ctrl-C comes.

    Args:
        code: The script; it may import the tests' modules.
        folder: Where to put it.
    """
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path.cwd(),
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert process.stdout
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    return output.splitlines()
