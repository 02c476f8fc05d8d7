"""`clean` removes everything that CND created, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cnd import s3logs, sqs
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.errors import CloudError
from cnd.local import clear_faults
from cnd.provision import access, auto_scaling, cleanup, ec2_fleet
from cnd.provision.prepare import settled
from cnd.provision.retry import again
from cnd.transport import keys
from tests.support.aws import SPEC
from tests.support.clerk import Clerk, stubbed
from tests.support.faults import lay
from tests.support.local_cloud import LocalCloud, connected, running_cloud


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud of its own: here the account is wiped."""
    with running_cloud(tmp_path_factory.mktemp("tidy")) as cloud:
        yield cloud


@pytest.fixture
def ours(own: LocalCloud) -> Cloud:
    return connected(own)


def furnish(cloud: Cloud, folder: Path, run: str) -> None:
    """Create everything that a run creates."""
    access.key_pair(cloud.ec2, keys.user_key(folder))
    access.ssh_group(cloud.ec2, "192.0.2.7/32", owner="me")
    bucket = s3logs.bucket_name(cloud.account, cloud.region)
    s3logs.ensure_bucket(cloud.s3, bucket, cloud.region, cloud.account)
    (folder / "log").write_text("text")
    s3logs.upload(cloud.s3, bucket, run, {"log": folder / "log"}, owner=cloud.account)
    sqs.create(cloud.sqs, run)
    image = access.image(cloud, SPEC.instance_type).id
    spec = replace(SPEC, image=image)
    ec2_fleet.make_templates(cloud.ec2, [spec], run=run, owner="me")
    subnets = access.subnets(cloud.ec2)
    auto_scaling.create(cloud, [spec], subnets, run=run, count=1, spot=False)


def test_everything_that_a_run_creates_is_found_and_removed(
    ours: Cloud, tmp_path: Path, run: str
) -> None:
    furnish(ours, tmp_path, run)
    assert kinds(ours) == [
        *("Auto Scaling group", "launch template", "key pair"),
        *("security group", "content of bucket", "queue"),
    ]
    remove_all(ours)
    assert kinds(ours) == []
    assert kinds(ours, bucket_too=True) == ["bucket"]  # it is empty by now
    remove_all(ours, bucket_too=True)
    assert kinds(ours, bucket_too=True) == []


def kinds(cloud: Cloud, *, bucket_too: bool = False) -> list[str]:
    """Return the kinds of what is found; nothing may be refused."""
    found, refused = cleanup.find(cloud, bucket_too=bucket_too)
    assert refused == []
    return [made.kind for made in found]


def remove_all(cloud: Cloud, *, bucket_too: bool = False) -> None:
    for made in cleanup.find(cloud, bucket_too=bucket_too)[0]:
        cleanup.remove(cloud, made)


def test_a_bucket_is_removed_with_what_is_in_it_if_that_is_wanted(
    ours: Cloud, tmp_path: Path, run: str
) -> None:
    furnish(ours, tmp_path, run)
    assert kinds(ours, bucket_too=True)[-2:] == ["bucket", "queue"]
    remove_all(ours, bucket_too=True)
    assert kinds(ours, bucket_too=True) == []


def test_a_bucket_whose_removal_is_under_way_is_created_once_s3_allows_it(
    ours: Cloud, own: LocalCloud
) -> None:
    """And a new one may be unknown to the next call."""
    name = s3logs.bucket_name(ours.account, ours.region)
    lay(own.endpoint, "s3:CreateBucket", code="OperationAborted")
    lay(own.endpoint, "s3:PutBucketLifecycleConfiguration", code="NoSuchBucket")
    make = partial(s3logs.ensure_bucket, ours.s3, name, ours.region, ours.account)
    settled(make, ours)
    s3logs.check_finished(ours.s3, name, ours.account)
    remove_all(ours, bucket_too=True)
    lay(own.endpoint, "s3:CreateBucket", code="OperationAborted", times=2)
    with pytest.raises(CloudError, match=r"may take an hour \(OperationAborted\)"):
        again(make)
    clear_faults(own.endpoint)


@pytest.mark.parametrize(
    ("action", "refused"),
    [
        ("ec2:DeleteSecurityGroup", "InvalidGroup.NotFound"),
        ("ec2:DeleteKeyPair", "InvalidKeyPair.NotFound"),
        ("ec2:DeleteLaunchTemplate", "InvalidLaunchTemplateName.NotFoundException"),
        ("s3:ListObjectsV2", "NoSuchBucket"),
        ("s3:DeleteObjects", "NoSuchBucket"),
    ],
)
def test_what_was_just_made_is_removed_though_the_first_call_does_not_know_it(
    ours: Cloud, own: LocalCloud, tmp_path: Path, run: str, action: str, refused: str
) -> None:
    furnish(ours, tmp_path, run)
    lay(own.endpoint, action, code=refused)
    remove_all(ours)
    assert kinds(ours) == []


def test_what_stays_unknown_is_gone() -> None:
    """Its removal was done, but its answer was lost."""
    with stubbed("ec2") as clerk:
        ended = replace(clerk.cloud, gone=lambda: True)  # so nothing is repeated
        clerk.refuse("ec2", "delete_security_group", "InvalidGroup.NotFound")
        cleanup.remove(ended, cleanup.Resource("security group", "cnd-ssh", "sg-1"))


