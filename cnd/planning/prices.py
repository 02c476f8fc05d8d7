"""What an instance costs an hour: by AWS's price list, else by the shipped table.

One rule: a price always names its source; no price is better than a wrong one, as the
table's is in every region but its own.  A price list that does not answer never
prevents a launch.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code, translated
from cnd.errors import CloudError
from cnd.model.catalog import (
    GIGABYTE_ELSEWHERE,
    OFFERS,
    PRICED_REGION,
    Price,
    disk_of,
    with_extras,
)

# The Price List API answers in few regions, for all of them.
# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
PRICING_REGION = "us-east-1"
PRODUCT = {
    "operatingSystem": "Linux",
    "preInstalledSw": "NA",
    "tenancy": "Shared",
    "capacitystatus": "Used",  # not an unused reservation
}


def on_demand(cloud: Cloud, instance_type: str) -> Price | None:
    """Return what an instance costs in the cloud's region; None: it is not known."""
    listed, trouble = None, "AWS's price list does not have it"
    try:
        if cloud.endpoint:
            trouble = "only AWS has a price list"
        else:
            client = cloud.clients.get("pricing", PRICING_REGION)
            listed = _listed(client, cloud.region, instance_type)
    except CloudError as error:
        trouble = f"AWS's price list refused: {code(error) or error}"
    abroad = cloud.region != PRICED_REGION
    if listed is not None:
        found = with_extras(instance_type, listed, f"AWS's price list, {cloud.region}")
        more = disk_of(instance_type) * GIGABYTE_ELSEWHERE if abroad else 0.0
        return replace(found, usd_per_hour=found.usd_per_hour + more)
    if abroad:
        return None
    if offer := OFFERS.get(instance_type):
        source = f"{offer.price.source}; {trouble}"
        return replace(offer.price, source=source)
    return None


def spot(cloud: Cloud, types: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the present spot prices by type and zone, extras included.

    Empty if AWS refuses.
    """
    now = dt.datetime.now(dt.timezone.utc)
    try:
        with translated(f"ask for the spot price of {', '.join(types)}"):
            pages = cloud.ec2.get_paginator("describe_spot_price_history").paginate(
                InstanceTypes=list(types),  # type: ignore[arg-type]  # any text
                ProductDescriptions=["Linux/UNIX"],
                StartTime=now,  # so that only the price in force is returned
            )
            history = [
                (x["InstanceType"], x["AvailabilityZone"], float(x["SpotPrice"]))
                for page in pages
                for x in page["SpotPriceHistory"]
                if x.get("SpotPrice")
            ]
    except CloudError:
        return {}
    found: dict[str, dict[str, float]] = {}
    for name, zone, usd in history:
        found.setdefault(name, {})[zone] = with_extras(name, usd, "").usd_per_hour
    return found


def lowest(zones: Mapping[str, float]) -> Price | None:
    """Return the lowest of a type's spot prices by zone, or None if there is none."""
    if not zones:
        return None
    zone = min(zones, key=lambda name: (zones[name], name))
    return Price(zones[zone], f"spot price in {zone}, just now")


def _listed(client: Any, region: str, instance_type: str) -> float | None:
    """Return the price that AWS lists, without what is billed besides the instance."""
    fields = {"instanceType": instance_type, "regionCode": region, **PRODUCT}
    with translated(f"ask for the price of {instance_type}"):
        pages = client.get_paginator("get_products").paginate(
            ServiceCode="AmazonEC2",
            Filters=[
                {"Type": "TERM_MATCH", "Field": name, "Value": value}
                for name, value in fields.items()
            ],
        )
        products = [json.loads(each) for page in pages for each in page["PriceList"]]
        return max((usd for each in products for usd in _hourly(each)), default=None)


def _hourly(product: dict[str, Any]) -> list[float]:
    """Return the prices above zero that a product of the price list has, per hour."""
    terms = product.get("terms", {}).get("OnDemand", {}).values()
    dimensions = [d for term in terms for d in term["priceDimensions"].values()]
    prices = [
        float(dimension["pricePerUnit"].get("USD", 0))
        for dimension in dimensions
        if dimension.get("unit") == "Hrs"
    ]
    return [price for price in prices if price > 0]
