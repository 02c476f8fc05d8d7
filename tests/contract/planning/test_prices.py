"""What is requested about prices of AWS, and what its answers become."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.stub import ANY

from cnd.cloud.connection import Cloud
from cnd.model.catalog import DISK, EXTRAS, GIGABYTE_ELSEWHERE, OFFERS
from cnd.planning import prices
from tests.support.clerk import Clerk, stubbed

MORE = DISK * GIGABYTE_ELSEWHERE  # an hour's disk in another region


@pytest.fixture
def clerk() -> Iterator[Clerk]:
    with stubbed("ec2", "pricing") as clerk:
        yield clerk


@pytest.fixture
def aws(clerk: Clerk) -> Cloud:
    return clerk.cloud


def product(usd: str, unit: str = "Hrs") -> str:
    """A product in the form of AWS's price list, version aws_v1."""
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}}
    terms = {"OnDemand": {"SKU.T": {"priceDimensions": {"SKU.T.D": dimension}}}}
    return json.dumps({"product": {"sku": "SKU"}, "terms": terms})


def asked_for(instance_type: str) -> dict[str, Any]:
    fields = {
        "instanceType": instance_type,
        "regionCode": "eu-west-2",
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    filters = [
        {"Type": "TERM_MATCH", "Field": name, "Value": value}
        for name, value in fields.items()
    ]
    return {"ServiceCode": "AmazonEC2", "Filters": filters}


def test_the_price_list_is_queried_in_its_own_region(aws: Cloud) -> None:
    client = aws.clients.get("pricing", prices.PRICING_REGION)
    assert client.meta.endpoint_url == "https://api.pricing.us-east-1.amazonaws.com"


def test_the_price_of_the_region_is_requested_from_aws(
    aws: Cloud, clerk: Clerk
) -> None:
    listed = {"PriceList": [product("0.0000000000"), product("0.0910000000")]}
    clerk.answer("pricing", "get_products", listed, asked_for("c6a.large"))
    price = prices.on_demand(aws, "c6a.large")
    assert price is not None
    assert price.usd_per_hour == pytest.approx(
        0.091 + EXTRAS + DISK * GIGABYTE_ELSEWHERE
    )
    assert price.source == "AWS's price list, eu-west-2"


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnrecognizedClient"])
def test_after_a_refusal_the_table_is_used_in_its_own_region_and_named(
    aws: Cloud, clerk: Clerk, code: str
) -> None:
    clerk.refuse("pricing", "get_products", code)
    assert prices.on_demand(aws, "c6a.large") is None  # it says nothing of eu-west-2
    clerk.refuse("pricing", "get_products", code)
    price = prices.on_demand(replace(aws, region="us-east-1"), "c6a.large")
    assert price is not None
    assert price.usd_per_hour == OFFERS["c6a.large"].price.usd_per_hour
    assert "table of 2026-01-19, us-east-1" in price.source
    assert price.source.endswith(f"refused: {code}")


def test_an_unknown_price_is_none(aws: Cloud, clerk: Clerk) -> None:
    nothing = {"PriceList": [product("1.0", unit="Quantity")]}
    clerk.answer("pricing", "get_products", nothing, asked_for("c9x.large"))
    assert prices.on_demand(aws, "c9x.large") is None


def test_present_spot_prices_are_returned_by_type_and_zone_with_the_lowest(
    aws: Cloud, clerk: Clerk
) -> None:
    history = [
        {"AvailabilityZone": f"eu-west-2{zone}", "InstanceType": kind, **price}
        for kind, zone, price in [
            ("c6a.large", "a", {"SpotPrice": "0.041000"}),
            ("c6a.large", "b", {"SpotPrice": "0.032000"}),
            ("c6a.large", "c", {}),
            ("c5.large", "b", {"SpotPrice": "0.030000"}),
        ]
    ]
    asked = {
        "InstanceTypes": ["c6a.large", "c5.large"],
        "ProductDescriptions": ["Linux/UNIX"],
        "StartTime": ANY,
    }
    reply = {"SpotPriceHistory": history}
    clerk.answer("ec2", "describe_spot_price_history", reply, asked)
    found = prices.spot(aws, ["c6a.large", "c5.large"])
    assert found["c5.large"] == {"eu-west-2b": pytest.approx(0.03 + EXTRAS)}
    assert found["c6a.large"].keys() == {"eu-west-2a", "eu-west-2b"}
    price = prices.lowest(found["c6a.large"])
    assert price is not None
    assert price.usd_per_hour == pytest.approx(0.032 + EXTRAS)
    assert price.source == "spot price in eu-west-2b, just now"


def test_prices_on_later_pages_are_found(aws: Cloud, clerk: Clerk) -> None:
    first: dict[str, Any] = {"PriceList": [], "NextToken": "2"}
    clerk.answer("pricing", "get_products", first)
    clerk.answer("pricing", "get_products", {"PriceList": [product("0.091")]})
    price = prices.on_demand(aws, "c6a.large")
    assert price is not None
    assert price.usd_per_hour == pytest.approx(
        0.091 + EXTRAS + DISK * GIGABYTE_ELSEWHERE
    )
    zone = {"AvailabilityZone": "eu-west-2b", "InstanceType": "c6a.large"}
    history = {"SpotPriceHistory": [{**zone, "SpotPrice": "0.03"}]}
    empty: dict[str, Any] = {"SpotPriceHistory": [], "NextToken": "2"}
    for page in (empty, history):
        clerk.answer("ec2", "describe_spot_price_history", page)
    assert prices.spot(aws, ["c6a.large"]).keys() == {"c6a.large"}


def test_only_the_present_spot_price_is_requested(aws: Cloud, clerk: Clerk) -> None:
    sent: list[dt.datetime] = []
    aws.ec2.meta.events.register(
        "before-parameter-build.ec2.DescribeSpotPriceHistory",
        lambda params, **_: sent.append(params["StartTime"]),
    )
    clerk.stubs["ec2"].add_response(
        "describe_spot_price_history", {"SpotPriceHistory": []}
    )
    before = dt.datetime.now(dt.timezone.utc)
    assert prices.spot(aws, ["c6a.large"]) == {}
    assert before <= sent[0] <= dt.datetime.now(dt.timezone.utc)


def test_a_refused_spot_price_is_no_price(aws: Cloud, clerk: Clerk) -> None:
    clerk.refuse("ec2", "describe_spot_price_history", "UnauthorizedOperation")
    assert prices.spot(aws, ["c6a.large"]) == {}
    assert prices.lowest({}) is None
