"""Waiting for a condition: the one way in which a test lets time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
# Seconds for what happens at once, on a machine that does ten other things.  A bound on
# elapsed time in a test is this, or comes from the clocks of what is tested.
SOON = 30.0


def eventually(
    condition: Callable[[], Found],
    *,
    within: float = 60.0,
    every: float = 0.05,
    tell: Callable[[], object] = str,
) -> Found:
    """Wait until `condition` returns something true; return that.

    Args:
        within: seconds; the test fails if `condition` is still false after them.
        every: seconds between two looks.
        tell: what is to be told if the test fails.
    """
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within} s {tell()}"
        time.sleep(every)
    return found