def test_an_object_that_s3_does_not_remove_is_reported() -> None:
    with stubbed("s3") as clerk:
        clerk.answer("s3", "list_objects_v2", {"Contents": [{"Key": "a"}]})
        errors = [{"Key": "a", "Code": "AccessDenied", "Message": "no"}]
        clerk.answer("s3", "delete_objects", {"Errors": errors})
        content = cleanup.Resource(cleanup.CONTENT, "cnd-logs", "cnd-logs")
        with pytest.raises(CloudError, match="could not remove a of cnd-logs"):
            cleanup.remove(clerk.cloud, content)


def test_a_refused_listing_hides_its_kind_only(run: str) -> None:
    with stubbed("autoscaling", "ec2", "s3", "sqs") as clerk:
        clerk.refuse("autoscaling", "describe_auto_scaling_groups", "AccessDenied")
        clerk.answer("ec2", "describe_launch_templates", {"LaunchTemplates": []})
        clerk.refuse("ec2", "describe_key_pairs", "UnauthorizedOperation")
        clerk.answer("ec2", "describe_security_groups", {"SecurityGroups": []})
        clerk.refuse("s3", "head_bucket", "403")
        clerk.answer("sqs", "list_queues", {"QueueUrls": [f"https://sqs/1/cnd-{run}"]})
        clerk.answer("sqs", "get_queue_url", {"QueueUrl": "https://sqs/1/q"})
        found, refused = cleanup.find(clerk.cloud)
    assert [made.title for made in found] == [f"queue of run {run}"]
    assert [code(error) for error in refused] == [
        *("AccessDenied", "UnauthorizedOperation", "403"),
    ]


def in_pages(clerk: Clerk, call: str, member: str, found: list[dict[str, str]]) -> None:
    """Answer with three pages: an empty one, one with the first, one with the rest."""
    for listed, more in (([], "1"), (found[:1], "2"), (found[1:], "")):
        token = {"NextToken": more} if more else {}
        clerk.answer("ec2", call, {member: listed, **token})


def test_what_aws_lists_in_pages_is_found_on_all_of_them() -> None:
    """AWS may send a page without anything on it, with more to come."""
    templates = [{"LaunchTemplateName": f"cnd-{run}"} for run in "ab"]
    groups = [
        {"GroupName": "cnd-ssh", "GroupId": "sg-1"},
        {"GroupName": "cnd-ssh-vpc-1", "GroupId": "sg-2"},
    ]
    with stubbed("autoscaling", "ec2", "s3", "sqs") as clerk:
        nothing: dict[str, Any] = {"AutoScalingGroups": []}
        clerk.answer("autoscaling", "describe_auto_scaling_groups", nothing)
        in_pages(clerk, "describe_launch_templates", "LaunchTemplates", templates)
        clerk.answer("ec2", "describe_key_pairs", {"KeyPairs": []})
        in_pages(clerk, "describe_security_groups", "SecurityGroups", groups)
        clerk.refuse("s3", "head_bucket", "404")
        clerk.answer("sqs", "list_queues", {})
        listed = [made.title for made in cleanup.find(clerk.cloud)[0]]
    assert listed == [
        *("launch template cnd-a", "launch template cnd-b"),
        *("security group cnd-ssh", "security group cnd-ssh-vpc-1"),
    ]


def test_what_is_not_cnds_is_left_alone(ours: Cloud, own: LocalCloud) -> None:
    ec2 = own.ec2  # with a key pair of the tests'
    ec2.create_security_group(GroupName="cnd-lookalike", Description="not CND's")
    own.client("sqs").create_queue(QueueName="cnd-orders")
    own.client("s3").create_bucket(Bucket="cnd-somebodys")
    assert cleanup.find(ours) == ([], [])


def test_a_resource_in_use_is_left_and_reported(tmp_path: Path) -> None:
    with stubbed("ec2") as clerk:
        clerk.refuse("ec2", "delete_security_group", "DependencyViolation")
        group = cleanup.Resource("security group", "cnd-ssh", "sg-1")
        with pytest.raises(CloudError, match="could not remove the security group"):
            cleanup.remove(clerk.cloud, group)


def test_a_large_bucket_is_emptied_page_by_page() -> None:
    bucket = "cnd-logs"
    with stubbed("s3") as clerk:
        for key, more in (("a", True), ("b", False)):
            page = {"Contents": [{"Key": key}], "IsTruncated": more}
            if more:
                page["NextContinuationToken"] = "next"
            asked = {"Bucket": bucket}
            if not more:
                asked["ContinuationToken"] = "next"
            clerk.answer("s3", "list_objects_v2", page, asked)
            gone = {"Objects": [{"Key": key}], "Quiet": True}
            asked_for = {"Bucket": bucket, "Delete": gone}
            clerk.answer("s3", "delete_objects", {}, asked_for)
        clerk.answer("s3", "delete_bucket", {}, {"Bucket": bucket})
        cleanup.remove(clerk.cloud, cleanup.Resource("bucket", bucket, bucket))
