"""The first nonces of a space are tested here, in bounded time."""

from __future__ import annotations

import time

import pytest

from cnd import pow as worker
from cnd.model.plan import Plan
from cnd.run import first_nonces
from tests.support.waiting import SOON


@pytest.mark.parametrize(("difficulty", "below"), [(2, 200), (2, 3000), (3, 20_000)])
def test_every_golden_nonce_of_a_small_space_is_known(
    difficulty: int, below: int
) -> None:
    plan = Plan(difficulty, 2, 9.0, nonces=below)
    fields = first_nonces.first_nonces(plan).fields
    golden = [
        nonce
        for nonce in range(below)
        if worker.is_golden(worker.digest(plan.block, nonce), difficulty)
    ]
    assert (fields["below"], fields["golden"]) == (below, golden)


@pytest.mark.parametrize(
    ("difficulty", "block"), [(0, "a"), (1, "a"), (30, "x" * 4096)]
)
def test_the_first_nonces_are_tested_in_short_time_at_any_difficulty(
    difficulty: int, block: str
) -> None:
    began = time.monotonic()
    fields = first_nonces.first_nonces(Plan(difficulty, 2, 9.0, block=block)).fields
    assert time.monotonic() - began < first_nonces.PATIENCE + SOON
    assert len(fields["golden"]) <= first_nonces.FEWEST_GOLDEN
    assert fields["below"] <= first_nonces.MOST
    assert bool(fields["below"]) == (difficulty < 7)
