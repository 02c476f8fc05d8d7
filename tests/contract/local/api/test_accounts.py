"""What an account of each kind has and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from cnd import local
from cnd.local.account_kinds import LAB_CALLER
from tests.support.local_cloud import LocalCloud, running_cloud

ONCE = Config(retries={"total_max_attempts": 1})
V2: dict[str, Any] = {"MetadataOptions": {"HttpTokens": "required"}}
FREE: dict[str, Any] = {"InstanceType": "t3.micro", **V2}  # two vCPUs


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    kinds = "no-public-ip+imdsv2-enforced+free-plan+low-quota"
    home = tmp_path_factory.mktemp("strict")
    with running_cloud(home, CND_LOCAL_ACCOUNT_KIND=kinds) as cloud:
        yield cloud


def code(cloud: LocalCloud, **launch: Any) -> str:
    with pytest.raises(ClientError) as refused:
        cloud.launch(**launch)
    return str(refused.value.response["Error"]["Code"])


def template(cloud: LocalCloud, name: str, **more: Any) -> dict[str, Any]:
    """Make a launch template; return what a launch names it by."""
    cloud.ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={
            "ImageId": cloud.image,
            "InstanceType": "t3.micro",
            "KeyName": "tests",
            **more,
        },
    )
    return {"LaunchTemplateName": name, "Version": "1"}


def fleet(cloud: LocalCloud, of: dict[str, Any], count: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = cloud.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": of}],
        TargetCapacitySpecification={
            "TotalTargetCapacity": count,
            "DefaultTargetCapacityType": "on-demand",
        },
    )
    return found


def test_only_types_of_the_free_plan_are_launched(strict: LocalCloud) -> None:
    assert code(strict, InstanceType="c5.large", **V2) == "InvalidParameterCombination"


def test_a_launch_without_required_tokens_is_refused(strict: LocalCloud) -> None:
    assert code(strict, InstanceType="t3.micro") == "UnsupportedOperation"
    optional = {"MetadataOptions": {"HttpTokens": "optional"}}
    assert code(strict, InstanceType="t3.micro", **optional) == "UnsupportedOperation"

    (error,) = fleet(strict, template(strict, "without-tokens"))["Errors"]
    assert error["ErrorCode"] == "UnsupportedOperation"


def test_a_launch_beyond_the_quota_is_refused_or_smaller(strict: LocalCloud) -> None:
    assert code(strict, count=3, **FREE) == "VcpuLimitExceeded"  # six of five vCPUs
    (error,) = fleet(strict, template(strict, "many", **V2), 3)["Errors"]
    assert error["ErrorCode"] == "VcpuLimitExceeded"

    ids = strict.launch(count=1, MaxCount=3, **FREE)

    assert len(ids) == 2
    strict.ec2.terminate_instances(InstanceIds=ids)
    assert all(strict.reaches(instance, "terminated") for instance in ids)


def test_an_instance_has_a_public_address_if_its_launch_asks_for_one(
    strict: LocalCloud,
) -> None:
    subnet = strict.ec2.describe_subnets()["Subnets"][0]
    assert subnet["DefaultForAz"] and not subnet["MapPublicIpOnLaunch"]
    asked: Any = [{"DeviceIndex": 0, "AssociatePublicIpAddress": True}]

    (plain,) = strict.launch(**FREE)
    (asking,) = strict.launch(NetworkInterfaces=asked, **FREE)
    assert all(strict.reaches(instance, "running") for instance in (plain, asking))

    assert "PublicIpAddress" not in strict.describe(plain)
    assert strict.describe(plain)["PrivateIpAddress"]
    assert strict.describe(asking)["PublicIpAddress"]
    strict.ec2.terminate_instances(InstanceIds=[plain, asking])
    assert all(strict.reaches(instance, "terminated") for instance in (plain, asking))

    by_template = template(strict, "asking", NetworkInterfaces=asked, **V2)
    (group,) = fleet(strict, by_template)["Instances"]
    (instance,) = group["InstanceIds"]
    assert strict.describe(instance)["PublicIpAddress"]
    strict.ec2.terminate_instances(InstanceIds=[instance])
    assert strict.reaches(instance, "terminated")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    home = tmp_path_factory.mktemp("lab")
    with running_cloud(home, CND_LOCAL_ACCOUNT_KIND="lab+no-default-vpc") as cloud:
        yield cloud


def of_lab(cloud: LocalCloud, service: str, region: str = "", token: str = "") -> Any:
    import boto3

    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=cloud.endpoint.url,
        region_name=region or cloud.endpoint.region,
        aws_access_key_id=cloud.endpoint.access_key,
        aws_secret_access_key=cloud.endpoint.secret_key,
        aws_session_token=token or cloud.endpoint.session_token,
        config=ONCE,
    )


def refused(call: Any, **asked: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**asked)
    return str(error.value.response["Error"]["Code"])


def test_a_lab_has_credentials_with_a_token_and_few_regions(lab: LocalCloud) -> None:
    sts = of_lab(lab, "sts")
    assert sts.get_caller_identity()["Arn"].endswith(LAB_CALLER)
    assert local.environment(lab.endpoint)["AWS_SESSION_TOKEN"]
    assert refused(of_lab(lab, "sts", token="x").get_caller_identity) == (
        "InvalidClientTokenId"
    )
    elsewhere = of_lab(lab, "ec2", "eu-west-2")
    assert refused(elsewhere.describe_instances) == "UnauthorizedOperation"


def test_a_dry_run_of_a_type_outside_the_free_plan_is_refused_as_a_launch_is(
    strict: LocalCloud,
) -> None:
    dry = {"DryRun": True, **V2}
    assert code(strict, InstanceType="t3.micro", **dry) == "DryRunOperation"
    refused = code(strict, InstanceType="c7a.large", **dry)
    assert refused == code(strict, InstanceType="c7a.large", **V2)


def test_without_a_default_vpc_its_subnet_is_to_be_named(lab: LocalCloud) -> None:
    ec2 = of_lab(lab, "ec2")
    default = [{"Name": "is-default", "Values": ["true"]}]
    assert ec2.describe_vpcs(Filters=default)["Vpcs"] == []
    assert refused(ec2.create_security_group, GroupName="g", Description="d") == (
        "VPCIdNotSpecified"
    )
    image = of_lab(lab, "ssm").get_parameter(
        Name="/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/"
        "ebs-gp3/ami-id"
    )["Parameter"]["Value"]
    key = lab.key.with_suffix(".pub").read_bytes()
    ec2.import_key_pair(KeyName="k", PublicKeyMaterial=key)
    launch = {"ImageId": image, "InstanceType": "t3.micro", "KeyName": "k"}
    launch |= {"MinCount": 1, "MaxCount": 1}
    assert refused(ec2.run_instances, **launch) == "VPCIdNotSpecified"


def test_the_credentials_of_a_lab_end(tmp_path: Path) -> None:
    lab = {"CND_LOCAL_ACCOUNT_KIND": "lab", "CND_LOCAL_SESSION_SECONDS": "0"}
    with running_cloud(tmp_path, **lab) as cloud:
        assert refused(of_lab(cloud, "ec2").describe_vpcs) == "RequestExpired"
        assert refused(of_lab(cloud, "s3").list_buckets) == "ExpiredToken"
