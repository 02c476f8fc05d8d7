"""What a fleet without SSH pays for its requests to S3, as documents say it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cnd.model import s3_requests
from cnd.model.plan import Plan, Usage, billed_hours

DOCS = Path(__file__).parents[3] / "docs"
SSH = Plan(2, 500, 200.0, usd_per_hour=0.1)
BY_S3 = replace(SSH, bootstrap="user-data")


def test_an_hour_of_500_instances_costs_what_the_documents_say() -> None:
    rates = s3_requests.pace(500, s3_requests.POLLS_PER_SECOND)
    orders = 3600 * 500 / rates.poll * s3_requests.READ_USD
    reports = 3600 * 500 / rates.every * (s3_requests.READ_USD + s3_requests.WRITE_USD)
    lists = 3600 / rates.look * s3_requests.WRITE_USD
    said = re.search(
        r"costs ([\d.]+) USD for the orders, ([\d.]+) USD for reports written\s+"
        r"and read, and ([\d.]+) USD for two lists",
        (DOCS / "scale.md").read_text(),
    )
    assert said is not None
    assert [f"{usd:.2f}" for usd in (orders, reports, lists)] == list(said.groups())
    hour = 500 * s3_requests.usd_per_hour(500)
    assert hour == pytest.approx(orders + reports + lists)
    for name in (DOCS.parent / "README.md", DOCS / "aws.md"):
        assert f"${hour:.1f} an hour" in " ".join(name.read_text().split())


@pytest.mark.parametrize("instances", [1, 8, 250, 500, 512, 1000])
def test_the_whole_fleet_never_pays_more_than_at_its_limits(instances: int) -> None:
    whole = instances * s3_requests.usd_per_hour(instances)
    assert 0 < whole < 1.8


def test_requests_count_in_the_price_and_in_the_worst_case() -> None:
    more = s3_requests.usd_per_hour(500)
    assert BY_S3.requests_usd_per_hour == more
    assert SSH.requests_usd_per_hour == 0.0
    hour = [Usage(3600.0)] * 500
    assert SSH.usd(hour) == pytest.approx(50.0)
    assert BY_S3.usd(hour) == pytest.approx(50.0 + 500 * more)
    hours = 500 * billed_hours(BY_S3.lifetime)
    dearest = s3_requests.DEAREST * more
    assert SSH.worst_case_usd == pytest.approx(hours * 0.1)
    assert BY_S3.worst_case_usd == pytest.approx(hours * (0.1 + dearest))


def test_a_fleet_too_large_for_ssh_counts_them_without_being_told() -> None:
    assert replace(SSH, instances=512).requests_usd_per_hour == 0.0
    assert replace(SSH, instances=513).requests_usd_per_hour > 0.0


def test_a_cloud_without_prices_has_none_for_requests_either() -> None:
    assert replace(BY_S3, usd_per_hour=0.0).worst_case_usd == 0.0
    assert replace(BY_S3, usd_per_hour=None).worst_case_usd is None
