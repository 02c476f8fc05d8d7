"""What is requested of EC2 Fleet, and what its replies become."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cnd.cloud.failures import UNKNOWN_TEMPLATE, code
from cnd.errors import CapacityError
from cnd.provision import ec2_fleet
from tests.support.aws import SPEC, Stub

ARM = replace(SPEC, instance_type="t4g.micro", image="ami-2")
DEAR = replace(SPEC, instance_type="c7g.large", image="ami-2")
ZONES = {"subnet-1": "eu-west-2a", "subnet-2": "eu-west-2b"}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


def launch(stub: Stub, *, count: int = 2, on_spot: bool = True) -> ec2_fleet.FleetReply:
    return ec2_fleet.launch(
        stub.ec2,
        [SPEC, ARM, DEAR],
        ZONES,
        run="r",
        token="t-1",
        count=count,
        spot=on_spot,
    )


def group(*ids: str, lifecycle: str = "spot") -> dict[str, Any]:
    where = {"Overrides": {"SubnetId": "subnet-2"}}
    return {
        "InstanceIds": list(ids),
        "InstanceType": "c7g.large",
        "Lifecycle": lifecycle,
        "LaunchTemplateAndOverrides": where,
    }


def test_the_template_has_all_parameters_of_a_launch(stub: Stub) -> None:
    stub.add_response("create_launch_template", {})
    ec2_fleet.make_templates(stub.ec2, [SPEC], run="r", owner="user")
    ((_, asked),) = stub.asked
    assert asked["LaunchTemplateName"] == "cnd-r"
    (ours,) = asked["TagSpecifications"]
    assert ours["ResourceType"] == "launch-template"
    assert {"Key": "cnd:run", "Value": "r"} in ours["Tags"]
    data = asked["LaunchTemplateData"]
    assert base64.b64decode(data["UserData"]).decode() == SPEC.user_data
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert (data["ImageId"], data["KeyName"]) == ("ami-1", "cnd-key")
    assert data["NetworkInterfaces"][0]["Groups"] == ["sg-1"]
    for each in data["TagSpecifications"]:
        tags = {tag["Key"]: tag["Value"] for tag in each["Tags"]}
        assert (tags["cnd:run"], tags["cnd:owner"]) == ("r", "user")
        assert "cnd:deadline" in tags
    kinds = {each["ResourceType"] for each in data["TagSpecifications"]}
    assert kinds == {"instance", "volume"}


def test_types_with_gpus_have_a_template_with_their_own_image_and_user_data(
    stub: Stub,
) -> None:
    gpu = replace(SPEC, instance_type="g4dn.xlarge", image="ami-gpu", user_data="gpu")
    for _ in range(3):
        stub.add_response("create_launch_template", {})
    specs = [DEAR, replace(DEAR, instance_type="c7g.medium"), gpu, ARM]
    ec2_fleet.make_templates(stub.ec2, specs, run="r", owner="user")
    made = {asked["LaunchTemplateName"]: asked for _, asked in stub.asked}
    names = ec2_fleet.template_names("r", specs)
    assert list(names.values()) == ["cnd-r", "cnd-r", "cnd-r-2", "cnd-r-3"]
    data = made["cnd-r-2"]["LaunchTemplateData"]
    assert (data["ImageId"], base64.b64decode(data["UserData"])) == ("ami-gpu", b"gpu")
    for _ in range(3):
        stub.add_response("delete_launch_template", {})
    ec2_fleet.remove_templates(stub.ec2, "r", [*names])
    removed = [asked["LaunchTemplateName"] for _, asked in stub.asked[3:]]
    assert removed == ["cnd-r", "cnd-r-2", "cnd-r-3"]


def test_aws_chooses_among_all_types_and_zones(stub: Stub) -> None:
    stub.add_response("create_fleet", {"FleetId": "f", "Instances": [group("i", "j")]})
    launch(stub)
    ((_, asked),) = stub.asked
    config, further = asked.pop("LaunchTemplateConfigs")
    (tagged,) = asked.pop("TagSpecifications")
    assert asked == {
        "Type": "instant",
        "ClientToken": "t-1",
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 2,
            "DefaultTargetCapacityType": "spot",
        },
        "SpotOptions": {"AllocationStrategy": "price-capacity-optimized"},
    }
    template = {"LaunchTemplateName": "cnd-r", "Version": "1"}
    assert config["LaunchTemplateSpecification"] == template
    assert config["Overrides"] == [
        {"InstanceType": "t3.micro", "SubnetId": "subnet-1"},
        {"InstanceType": "t3.micro", "SubnetId": "subnet-2"},
        {"InstanceType": "t4g.micro", "SubnetId": "subnet-1", "ImageId": "ami-2"},
        {"InstanceType": "t4g.micro", "SubnetId": "subnet-2", "ImageId": "ami-2"},
    ]
    without_credits = {"LaunchTemplateName": "cnd-r-2", "Version": "1"}
    assert further["LaunchTemplateSpecification"] == without_credits
    assert further["Overrides"] == [
        {"InstanceType": "c7g.large", "SubnetId": "subnet-1"},
        {"InstanceType": "c7g.large", "SubnetId": "subnet-2"},
    ]
    assert tagged["ResourceType"] == "fleet"


def test_missing_instances_are_launched_on_demand_at_the_lowest_price(
    stub: Stub,
) -> None:
    caught = group("i", "j", lifecycle="on-demand")
    stub.add_response("create_fleet", {"FleetId": "f", "Instances": [caught]})
    found = launch(stub, on_spot=False)
    ((_, asked),) = stub.asked
    assert "SpotOptions" not in asked
    assert asked["OnDemandOptions"] == {"AllocationStrategy": "lowest-price"}
    wanted = asked["TargetCapacitySpecification"]
    assert wanted["DefaultTargetCapacityType"] == "on-demand"
    assert [each.spot for each in found.instances] == [False, False]


def test_a_reply_has_type_and_zone_of_each_instance(stub: Stub) -> None:
    stub.add_response("create_fleet", {"FleetId": "f", "Instances": [group("i", "j")]})
    caught = launch(stub)
    assert [each.id for each in caught.instances] == ["i", "j"]
    assert {each.type for each in caught.instances} == {"c7g.large"}
    assert {each.zone for each in caught.instances} == {"eu-west-2b"}
    assert all(each.spot for each in caught.instances)
    assert caught.trouble is None


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("InsufficientInstanceCapacity", "--instance-type"),
        ("MaxSpotInstanceCountExceeded", "quota"),
        ("SpotMaxPriceTooLow", "--spot-or-on-demand"),
        (
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
            "create-service-linked-role",
        ),
        ("UnauthorizedOperation", "docs/aws.md"),
    ],
)
def test_an_error_inside_the_reply_is_translated_like_any_other(
    stub: Stub, name: str, way_out: str
) -> None:
    errors = [
        {"ErrorCode": name, "ErrorMessage": "No.", "Lifecycle": "spot"},
        {"ErrorCode": "Other", "ErrorMessage": "Neither.", "Lifecycle": "spot"},
    ]
    reply = {"FleetId": "f", "Instances": [group("i")], "Errors": errors}
    stub.add_response("create_fleet", reply)
    trouble = launch(stub, count=3).trouble
    assert trouble is not None
    assert code(trouble) == name
    assert str(trouble) == (
        f"could not launch 2 more on spot: No.; elsewhere Other ({name})"
    )
    assert way_out in (trouble.hint or "")


def test_too_few_instances_without_a_reason_is_a_lack_of_capacity(stub: Stub) -> None:
    stub.add_response("create_fleet", {"FleetId": "f", "Instances": []})
    caught = launch(stub)
    assert caught.instances == ()
    assert isinstance(caught.trouble, CapacityError)


def test_a_template_that_exists_or_is_removed_already_is_no_failure(stub: Stub) -> None:
    stub.add_client_error("create_launch_template", ec2_fleet.EXISTS)
    stub.add_client_error("delete_launch_template", UNKNOWN_TEMPLATE)
    ec2_fleet.make_templates(stub.ec2, [SPEC], run="r", owner="user")
    ec2_fleet.remove_templates(stub.ec2, "r", ["t3.micro"])
