"""Instances that tests launch, and as a stubbed EC2 describes them."""

from __future__ import annotations

import datetime as dt
from typing import Any

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.model.launch_spec import LaunchSpec
from tests.support.local_cloud import LocalCloud

LIFETIME = 600.0


def spec(cloud: LocalCloud) -> LaunchSpec:
    groups = cloud.ec2.describe_security_groups()["SecurityGroups"]
    return LaunchSpec(
        image=cloud.image,
        instance_type="t3.micro",
        key_name="tests",
        group=groups[0]["GroupId"],
        user_data="",
        lifetime=LIFETIME,
    )


def launch(
    aws: Cloud, cloud: LocalCloud, run: str, count: int = 1, token: str = ""
) -> list[ec2.Instance]:
    return ec2.launch(
        aws.ec2,
        spec(cloud),
        run=run,
        owner="user",
        token=token or f"token-of-{run}",
        count=count,
        clock=lambda: 1.8e9,  # the same request, whenever it is made
    )


def ids(instances: list[ec2.Instance]) -> set[str]:
    return {instance.id for instance in instances}


def tags(cloud: LocalCloud, instance: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in cloud.describe(instance)["Tags"]}


def described(**states: str) -> dict[str, Any]:
    """Return the reply of DescribeInstances: `i_1="running"` is i-1, of run r."""
    return {
        "Reservations": [
            {
                "Instances": [
                    {
                        "InstanceId": name.replace("_", "-"),
                        "InstanceType": "t3.micro",
                        "LaunchTime": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
                        "State": {"Name": state},
                        "Tags": [{"Key": "cnd:run", "Value": "r"}],
                    }
                    for name, state in states.items()
                ]
            }
        ]
    }
