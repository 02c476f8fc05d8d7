"""EC2 Fleet: instances of several types and zones in one call, on spot or on demand.

One rule: AWS's engine chooses the pools, and what it launches carries the same tags,
user data and end as what RunInstances launches: all of that stands in a launch
template, which lives as long as the run.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnd.cloud.failures import code, refusal, translated
from cnd.ec2 import RUN_TAG, TOOL_TAG, Instance, LaunchSpec, named, tag_list, tags_of
from cnd.errors import CloudError

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

# A template of a second ago may be unknown to the next call.
NOT_YET = ("InvalidLaunchTemplateName.NotFoundException",)
EXISTS = "InvalidLaunchTemplateName.AlreadyExistsException"


@dataclass(frozen=True)
class FleetReply:
    """What a fleet request has come to."""

    instances: tuple[Instance, ...]
    trouble: CloudError | None  # why there are no more, in AWS's words


def template_name(run: str) -> str:
    """Return what the launch template of a run is called."""
    return f"cnd-{run}"


def make_template(ec2: EC2Client, spec: LaunchSpec, *, run: str, owner: str) -> None:
    """Make the launch template of a run, unless it is there already."""
    tags = tag_list(tags_of(spec, run=run, owner=owner))
    data: Any = {
        "ImageId": spec.image,
        "InstanceType": spec.instance_type,
        "KeyName": spec.key_name,
        "SecurityGroupIds": [spec.group],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        # Here botocore does not encode it, as it does for RunInstances.
        "UserData": base64.b64encode(spec.user_data.encode()).decode(),
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": tags},
            {"ResourceType": "volume", "Tags": tags},
        ],
    }
    ours = tag_list({TOOL_TAG: "1", RUN_TAG: run})
    try:
        with translated("make a launch template"):
            ec2.create_launch_template(
                LaunchTemplateName=template_name(run),
                LaunchTemplateData=data,
                TagSpecifications=[{"ResourceType": "launch-template", "Tags": ours}],
            )
    except CloudError as error:
        if code(error) != EXISTS:
            raise


def remove_template(ec2: EC2Client, run: str) -> None:
    """Remove the launch template of a run, if there is one."""
    try:
        with translated("remove the launch template"):
            ec2.delete_launch_template(LaunchTemplateName=template_name(run))
    except CloudError as error:
        if code(error) not in NOT_YET:
            raise


def launch(
    ec2: EC2Client,
    specs: Sequence[LaunchSpec],
    subnets: Mapping[str, str],
    *,
    run: str,
    token: str,
    count: int,
    spot: bool,
) -> FleetReply:
    """Launch up to `count` instances by the template of the run, at once.

    Args:
        specs: one for each type that will do, in order of price.
        subnets: each with its zone; any of them will do.
        token: as for `ec2.launch`: a repeated request launches nothing more.
    """
    kind = "spot" if spot else "on-demand"
    options: Any = {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}}
    if not spot:
        options = {"OnDemandOptions": {"AllocationStrategy": "lowest-price"}}
    template = {"LaunchTemplateName": template_name(run), "Version": "1"}
    overrides = _overrides(specs, subnets)
    ours = tag_list({TOOL_TAG: "1", RUN_TAG: run})
    names = ", ".join(spec.instance_type for spec in specs)
    with translated(f"launch {count} x {names} on {kind}"):
        reply = ec2.create_fleet(
            Type="instant",
            ClientToken=token,
            LaunchTemplateConfigs=[
                {"LaunchTemplateSpecification": template, "Overrides": overrides}  # type: ignore[typeddict-item]
            ],
            TargetCapacitySpecification={
                "TotalTargetCapacity": count,
                "DefaultTargetCapacityType": kind,  # type: ignore[typeddict-item]
            },
            TagSpecifications=[{"ResourceType": "fleet", "Tags": ours}],
            **options,
        )
        found = [
            _instance(identity, group, subnets, run)
            for group in reply.get("Instances", [])
            for identity in group["InstanceIds"]
        ]
        trouble = _trouble(reply, f"launch {count - len(found)} more on {kind}")
    return FleetReply(tuple(found), trouble if len(found) < count else None)


def _overrides(
    specs: Sequence[LaunchSpec], subnets: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return every pool that will do; the image of another processor goes along.

    A fleet takes one subnet of each zone and no more.
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/manage-ec2-fleet.html
    """
    first = specs[0].image
    by_zone = {zone: subnet for subnet, zone in subnets.items()}
    return [
        {
            "InstanceType": spec.instance_type,
            "SubnetId": subnet,
            **({} if spec.image == first else {"ImageId": spec.image}),
        }
        for spec in specs
        for subnet in by_zone.values()
    ]


def _instance(
    identity: str, group: Mapping[str, Any], subnets: Mapping[str, str], run: str
) -> Instance:
    """Return an instance as far as the reply tells of it; the rest is found by tag."""
    overrides = group.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    return Instance(
        id=named(identity),
        run=run,
        index=0,
        owner="",
        type=str(group.get("InstanceType", "")),
        state="pending",
        address=None,
        ssh_port=22,
        zone=subnets.get(overrides.get("SubnetId", ""), ""),
        launched=dt.datetime.now(dt.timezone.utc),
        deadline="",
        spot=group.get("Lifecycle") == "spot",
    )


def _trouble(reply: Mapping[str, Any], action: str) -> CloudError:
    """Return the reasons in a reply as one error; AWS tells each pool's apart."""
    errors = reply.get("Errors", [])
    reasons = {e.get("ErrorCode", ""): e.get("ErrorMessage", "") for e in errors}
    if not reasons:
        reasons = {"UnfulfillableCapacity": "AWS does not say why"}
    (first, message), *more = reasons.items()
    also = f"; elsewhere {', '.join(name for name, _ in more)}" if more else ""
    return refusal(action, first, f"{message}{also}")
