"""AWS as tests see it: clients of the local cloud, a stub, the policy's rights."""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.stub import Stubber

from cnd import ec2
from cnd.local import Endpoint
from cnd.model.launch_spec import LaunchSpec

ROOT = Path(__file__).parents[2]
SPEC = LaunchSpec(
    image="ami-1",
    instance_type="t3.micro",
    key_name="cnd-key",
    group="sg-1",
    user_data="#cloud-config\n{}\n",
    lifetime=620.0,
)
# Where the right has another name than the call.
# Source: https://docs.aws.amazon.com/service-authorization/latest/reference/
RIGHTS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:DeleteObjects": "s3:DeleteObject",
    "service-quotas:GetServiceQuota": "servicequotas:GetServiceQuota",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
}


# Those that CND calls.
SERVICES = (
    "autoscaling",
    "ec2",
    "freetier",
    "pricing",
    "s3",
    "service-quotas",
    "sqs",
    "ssm",
    "sts",
)


@functools.lru_cache(maxsize=64)
def client(
    endpoint: Endpoint, service: str, region: str = "", config: Config | None = None
) -> Any:
    """Return a boto3 client of a local cloud, made as another program makes it.

    Clients are kept: to make one takes a tenth of a second of computing.

    Args:
        region: the client's region; empty: that of the cloud.
    """
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=endpoint.url,
        region_name=region or endpoint.region,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        config=config,
    )


class Stub(Stubber):
    """An EC2 client that answers what the test says, and tells what it was asked."""

    def __init__(self) -> None:
        self.ec2 = boto3.client(
            "ec2",
            region_name="eu-west-2",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        super().__init__(self.ec2)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.ec2.meta.events.register("before-parameter-build.ec2", self._keep)

    def _keep(self, params: dict[str, Any], model: Any, **_: object) -> None:
        self.asked.append((model.name, dict(params)))

    def launches(self, count: int) -> None:
        """Let the next RunInstances launch so many."""
        new = {
            "InstanceType": "t3.micro",
            "LaunchTime": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
            "State": {"Name": "pending"},
        }
        found = [{"InstanceId": f"i-{number}", **new} for number in range(count)]
        self.add_response("run_instances", {"Instances": found})

    def launch(self, count: int = 8) -> list[ec2.Instance]:
        return ec2.launch(
            self.ec2, SPEC, run="r", owner="somebody", token="t-1", count=count
        )


def policy() -> list[dict[str, Any]]:
    """Return the statements of the policy that docs/aws.md tells people to use."""
    parsed = documents()[0]
    assert parsed["Version"] == "2012-10-17"
    return list(parsed["Statement"])


def optional() -> list[dict[str, Any]]:
    """Return the statements that docs/aws.md offers for some users of the policy."""
    return documents()[1:]


def documents() -> list[dict[str, Any]]:
    """Return the JSON documents in docs/aws.md: the policy, and single statements."""
    text = (ROOT / "docs" / "aws.md").read_text()
    return [json.loads(each) for each in re.findall(r"```json\n(.*?)```", text, re.S)]
