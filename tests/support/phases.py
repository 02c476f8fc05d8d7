"""A trouble in each phase of a run: a few of the cases are quick, the rest slow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

PHASES = ("launch", "search", "end")


def phased(troubles: Iterable[str], *quick: tuple[str, str]) -> list[object]:
    """Return each trouble in each phase; what is not in `quick` is marked slow."""
    return [
        pytest.param(
            trouble,
            phase,
            marks=() if (trouble, phase) in quick else pytest.mark.slow,
        )
        for trouble in troubles
        for phase in PHASES
    ]
