"""EC2 Fleet: instances of several types and zones in one call, on spot or on demand.

One rule: AWS chooses the pools, and what it launches has the same tags, user data and
shutdown behaviour as what RunInstances launches: all of them are in a launch template,
which exists as long as the run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnd.cloud.failures import UNKNOWN_TEMPLATE, code, refusal, translated
from cnd.ec2 import (
    ALL,
    RUN_TAG,
    TOOL_TAG,
    Instance,
    find,
    named,
    tag_list,
    tags_of,
)
from cnd.errors import CloudError
from cnd.model.catalog import has_gpu, is_burstable
from cnd.model.launch_spec import LaunchSpec

if TYPE_CHECKING:
    from types_boto3_ec2 import EC2Client

EXISTS = "InvalidLaunchTemplateName.AlreadyExistsException"


@dataclass(frozen=True)
class FleetReply:
    """The result of a fleet request."""

    instances: tuple[Instance, ...]
    trouble: CloudError | None  # why there are no more, as AWS explains it
    fleet: str  # the id of the fleet


def template_names(run: str, specs: Sequence[LaunchSpec]) -> dict[str, str]:
    """Return the name of the launch template of each type.

    Types of one kind share a template; the first type's kind has the run's own name.
    """
    types = [each.instance_type for each in specs]
    names = dict(zip(dict.fromkeys(map(_kind, types)), _names(run), strict=False))
    return {name: names[_kind(name)] for name in types}


def _kind(instance_type: str) -> tuple[bool, bool]:
    """Return what decides which types share a template.

    AWS refuses CPU credits for types that have none.  Types with GPUs have their own
    image and, without SSH, their own user data.
    """
    return is_burstable(instance_type), has_gpu(instance_type)


def make_templates(
    ec2: EC2Client, specs: Sequence[LaunchSpec], *, run: str, owner: str
) -> None:
    """Create the launch templates of a run, unless they exist already."""
    names, made = template_names(run, specs), set[str]()
    for spec in specs:
        name = names[spec.instance_type]
        if name in made:
            continue
        made.add(name)
        try:
            create_template(ec2, name, spec, run=run, owner=owner)
        except CloudError as error:
            if code(error) != EXISTS:
                raise


def create_template(
    ec2: EC2Client,
    name: str,
    spec: LaunchSpec,
    *,
    run: str,
    owner: str,
    dry_run: bool = False,
) -> None:
    """Create a launch template; a dry run changes nothing and always raises."""
    data: Any = spec.template(tags_of(spec, run=run, owner=owner))
    ours = tag_list({TOOL_TAG: "1", RUN_TAG: run})
    with translated("create a launch template"):
        ec2.create_launch_template(
            LaunchTemplateName=name,
            LaunchTemplateData=data,
            TagSpecifications=[{"ResourceType": "launch-template", "Tags": ours}],
            DryRun=dry_run,
        )


def remove_templates(
    ec2: EC2Client,
    run: str,
    types: Sequence[str],
    *,
    are_new: Callable[[], bool] = lambda: False,
) -> None:
    """Remove the launch templates of a run for these types, if there are any.

    Raises:
        CloudError: it was refused; or one is unknown while they `are_new`, as AWS may
            not know it yet.
    """
    for name in _names(run)[: len(set(map(_kind, types)))]:
        try:
            with translated("remove the launch template"):
                ec2.delete_launch_template(LaunchTemplateName=name)
        except CloudError as error:
            if code(error) != UNKNOWN_TEMPLATE or are_new():
                raise


def _names(run: str) -> tuple[str, ...]:
    return f"cnd-{run}", f"cnd-{run}-2", f"cnd-{run}-3"


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
        specs: one for each acceptable type, in order of price.
        subnets: the acceptable ones, each with its zone.
        token: as for `ec2.launch`: a repeated request launches nothing more.
    """
    kind = "spot" if spot else "on-demand"
    options: Any = {"SpotOptions": {"AllocationStrategy": "price-capacity-optimized"}}
    if not spot:
        options = {"OnDemandOptions": {"AllocationStrategy": "lowest-price"}}
    ours = tag_list({TOOL_TAG: "1", RUN_TAG: run})
    names = ", ".join(spec.instance_type for spec in specs)
    with translated(f"launch {count} x {names} on {kind}"):
        reply = ec2.create_fleet(
            Type="instant",
            ClientToken=token,
            LaunchTemplateConfigs=_configs(run, specs, subnets),
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
        fleet = str(reply["FleetId"])
    return FleetReply(tuple(found), trouble if len(found) < count else None, fleet)


def launched(ec2: EC2Client, run: str, reply: FleetReply) -> tuple[Instance, ...]:
    """Return the instances of a fleet: those that its reply names, and those listed."""
    listed = find(ec2, run=run, states=ALL)
    known = {i.id: i for i in reply.instances}
    known |= {i.id: i for i in listed if i.fleet == reply.fleet}
    return tuple(sorted(known.values(), key=lambda each: each.id))


def _configs(
    run: str, specs: Sequence[LaunchSpec], subnets: Mapping[str, str]
) -> list[Any]:
    """Return each template with the pools that it is for."""
    names, configs = template_names(run, specs), []
    for name in dict.fromkeys(names.values()):
        of_template = [spec for spec in specs if names[spec.instance_type] == name]
        config = {
            "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "1"},
            "Overrides": _overrides(of_template, subnets),
        }
        configs.append(config)
    return configs


def _overrides(
    specs: Sequence[LaunchSpec], subnets: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return every acceptable pool, with its image where another processor needs one.

    A fleet takes only one subnet of each zone.
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
    """Return an instance as far as the reply describes it; the rest is found by tag."""
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
    """Return the reasons in a reply as one error; AWS gives one for each pool."""
    errors = reply.get("Errors", [])
    reasons = {e.get("ErrorCode", ""): e.get("ErrorMessage", "") for e in errors}
    if not reasons:
        reasons = {"UnfulfillableCapacity": "AWS does not say why"}
    (first, message), *more = reasons.items()
    also = f"; elsewhere {', '.join(name for name, _ in more)}" if more else ""
    return refusal(action, first, f"{message}{also}")
