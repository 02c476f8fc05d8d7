"""What CND made in an account besides instances: found again, and removed.

One rule: nothing is touched that does not carry CND's tag or, where tags cannot be
looked for, the very name that CND gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnd import s3logs, sqs
from cnd.aws import translated
from cnd.cloud import Cloud
from cnd.ec2 import TOOL_TAG

TAGGED: Any = [{"Name": "tag-key", "Values": [TOOL_TAG]}]


@dataclass(frozen=True)
class Made:
    """One thing that CND made."""

    kind: str  # as people call it: "key pair", "security group", "bucket" ...
    name: str
    id: str  # what it is removed by

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def find(cloud: Cloud) -> list[Made]:
    """Return all that CND made in the account's region and left for the next run."""
    with translated("list what CND made"):
        pairs = cloud.ec2.describe_key_pairs(Filters=TAGGED)["KeyPairs"]
        groups = cloud.ec2.describe_security_groups(Filters=TAGGED)["SecurityGroups"]
        templates = cloud.ec2.describe_launch_templates(Filters=TAGGED)
    found = [Made("key pair", p["KeyName"], p["KeyName"]) for p in pairs]
    found += [Made("security group", g["GroupName"], g["GroupId"]) for g in groups]
    names = [t["LaunchTemplateName"] for t in templates["LaunchTemplates"]]
    found += [Made("launch template", name, name) for name in names]
    bucket = s3logs.bucket_name(cloud.account, cloud.region)
    if s3logs.exists(cloud.s3, bucket, cloud.account):
        found.append(Made("bucket", bucket, bucket))
    for run in sqs.runs(cloud.sqs):
        if url := sqs.url(cloud.sqs, run):
            found.append(Made("queue", f"of run {run}", url))
    return found


def remove(cloud: Cloud, made: Made) -> None:
    """Remove one thing; a bucket with all that is in it.

    Raises:
        CloudError: it is in use, or the account may not remove it.
    """
    with translated(f"remove the {made.title}"):
        if made.kind == "key pair":
            cloud.ec2.delete_key_pair(KeyName=made.id)
        elif made.kind == "security group":
            cloud.ec2.delete_security_group(GroupId=made.id)
        elif made.kind == "launch template":
            cloud.ec2.delete_launch_template(LaunchTemplateName=made.id)
        elif made.kind == "bucket":
            _empty(cloud, made.id)
            cloud.s3.delete_bucket(Bucket=made.id)
        else:
            sqs.delete(cloud.sqs, made.id)


def _empty(cloud: Cloud, bucket: str) -> None:
    pages = cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    for page in pages:
        if keys := [{"Key": found["Key"]} for found in page.get("Contents", [])]:
            objects: Any = {"Objects": keys, "Quiet": True}
            cloud.s3.delete_objects(Bucket=bucket, Delete=objects)
