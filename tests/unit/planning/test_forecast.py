"""What `plan` says before anything is launched."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.errors import UsageError
from cnd.model import witness
from cnd.model.catalog import EXTRAS, OFFERS, Price, Rate, has_gpu, with_extras
from cnd.model.pieces import Piece, whole_classes
from cnd.model.plan import Plan
from cnd.planning.forecast import (
    Forecast,
    Machine,
    Request,
    alternatives,
    charged,
    check_budget,
    decide,
    forecast,
    percent,
    trial,
    trial_cost,
    usd,
    verdicts,
)
from cnd.planning.forecast_text import text

FAST = Machine(
    "c7a.large", 2, Rate(50e6, "measured"), Price(0.36, "somewhere"), boot=25.0
)
TABLE = [Machine(o.type, o.vcpus, o.rate, o.price) for o in OFFERS.values()]
HERE = Rate(25e6, "measured here")


def request(
    n: int | None = None,
    *,
    d: int = 7,
    t: float = 200.0,
    confidence: float | None = None,
    budget: float | None = None,
    **more: Any,
) -> Request:
    plan = Plan(d, n or 1, t, instance_type="c7a.large", **more)
    return Request(plan, n is not None, confidence, budget)


def forecast_of(requested: Request, machine: Machine = FAST) -> Forecast:
    return forecast(decide(requested, machine), machine)


# --- N


def test_the_confidence_chooses_the_least_number_that_reaches_it() -> None:
    requested = request(t=10.0, d=8, confidence=0.5)
    estimate = forecast_of(requested)
    assert estimate.chances is not None
    assert estimate.chances.found >= 0.5
    fewer = forecast_of(request(estimate.plan.instances - 1, t=10.0, d=8))
    assert fewer.chances is not None
    assert fewer.chances.found < 0.5


def test_without_a_number_and_a_confidence_it_is_one_instance() -> None:
    assert forecast_of(request()).plan.instances == 1


def test_a_number_that_reaches_the_confidence_stands() -> None:
    assert forecast_of(request(8, confidence=0.95)).plan.instances == 8


def test_a_number_that_contradicts_the_confidence_is_refused() -> None:
    with pytest.raises(UsageError, match="--n contradicts --confidence") as caught:
        decide(request(1, d=8, t=10.0, confidence=0.6), FAST)
    assert "--n 8 reaches 60 %" in (caught.value.hint or "")
    assert decide(request(8, d=8, t=10.0, confidence=0.6), FAST).instances == 8


def test_a_space_that_holds_no_answer_is_called_impossible() -> None:
    with pytest.raises(
        UsageError, match=r"impossible: even all 4294967296 .* 6\.059 %"
    ):
        decide(request(d=9, confidence=0.95), FAST)


def test_more_instances_than_are_available_are_called_impossible() -> None:
    with pytest.raises(UsageError, match=r"with 1000 x c7a\.large the chance is"):
        decide(request(d=12, nonces=2**64, confidence=0.95), FAST)


def test_one_machine_does_not_search_faster_under_more_hosts() -> None:
    full = replace(FAST, at_once=2.0)
    assert full.fleet_rate(8) == full.fleet_rate(2) == 100e6
    with pytest.raises(UsageError, match="impossible within 10 s"):
        decide(request(d=8, t=10.0, confidence=0.6), full)


def test_without_a_known_rate_no_number_is_chosen() -> None:
    with pytest.raises(
        UsageError, match=r"hash rate of c7a\.large is not known"
    ) as caught:
        decide(request(confidence=0.95), replace(FAST, rate=None))
    assert "tries one instance first" in (caught.value.hint or "")


def test_a_trial_is_one_instance_that_is_expected_to_find_nothing() -> None:
    requested = request(
        confidence=0.95, budget=0.5, smallest=True, hold=True, nonces=100
    )
    tried = forecast(decide(trial(requested), replace(FAST, rate=None)), FAST)
    assert tried.plan.instances == 1
    assert tried.plan.instance_type == "c7a.large"
    assert not (tried.plan.hold or tried.plan.smallest)
    assert tried.chances is not None
    assert tried.chances.found < 1e-60
    assert tried.chances.expected_seconds == pytest.approx(tried.plan.time_limit)


def test_a_trial_is_paid_out_of_the_budget() -> None:
    requested = request(confidence=0.95, budget=0.5)
    assert charged(requested, 0.2).budget == pytest.approx(0.3)
    assert charged(requested, None).budget == 0.5
    assert charged(request(), 0.2).budget is None


def test_a_trial_on_spot_is_charged_at_the_price_on_demand() -> None:
    tried = replace(forecast_of(request(1)).plan, usd_per_hour=3.6)
    assert trial_cost(tried, 100.0, 0.01) == 0.01
    on_spot = replace(tried, market="spot", spot={tried.instance_type: {"a": 0.36}})
    assert trial_cost(on_spot, 100.0, 0.01) == pytest.approx(0.1)
    assert trial_cost(on_spot, 100.0, None) == pytest.approx(0.1)
    with pytest.raises(UsageError, match="exceeds the budget"):
        decide(trial(request(confidence=0.95, budget=0.01)), FAST)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 2.0, math.nan, math.inf])
def test_a_confidence_that_is_no_chance_is_refused(confidence: float) -> None:
    with pytest.raises(UsageError, match="--confidence must be between 0 and 1"):
        request(confidence=confidence)


# --- the price


def test_the_worst_case_is_every_instance_for_its_whole_lifetime() -> None:
    plan = forecast_of(request(10)).plan
    assert plan.worst_case_usd == pytest.approx(10 * 620 * 0.36 / 3600)


def test_the_expected_price_pays_for_a_minute_at_least() -> None:
    assert forecast_of(request(10, d=1)).expected_usd == pytest.approx(
        10 * 60 * 0.36 / 3600
    )


def test_on_spot_only_the_expected_price_is_the_spot_price() -> None:
    plan, spot = (
        forecast_of(request(10, market="spot")).plan,
        Price(0.12, "spot price, just now"),
    )
    on_demand, estimate = forecast(plan, FAST), forecast(plan, FAST, spot)
    assert estimate.expected_usd == pytest.approx((on_demand.expected_usd or 0) / 3)
    assert estimate.plan.worst_case_usd == on_demand.plan.worst_case_usd
    shown = text(estimate, [], None, spot)
    assert "expected on spot at $0.1200/h" in shown
    assert f"{usd(plan.worst_case_usd)} at worst" in shown
    assert "expected on demand (spot's price is unknown), " in text(on_demand, [], None)
    assert estimate.to_json()["usd"]["spot_source"] == "spot price, just now"


@given(st.integers(1, 100), st.integers(0, 10), st.floats(1, 1e5))
def test_the_expected_price_never_exceeds_the_worst_case(
    n: int, d: int, t: float
) -> None:
    estimate = forecast_of(request(n, d=d, t=t))
    worst = estimate.plan.worst_case_usd
    assert estimate.expected_usd is not None
    assert worst is not None
    assert estimate.expected_usd <= worst


def test_a_budget_that_the_worst_case_exceeds_is_refused() -> None:
    assert decide(request(10, budget=0.63), FAST).instances == 10
    with pytest.raises(UsageError, match=r"\$0\.6200, exceeds the budget of \$0\.6100"):
        decide(request(10, budget=0.61), FAST)


def test_a_budget_that_cannot_be_guaranteed_is_refused_with_the_ways_out() -> None:
    unpriced = replace(FAST, price=None)
    what = r"--budget cannot be guaranteed: the price of c7a\.large is not known"
    with pytest.raises(UsageError, match=what) as caught:
        decide(request(10, budget=100.0), unpriced)
    for way_out in ("pricing:GetProducts", "--region us-east-1", "leave out --budget"):
        assert way_out in (caught.value.hint or "")
    one = decide(request(10), unpriced)
    with pytest.raises(UsageError, match=what):
        check_budget([decide(request(10), FAST), one], 100.0)
    assert any(
        "is not known" in said for said in verdicts(forecast(one, unpriced), None)
    )


def test_requests_to_s3_count_for_the_budget_and_are_named() -> None:
    by_s3 = request(10, budget=0.63, bootstrap="user-data")
    with pytest.raises(UsageError, match="exceeds the budget") as caught:
        decide(by_s3, FAST)  # without them it would do: 0.62 USD
    assert "/h of requests to S3)" in (caught.value.hint or "")
    planned = forecast_of(replace(by_s3, budget=0.8))
    assert "/h of requests to S3)" in text(planned, [], None)
    assert "S3" not in text(forecast_of(request(10)), [], None)


def test_a_budget_is_for_all_runs_of_a_bench_together() -> None:
    plans = [decide(request(10), FAST)] * 3  # 0.62 USD each at worst
    check_budget(plans, 1.87)
    check_budget(plans, None)
    with pytest.raises(
        UsageError, match=r"of 3 runs, \$1\.8600, exceeds the budget of"
    ):
        check_budget(plans, 1.8)


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_is_no_amount_is_refused(budget: float) -> None:
    with pytest.raises(UsageError, match="--budget must be more than 0"):
        request(budget=budget)


# --- further output


def test_what_is_unknown_is_reported_as_unknown() -> None:
    unknown = Machine("c7a.large")
    estimate = forecast_of(request(8), unknown)
    assert (estimate.hash_rate, estimate.chances, estimate.expected_usd) == (
        None,
        None,
        None,
    )
    assert estimate.plan.worst_case_usd is None
    shown = text(estimate, [], None)
    assert "hash rate      unknown" in shown
    assert "price          unknown" in shown
    assert "a first run with --n 1 measures it" in shown


def test_a_search_that_this_machine_does_while_a_fleet_boots_is_pointed_out() -> None:
    (estimate, *_) = verdicts(forecast_of(request(8, d=6)), HERE)
    assert estimate.startswith("this machine alone does it in 671 ms for nothing")
    assert not any(
        "alone" in estimate for estimate in verdicts(forecast_of(request(8, d=8)), HERE)
    )


def test_a_fleet_for_a_moments_search_is_called_too_large() -> None:
    assert "one instance would do" in " ".join(
        verdicts(forecast_of(request(8, d=4)), None)
    )


def test_more_processors_than_a_new_account_has_are_pointed_out() -> None:
    assert "34 vCPUs" in " ".join(verdicts(forecast_of(request(17, d=8)), None))
    assert "vCPUs" not in " ".join(verdicts(forecast_of(request(16, d=8)), None))


def test_an_empty_space_is_called_impossible_also_with_a_number() -> None:
    assert "impossible" in " ".join(verdicts(forecast_of(request(8, d=9)), None))


def test_the_alternatives_are_the_cheapest_first_and_one_of_a_family() -> None:
    found = alternatives(request(confidence=0.99), TABLE)
    costs = [each.expected_usd or 0.0 for each in found]
    assert costs == sorted(costs)
    families = [each.plan.instance_type.partition(".")[0] for each in found]
    assert len(set(families)) == len(families) == 5
    for each in found:
        assert each.chances is not None
        assert each.chances.found >= 0.99


@pytest.mark.parametrize("d", [5, 6, 7, 8])
def test_fleets_with_and_without_gpus_are_among_the_alternatives(d: int) -> None:
    found = alternatives(request(d=d), TABLE)
    assert {has_gpu(each.plan.instance_type) for each in found} == {True, False}


def test_a_space_that_cannot_reach_the_usual_confidence_has_alternatives_too() -> None:
    """D=8 in 2^32 nonces: an answer exists with 63 %, at any price."""
    found = alternatives(request(8, d=8), TABLE)
    assert found
    for each in found:
        assert each.chances is not None
        assert each.chances.found >= 0.99 * 0.632


def test_this_machine_alone_is_pointed_out_even_if_the_price_is_unknown() -> None:
    unpriced = forecast_of(request(8, d=6), replace(FAST, price=None))
    assert any(
        "this machine alone" in estimate for estimate in verdicts(unpriced, HERE)
    )
    free = forecast_of(request(8, d=6), replace(FAST, price=Price(0.0, "free")))
    assert not any(
        "this machine alone" in estimate for estimate in verdicts(free, HERE)
    )


def test_the_alternatives_of_the_impossible_are_none() -> None:
    assert alternatives(request(d=9), TABLE) == []
    assert alternatives(request(d=64), TABLE) == []


@pytest.mark.parametrize(
    ("chance", "estimate"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.123456, "12.35 %"),
        (1 - 1e-9, "over 99.99 %"),
        (1e-9, "1 in 1e+09"),
    ],
)
def test_a_chance_is_rounded_to_neither_never_nor_always(
    chance: float, estimate: str
) -> None:
    assert percent(chance) == estimate


def test_small_amounts_keep_their_digits() -> None:
    assert [usd(0.0012), usd(12.345), usd(None)] == ["$0.0012", "$12.35", "unknown"]


# --- the shipped table


def test_a_type_without_a_measured_kernel_has_no_rate() -> None:
    arm = {o.type for o in OFFERS.values() if o.architecture == "arm64"}
    assert arm
    assert all(OFFERS[name].rate is None for name in arm)


def test_every_estimate_says_what_it_is_derived_from() -> None:
    for offer in OFFERS.values():
        assert "us-east-1" in offer.price.source
        if offer.rate:
            assert offer.rate.source.startswith("estimate: ")
            most = 10e9 if has_gpu(offer.type) else 65e6 * offer.vcpus
            assert 1e6 * offer.vcpus < offer.rate.nonces_per_second < most


@pytest.mark.parametrize(
    ("name", "vcpu_hours", "usd"),
    [
        ("t3.nano", 1.9, 0.05),
        ("t3.micro", 1.8, 0.05),
        ("t3a.small", 1.6, 0.05),
        ("t3.medium", 1.6, 0.05),
        ("t4g.medium", 1.6, 0.04),
        ("t3.large", 1.4, 0.05),
        ("t4g.xlarge", 2.4, 0.04),
        ("t3.2xlarge", 4.8, 0.05),
        ("t2.micro", 0.9, 0.05),
        ("t2.medium", 1.6, 0.05),
        ("t2.2xlarge", 6.64, 0.05),
        ("c7a.medium", 0.0, 0.05),
    ],
)
def test_a_burstable_type_is_not_as_cheap_as_it_looks(
    name: str, vcpu_hours: float, usd: float
) -> None:
    """Surplus credits: the use above the baseline in an hour of full load."""
    price = with_extras(name, 1.0, "somewhere").usd_per_hour
    assert price == pytest.approx(1.0 + EXTRAS + vcpu_hours * usd)


def test_each_piece_of_what_is_left_shows_enough_witnesses() -> None:
    """A piece is proved by itself, also where an instance searches several."""
    left = tuple(whole_classes(8))
    asked = Plan(9, 12, 1e5, nonces=2**30, work=left, chain=("a run",))

    made = decide(Request(asked, True), FAST)

    size = min(piece.size(made.end) for piece in made.pieces)
    assert (len(made.work), made.instances, made.left) == (48, 12, 2**30)
    assert made.witness_bits is not None
    assert size / 2**made.witness_bits >= 2**witness.ENOUGH - 1


def test_what_was_tested_lowers_the_space_of_the_rest() -> None:
    whole = Plan(6, 4, 1e5, nonces=2**24)
    half = tuple(Piece(4, 2**23 + i) for i in range(4))
    rest = replace(whole, work=half, chain=("a run",), tested_before=2**23)

    first, second = (
        forecast(decide(Request(p, True), FAST), FAST) for p in (whole, rest)
    )

    assert first.chances and second.chances
    assert second.plan.left == 2**23
    assert 1 - first.chances.found == pytest.approx((1 - second.chances.found) ** 2)
    assert "tested by 1 run" in text(second, [], None)


def test_fewer_nonces_than_instances_need_fewer_of_them() -> None:
    few = Plan(6, 8, 10.0, nonces=2**24, work=((4, 2**24 - 6),), chain=("a run",))

    made = decide(Request(few, True), FAST)

    assert (made.instances, made.left) == (2, 2)


@pytest.mark.parametrize(
    ("image", "idle"),
    [("auto", "g4ad.xlarge:"), ("ubuntu", "g6.xlarge or g4ad.xlarge:"), ("ami-1", "")],
)
def test_gpus_for_which_the_image_has_no_driver_are_named(
    image: str, idle: str
) -> None:
    types: dict[str, float | None] = {"c7a.large": None, "g4ad.xlarge": None}
    plan = Plan(8, 2, 200.0, instance_type="g6.xlarge", others=types, image=image)
    said = " ".join(verdicts(forecast(plan, Machine("g6.xlarge")), None))
    assert ("no driver for the GPUs of" in said, idle in said) == (bool(idle), True)
