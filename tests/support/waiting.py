"""Waiting for a condition: the one way in which a test lets time pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
# Seconds for what happens at once, on a machine that does ten other things.  A bound on
# elapsed time in a test is this, or comes from the clocks of what is tested.
SOON = 30.0
LOOKS = (0.05, 0.25)  # seconds between two looks: at first, and at most
LATER = 0.1  # of the time waited, in between


def eventually(
    condition: Callable[[], Found],
    *,
    within: float = 180.0,
    every: float | None = None,
    tell: Callable[[], object] = str,
) -> Found:
    """Wait until `condition` returns something true; return that.

    Args:
        within: seconds; the test fails if `condition` is still false after them.
        every: seconds between two looks; by default more the longer it takes (`LOOKS`),
            as a look may ask a cloud, which computes.
        tell: what is to be told if the test fails.
    """
    began = time.monotonic()
    while not (found := condition()):
        waited = time.monotonic() - began
        assert waited < within, f"not within {within} s {tell()}"
        soonest, latest = LOOKS if every is None else (every, every)
        time.sleep(min(latest, max(soonest, waited * LATER)))
    return found
