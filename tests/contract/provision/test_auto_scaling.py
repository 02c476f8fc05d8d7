"""What is requested of Auto Scaling: no group is filled without a scheduled end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from cnd.cloud.failures import code
from cnd.errors import CloudError
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.provision import auto_scaling
from cnd.provision.capacity import UNKNOWN_YET
from cnd.provision.launch import Launcher
from cnd.view.narrator import sentence
from tests.support.aws import SPEC
from tests.support.clerk import Clerk, stubbed

CALLS = (
    "create_auto_scaling_group",
    "put_scheduled_update_group_action",
    "suspend_processes",
    "update_auto_scaling_group",
)


@pytest.fixture
def clerk() -> Iterator[Clerk]:
    with stubbed("autoscaling") as clerk:
        yield clerk


def asked(clerk: Clerk, *names: str, spot: bool = False) -> list[dict[str, Any]]:
    """Create a group of two for these types; return the requests, in order."""
    client = clerk.cloud.clients.get("autoscaling")
    found: list[dict[str, Any]] = []
    client.meta.events.register(
        "before-parameter-build.auto-scaling",
        lambda params, **_: found.append(dict(params)),
    )
    for call in CALLS:
        clerk.answer("autoscaling", call, {})
    specs = [replace(SPEC, instance_type=name) for name in names]
    zones = ("subnet-1", "subnet-2")
    auto_scaling.create(clerk.cloud, specs, zones, run="r", count=2, spot=spot)
    auto_scaling.fill(clerk.cloud, run="r", count=2, lifetime=SPEC.lifetime)
    return found


def test_a_group_is_filled_only_after_its_end_was_scheduled(clerk: Clerk) -> None:
    made, end, _, filled = asked(clerk, "t3.micro")
    assert (made["MinSize"], made["MaxSize"], made["DesiredCapacity"]) == (0, 2, 0)
    assert (end["MinSize"], end["MaxSize"], end["DesiredCapacity"]) == (0, 0, 0)
    left = end["StartTime"] - dt.datetime.now(dt.timezone.utc)
    assert SPEC.lifetime - 5 < left.total_seconds() <= SPEC.lifetime
    assert (filled["MinSize"], filled["DesiredCapacity"]) == (2, 2)


def test_a_group_created_by_a_request_without_an_answer_is_the_runs_own(
    clerk: Clerk,
) -> None:
    for word in (auto_scaling.EXISTS, "LimitExceeded"):
        clerk.refuse("autoscaling", "create_auto_scaling_group", word)
    auto_scaling.create(clerk.cloud, [SPEC], ["subnet-1"], run="r", count=2, spot=False)
    with pytest.raises(CloudError, match="LimitExceeded"):
        auto_scaling.create(
            clerk.cloud, [SPEC], ["subnet-1"], run="r", count=2, spot=False
        )


def test_a_template_that_was_just_made_may_be_unknown_to_auto_scaling(
    clerk: Clerk,
) -> None:
    """Its code is that of many mistakes: only its message tells this one."""
    call = "create_auto_scaling_group"
    for message in (
        "You must use a valid fully-formed launch template. The specified launch "
        "template, with template name cnd-r, does not exist.",
        "The subnet ID 'subnet-1' does not exist",
    ):
        clerk.stubs["autoscaling"].add_client_error(call, auto_scaling.ABSENT, message)
    create = partial(
        auto_scaling.create, clerk.cloud, [SPEC], ["subnet-1"], run="r", count=2
    )
    with pytest.raises(CloudError) as unknown:
        create(spot=False)
    assert code(unknown.value) in UNKNOWN_YET
    with pytest.raises(CloudError) as wrong:
        create(spot=False)
    assert code(wrong.value) == auto_scaling.ABSENT


def test_a_group_is_tagged_in_the_call_and_tags_its_instances(clerk: Clerk) -> None:
    made, *_ = asked(clerk, "t3.micro")
    (tag,) = made["Tags"]
    assert (tag["Key"], tag["Value"]) == ("cnd:run", "r")
    assert tag["PropagateAtLaunch"] is True
    assert made["AutoScalingGroupName"] == "cnd-r"
    assert made["VPCZoneIdentifier"] == "subnet-1,subnet-2"
    assert made["LaunchTemplate"] == {"LaunchTemplateName": "cnd-r", "Version": "1"}


def test_no_instance_is_terminated_to_balance_the_zones(clerk: Clerk) -> None:
    suspended = asked(clerk, "t3.micro")[2]
    assert suspended["ScalingProcesses"] == ["AZRebalance"]


def test_several_types_and_spot_are_in_the_policy_of_the_group(clerk: Clerk) -> None:
    made, *_ = asked(clerk, "t3.micro", "c5.large", spot=True)
    policy = made["MixedInstancesPolicy"]
    types = [each["InstanceType"] for each in policy["LaunchTemplate"]["Overrides"]]
    assert types == ["t3.micro", "c5.large"]
    how = policy["InstancesDistribution"]
    assert how["OnDemandPercentageAboveBaseCapacity"] == 0
    assert how["SpotAllocationStrategy"] == "price-capacity-optimized"


def test_a_group_is_deleted_with_its_instances_and_a_missing_one_is_no_failure(
    clerk: Clerk,
) -> None:
    gone = {"AutoScalingGroupName": "cnd-r", "ForceDelete": True}
    clerk.answer("autoscaling", "delete_auto_scaling_group", {}, gone)
    clerk.refuse("autoscaling", "delete_auto_scaling_group", auto_scaling.ABSENT)
    clerk.refuse("autoscaling", "delete_auto_scaling_group", "AccessDenied")
    auto_scaling.delete(clerk.cloud, "cnd-r")
    auto_scaling.delete(clerk.cloud, "cnd-r")
    with pytest.raises(CloudError, match="AccessDenied"):
        auto_scaling.delete(clerk.cloud, "cnd-r")


def activity(status: str, message: str) -> dict[str, Any]:
    return {
        "ActivityId": message,
        "AutoScalingGroupName": "cnd-r",
        "Cause": "At 2026-01-01T00:00:00Z the group was filled.",
        "StartTime": dt.datetime.now(dt.timezone.utc),
        "StatusCode": status,
        "StatusMessage": message,
    }


def test_each_reason_why_a_group_launches_too_few_is_emitted_once(clerk: Clerk) -> None:
    """Only while instances are missing; a failed poll is emitted once, too."""
    service, call = "autoscaling", "describe_scaling_activities"
    full = activity("Failed", "We do not have sufficient\nt3.micro capacity.")
    quota = activity("Failed", "Your quota allows for 0 more running instance(s).")
    fine = activity("Successful", "Launched.")
    asked = {"AutoScalingGroupName": "cnd-r", "MaxRecords": auto_scaling.ACTIVITIES}
    clerk.answer(service, call, {"Activities": [fine]}, asked)
    clerk.answer(service, call, {"Activities": [full, fine]})
    clerk.refuse(service, call, "AccessDenied")
    clerk.refuse(service, call, "AccessDenied")
    clerk.answer(service, call, {"Activities": [quota, full, fine]})
    launcher = Launcher(clerk.cloud, Plan(2, 2, 60.0, hold=True), "r")
    events: list[Event] = []
    missing = iter([0, 2, 2, 2, 2, 1])
    waits = iter([True] * 6 + [False])
    launcher.report_failures(
        events.append, lambda: next(missing), lambda _: next(waits)
    )
    assert [(event.kind, event.fields.get("count")) for event in events] == [
        ("launch.refused", 2),
        ("cloud.trouble", None),
        ("launch.refused", 1),
    ]
    assert sentence(events[0]) == (
        "no room for 2 x t3.micro in the group's zones: "
        "We do not have sufficient t3.micro capacity."
    )
    assert launcher.nothing_launched == (
        "nothing of it was launched: Your quota allows for 0 more running instance(s)."
    )


def test_groups_are_found_by_cnds_tag(clerk: Clerk) -> None:
    ours = {"Filters": [{"Name": "tag-key", "Values": ["cnd:run"]}]}
    group = {
        "AutoScalingGroupName": "cnd-r",
        "MinSize": 0,
        "MaxSize": 2,
        "DesiredCapacity": 2,
        "DefaultCooldown": 300,
        "AvailabilityZones": [],
        "HealthCheckType": "EC2",
        "CreatedTime": dt.datetime.now(dt.timezone.utc),
    }
    reply = {"AutoScalingGroups": [group]}
    clerk.answer("autoscaling", "describe_auto_scaling_groups", reply, ours)
    assert auto_scaling.find(clerk.cloud) == ["cnd-r"]
