"""Every request of a launch on demand, on spot, held, and without SSH.

Recorded from CND's own clients while they talk to the local cloud; each parameter is
compared with botocore's model, and with what EC2 is to be asked for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cnd import sqs
from cnd.cloud.connection import Cloud
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.planning import preflight
from cnd.planning.preflight import Case
from cnd.provision.launch import Launcher
from cnd.provision.prepare import Provision, prepare
from cnd.provision.scram import scram
from cnd.provision.user_data import MOST_BYTES
from cnd.transport import keys
from tests.support.requests import Recorder, Request, objections

PLAN = Plan(2, 1, 60.0, ssh_from="192.0.2.7/32")
MIXED = {"c5.large": None}  # besides t3.micro
PLANS = {
    "on-demand": PLAN,
    "private": replace(PLAN, address="private"),
    "spot": replace(PLAN, market="spot", others=dict(MIXED)),
    "hold": replace(PLAN, hold=True, others=dict(MIXED)),
    "user-data": replace(PLAN, ssh_from="", bootstrap="user-data"),
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> keys.UserKey:
    return keys.user_key(tmp_path_factory.mktemp("key"))


def launched(aws: Cloud, plan: Plan, key: keys.UserKey, run: str) -> Recorder:
    """Return the requests of a run from its checks to its fleet."""
    with Recorder(aws) as recorder:
        provision = prepare(aws, plan, run=run, key=key)
        launcher = Launcher(aws, plan, run)
        preflight.examine(Case(aws, plan, key), [preflight.launch, preflight.capacity])
        try:
            launch(launcher, provision, plan)
        finally:
            groups = launcher.groups
            scram(aws, run, groups=groups)
            launcher.clean_up()
    sqs.delete(aws.sqs, provision.queue)
    return recorder


def launch(launcher: Launcher, provision: Provision, plan: Plan) -> None:
    events: list[Event] = []
    if plan.hold:
        launcher.launch_group(provision, events.append)
    else:
        launcher.launch(
            provision, 1, least=1, emit=events.append, wait=lambda seconds: True
        )


@pytest.fixture(scope="module")
def asked(aws: Cloud, key: keys.UserKey) -> Mapping[str, Recorder]:
    """What a run of each kind requests."""
    return {
        kind: launched(aws, plan, key, f"20260101-00000{number}-0000")
        for number, (kind, plan) in enumerate(PLANS.items())
    }


def tags(listed: list[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in listed}


@pytest.mark.parametrize("kind", PLANS)
def test_every_parameter_is_one_of_the_model(
    asked: Mapping[str, Recorder], kind: str
) -> None:
    found: list[Request] = asked[kind].requests
    assert {"ec2", "sqs", "s3"} <= {each.service for each in found}
    assert [wrong for each in found for wrong in objections(each)] == []


def settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that differ from launch to launch.

    That is what the dry run of a launch must have in common with it.
    """
    own = ("ClientToken", "DryRun", "MaxCount", "MinCount", "TagSpecifications")
    rest = {k: v for k, v in parameters.items() if k not in (*own, "UserData")}
    kinds = {
        each["ResourceType"]: sorted(tags(each["Tags"]))
        for each in parameters["TagSpecifications"]
    }
    return {**rest, "tags": kinds}


GIVEN = ["Name", "cnd:deadline", "cnd:owner", "cnd:run"]
INTERFACE = {"DeviceIndex": 0, "DeleteOnTermination": True}


@pytest.mark.parametrize(
    ("kind", "address"),
    [("on-demand", True), ("user-data", True), ("private", None)],
)
def test_an_instance_is_asked_for_with_all_that_it_needs(
    asked: Mapping[str, Recorder], kind: str, address: bool | None
) -> None:
    *_, sent = asked[kind].of("ec2:RunInstances")
    ((group,),) = (each["Groups"] for each in sent["NetworkInterfaces"])
    assert group.startswith("sg-")
    public = {"AssociatePublicIpAddress": True} if address else {}
    (name,) = {each["KeyName"] for each in asked[kind].of("ec2:ImportKeyPair")}
    assert settings(sent) == {
        "ImageId": sent["ImageId"],
        "InstanceType": "t3.micro",
        "KeyName": name,
        "NetworkInterfaces": [{**INTERFACE, **public, "Groups": [group]}],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled"},
        "CreditSpecification": {"CpuCredits": "unlimited"},
        "tags": {"instance": GIVEN, "volume": GIVEN},
    }
    assert (sent["MinCount"], sent["MaxCount"]) == (1, 1)
    assert len(sent["ClientToken"]) == 32
    assert 0 < len(sent["UserData"].encode()) <= MOST_BYTES


@pytest.mark.parametrize("kind", PLANS)
def test_a_dry_run_asks_for_what_the_launch_asks_for(
    asked: Mapping[str, Recorder], kind: str
) -> None:
    """A policy may depend on any of it: on the metadata service, on tags."""
    plan, recorder = PLANS[kind], asked[kind]
    tried = [p for p in recorder.of("ec2:RunInstances") if p.get("DryRun")]
    assert [each["InstanceType"] for each in tried] == list(plan.types)
    if plan.market != "on-demand" or plan.hold:
        (dry,) = created(recorder, dry_run=True).values()
        assert settings(dry) == settings(next(iter(created(recorder).values())))
        return
    (real_one,) = (p for p in recorder.of("ec2:RunInstances") if not p.get("DryRun"))
    assert settings(tried[0]) == settings(real_one)


