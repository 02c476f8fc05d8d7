"""What an instance costs an hour: asked of AWS, else from the shipped table.

One rule: a price always says where it is from; no price is better than a wrong one.
"""

from __future__ import annotations

from cnd.cloud import Cloud
from cnd.offers import OFFERS, Price


def on_demand(cloud: Cloud, instance_type: str) -> Price | None:
    """Return what an instance costs, or None if nobody knows."""
    offer = OFFERS.get(instance_type)
    return offer.price if offer else None
