"""A fleet ends also where the deletion of its Auto Scaling group is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import LeakError
from cnd.local import clear_faults
from cnd.provision import access, auto_scaling, ec2_fleet
from cnd.provision.scram import scram
from cnd.provision.termination import Patience
from tests.support.faults import lay
from tests.support.instances import spec
from tests.support.local_cloud import LocalCloud
from tests.support.requests import Recorder
from tests.support.waiting import eventually

DELETE, UPDATE = "autoscaling:DeleteAutoScalingGroup", "autoscaling:Update*"
SOON = Patience(timeout=60.0)


@pytest.fixture
def group(aws: Cloud, cloud: LocalCloud, run: str) -> Iterator[str]:
    """A group of two live instances; it replaces what is terminated."""
    wanted = spec(cloud)
    ec2_fleet.make_templates(aws.ec2, [wanted], run=run, owner="me")
    zones = access.subnets(aws.ec2)
    auto_scaling.create(aws, [wanted], zones, run=run, count=2, spot=False)
    auto_scaling.fill(aws, run=run, count=2, lifetime=600.0)
    eventually(lambda: len(ec2.find(aws.ec2, run=run)) == 2)
    name = auto_scaling.group_name(run)
    yield name
    clear_faults(cloud.endpoint)
    auto_scaling.delete(aws, name)


def sizes(aws: Cloud, name: str) -> list[int]:
    """Return the desired size of a group, if it is there."""
    client: Any = aws.clients.get("autoscaling")
    found = client.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    return [each["DesiredCapacity"] for each in found["AutoScalingGroups"]]


def test_a_group_that_cannot_be_deleted_yet_launches_nothing_more(
    aws: Cloud, cloud: LocalCloud, run: str, group: str
) -> None:
    launched = {instance.id for instance in ec2.find(aws.ec2, run=run)}
    lay(cloud.endpoint, DELETE, code="ScalingActivityInProgress", times=2)
    seen: list[str] = []
    ended = scram(
        aws,
        run,
        groups=[group],
        known=launched,  # the emptied group may have ended them before the first look
        patience=SOON,
        seen=lambda instance: seen.append(instance.id),
    )
    assert launched == {instance.id for instance in ended} == set(seen)
    assert len(seen) == len(launched)
    assert sizes(aws, group) == []


def test_a_group_that_cannot_be_deleted_is_emptied_once(
    aws: Cloud, cloud: LocalCloud, run: str, group: str
) -> None:
    """Each change of its size is a reason for AWS to refuse its deletion again."""
    lay(cloud.endpoint, DELETE, code="ScalingActivityInProgress", times=4)
    with Recorder(aws) as recorder:
        scram(aws, run, groups=[group], patience=SOON)
    emptied = recorder.one("autoscaling:UpdateAutoScalingGroup")
    assert (emptied["MaxSize"], emptied["DesiredCapacity"]) == (0, 0)
    assert sizes(aws, group) == []


def test_a_group_that_may_not_be_emptied_either_is_deleted_again_and_again(
    aws: Cloud, cloud: LocalCloud, run: str, group: str
) -> None:
    lay(cloud.endpoint, DELETE, code="ScalingActivityInProgress", times=2)
    lay(cloud.endpoint, UPDATE, code="AccessDenied", times=1)
    scram(aws, run, groups=[group], patience=SOON)
    assert ec2.find(aws.ec2, run=run, states=ec2.EXISTING) == []
    assert sizes(aws, group) == []


def test_a_group_whose_deletion_stays_refused_is_named_and_holds_nothing(
    aws: Cloud, cloud: LocalCloud, run: str, group: str
) -> None:
    lay(cloud.endpoint, DELETE, code="AccessDenied", times=0)
    hasty = replace(aws, refused_patience=0.1)
    with pytest.raises(LeakError, match="that were not seen gone") as caught:
        scram(hasty, run, groups=[group], patience=SOON)
    assert caught.value.ids == (group,)
    assert "AccessDenied" in str(caught.value.__cause__)
    assert ec2.find(aws.ec2, run=run, states=ec2.EXISTING) == []
    assert sizes(aws, group) == [0]


def test_an_interrupted_scram_deletes_the_group_once_more(
    aws: Cloud, cloud: LocalCloud, run: str, group: str
) -> None:
    lay(cloud.endpoint, DELETE, code="ScalingActivityInProgress")
    lay(cloud.endpoint, UPDATE, code="AccessDenied", times=0)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scram(aws, run, groups=[group], patience=replace(SOON, sleep=interrupt))
    assert sizes(aws, group) == []
    scram(aws, run, groups=[])
