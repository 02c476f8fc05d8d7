"""Each habit of the weather as a client of the cloud meets it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from cnd.local.api.weather import habits
from tests.support.local_cloud import LocalCloud, running_cloud
from tests.support.waiting import eventually

ONCE = Config(retries={"total_max_attempts": 1})
HASTY = Config(retries={"total_max_attempts": 1}, read_timeout=5.0)
KINDS = ("instance", "group", "key", "template", "template name", "tag", "bucket")


def seed_where(wanted: Callable[[int], bool]) -> int:
    """Return the first seed that decides as wanted."""
    return next(filter(wanted, itertools.count()))


def is_late(seed: int, kind: str, number: int, seconds: float) -> bool:
    """Tell whether several of the next calls do not know a resource."""
    looks = [
        habits.is_unknown(seed, kind, number, look, seconds * look / 10)
        for look in range(10)
    ]
    return looks[0] and sum(looks) > 3


def code(call: Callable[[], object]) -> str:
    """Return the error code of a call, or ""."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def codes_until_known(call: Callable[[], object]) -> set[str]:
    """Repeat a call until it passes; return the codes of those that did not."""
    found: set[str] = set()

    def passes() -> bool:
        found.add(code(call))
        return "" in found

    eventually(passes, within=habits.UNKNOWN_SECONDS + 5, every=0.1)
    return found - {""}


# --- unknown, queues, buckets, groups


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud whose first resource of each kind is unknown to the next calls."""

    def wanted(seed: int) -> bool:
        return (
            is_late(seed, "group", 0, 1.0)
            # Another test may have come first, which launches with a key pair.
            and is_late(seed, "key", 0, 1.0)
            and is_late(seed, "key", 1, 1.0)
            and is_late(seed, "bucket", 0, 1.0)
            and is_late(seed, "instance", 0, 1.0)
            and is_late(seed, "queue", 0, 0.5)
            and habits.queue_end_seconds(seed, 0) > 2
            and 2 < habits.bucket_seconds(seed, 0) < 4
            and habits.is_busy(seed, 0, 0.5)
            and not habits.is_busy(seed, 0, 3.0)
        )

    weather = f"aws:{seed_where(wanted)},only=unknown+queues+buckets+groups"
    home = tmp_path_factory.mktemp("forgetful")
    with running_cloud(home, CND_LOCAL_WEATHER=weather) as cloud:
        yield cloud


def test_a_new_key_pair_is_unknown_to_some_of_the_next_calls(
    forgetful: LocalCloud,
) -> None:
    ec2 = forgetful.client("ec2", ONCE)
    ec2.create_key_pair(KeyName="new")

    found = codes_until_known(lambda: ec2.describe_key_pairs(KeyNames=["new"]))

    assert found == {"InvalidKeyPair.NotFound"}


def test_a_new_security_group_is_unknown_to_some_of_the_next_calls(
    forgetful: LocalCloud,
) -> None:
    ec2 = forgetful.client("ec2", ONCE)
    group = ec2.create_security_group(GroupName="new", Description="new")["GroupId"]

    found = codes_until_known(lambda: ec2.describe_security_groups(GroupIds=[group]))

    assert found == {"InvalidGroup.NotFound"}


def test_a_new_instance_is_neither_found_nor_listed_by_some_of_the_next_calls(
    forgetful: LocalCloud,
) -> None:
    with suppress(ClientError):  # its key pair may be unknown yet
        codes_until_known(forgetful.launch)
    ec2 = forgetful.client("ec2", ONCE)

    def is_listed() -> bool:
        found = ec2.describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        )
        return bool(found["Reservations"])

    looks: list[bool] = []

    def differ() -> bool:
        looks.append(is_listed())
        return len(set(looks)) == 2

    eventually(differ)
    (instance,) = eventually(
        lambda: [
            i["InstanceId"]
            for r in ec2.describe_instances()["Reservations"]
            for i in r["Instances"]
        ]
    )
    codes_until_known(lambda: ec2.terminate_instances(InstanceIds=[instance]))


def test_a_new_bucket_is_unknown_to_some_of_the_next_calls_and_its_name_is_kept(
    forgetful: LocalCloud,
) -> None:
    s3 = forgetful.client("s3", ONCE)
    s3.create_bucket(Bucket="new-bucket")

    found = codes_until_known(lambda: s3.list_objects_v2(Bucket="new-bucket"))
    assert found == {"NoSuchBucket"}

    codes_until_known(lambda: s3.delete_bucket(Bucket="new-bucket"))
    assert code(lambda: s3.create_bucket(Bucket="new-bucket")) == "OperationAborted"
    assert codes_until_known(lambda: s3.create_bucket(Bucket="new-bucket")) == {
        "OperationAborted"
    }


def test_a_queue_is_unknown_in_its_first_second_and_there_after_its_deletion(
    forgetful: LocalCloud,
) -> None:
    sqs = forgetful.client("sqs", ONCE)
    url = sqs.create_queue(QueueName="new-queue")["QueueUrl"]

    found = codes_until_known(lambda: sqs.send_message(QueueUrl=url, MessageBody="a"))
    assert found == {"AWS.SimpleQueueService.NonExistentQueue"}

    codes_until_known(lambda: sqs.delete_queue(QueueUrl=url))

    assert sqs.list_queues()["QueueUrls"] == [url]
    codes_until_known(lambda: sqs.send_message(QueueUrl=url, MessageBody="b"))
    again = code(lambda: sqs.create_queue(QueueName="new-queue"))
    assert again == "AWS.SimpleQueueService.QueueDeletedRecently"


def test_a_busy_group_refuses_to_be_deleted(forgetful: LocalCloud) -> None:
    groups = forgetful.client("autoscaling", ONCE)
    ec2 = forgetful.client("ec2", ONCE)
    ec2.create_launch_template(
        LaunchTemplateName="of-busy",
        LaunchTemplateData={
            "ImageId": forgetful.image,
            "InstanceType": "t3.micro",
        },
    )
    groups.create_auto_scaling_group(
        AutoScalingGroupName="busy",
        LaunchTemplate={"LaunchTemplateName": "of-busy"},
        MinSize=0,
        MaxSize=1,
        AvailabilityZones=["us-east-1a"],
    )

    size = {"MinSize": 0, "MaxSize": 1, "DesiredCapacity": 0}
    groups.update_auto_scaling_group(AutoScalingGroupName="busy", **size)

    def delete() -> None:
        # To give it the size that it has starts nothing.
        groups.update_auto_scaling_group(AutoScalingGroupName="busy", **size)
        groups.delete_auto_scaling_group(AutoScalingGroupName="busy", ForceDelete=True)

    found = codes_until_known(delete)

    assert found == {"ScalingActivityInProgress"}


# --- address, pages, forget, shutdown, throttle, replay


ONLY = "only=address+pages+forget+shutdown+throttle+replay"


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud that is slow in some ways."""
    home = tmp_path_factory.mktemp("slow")
    with running_cloud(home, CND_LOCAL_WEATHER=f"aws:1,{ONLY}") as cloud:
        yield cloud


