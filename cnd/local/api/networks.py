"""The default network of a region, as AWS gives it: with a way to the internet.

One rule: it completes what moto creates, and changes no network of a user.  Imported by
the server only, with moto.
"""

from __future__ import annotations

from typing import Any

from moto.ec2.models.vpcs import VPCBackend

EVERYWHERE = "0.0.0.0/0"


def install() -> None:
    """Give default networks an internet gateway, and the route to it.

    https://docs.aws.amazon.com/vpc/latest/userguide/default-vpc-components.html
    """
    plain = VPCBackend.create_default_vpc

    def create_default_vpc(backend: Any) -> Any:
        vpc = plain(backend)
        gateway = backend.create_internet_gateway()
        backend.attach_internet_gateway(gateway.id, vpc.id)
        (table,) = backend.describe_route_tables(filters={"vpc-id": [vpc.id]})
        backend.create_route(table.id, EVERYWHERE, gateway_id=gateway.id)
        return vpc

    VPCBackend.create_default_vpc = create_default_vpc  # type: ignore[method-assign,assignment]
