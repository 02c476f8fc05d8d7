"""Whether instances in a subnet can be reached, and can reach S3: by its routes.

One rule: `lacking` is pure, and what it is given is looked up by one call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnd.cloud.failures import code, translated
from cnd.ec2 import REFUSALS
from cnd.errors import CloudError
from cnd.model.plan import Plan

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

PRIVATE = "--address private, from within its network or with --gateway"
TO_S3 = "give it an internet gateway, a NAT gateway, or a gateway endpoint of S3"
EVERYWHERE = "0.0.0.0/0"
# Members of a route that lead out of the network, the internet gateway aside.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Route.html
OTHER_WAYS_OUT = (
    *("NatGatewayId", "InstanceId", "NetworkInterfaceId", "TransitGatewayId"),
    *("VpcPeeringConnectionId", "CoreNetworkArn", "LocalGatewayId"),
)


@dataclass(frozen=True)
class Subnet:
    """A subnet in which instances may be launched."""

    id: str
    vpc: str
    zone: str


def trouble(
    ec2: EC2Client, plan: Plan, subnets: Sequence[Subnet]
) -> tuple[str, str] | None:
    """Return why instances in some of `subnets` would be useless, and the way out.

    None if they would not, or if this account may not look up routes.
    """
    if plan.address == "private" and not plan.without_ssh:
        return None
    try:
        found = tables(ec2, sorted({each.vpc for each in subnets}))
    except CloudError as error:
        if code(error) in REFUSALS:
            return None
        raise
    useless = lacking(subnets, found, only_out=plan.without_ssh)
    if not useless:
        return None
    target, way_out = "an internet gateway", PRIVATE
    if plan.without_ssh:
        target, way_out = "S3, from where they get their orders", TO_S3
    if fit := [s.id for s in subnets if s.id not in useless]:
        way_out = f"--subnet {','.join(fit)}"
    return f"no route from {', '.join(useless)} to {target}", way_out


def tables(ec2: EC2Client, vpcs: Sequence[str]) -> list[Any]:
    """Return the route tables of these networks, as EC2 describes them."""
    with translated("look up the routes of the subnets"):
        pages = ec2.get_paginator("describe_route_tables").paginate(
            Filters=[{"Name": "vpc-id", "Values": list(vpcs)}]
        )
        return [table for page in pages for table in page["RouteTables"]]


def lacking(
    subnets: Sequence[Subnet],
    tables: Sequence[Mapping[str, Any]],
    *,
    only_out: bool,
) -> list[str]:
    """Return the ids of the subnets whose instances cannot do what a run needs.

    Args:
        only_out: whether it is enough that they reach S3, by whatever way; else this
            machine must reach their public addresses.
    """
    fit = _leads_to_s3 if only_out else _leads_to_the_internet
    return [each.id for each in subnets if not any(map(fit, _routes(each, tables)))]


def _routes(subnet: Subnet, tables: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the routes of a subnet: of its own table, else of its network's main one.

    https://docs.aws.amazon.com/vpc/latest/userguide/VPC_Route_Tables.html
    """
    own: list[Any] = []
    main: list[Any] = []
    for table in tables:
        ties = table.get("Associations", [])
        if any(tie.get("SubnetId") == subnet.id for tie in ties):
            own.append(table)
        elif table.get("VpcId") == subnet.vpc and any(tie.get("Main") for tie in ties):
            main.append(table)
    return [
        route
        for table in own or main
        for route in table.get("Routes", [])
        if route.get("State", "active") == "active"
    ]


def _leads_to_the_internet(route: Mapping[str, Any]) -> bool:
    return str(route.get("GatewayId", "")).startswith("igw-")


def _leads_to_s3(route: Mapping[str, Any]) -> bool:
    gateway = str(route.get("GatewayId", ""))
    if gateway.startswith("vpce-"):  # the gateway endpoint of S3, or of DynamoDB
        return True
    everywhere = route.get("DestinationCidrBlock") == EVERYWHERE
    private = gateway.startswith("vgw-") or any(map(route.get, OTHER_WAYS_OUT))
    return _leads_to_the_internet(route) or (everywhere and private)
