"""Witnesses always prove the work of an honest worker, and refute one that skips."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model import witness
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.model.search_state import SearchState
from cnd.model.witness import FalseClaim, LostWitnesses, Proof, bits_for, is_implausible
from cnd.pow import DEFAULT_BLOCK
from cnd.run import first_nonces

BITS = 10
P = 2.0**-BITS


def tail(tested: int, count: int, p: float) -> float:
    """Return P(at most `count` of `tested`), summed term by term."""
    terms = (
        math.lgamma(tested + 1)
        - math.lgamma(i + 1)
        - math.lgamma(tested - i + 1)
        + i * math.log(p)
        + (tested - i) * math.log1p(-p)
        for i in range(count + 1)
    )
    return sum(map(math.exp, terms))


@pytest.mark.parametrize("count", [0, 1, 5, 30, 150])
def test_a_claim_is_implausible_only_if_the_exact_law_says_so_too(count: int) -> None:
    honest = witness.most_plausible(count, 2**30, count, P)
    assert not is_implausible(honest, count, P)
    assert is_implausible(honest + 1, count, P)
    exact = tail(honest + 1, count, P)
    # Chernoff's bound loses a factor of some tens, in favour of the worker.
    assert witness.FALSE_ALARM / 100 < exact < witness.FALSE_ALARM * 1.001


def test_a_worker_that_searches_half_of_its_claim_is_refuted() -> None:
    enough = 2**witness.ENOUGH
    assert is_implausible(round(enough / P), enough // 2, P)
    assert not is_implausible(round(enough / P), enough * 6 // 10, P)
    # A worker that searches nothing can claim 13 % of a class at most.
    free = witness.most_plausible(0, 2**30, 0, P)
    assert free * P == pytest.approx(34.5, abs=0.1)
    assert free * P / enough < 0.14


def test_an_honest_worker_is_never_refuted_however_often_it_is_tested() -> None:
    chance = random.Random(7)
    worst = 0.0
    for _ in range(300):
        tested = 0
        for count in range(200):
            gap = 1 + int(math.log(1 - chance.random()) / math.log1p(-P))
            # The worst moment to test: just before the next witness.
            worst = min(worst, witness._log_tail(tested + gap - 1 or 1, count, P))
            assert not is_implausible(tested + gap - 1, count, P)
            tested += gap
    assert worst < -7  # 60 000 tests do meet improbable counts


@given(st.integers(0, 10**4), st.integers(4, 24))
def test_the_lower_bound_of_what_was_tested_is_below_the_expected_number(
    count: int, bits: int
) -> None:
    least = witness.at_least(count, 2.0**-bits)
    assert 0 <= least <= count * 2**bits
    if count >= 100:
        assert least > 0.6 * count * 2**bits


def test_the_lower_bound_of_what_was_tested_has_the_stated_confidence() -> None:
    least = witness.at_least(100, P)
    assert 1 - tail(least, 99, P) < 1 - witness.CONFIDENCE


@settings(max_examples=300, deadline=None)
@given(
    difficulty=st.integers(0, 64),
    nonces=st.integers(1, 2**64),
    instances=st.integers(1, 1000),
    seconds=st.floats(0.1, 6e5),
    rate=st.one_of(st.none(), st.floats(1.0, 1e10)),
)
def test_the_bits_are_fewer_than_of_a_golden_nonce_and_give_enough_witnesses(
    difficulty: int, nonces: int, instances: int, seconds: float, rate: float | None
) -> None:
    instances = min(instances, nonces)
    bits = bits_for(difficulty, nonces, instances, seconds, rate)
    if bits is None:
        assert difficulty == 0
        return
    assert 1 <= bits <= min(witness.RAREST, 4 * difficulty - 2)
    assert witness.chance(bits, difficulty) > 0.7 * 2.0**-bits
    size = min(nonces, 16**difficulty) / instances
    if size >= 2 ** (witness.ENOUGH + witness.OFTENEST):
        assert size * 2.0**-bits >= 2**witness.ENOUGH
    # The fleet shows few witnesses in all, or few a second.
    fast = instances * (rate or witness.FAST)
    most = min(witness.MOST_A_SECOND, instances * witness.MOST_OF_ONE)
    slowly = fast * 2.0**-bits <= 2 * most
    least = min(witness.RAREST, 4 * difficulty - 2, witness.OFTENEST)
    few = size * 2.0**-bits <= 2 ** (witness.ENOUGH + 1)
    in_time = (rate or witness.SLOW) * seconds * 2.0**-bits <= 2 ** (witness.ENOUGH + 1)
    capped = bits in (least, witness.RAREST, 4 * difficulty - 2)
    assert slowly or few or in_time or capped


@pytest.mark.parametrize(
    ("search", "bits"),
    [
        ((2, 2**32, 8, 200.0), 4),  # the report's: the find comes after some hundred
        ((8, 2**32, 8, 200.0), 19),
        ((12, 2**64, 512, 3600.0), 24),
        ((8, 2**32, 8, 200.0, 20_000.0), 13),  # a slow fleet of which that is known
        ((9, 10**6, 8, 200.0), 8),
        ((1, 100, 2, 5.0), 2),
        ((0, 100, 2, 5.0), None),
    ],
)
def test_the_bits_of_usual_searches(
    search: tuple[int, int, int, float], bits: int | None
) -> None:
    assert bits_for(*search) == bits


def strong(bits: int, end: int) -> list[int]:
    return [n for n in range(end) if witness.zero_bits(DEFAULT_BLOCK, n) >= bits]


def test_a_proof_counts_each_witness_once_however_often_it_is_received() -> None:
    shown, members = strong(6, 2000), range(2000)
    proof = Proof(6).extended(DEFAULT_BLOCK, members, shown[:9], most=256)
    again = proof.extended(DEFAULT_BLOCK, members, shown[:9], most=256)
    assert again == proof
    assert proof.extended(DEFAULT_BLOCK, members, shown, most=256).count == len(shown)
    with pytest.raises(LostWitnesses, match=r"of 12 witnesses .* 9 came"):
        proof.require_whole(12)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ([116, 116], "comes after"),
        ([223, 116], "comes after"),
        ([117], "no witness"),
        ([2004], "outside"),
        ([-1], "comes after"),
        (["116"], "no nonce"),
        ([True], "no nonce"),
        ([116.0], "no nonce"),
    ],
)
def test_showing_what_is_no_witness_is_a_false_claim(
    shown: list[object], why: str
) -> None:
    with pytest.raises(FalseClaim, match=why):
        Proof(6).extended(DEFAULT_BLOCK, range(2000), shown, most=256)


def test_of_too_many_witnesses_the_strongest_prove_as_much() -> None:
    all_of_them, members = strong(4, 12_000), range(12_000)
    half = strong(5, 12_000)
    begun = Proof(4).extended(DEFAULT_BLOCK, members, all_of_them[:50], most=256)
    whole = begun.extended(DEFAULT_BLOCK, members, half, most=256)
    proof = whole.thinned(5, 30)
    assert (proof.level, proof.count) == (5, len(half))
    with pytest.raises(FalseClaim, match="leaves out"):
        begun.thinned(5, 30)
    with pytest.raises(FalseClaim, match="leaves out"):
        whole.thinned(31, 30)
    assert begun.plus(proof).level == 5


def test_the_law_is_computed_in_constant_time() -> None:
    """The test of a claim has no loop over its size."""
    claims = [(2**k, 2 ** max(0, k - 20)) for k in range(20, 64)]
    assert all(not is_implausible(n, c, 2.0**-20) for n, c in claims)
    assert all(a < b for a, b in pairwise(n for n, _ in claims))


def test_the_figures_of_the_guarantees_are_those_of_the_law() -> None:
    path = Path(__file__).parents[3] / "docs" / "guarantees.md"
    text = " ".join(path.read_text().split())
    p, enough = 2.0**-16, 2**witness.ENOUGH
    nothing = (witness.most_plausible(0, 2**40, 0, p) + 1) * p
    assert "34.6 / p nonces: 13.5 % of a class with 256" in text
    assert 34.5 < nothing < 34.6
    assert round(100 * nothing / enough, 1) == 13.5
    even = range(2, 2 * enough, 2)
    half = next(n for n in even if is_implausible(round(n / p), n // 2, p))
    assert "some 224 / p nonces: 88 % of such a class" in text
    assert abs(half - 224) <= 2
    assert "256 witnesses for a whole class prove 78 % of it" in text
    assert int(100 * witness.at_least(enough, p) * p / enough) == 78
    assert "below 10^-15" in text and witness.FALSE_ALARM == 1e-15
    assert f"a confidence of {witness.CONFIDENCE}" in text
    assert f"{witness.MOST_A_SECOND:.0f} a second of the fleet" in text
    assert f"{witness.MOST_OF_ONE:.0f} of an instance" in text
    assert f"at most {witness.RAREST} bits" in text
    assert f"2^20 of them, for {first_nonces.PATIENCE} s at most" in text
    assert first_nonces.MOST == 2**20


@pytest.mark.parametrize("index", range(3))
def test_a_class_without_a_witness_goes_on_from_its_own_first_nonce(
    index: int,
) -> None:
    search = SearchState(replace(Plan(8, 3, 60.0), witness_bits=20))
    search.see(Event("instance.launched", index, "i-0"))
    fields = {"cursor": index + 3 * 1000, "tested": 1000, "witnesses": []}
    search.see(Event("worker.progress", index, "i-0", fields))
    assert search.resumption(index) == index


class Shown:
    """A worker's reports of a class of all nonces, with every witness of them."""

    def __init__(self) -> None:
        plan = replace(Plan(8, 1, 60.0, nonces=40_000), witness_bits=4)
        self.search = SearchState(plan)
        self.search.see(Event("instance.launched", 0, "i-0"))
        self.all = strong(4, 40_000)

    def report(self, begin: int, end: int, **more: object) -> Event | None:
        """Take in a report of these nonces; return the objection."""
        fields = {
            **{"cursor": end, "tested": end},
            "witnesses": [n for n in self.all if begin <= n < end],
            "shown": len([n for n in self.all if n < begin]),
            **more,
        }
        return self.search.see(Event("worker.progress", 0, "i-0", fields))

    def summary(self, end: int, bits: int) -> Event | None:
        """Take in what replaces all reports of the nonces below `end`."""
        shown = [n for n in strong(bits, end)]
        total = len([n for n in self.all if n < end])
        more = {"witnesses": shown, "shown": total, "thinned_to": bits, "rotated": 1}
        return self.report(0, end, **more)

    @property
    def proof(self) -> Proof:
        proof = self.search.classes[0].proof
        assert proof is not None
        return proof


def test_a_summary_of_what_has_come_already_changes_no_proof() -> None:
    shown = Shown()
    shown.report(0, 10_000)
    before = shown.proof

    assert shown.summary(10_000, 6) is None

    assert shown.proof == before
    assert shown.report(10_000, 12_000) is None


def test_a_summary_proves_what_was_reported_while_out_of_touch() -> None:
    shown = Shown()
    shown.report(0, 2000)

    assert shown.summary(20_000, 5) is None
    assert shown.proof.count == len(strong(5, 20_000))

    assert shown.report(20_000, 30_000) is None
    assert shown.proof.count == len(strong(5, 30_000))
    assert shown.search.classes[0].cursor == 30_000


def test_reports_that_are_lost_after_a_summary_are_noticed() -> None:
    shown = Shown()
    shown.summary(20_000, 5)

    objected = shown.report(30_000, 31_000)

    assert objected is not None
    assert objected.kind == "worker.failed"
    assert "came here" in str(objected.fields["reason"])


def test_a_summary_of_too_few_witnesses_is_a_false_claim() -> None:
    shown = Shown()

    objected = shown.summary(4000, 5)

    assert objected is not None and objected.kind == "worker.refuted"
    assert "leaves out" in str(objected.fields["reason"])