@pytest.fixture
def late(tmp_path: Path) -> Iterator[LocalCloud]:
    """A cloud whose first instance is late, and whose second one is slow to end."""

    def wanted(seed: int) -> bool:
        return (
            habits.public_address_after(seed, 0) > 0.5
            and habits.private_address_after(seed, 0) == 0
            and 0.5 < habits.loses_tags_after(seed, 0) < 2
            and habits.shutdown_seconds(seed, 0) == 0
            and habits.shutdown_seconds(seed, 1) > 0
        )

    seed = seed_where(wanted)
    with running_cloud(tmp_path, CND_LOCAL_WEATHER=f"aws:{seed},{ONLY}") as cloud:
        yield cloud


def test_an_instance_runs_before_its_address_shows_and_loses_its_tags_at_its_end(
    late: LocalCloud,
) -> None:
    tag = {"ResourceType": "instance", "Tags": [{"Key": "who", "Value": "me"}]}
    (instance,) = late.launch(TagSpecifications=[tag])

    assert late.reaches(instance, "running")
    first = late.describe(instance)
    assert "PublicIpAddress" not in first
    shown = eventually(lambda: late.describe(instance).get("PublicIpAddress"))
    assert shown != first["PrivateIpAddress"]

    late.ec2.terminate_instances(InstanceIds=[instance])
    assert late.reaches(instance, "terminated")
    by_tag = {"Name": "tag-key", "Values": ["who"]}
    eventually(
        lambda: not late.ec2.describe_instances(Filters=[by_tag])["Reservations"],
        every=0.2,
    )
    assert late.state(instance) == "terminated"  # and it is listed still


def test_a_shutdown_takes_minutes_unless_that_of_the_system_is_skipped(
    late: LocalCloud,
) -> None:
    late.launch()
    (instance,) = late.launch()
    assert late.reaches(instance, "running")

    late.ec2.terminate_instances(InstanceIds=[instance])
    host = late.tree(instance)
    eventually(lambda: not host.exists())
    time.sleep(0.5)  # two rounds of the cloud: nothing ends it
    assert late.state(instance) == "shutting-down"

    late.ec2.terminate_instances(InstanceIds=[instance], SkipOsShutdown=True)
    assert late.reaches(instance, "terminated")


