"""A queue is listed for a minute after its deletion, and is no run in that time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnd import sqs
from cnd.cloud.connection import Cloud
from cnd.errors import UsageError
from cnd.run.journal import Journal
from cnd.run.scram_runs import scram_region
from cnd.run.stop_run import stop
from tests.support.faults import lay
from tests.support.local_cloud import LocalCloud

# A region in which no other test has queues.
REGION = "eu-north-1"
ENDED, OTHER = "20261126-000000-0001", "20261126-000000-0002"
UNDER_WAY = f"a launch of {OTHER} may be under way: looking for 0 s what comes of it"


@pytest.fixture
def place(
    aws: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cloud]:
    """A region with the queues of a run that ended here, and of one from elsewhere."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    found = replace(aws.in_region(REGION), listed_within=0.0)
    journal = Journal(ENDED)
    journal.create()
    journal.write_result({"outcome": "found"})
    queues = [sqs.create(found.sqs, run) for run in (ENDED, OTHER)]
    yield found
    for queue in queues:
        sqs.delete(found.sqs, queue)


def test_a_run_that_has_ended_here_is_not_one_of_those_that_may_be_meant(
    place: Cloud,
) -> None:
    assert stop(place, "", "enough") == OTHER
    with pytest.raises(UsageError, match="no such run is going on"):
        stop(place, ENDED, "enough")


def test_of_several_runs_the_one_with_instances_is_meant(
    place: Cloud, cloud: LocalCloud
) -> None:
    third = "20261126-000000-0003"
    queue = sqs.create(place.sqs, third)
    with pytest.raises(UsageError, match="2 runs are going on"):
        stop(place, "", "enough")
    ec2 = place.ec2
    tags: Any = [{"Key": "cnd:run", "Value": third}]
    (image,) = ec2.describe_images(
        Filters=[{"Name": "name", "Values": ["al2023*x86_64"]}]
    )["Images"][:1]
    reply = ec2.run_instances(
        ImageId=image["ImageId"],
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )
    try:
        assert stop(place, "", "enough") == third
    finally:
        ec2.terminate_instances(InstanceIds=[reply["Instances"][0]["InstanceId"]])
        sqs.delete(place.sqs, queue)


def test_a_stop_of_a_run_whose_queue_is_being_deleted_is_refused(
    place: Cloud, cloud: LocalCloud
) -> None:
    lay(cloud.endpoint, "sqs:SendMessage", code=sqs.GONE[0], times=2)
    with pytest.raises(UsageError, match="no such run is going on"):
        stop(place, OTHER, "enough")
    lay(cloud.endpoint, "sqs:SendMessage", code=sqs.GONE[0])  # it is new
    assert stop(place, OTHER, "enough") == OTHER


def test_a_queue_that_is_being_deleted_does_not_delay_a_scram(
    place: Cloud, cloud: LocalCloud
) -> None:
    lay(cloud.endpoint, "sqs:SendMessage", code=sqs.GONE[0], skip=1, times=2)
    said: list[str] = []
    assert scram_region(place, "", said.append) == []
    assert said == []


def test_a_queue_that_is_not_known_yet_is_one_of_a_launch_under_way(
    place: Cloud, cloud: LocalCloud
) -> None:
    lay(cloud.endpoint, "sqs:SendMessage", code=sqs.GONE[0], skip=1)
    said: list[str] = []
    assert scram_region(place, "", said.append) == []
    assert said == [UNDER_WAY]


def test_a_run_that_only_tidies_up_does_not_delay_a_scram(place: Cloud) -> None:
    said: list[str] = []
    journal = Journal(OTHER)
    journal.create()
    with journal.followed():
        journal.write_result({"outcome": "found"})
        scram_region(place, OTHER, said.append)
    assert said == []
