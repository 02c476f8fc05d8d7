"""What CND created in an account besides instances: found again, and removed.

One rule: nothing is touched that does not carry CND's tag or, where a service cannot
search by tag, exactly the name that CND gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from cnd import s3logs, sqs
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code, refusal, translated
from cnd.ec2 import TOOL_TAG
from cnd.errors import CloudError
from cnd.provision import auto_scaling
from cnd.provision.capacity import UNKNOWN_YET, bucket_pause
from cnd.provision.retry import again

T = TypeVar("T")
TAGGED: Any = [{"Name": "tag-key", "Values": [TOOL_TAG]}]
BUCKET, CONTENT = "bucket", "content of bucket"
UNKNOWN = {*UNKNOWN_YET, "NoSuchBucket"}


@dataclass(frozen=True)
class Resource:
    """One resource that CND created."""

    kind: str  # as shown to users: "key pair", "security group", `CONTENT` ...
    name: str
    id: str  # by which it is removed

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


def find(
    cloud: Cloud, *, bucket_too: bool = False
) -> tuple[list[Resource], list[CloudError]]:
    """Return what CND created in the account's region, in the order of removal.

    Also return the refusals: each hides the resources of one kind.

    Args:
        bucket_too: the bucket itself; else what is in it.  S3 may refuse the name of a
            removed bucket, to its owner as well, for up to an hour.
    """
    found: list[Resource] = []
    refused: list[CloudError] = []
    bucket = _bucket if bucket_too else _content
    # A group needs its template, so groups are removed first.
    for look in (_groups, _templates, _key_pairs, _security_groups, bucket, _queues):
        try:
            found += _again(partial(look, cloud), cloud)
        except CloudError as error:
            refused.append(error)
    return found, refused


def _groups(cloud: Cloud) -> list[Resource]:
    return [
        Resource("Auto Scaling group", name, name) for name in auto_scaling.find(cloud)
    ]


def _templates(cloud: Cloud) -> list[Resource]:
    with translated("list the launch templates"):
        pages = cloud.ec2.get_paginator("describe_launch_templates")
        names = [
            template["LaunchTemplateName"]
            for page in pages.paginate(Filters=TAGGED)
            for template in page["LaunchTemplates"]
        ]
    return [Resource("launch template", name, name) for name in names]


def _key_pairs(cloud: Cloud) -> list[Resource]:
    with translated("list the key pairs"):  # AWS lists them all at once
        found = cloud.ec2.describe_key_pairs(Filters=TAGGED)["KeyPairs"]
        return [
            Resource("key pair", pair["KeyName"], pair["KeyName"]) for pair in found
        ]


def _security_groups(cloud: Cloud) -> list[Resource]:
    with translated("list the security groups"):
        pages = cloud.ec2.get_paginator("describe_security_groups")
        return [
            Resource("security group", group["GroupName"], group["GroupId"])
            for page in pages.paginate(Filters=TAGGED)
            for group in page["SecurityGroups"]
        ]


def _bucket(cloud: Cloud) -> list[Resource]:
    name = s3logs.bucket_name(cloud.account, cloud.region)
    there = s3logs.exists(cloud.s3, name, cloud.account)
    return [Resource(BUCKET, name, name)] if there else []


def _content(cloud: Cloud) -> list[Resource]:
    buckets = [bucket.id for bucket in _bucket(cloud)]
    with translated("look what is in the bucket"):
        return [
            Resource(CONTENT, name, name)
            for name in buckets
            if cloud.s3.list_objects_v2(Bucket=name, MaxKeys=1).get("Contents")
        ]


def _queues(cloud: Cloud) -> list[Resource]:
    urls = ((run, sqs.url(cloud.sqs, run)) for run in sqs.runs(cloud.sqs))
    return [Resource("queue", f"of run {run}", url) for run, url in urls if url]


def remove(cloud: Cloud, resource: Resource) -> None:
    """Remove one resource; a bucket with all its objects.

    What was listed and is unknown to the call that removes it was made a moment ago: it
    is removed again.  If it stays unknown it is gone.

    Raises:
        CloudError: it is in use, or the account may not remove it.
    """
    try:
        _again(partial(_remove, cloud, resource), cloud)
    except CloudError as error:
        if code(error) not in UNKNOWN:
            raise


def _again(work: Callable[[], T], cloud: Cloud) -> T:
    """Repeat a call that does not know a resource; botocore repeats all others."""

    def pause(failures: Sequence[str]) -> float | None:
        return bucket_pause(failures) if failures[-1] in UNKNOWN else None

    return again(work, hopeless=cloud.gone, pause=pause)


def _remove(cloud: Cloud, resource: Resource) -> None:
    with translated(f"remove the {resource.title}"):
        if resource.kind == "Auto Scaling group":
            auto_scaling.delete(cloud, resource.id)
        elif resource.kind == "key pair":
            cloud.ec2.delete_key_pair(KeyName=resource.id)
        elif resource.kind == "security group":
            cloud.ec2.delete_security_group(GroupId=resource.id)
        elif resource.kind == "launch template":
            cloud.ec2.delete_launch_template(LaunchTemplateName=resource.id)
        elif resource.kind == CONTENT:
            _empty(cloud, resource.id)
        elif resource.kind == BUCKET:
            _empty(cloud, resource.id)
            cloud.s3.delete_bucket(Bucket=resource.id)
        else:
            sqs.delete(cloud.sqs, resource.id)


def _empty(cloud: Cloud, bucket: str) -> None:
    """Remove all objects; S3 may refuse some of them in a reply that is a success."""
    pages = cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    for page in pages:
        if keys := [{"Key": found["Key"]} for found in page.get("Contents", [])]:
            objects: Any = {"Objects": keys, "Quiet": True}
            reply = cloud.s3.delete_objects(Bucket=bucket, Delete=objects)
            for left in reply.get("Errors", []):
                what = f"remove {left.get('Key', 'an object')} of {bucket}"
                raise refusal(what, left.get("Code", ""), left.get("Message", ""))
