"""An Auto Scaling group that holds a fleet at its size and replaces what is lost.

One rule: a group never holds instances without a scheduled end.  It is created empty,
gets the time at which it is to be empty again, and only then is filled: AWS itself
empties it when the run's lifetime is over, also if the orchestrator has died.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code, translated
from cnd.ec2 import RUN_TAG
from cnd.errors import CloudError
from cnd.model.launch_spec import LaunchSpec
from cnd.provision.ec2_fleet import template_names

END = "cnd-end"  # the scheduled action that empties the group
ACTIVITIES = 20  # of a group that are read, the newest ones
ABSENT = "ValidationError"  # Auto Scaling's code for a name that does not exist
NONE = {"MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0}  # a group without instances
EXISTS = "AlreadyExists"  # ... and for one that exists already


def group_name(run: str) -> str:
    """Return the name of a run's group."""
    return f"cnd-{run}"


def create(
    cloud: Cloud,
    specs: Sequence[LaunchSpec],
    subnets: Iterable[str],
    *,
    run: str,
    count: int,
    spot: bool,
) -> None:
    """Create a group for up to `count` instances, by the launch template of the run.

    It is empty: see `fill`.  A group of that name that exists already was created by a
    request whose answer was lost, since no other run has the name.

    Args:
        specs: one for each acceptable type, in order of price; of one architecture.
    """
    name = group_name(run)
    tag = {"Key": RUN_TAG, "Value": run, "PropagateAtLaunch": True}
    of_group = {"ResourceId": name, "ResourceType": "auto-scaling-group"}
    try:
        with translated("create an Auto Scaling group"):
            _client(cloud).create_auto_scaling_group(
                AutoScalingGroupName=name,
                VPCZoneIdentifier=",".join(subnets),
                Tags=[{**tag, **of_group}],
                MinSize=0,
                MaxSize=count,
                DesiredCapacity=0,
                **_launch_settings(specs, run, spot=spot),
            )
    except CloudError as error:
        if code(error) != EXISTS:
            raise


def fill(cloud: Cloud, *, run: str, count: int, lifetime: float) -> None:
    """Let the group of a run hold `count` instances, for `lifetime` seconds."""
    client, name = _client(cloud), group_name(run)
    end = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=lifetime)
    with translated("give the Auto Scaling group its end"):
        client.put_scheduled_update_group_action(
            AutoScalingGroupName=name, ScheduledActionName=END, StartTime=end, **NONE
        )
    with translated("fill the Auto Scaling group"):
        # A searching instance must not be terminated to balance the zones.
        client.suspend_processes(
            AutoScalingGroupName=name, ScalingProcesses=["AZRebalance"]
        )
        client.update_auto_scaling_group(
            AutoScalingGroupName=name, MinSize=count, DesiredCapacity=count
        )


def find(cloud: Cloud) -> list[str]:
    """Return the names of all groups of CND."""
    ours = [{"Name": "tag-key", "Values": [RUN_TAG]}]
    with translated("list the Auto Scaling groups"):
        pages = _client(cloud).get_paginator("describe_auto_scaling_groups")
        return [
            group["AutoScalingGroupName"]
            for page in pages.paginate(Filters=ours)
            for group in page["AutoScalingGroups"]
        ]


def failures(cloud: Cloud, run: str) -> list[str]:
    """Return why launches of the group of a run have failed, the oldest first."""
    with translated("ask why the Auto Scaling group launches nothing"):
        reply = _client(cloud).describe_scaling_activities(
            AutoScalingGroupName=group_name(run), MaxRecords=ACTIVITIES
        )
        return [
            " ".join(activity.get("StatusMessage", "AWS does not say why").split())
            for activity in reversed(reply["Activities"])
            if activity["StatusCode"] == "Failed"
        ]


def delete(cloud: Cloud, name: str) -> None:
    """Delete a group with its instances; one that does not exist is no failure.

    After this it launches nothing; its instances still have to be seen terminated.
    """
    try:
        with translated(f"delete the Auto Scaling group {name}"):
            _client(cloud).delete_auto_scaling_group(
                AutoScalingGroupName=name, ForceDelete=True
            )
    except CloudError as error:
        if code(error) != ABSENT:
            raise


def empty(cloud: Cloud, name: str) -> None:
    """Let a group hold no instance: it ends those that it has, and launches nothing."""
    with translated(f"empty the Auto Scaling group {name}"):
        _client(cloud).update_auto_scaling_group(AutoScalingGroupName=name, **NONE)


def _launch_settings(
    specs: Sequence[LaunchSpec], run: str, *, spot: bool
) -> dict[str, dict[str, Any]]:
    """Return what the group launches: the template's type, or one of several types."""
    names = template_names(run, specs)
    templates = {
        name: {"LaunchTemplateName": names[name], "Version": "1"} for name in names
    }
    first = specs[0].instance_type
    if len(specs) == 1 and not spot:
        return {"LaunchTemplate": templates[first]}
    types = [
        {"InstanceType": name}
        if template == templates[first]
        else {"InstanceType": name, "LaunchTemplateSpecification": template}
        for name, template in templates.items()
    ]
    chosen = {"LaunchTemplateSpecification": templates[first], "Overrides": types}
    how = {
        "OnDemandAllocationStrategy": "prioritized",
        "OnDemandPercentageAboveBaseCapacity": 0 if spot else 100,
        "SpotAllocationStrategy": "price-capacity-optimized",
    }
    policy = {"LaunchTemplate": chosen, "InstancesDistribution": how}
    return {"MixedInstancesPolicy": policy}


def _client(cloud: Cloud) -> Any:
    return cloud.clients.get("autoscaling")
