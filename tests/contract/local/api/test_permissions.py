"""A cloud that judges calls by an IAM policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from cnd import local
from tests.support.local_cloud import LocalCloud, running_cloud

ONCE = Config(retries={"total_max_attempts": 1})
LAUNCHES = ("ec2:RunInstances", "ec2:CreateTags")
ONLY_V2 = {
    "Effect": "Deny",
    "Action": "ec2:RunInstances",
    "Resource": "arn:aws:ec2:*:*:instance/*",
    "Condition": {"StringNotEquals": {"ec2:MetadataHttpTokens": "required"}},
}
STATEMENTS = (
    {
        "Effect": "Allow",
        "Action": ["ec2:Describe*", "ec2:RunInstances", "ec2:ImportKeyPair", "ssm:*"],
        "Resource": "*",
    },
    {
        "Effect": "Allow",
        "Action": "ec2:CreateTags",
        "Resource": "*",
        "Condition": {
            "StringEquals": {"ec2:CreateAction": "RunInstances"},
            "StringLike": {"aws:RequestTag/ours": "*"},
        },
    },
    {
        "Effect": "Allow",
        "Action": "ec2:TerminateInstances",
        "Resource": "*",
        "Condition": {"StringLike": {"aws:ResourceTag/ours": "*"}},
    },
    {
        "Effect": "Allow",
        "Action": ["s3:CreateBucket", "s3:PutObject"],
        "Resource": "arn:aws:s3:::ours-*",
    },
    ONLY_V2,
)


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    home = tmp_path_factory.mktemp("judging")
    path = home / "policy.json"
    path.write_text(json.dumps({"Version": "2012-10-17", "Statement": STATEMENTS}))
    with running_cloud(home, CND_LOCAL_POLICY=str(path)) as cloud:
        yield cloud


def refusal(call: Callable[..., object], **asked: Any) -> tuple[str, int]:
    """Return the error code and the HTTP status of a call; ("", 200) if it passes."""
    try:
        call(**asked)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return str(error.response["Error"]["Code"]), status
    return "", 200


def launch(cloud: LocalCloud, tokens: str, tag: str = "", **more: Any) -> str:
    specification = {"ResourceType": "instance", "Tags": [{"Key": tag, "Value": "1"}]}
    code, _ = refusal(
        cloud.launch,
        MetadataOptions={"HttpTokens": tokens},
        **({"TagSpecifications": [specification]} if tag else {}),
        **more,
    )
    return code


def test_a_dry_run_is_judged_as_the_launch_itself(judging: LocalCloud) -> None:
    denied, passes = "UnauthorizedOperation", "DryRunOperation"

    assert launch(judging, "required", DryRun=True) == passes
    assert launch(judging, "optional", DryRun=True) == denied
    assert launch(judging, "required", "ours", DryRun=True) == passes
    assert launch(judging, "required", "theirs", DryRun=True) == denied
    assert launch(judging, "optional") == denied


def test_only_instances_with_the_tag_are_terminated(judging: LocalCloud) -> None:
    ours = {"ResourceType": "instance", "Tags": [{"Key": "ours", "Value": "1"}]}
    v2: dict[str, Any] = {"MetadataOptions": {"HttpTokens": "required"}}
    (mine,) = judging.launch(TagSpecifications=[ours], **v2)
    (other,) = judging.launch(**v2)
    end = judging.client("ec2", ONCE).terminate_instances

    assert refusal(end, InstanceIds=[other]) == ("UnauthorizedOperation", 403)
    assert refusal(end, InstanceIds=[mine, other]) == ("UnauthorizedOperation", 403)
    assert refusal(end, InstanceIds=[mine]) == ("", 200)


def test_each_service_refuses_in_its_own_form(judging: LocalCloud) -> None:
    s3, sqs = judging.client("s3", ONCE), judging.client("sqs", ONCE)
    groups = judging.client("autoscaling", ONCE)

    assert refusal(s3.create_bucket, Bucket="ours-1") == ("", 200)
    assert refusal(s3.put_object, Bucket="ours-1", Key="a", Body=b"a") == ("", 200)
    found = refusal(s3.get_object, Bucket="ours-1", Key="a")
    assert found == ("AccessDenied", 403)
    assert refusal(s3.create_bucket, Bucket="theirs") == ("AccessDenied", 403)
    assert refusal(s3.head_bucket, Bucket="ours-1") == ("403", 403)
    assert refusal(sqs.create_queue, QueueName="q") == ("AccessDenied", 403)
    found = refusal(groups.describe_auto_scaling_groups)
    assert found == ("AccessDenied", 403)
    assert refusal(judging.client("sts").get_caller_identity) == ("", 200)


def test_a_cloud_in_use_keeps_its_policy(judging: LocalCloud, tmp_path: Path) -> None:
    assert "policy.json" in local.conditions(judging.endpoint)