def test_a_list_comes_in_small_pages_which_may_disagree(slow: LocalCloud) -> None:
    ids = slow.launch(5)
    wanted = [{"Name": "instance-id", "Values": ids}]
    pages = slow.client("ec2").get_paginator("describe_instances")

    def listed() -> list[list[str]]:
        return [
            [i["InstanceId"] for r in page["Reservations"] for i in r["Instances"]]
            for page in pages.paginate(Filters=wanted)
        ]

    lists = [listed() for _ in range(40)]

    assert {len(page) for found in lists for page in found} >= {1, 2, 3, 5}
    sizes = {sum(map(len, found)) for found in lists}
    assert sizes <= {4, 5, 6}
    assert len(sizes) > 1  # an instance is missing, or there twice
    assert all(len(set(itertools.chain(*found))) >= 4 for found in lists)
    first = eventually(lambda: slow.ec2.describe_instances().get("NextToken"))
    pages_again = [slow.ec2.describe_instances(NextToken=first) for _ in range(2)]
    assert pages_again[0]["Reservations"] == pages_again[1]["Reservations"]
    slow.ec2.terminate_instances(InstanceIds=ids, SkipOsShutdown=True)


def test_launches_beyond_the_documented_rate_are_throttled(slow: LocalCloud) -> None:
    ec2, asked = slow.client("ec2", ONCE), {"MinCount": 1, "MaxCount": 1}
    dry = {"ImageId": slow.image, "InstanceType": "t3.micro", "DryRun": True}

    found = [code(lambda: ec2.run_instances(**asked, **dry)) for _ in range(20)]

    assert found.count("RequestLimitExceeded") > 10
    assert "DryRunOperation" in found


def test_a_repeated_fleet_request_names_no_instances(slow: LocalCloud) -> None:
    ec2 = slow.ec2
    ec2.create_launch_template(
        LaunchTemplateName="fleet",
        LaunchTemplateData={
            "ImageId": slow.image,
            "InstanceType": "t3.micro",
            "KeyName": "tests",
        },
    )

    def request() -> dict[str, Any]:
        found: dict[str, Any] = ec2.create_fleet(
            Type="instant",
            ClientToken="once",
            LaunchTemplateConfigs=[
                {
                    "LaunchTemplateSpecification": {
                        "LaunchTemplateName": "fleet",
                        "Version": "1",
                    }
                }
            ],
            TargetCapacitySpecification={
                "TotalTargetCapacity": 1,
                "DefaultTargetCapacityType": "on-demand",
            },
        )
        return found

    first, again = request(), request()

    assert [len(group["InstanceIds"]) for group in first["Instances"]] == [1]
    assert again.get("Instances", []) == []
    assert again["FleetId"] == first["FleetId"]
    ids = first["Instances"][0]["InstanceIds"]
    ec2.terminate_instances(InstanceIds=ids, SkipOsShutdown=True)


# --- errors, timeout


SOON = 12  # calls: by then two of them fail
LATER = 60  # by then an answer is late


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud some of whose first calls fail, and one of the next answers is late."""

    def wanted(seed: int) -> bool:
        errors = {habits.error(seed, call) for call in range(2, SOON)}
        if errors != {"", "before", "after"} or habits.error(seed, 0):
            return False
        late = [habits.late_by(seed, n, is_launch=False) for n in range(LATER)]
        return any(late) and not any(late[:SOON])

    weather = f"aws:{seed_where(wanted)},only=errors+timeout"
    home = tmp_path_factory.mktemp("failing")
    with running_cloud(home, CND_LOCAL_WEATHER=weather) as cloud:
        cloud.client("sts").get_caller_identity()  # it waits until the cloud is loaded
        yield cloud


def test_calls_fail_with_and_without_effect_and_answers_come_too_late(
    failing: LocalCloud,
) -> None:
    ec2 = failing.client("ec2", HASTY)
    key = failing.key.with_suffix(".pub").read_bytes()
    ended: dict[str, str] = {}  # key pair -> how its import ended

    def import_one(name: str) -> str:
        try:
            return code(
                lambda: ec2.import_key_pair(KeyName=name, PublicKeyMaterial=key)
            )
        except ReadTimeoutError:
            return "late"

    for number in range(LATER):
        if "late" not in ended.values():
            ended[str(number)] = import_one(str(number))

    failures = {"InternalError", "Unavailable", "ServiceUnavailable"}
    failed = {name for name, how in ended.items() if how in failures}
    late = {name for name, how in ended.items() if how == "late"}
    assert len(late) == 1
    assert set(ended.values()) <= {"", "late", *failures}
    pairs = {pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]}
    assert late <= pairs
    assert failed & pairs
    assert failed - pairs


def test_a_calm_cloud_has_no_habit_and_a_cloud_in_weather_says_so(
    failing: LocalCloud, cloud: LocalCloud, tmp_path: Path
) -> None:
    from cnd import local

    assert local.summary(cloud.endpoint)["weather"] == "calm"
    assert local.conditions(cloud.endpoint) == ""
    assert "only=errors+timeout" in local.conditions(failing.endpoint)
