"""An Auto Scaling group that holds a fleet at its size and replaces what is lost.

One rule: a group never holds instances without an end of its own.  It is made empty,
is told when to be empty again, and only then is filled: AWS itself empties it when the
run's lifetime is over, whoever has died by then.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code, translated
from cnd.ec2 import RUN_TAG, LaunchSpec
from cnd.errors import CloudError
from cnd.provision.ec2_fleet import template_name

END = "cnd-end"  # the scheduled action that empties the group
ACTIVITIES = 20  # of a group, the newest ones, that are looked through
NOT_THERE = "ValidationError"  # Auto Scaling's word for a name that it does not know
THERE = "AlreadyExists"  # ... and for one that it knows already


def group_name(run: str) -> str:
    """Return what the group of a run is called."""
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
    """Make a group for up to `count` instances, by the launch template of the run.

    It is empty: see `fill`.  One that is there already was made by a request whose
    answer was lost: the name is the run's own.

    Args:
        specs: one for each type that will do, in order of price; of one processor.
    """
    name = group_name(run)
    tag = {"Key": RUN_TAG, "Value": run, "PropagateAtLaunch": True}
    of_group = {"ResourceId": name, "ResourceType": "auto-scaling-group"}
    try:
        with translated("make an Auto Scaling group"):
            _client(cloud).create_auto_scaling_group(
                AutoScalingGroupName=name,
                VPCZoneIdentifier=",".join(subnets),
                Tags=[{**tag, **of_group}],
                MinSize=0,
                MaxSize=count,
                DesiredCapacity=0,
                **_machines(specs, run, spot=spot),
            )
    except CloudError as error:
        if code(error) != THERE:
            raise


def fill(cloud: Cloud, *, run: str, count: int, lifetime: float) -> None:
    """Let the group of a run hold `count` instances, for `lifetime` seconds."""
    client, name = _client(cloud), group_name(run)
    end = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=lifetime)
    nobody = {"MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0}
    with translated("give the Auto Scaling group its end"):
        client.put_scheduled_update_group_action(
            AutoScalingGroupName=name, ScheduledActionName=END, StartTime=end, **nobody
        )
    with translated("fill the Auto Scaling group"):
        # An instance that searches is not to be ended for the balance of the zones.
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
    """Delete a group with its instances; one that is gone already is no failure.

    From here on it launches nothing; its instances still have to be seen terminated.
    """
    try:
        with translated(f"delete the Auto Scaling group {name}"):
            _client(cloud).delete_auto_scaling_group(
                AutoScalingGroupName=name, ForceDelete=True
            )
    except CloudError as error:
        if code(error) != NOT_THERE:
            raise


def _machines(
    specs: Sequence[LaunchSpec], run: str, *, spot: bool
) -> dict[str, dict[str, Any]]:
    """Return what the group launches: the template's type, or one of several."""
    template = {"LaunchTemplateName": template_name(run), "Version": "1"}
    if len(specs) == 1 and not spot:
        return {"LaunchTemplate": template}
    types = [{"InstanceType": spec.instance_type} for spec in specs]
    chosen = {"LaunchTemplateSpecification": template, "Overrides": types}
    how = {
        "OnDemandAllocationStrategy": "prioritized",
        "OnDemandPercentageAboveBaseCapacity": 0 if spot else 100,
        "SpotAllocationStrategy": "price-capacity-optimized",
    }
    policy = {"LaunchTemplate": chosen, "InstancesDistribution": how}
    return {"MixedInstancesPolicy": policy}


def _client(cloud: Cloud) -> Any:
    return cloud.clients.get("autoscaling")