def created(recorder: Recorder, *, dry_run: bool = False) -> dict[str, dict[str, Any]]:
    """Return the launch templates that were created, by their names."""
    return {
        each["LaunchTemplateName"]: each["LaunchTemplateData"]
        for each in recorder.of("ec2:CreateLaunchTemplate")
        if each["DryRun"] == dry_run
    }


@pytest.mark.parametrize("kind", ["spot", "hold"])
def test_a_template_asks_for_what_a_launch_asks_for(
    asked: Mapping[str, Recorder], kind: str
) -> None:
    *_, by_hand = asked["on-demand"].of("ec2:RunInstances")
    first, second = created(asked[kind]).values()
    assert settings(first) == settings(by_hand)
    # AWS refuses credits for a type that has none.
    without = {k: v for k, v in settings(by_hand).items() if k != "CreditSpecification"}
    assert settings(second) == {**without, "InstanceType": "c5.large"}
    for each in (first, second):
        assert base64.b64decode(each["UserData"]).startswith(b"#cloud-config\n")


def test_a_spot_fleet_is_asked_for_once_and_at_once(
    asked: Mapping[str, Recorder],
) -> None:
    sent = asked["spot"].one("ec2:CreateFleet")
    names = list(created(asked["spot"]))
    configs = sent.pop("LaunchTemplateConfigs")
    chosen = [each["LaunchTemplateSpecification"] for each in configs]
    assert chosen == [{"LaunchTemplateName": n, "Version": "1"} for n in names]
    for config, kind in zip(configs, PLANS["spot"].types, strict=True):
        for override in config["Overrides"]:
            assert set(override) == {"InstanceType", "SubnetId"}
            assert override["InstanceType"] == kind
    (tagged,) = sent.pop("TagSpecifications")
    assert tagged["ResourceType"] == "fleet"
    assert len(sent.pop("ClientToken")) == 32
    assert sent == {
        "Type": "instant",
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 1,
            "DefaultTargetCapacityType": "spot",
        },
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
    }


def test_a_held_fleet_is_asked_for_empty_and_with_both_templates(
    asked: Mapping[str, Recorder],
) -> None:
    sent = asked["hold"].one("autoscaling:CreateAutoScalingGroup")
    own, further = created(asked["hold"])
    assert sent["AutoScalingGroupName"] == own
    assert (sent["MinSize"], sent["DesiredCapacity"]) == (0, 0)
    policy = sent["MixedInstancesPolicy"]["LaunchTemplate"]
    named = {"LaunchTemplateName": own, "Version": "1"}
    assert policy["LaunchTemplateSpecification"] == named
    assert policy["Overrides"] == [
        {"InstanceType": "t3.micro"},
        {
            "InstanceType": "c5.large",
            "LaunchTemplateSpecification": {**named, "LaunchTemplateName": further},
        },
    ]


@pytest.mark.parametrize("kind", ["spot", "hold"])
def test_all_templates_of_a_run_are_removed(
    asked: Mapping[str, Recorder], kind: str
) -> None:
    removed = asked[kind].of("ec2:DeleteLaunchTemplate")
    names = [each["LaunchTemplateName"] for each in removed]
    assert names == list(created(asked[kind]))


def test_instances_without_ssh_are_in_a_group_that_lets_nothing_in(
    asked: Mapping[str, Recorder],
) -> None:
    groups = [p["GroupName"] for p in asked["user-data"].of("ec2:CreateSecurityGroup")]
    assert groups in ([], ["cnd-ssh-closed"])
    assert asked["user-data"].of("ec2:AuthorizeSecurityGroupIngress") == []


def test_volumes_that_would_outlive_the_instance_end_with_it(
    aws: Cloud, key: keys.UserKey, run: str
) -> None:
    """Moto's images keep theirs, as images of a user may."""
    *_, usual = launched(aws, PLAN, key, run).of("ec2:RunInstances")
    image = usual["ImageId"]
    (described,) = aws.ec2.describe_images(ImageIds=[image])["Images"]
    devices = [
        mapping["DeviceName"]
        for mapping in described["BlockDeviceMappings"]
        if not mapping["Ebs"]["DeleteOnTermination"]
    ]
    assert devices
    ended = [
        {"DeviceName": device, "Ebs": {"DeleteOnTermination": True}}
        for device in devices
    ]
    by_hand = launched(aws, replace(PLAN, image=image), key, f"{run[:-4]}0000")
    assert len(by_hand.of("ec2:RunInstances")) == 2
    for sent in by_hand.of("ec2:RunInstances"):
        assert sent["BlockDeviceMappings"] == ended
    held = replace(PLAN, image=image, hold=True)
    by_group = launched(aws, held, key, f"{run[:-4]}0001")
    (data,) = created(by_group).values()
    assert data["BlockDeviceMappings"] == ended


def test_what_is_recorded_of_a_launch_can_be_read_again(
    aws: Cloud, key: keys.UserKey, run: str
) -> None:
    """A take-over launches replacements by the order on the disk."""
    provision = prepare(aws, PLAN, run=run, key=key)
    sqs.delete(aws.sqs, provision.queue)
    again = Provision.from_json(json.loads(json.dumps(provision.to_json())))
    assert [replace(s, volumes=tuple(s.volumes)) for s in again.specs] == list(
        provision.specs
    )
    assert again.login == provision.login
    (group,) = {spec.group for spec in again.specs}
    assert again.login.rule == f"{group} allows SSH from 192.0.2.7/32 only"
