"""The arithmetic of chances: against its own laws, and against simulated fleets."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.errors import UsageError
from cnd.model.plan import class_size
from cnd.model.probability import (
    chances,
    expected_trials,
    instances_for,
    success,
    trials_for,
    within,
)

difficulties = st.integers(0, 64)
spaces = st.integers(1, 2**64)
rates = st.floats(1e3, 1e12)
times = st.floats(1e-2, 7 * 86400)
confidences = st.floats(1e-6, 1 - 1e-6)


# --- known values


def test_at_difficulty_one_a_trial_succeeds_with_one_sixteenth() -> None:
    assert within(1, 1) == pytest.approx(1 / 16)
    assert within(1, 2) == pytest.approx(1 - (15 / 16) ** 2)
    assert expected_trials(1, 10**6) == pytest.approx(16)
    assert trials_for(1, 0.5) == 11  # 1 - (15/16)**11 is the first above a half


def test_at_difficulty_zero_the_first_nonce_is_golden() -> None:
    assert within(0, 1) == 1
    assert expected_trials(0, 2**64) == 1
    assert trials_for(0, 0.999) == 1


def test_the_default_space_is_sure_to_hold_an_answer_of_7_digits_but_hardly_of_9() -> (
    None
):
    assert within(7, 2**32) > 1 - 1e-6
    assert within(8, 2**32) == pytest.approx(1 - math.exp(-1))
    assert within(9, 2**32) == pytest.approx(1 / 16, rel=0.04)


@pytest.mark.parametrize("difficulty", [8, 16, 32, 64])
def test_a_tiny_chance_keeps_its_digits(difficulty: int) -> None:
    """Half the first-order term: 1 - p rounds to 1 where p is below 2**-53."""
    assert success(difficulty) == 2.0 ** (-4 * difficulty)
    assert within(difficulty, 1) == pytest.approx(success(difficulty), rel=1e-12)
    assert expected_trials(difficulty, 1000) == pytest.approx(1000, rel=1e-6)


def test_the_trials_for_a_confidence_can_exceed_every_space() -> None:
    assert trials_for(8, 0.95) == pytest.approx(-math.log(0.05) * 16**8, rel=1e-6)
    assert trials_for(64, 0.5) == pytest.approx(math.log(2) * 2.0**256, rel=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.5, 1.5, math.nan, math.inf])
def test_a_confidence_is_a_probability_short_of_certainty(confidence: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        trials_for(2, confidence)


# --- laws


@given(difficulties, spaces, rates, times)
def test_every_number_is_in_its_range(
    d: int, space: int, rate: float, t: float
) -> None:
    seen = chances(d, space, rate, t)
    assert 0 <= seen.found <= seen.exists <= 1
    assert 0 <= seen.trials <= space
    assert 0 <= seen.expected_seconds <= t * (1 + 1e-9)


@given(difficulties, spaces, rates, times, st.floats(1, 100), st.integers(1, 100))
def test_more_time_or_more_instances_never_lower_the_chance(
    d: int, space: int, rate: float, t: float, longer: float, n: int
) -> None:
    least = chances(d, space, rate, t).found
    assert chances(d, space, rate, t * longer).found >= least
    assert chances(d, space, rate * n, t).found >= least


@given(st.integers(0, 63), spaces, rates, times)
def test_a_higher_difficulty_never_raises_the_chance(
    d: int, space: int, rate: float, t: float
) -> None:
    easy, hard = chances(d, space, rate, t), chances(d + 1, space, rate, t)
    assert hard.found <= easy.found
    assert hard.exists <= easy.exists
    assert hard.expected_seconds >= easy.expected_seconds * (1 - 1e-9)


@given(difficulties, confidences)
def test_the_trials_for_a_confidence_reach_it_and_no_fewer_do(d: int, c: float) -> None:
    trials = trials_for(d, c)
    assert within(d, trials) >= c
    if 1 < trials < 2**40:
        assert within(d, trials - 1) < c


@given(difficulties, spaces, rates, times, confidences)
def test_the_number_of_instances_is_the_least_that_suffices(
    d: int, space: int, rate: float, t: float, c: float
) -> None:
    n = instances_for(d, space, rate, t, c)
    if n is None:
        assert within(d, space) < c
        return
    assert chances(d, space, n * rate, t).found >= c
    if 1 < n < 2**40:
        assert chances(d, space, (n - 1) * rate, t).found < c


@given(difficulties, spaces, rates, times, confidences, st.floats(1, 100))
def test_a_faster_instance_never_makes_more_of_them_needed(
    d: int, space: int, rate: float, t: float, c: float, factor: float
) -> None:
    slow = instances_for(d, space, rate, t, c)
    fast = instances_for(d, space, rate * factor, t, c)
    assert (slow is None) == (fast is None)
    if slow is not None and fast is not None and slow < 2**40:
        assert fast <= slow


# --- simulation

RUNS = 2000


def first_success(difficulty: int, draw: random.Random) -> int:
    """Draw a geometric number: the inverse of its distribution function."""
    return math.ceil(
        math.log(1.0 - draw.random()) / math.log1p(-success(difficulty)) or 1
    )


def simulated(
    draw: random.Random, *, difficulty: int, nonces: int, n: int, rate: float, t: float
) -> float | None:
    """Let n instances search a class each; return when the first finds, or None."""
    best: float | None = None
    for index in range(n):
        trial = first_success(difficulty, draw)
        if trial <= min(class_size(nonces, index, n), int(rate * t)):
            best = min(trial / rate, best or math.inf)
    return best


@pytest.mark.parametrize("seed", range(30))
def test_simulated_fleets_find_as_often_as_was_computed(seed: int) -> None:
    """Each instance for itself, as fleets search; the chance is one sum for all."""
    draw = random.Random(seed)
    difficulty = draw.randint(1, 9)
    n = draw.randint(1, 12)
    # Around the interesting place: between hardly ever and nearly always.
    trials = 16**difficulty * draw.uniform(0.05, 3)
    t = draw.uniform(1, 500)
    rate = trials / (n * t)
    nonces = max(n, int(trials * draw.choice([0.3, 0.9, 1.5, 100])))
    said = chances(difficulty, nonces, n * rate, t)

    runs = [
        simulated(draw, difficulty=difficulty, nonces=nonces, n=n, rate=rate, t=t)
        for _ in range(RUNS)
    ]

    found = sum(run is not None for run in runs) / RUNS
    error = math.sqrt(said.found * (1 - said.found) / RUNS)
    # An instance tests whole nonces only: up to one each is missing at the end.
    rounding = n * success(difficulty)
    assert abs(found - said.found) <= 3 * error + rounding
    mean = sum(min(t, nonces / (n * rate)) if run is None else run for run in runs)
    assert mean / RUNS == pytest.approx(said.expected_seconds, rel=0.1, abs=n / rate)
