"""What a call warns of, to compare it with what another warns of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Catch every warning, also one already given; not what the collector finds of other tests just then."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield caught
