"""Networks as AWS has them: a default one with a way to the internet, interfaces.

One rule: it completes what moto creates and reads, and changes no network of a user.
Imported by the server only, with moto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def of_interfaces(interfaces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a launch says of its instances' subnet and groups, as moto has it.

    moto reads both from the launch itself only, where AWS refuses them beside an
    interface.

    Args:
        interfaces: NetworkInterfaces of the launch or of its template.
    """
    first = next((i for i in interfaces if not int(i.get("DeviceIndex") or 0)), {})
    found = {
        "subnet_id": first.get("SubnetId"),
        "security_group_ids": first.get("Groups"),
    }
    return {name: value for name, value in found.items() if value}
