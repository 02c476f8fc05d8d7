"""Pauses that grow."""

from __future__ import annotations

from itertools import islice

from cnd.system.pauses import growing


def test_pauses_grow_up_to_the_last_and_stay_there() -> None:
    assert list(islice(growing(1.0, 5.0), 5)) == [1, 2, 4, 5, 5]
    assert list(islice(growing(2.0, 4.0, 1.5), 4)) == [2, 3, 4, 4]
