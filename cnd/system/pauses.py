"""Pauses between attempts that fail, or between looks at what takes its time.

One rule: it only counts; the caller sleeps, on a clock of its own, and has a deadline.
"""

from __future__ import annotations

from collections.abc import Iterator


def growing(first: float, last: float, factor: float = 2.0) -> Iterator[float]:
    """Yield seconds without end: each is `factor` times the one before.

    They begin with `first`, and never exceed `last`.
    """
    pause = first
    while True:
        yield pause
        pause = min(factor * pause, last)
