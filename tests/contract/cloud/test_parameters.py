"""The exact parameters of the calls that make, read and remove what a run needs.

Those of calls that launch and end instances are in `test_requests`, `test_ec2_fleet`
and `test_auto_scaling`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from cnd import ec2, s3logs, sqs
from cnd.provision import access, cleanup, ec2_fleet
from cnd.transport import keys
from tests.support.clerk import stubbed

RUN = "20260101-000000-0000"
QUEUE = f"https://sqs.eu-west-2.amazonaws.com/111111111111/cnd-{RUN}"
OURS = [{"Key": "cnd", "Value": "1"}]
SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
EXPIRY = {
    "ID": "expire",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "Expiration": {"Days": 30},
}


def test_a_key_pair_is_imported_by_its_public_half(tmp_path: Path) -> None:
    key = keys.user_key(tmp_path)
    asked = {
        "KeyName": access.key_name(key),
        "PublicKeyMaterial": key.public.encode(),
        "TagSpecifications": [{"ResourceType": "key-pair", "Tags": OURS}],
        "DryRun": False,
    }
    with stubbed("ec2") as clerk:
        clerk.answer("ec2", "import_key_pair", {}, asked)
        assert access.key_pair(clerk.cloud.ec2, key) == access.key_name(key)


@pytest.mark.parametrize(
    ("subnet", "name"), [("", "cnd-ssh"), ("subnet-1", "cnd-ssh-vpc-1")]
)
def test_a_group_is_created_in_its_network_and_opened_for_one_address(
    subnet: str, name: str
) -> None:
    filters = [
        {"Name": "group-name", "Values": [name]},
        {"Name": "vpc-id", "Values": ["vpc-1"]},
    ]
    made = {
        "GroupName": name,
        "Description": "SSH to the instances of CND, from their user only",
        "TagSpecifications": [{"ResourceType": "security-group", "Tags": OURS}],
        "DryRun": False,
        "VpcId": "vpc-1",
    }
    ranges = [{"CidrIp": "192.0.2.7/32", "Description": "CND for me"}]
    opened = {
        "GroupId": "sg-1",
        "IpPermissions": [{**SSH, "IpRanges": ranges}],
        "DryRun": False,
    }
    with stubbed("ec2") as clerk:
        clerk.networks(*filter(None, [subnet]))
        nothing: dict[str, Any] = {"SecurityGroups": []}
        clerk.answer("ec2", "describe_security_groups", nothing, {"Filters": filters})
        clerk.answer("ec2", "create_security_group", {"GroupId": "sg-1"}, made)
        clerk.answer("ec2", "authorize_security_group_ingress", {}, opened)
        client = clerk.cloud.ec2
        assert access.ssh_group(client, "192.0.2.7/32", "me", subnet) == "sg-1"


UBUNTU = (
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
)
AL2023 = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"
DEBIAN = "/aws/service/debian/release/12/latest/{}"


@pytest.mark.parametrize(
    ("image", "architecture", "parameter"),
    [
        ("ubuntu", "x86_64", UBUNTU.format("amd64")),
        ("ubuntu", "arm64", UBUNTU.format("arm64")),
        ("al2023", "x86_64", AL2023.format("x86_64")),
        ("al2023", "arm64", AL2023.format("arm64")),
        ("debian", "x86_64", DEBIAN.format("amd64")),
        ("debian", "arm64", DEBIAN.format("arm64")),
    ],
)
def test_an_image_is_looked_up_by_its_public_parameter(
    image: str, architecture: str, parameter: str
) -> None:
    kind = {
        "VCpuInfo": {"DefaultVCpus": 2},
        "ProcessorInfo": {"SupportedArchitectures": [architecture]},
    }
    with stubbed("ec2", "ssm") as clerk:
        asked = {"InstanceTypes": ["t3.micro"]}
        reply = {"InstanceTypes": [kind]}
        clerk.answer("ec2", "describe_instance_types", reply, asked)
        found = {"Parameter": {"Value": "ami-1"}}
        clerk.answer("ssm", "get_parameter", found, {"Name": parameter})
        assert access.image(clerk.cloud, "t3.micro", image).id == "ami-1"


@pytest.mark.parametrize(
    ("region", "where"),
    [
        ("us-east-1", {}),
        (
            "eu-west-2",
            {"CreateBucketConfiguration": {"LocationConstraint": "eu-west-2"}},
        ),
    ],
)
def test_a_bucket_is_created_private_and_expiring_in_its_region(
    region: str, where: dict[str, Any]
) -> None:
    blocked = dict.fromkeys(
        (
            *("BlockPublicAcls", "IgnorePublicAcls"),
            *("BlockPublicPolicy", "RestrictPublicBuckets"),
        ),
        True,
    )
    name: Any = {"Bucket": "cnd-logs"}
    with stubbed("s3") as clerk:
        owner = {**name, "ExpectedBucketOwner": "1" * 12}
        clerk.refuse("s3", "head_bucket", "404", owner)
        clerk.answer("s3", "create_bucket", {}, {**name, **where})
        private = {**name, "PublicAccessBlockConfiguration": blocked}
        clerk.answer("s3", "put_public_access_block", {}, private)
        expiring = {**name, "LifecycleConfiguration": {"Rules": [EXPIRY]}}
        clerk.answer("s3", "put_bucket_lifecycle_configuration", {}, expiring)
        s3logs.ensure_bucket(clerk.cloud.s3, "cnd-logs", region, "1" * 12)


def test_a_queue_hides_no_message_and_keeps_it_for_an_hour() -> None:
    attributes = {
        "MessageRetentionPeriod": "3600",
        "ReceiveMessageWaitTimeSeconds": "20",
        "VisibilityTimeout": "0",
    }
    made = {
        "QueueName": f"cnd-{RUN}",
        "Attributes": attributes,
        "tags": {"cnd:run": RUN},
    }
    read = {
        "QueueUrl": QUEUE,
        "MaxNumberOfMessages": 1,
        "VisibilityTimeout": 0,
        "WaitTimeSeconds": 20,
    }
    messages: list[str] = []
    with stubbed("sqs") as clerk:
        clerk.answer("sqs", "create_queue", {"QueueUrl": QUEUE}, made)
        sent = {"QueueUrl": QUEUE, "MessageBody": "enough"}
        clerk.answer("sqs", "send_message", {}, sent)
        clerk.answer("sqs", "receive_message", {}, read)
        clerk.answer("sqs", "receive_message", {"Messages": [{"Body": "enough"}]}, read)
        clerk.answer("sqs", "delete_queue", {}, {"QueueUrl": QUEUE})
        client = clerk.cloud.sqs
        assert sqs.create(client, RUN) == QUEUE
        sqs.send(client, QUEUE, "enough")
        sqs.listen(
            client,
            QUEUE,
            closing=threading.Event(),
            message=messages.append,
            trouble=lambda error: pytest.fail(str(error)),
        )
        sqs.delete(client, QUEUE)
    assert messages == ["enough"]


def test_runs_are_listed_by_the_names_of_their_queues() -> None:
    others = ["https://sqs/1/cnd-orders", "https://sqs/1/cnd-20260101-000000-zzzz"]
    with stubbed("sqs") as clerk:
        asked = {"QueueNamePrefix": "cnd-"}
        clerk.answer("sqs", "list_queues", {"QueueUrls": [QUEUE, *others]}, asked)
        assert sqs.runs(clerk.cloud.sqs) == [RUN]


@pytest.mark.parametrize(
    ("kind", "call", "parameter"),
    [
        ("key pair", "delete_key_pair", "KeyName"),
        ("security group", "delete_security_group", "GroupId"),
        ("launch template", "delete_launch_template", "LaunchTemplateName"),
    ],
)
def test_what_is_removed_is_named(kind: str, call: str, parameter: str) -> None:
    with stubbed("ec2") as clerk:
        clerk.answer("ec2", call, {}, {parameter: "this one"})
        cleanup.remove(clerk.cloud, cleanup.Resource(kind, "name", "this one"))


def test_the_template_of_a_run_is_removed_by_its_name() -> None:
    with stubbed("ec2") as clerk:
        asked = {"LaunchTemplateName": f"cnd-{RUN}"}
        clerk.answer("ec2", "delete_launch_template", {}, asked)
        ec2_fleet.remove_templates(clerk.cloud.ec2, RUN, ["t3.micro"])


def test_only_regions_that_the_account_may_use_are_requested() -> None:
    """DescribeRegions leaves out those that are not opted in, unless requested."""
    with stubbed("ec2") as clerk:
        found = {"Regions": [{"RegionName": "b"}, {"RegionName": "a"}]}
        clerk.answer("ec2", "describe_regions", found, {})
        assert ec2.regions(clerk.cloud.ec2) == ["a", "b"]


def test_an_instance_gets_its_index_and_no_other_tag() -> None:
    tag = {"Key": "cnd:index", "Value": "3"}
    launched: Any = ec2.Instance(
        id="i-1",
        run=RUN,
        index=3,
        owner="me",
        type="t3.micro",
        state="running",
        address=None,
        ssh_port=22,
        zone="",
        launched=None,  # type: ignore[arg-type]  # not read
        deadline="",
    )
    with stubbed("ec2") as clerk:
        asked = {"Resources": ["i-1"], "Tags": [tag], "DryRun": False}
        clerk.answer("ec2", "create_tags", {}, asked)
        ec2.tag_index(clerk.cloud.ec2, launched)
