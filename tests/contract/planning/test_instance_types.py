"""What is known of an instance type: measured, else estimated, else unknown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.stub import ANY

from cnd import pow as worker
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, UsageError
from cnd.model.catalog import EXTRAS, OFFERS, Rate
from cnd.model.outcome import Ending, Outcome
from cnd.model.plan import Plan
from cnd.model.result import Result, Seconds
from cnd.planning import instance_types
from cnd.planning.forecast import Request
from tests.support.clerk import Clerk, stubbed

CORES = worker.usable_cores()
PLAN = Plan(2, 8, 200.0, instance_type="c7a.large")


@pytest.fixture
def aws() -> Cloud:
    """No call is made to it."""
    with stubbed(endpoint="http://192.0.2.1") as clerk:
        return clerk.cloud


def result(
    rate: float | None,
    tested: list[int],
    search: float | None = 10.0,
) -> Result:
    return Result(
        run="20260101-000000-0000",
        cloud="aws",
        region="eu-west-2",
        outcome=Outcome(Ending.TIMEOUT, "over"),
        block="b",
        difficulty=2,
        instances=len(tested),
        asked=len(tested),
        fleet=[{"id": f"i-{i}", "type": "c7a.large"} for i in range(len(tested))],
        tested=sum(tested),
        repeated=0,
        repeated_at_most=0,
        coverage=[{"index": i, "tested": n} for i, n in enumerate(tested)],
        hash_rate=rate,
        kernel="shani",
        seconds=Seconds(25.0, search, 0.1, 1.0, 5.0, 60.0),
        usd=None,
        logs_local="logs",
        logs_s3=None,
        terminated={},
        kept=(),
        leaked=(),
    )


def test_a_measured_rate_is_preferred_to_the_estimate(
    aws: Cloud, tmp_path: Path
) -> None:
    before = instance_types.machine(aws, tmp_path, PLAN)
    assert before.rate == OFFERS["c7a.large"].rate
    instance_types.learn(tmp_path, aws, PLAN, before, result(400e6, [10**9] * 8))
    after = instance_types.machine(aws, tmp_path, PLAN)
    assert after.rate == Rate(50e6, "measured in 1 earlier run")
    assert after.boot == 25.0
    (other,) = (
        machine
        for machine in instance_types.others(aws, tmp_path, "auto")
        if machine.type == "c7a.large"
    )
    assert other.rate == after.rate


def test_spot_prices_are_requested_if_instances_may_be_spot() -> None:
    plan = replace(PLAN, market="spot", others={"c6a.large": None})
    price = {"InstanceType": "c6a.large", "AvailabilityZone": "a", "SpotPrice": "0.03"}
    asked = {"InstanceTypes": ["c7a.large", "c6a.large"]}
    with stubbed("ec2") as clerk:
        assert instance_types.on_spot(clerk.cloud, Request(PLAN, True)).plan == PLAN
        clerk.answer(
            "ec2",
            "describe_spot_price_history",
            {"SpotPriceHistory": [price]},
            {**asked, "ProductDescriptions": ["Linux/UNIX"], "StartTime": ANY},
        )
        found = instance_types.on_spot(clerk.cloud, Request(plan, True)).plan.spot
    assert found == {"c6a.large": {"a": pytest.approx(0.03 + EXTRAS)}}


def test_instances_that_never_searched_are_not_counted_as_slow(
    aws: Cloud, tmp_path: Path
) -> None:
    """An early find: three of eight had begun."""
    known = instance_types.machine(aws, tmp_path, PLAN)
    instance_types.learn(
        tmp_path, aws, PLAN, known, result(150e6, [10**9] * 3 + [0] * 5)
    )
    learnt = instance_types.machine(aws, tmp_path, PLAN).rate
    assert learnt is not None
    assert learnt.nonces_per_second == 50e6


def test_a_rate_that_nothing_vouches_for_teaches_nothing(
    aws: Cloud, tmp_path: Path
) -> None:
    """One of eight says that it does 10**18 nonces a second."""
    known = instance_types.machine(aws, tmp_path, PLAN)
    instance_types.learn(tmp_path, aws, PLAN, known, result(1e18, [10**9] * 8))
    assert instance_types.machine(aws, tmp_path, PLAN) == known


@pytest.mark.parametrize(
    ("tested", "is_measured"),
    [([8], False), ([999], False), ([1000], True), ([1000, 8], False)],
)
def test_how_long_a_few_nonces_took_is_no_rate(
    aws: Cloud, tmp_path: Path, tested: list[int], is_measured: bool
) -> None:
    """A find in the very beginning on a busy machine, whose worker took 1.2 s to start.

    The other instances had not begun.
    """
    known = instance_types.machine(aws, tmp_path, PLAN)
    idle = [0] * (8 - len(tested))
    early = result(sum(tested) / 1.2, [*tested, *idle], search=1.2)
    instance_types.learn(tmp_path, aws, PLAN, known, early)
    assert (instance_types.machine(aws, tmp_path, PLAN) != known) == is_measured


@pytest.mark.parametrize(("rate", "search"), [(None, 10.0), (400e6, None), (0.0, 1.0)])
def test_a_run_without_a_search_is_not_stored(
    aws: Cloud, tmp_path: Path, rate: float | None, search: float | None
) -> None:
    known = instance_types.machine(aws, tmp_path, PLAN)
    instance_types.learn(tmp_path, aws, PLAN, known, result(rate, [0] * 8, search))
    assert instance_types.machine(aws, tmp_path, PLAN) == known


def test_the_estimate_is_that_of_the_fastest_kernel_only(
    aws: Cloud, tmp_path: Path
) -> None:
    slow = Plan(2, 8, 200.0, instance_type="c7a.large", kernel="hashlib")
    assert instance_types.machine(aws, tmp_path, slow).rate is None
    assert not any(m.rate for m in instance_types.others(aws, tmp_path, "hashlib"))


def test_hosts_of_the_local_cloud_share_this_machine(tmp_path: Path) -> None:
    big = Plan(2, 8, 200.0, instance_type="c7a.4xlarge")
    known = instance_types.machine(
        None, tmp_path, big, measure=lambda: Rate(24e6, "here")
    )
    assert known.rate is not None
    share = min(1.0, 16 / CORES)
    assert known.rate.nonces_per_second == pytest.approx(24e6 * share)
    assert known.fleet_rate(1000) == pytest.approx(24e6)
    assert known.price == instance_types.FREE


def test_rates_of_limited_hosts_are_not_used_for_unlimited_ones(
    aws: Cloud, tmp_path: Path
) -> None:
    held = replace(aws, name="local", rate_cap=700.0)
    before = instance_types.machine(
        held, tmp_path, PLAN, measure=lambda: Rate(24e6, "here")
    )
    assert before.fleet_rate(8) == pytest.approx(8 * 700)
    instance_types.learn(tmp_path, held, PLAN, before, result(8 * 690.0, [10**9] * 8))
    after = instance_types.machine(held, tmp_path, PLAN)
    assert after.rate == Rate(690.0, "measured in 1 earlier run")
    assert after.fleet_rate(100) == pytest.approx(100 * 690)
    for other in (None, replace(held, rate_cap=None), replace(held, rate_cap=700.5)):
        assert instance_types.machine(other, tmp_path, PLAN).rate is None


@pytest.mark.parametrize("zones", [[], ["eu-west-2a"]])
def test_a_region_without_the_type_is_refused_with_a_way_out(zones: list[str]) -> None:
    plan = replace(PLAN, others={"c8g.large": None})
    with stubbed("ec2") as clerk:
        offered = [[], [{"Location": zone} for zone in zones]]
        for found in offered:
            reply = {"InstanceTypeOfferings": found}
            clerk.answer("ec2", "describe_instance_type_offerings", reply)
        if zones:
            instance_types.check_offered(clerk.cloud, plan)
            return
        with pytest.raises(CloudError, match=r"offers c7a\.large or c8g") as caught:
            instance_types.check_offered(clerk.cloud, plan)
    assert "--region" in (caught.value.hint or "")
    assert caught.value.exit_status == 3


def test_a_user_who_may_not_list_the_zones_is_not_refused_for_it() -> None:
    with stubbed("ec2") as clerk:
        call = "describe_instance_type_offerings"
        clerk.refuse("ec2", call, "UnauthorizedOperation")
        instance_types.check_offered(clerk.cloud, PLAN)


def test_a_local_cloud_that_is_down_knows_the_table_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'t9\.giant' is not in the shipped table"):
        instance_types.machine(
            None, tmp_path, Plan(2, 1, 1.0, instance_type="t9.giant")
        )


def test_auto_considers_only_what_an_account_on_the_free_plan_may_launch(
    tmp_path: Path,
) -> None:
    asked = Request(Plan(5, 1, 200.0, instance_type="auto"), False)
    types = {"InstanceTypes": [{"InstanceType": "t3.micro"}]}
    filters = [{"Name": "free-tier-eligible", "Values": ["true"]}]
    plan = {
        "accountId": "1" * 12,
        "accountPlanType": "FREE",
        "accountPlanStatus": "ACTIVE",
    }
    with stubbed("ec2", "freetier", "service-quotas", endpoint="http://x") as clerk:
        clerk.answer("freetier", "get_account_plan_state", plan)
        clerk.answer("ec2", "describe_instance_types", types, {"Filters": filters})
        _may_look_up_nothing(clerk)
        chosen = instance_types.choose(clerk.cloud, tmp_path, asked)
    assert chosen.fleet.plan.instance_type == "t3.micro"
    assert chosen.lines[0].startswith("auto: not types outside AWS's free plan")


def _may_look_up_nothing(clerk: Clerk) -> None:
    """Refuse each look at a fleet, which does not count against it."""
    clerk.refuse("ec2", "describe_instance_type_offerings", "UnauthorizedOperation")
    clerk.refuse("service-quotas", "get_service_quota", "AccessDeniedException")
    clerk.refuse("ec2", "describe_instance_types", "UnauthorizedOperation")


def test_auto_compares_prices_of_the_region(tmp_path: Path) -> None:
    """Where all types cost the same, the fastest one costs least for a find."""
    plan = Plan(9, 1, 200.0, nonces=2**60, instance_type="auto")
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": "0.5"}}
    terms = {"OnDemand": {"a": {"priceDimensions": {"b": dimension}}}}
    reply = {"PriceList": [json.dumps({"terms": terms})]}
    with stubbed("pricing", "ec2", "freetier", "service-quotas") as clerk:
        clerk.refuse("freetier", "get_account_plan_state", "AccessDeniedException")
        for _ in range(instance_types.MOST_PRICED):
            clerk.answer("pricing", "get_products", reply)
        _may_look_up_nothing(clerk)  # the first that fits
        _may_look_up_nothing(clerk)  # the next one
        chosen = instance_types.choose(clerk.cloud, tmp_path, Request(plan, True))
    taken, second = chosen.fleet, chosen.runner_up
    assert second
    assert taken.machine.price
    assert taken.machine.price.source == "AWS's price list, eu-west-2"
    assert (taken.hash_rate or 0) > (second.hash_rate or 0)
