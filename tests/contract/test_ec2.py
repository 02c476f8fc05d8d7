"""What `cnd.ec2` promises, over HTTP; rare failures of AWS from stubbed replies."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor

import pytest

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.errors import CloudError
from cnd.provision import capacity, termination
from tests.support.aws import Stub
from tests.support.instances import LIFETIME, described, ids, launch, tags
from tests.support.local_cloud import LocalCloud

# --- launch


def test_a_launch_starts_exactly_the_requested_number(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 3)

    found = ec2.find(aws.ec2, run=run)
    assert ids(found) == ids(launched)
    assert [instance.index for instance in found] == [0, 1, 2]
    assert {instance.run for instance in found} == {run}
    termination.terminate(aws.ec2, run=run)


def test_every_instance_has_tags_with_its_owner_and_its_end(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 2)

    for instance in launched:
        written = tags(cloud, instance.id)
        assert written["cnd:run"] == run
        assert written["cnd:owner"] == instance.owner == "user"
        assert written["cnd:deadline"] == instance.deadline
        ends = dt.datetime.fromisoformat(instance.deadline)
        assert ends.timestamp() == 1.8e9 + LIFETIME
    termination.terminate(aws.ec2, run=run)


def test_the_same_token_never_launches_twice(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    first = launch(aws, cloud, run, 2, token=run)
    again = launch(aws, cloud, run, 2, token=run)

    assert ids(first) == ids(again) == ids(ec2.find(aws.ec2, run=run))
    termination.terminate(aws.ec2, run=run)


def test_the_same_token_at_the_same_time_launches_once(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    with ThreadPoolExecutor(4) as pool:
        attempts = [
            pool.submit(launch, aws, cloud, run, 2, token=run) for _ in range(4)
        ]
        launched = [ids(attempt.result()) for attempt in attempts]

    assert all(each == launched[0] for each in launched)
    assert ids(ec2.find(aws.ec2, run=run)) == launched[0]
    termination.terminate(aws.ec2, run=run)


def test_an_index_that_was_written_is_read_back(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    (launched,) = launch(aws, cloud, run)
    cloud.ec2.create_tags(
        Resources=[launched.id], Tags=[{"Key": "cnd:index", "Value": "6"}]
    )
    (found,) = ec2.find(aws.ec2, run=run)
    assert found.index == 6

    ec2.tag_index(aws.ec2, launched)

    assert tags(cloud, launched.id)["cnd:index"] == "0"
    termination.terminate(aws.ec2, run=run)


# --- find


def test_a_run_is_found_by_its_name_and_all_runs_by_their_tag(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    mine = launch(aws, cloud, run, 2)
    other = launch(aws, cloud, f"{run}-other")
    (foreign,) = cloud.launch()

    assert ids(ec2.find(aws.ec2, run=run)) == ids(mine)
    everything = ids(ec2.find(aws.ec2))
    assert ids(mine) | ids(other) <= everything
    assert foreign not in everything
    assert ec2.find(aws.ec2, run="no-such-run") == []

    termination.terminate(aws.ec2, run=run)
    termination.terminate(aws.ec2, run=f"{run}-other")
    cloud.ec2.terminate_instances(InstanceIds=[foreign])


def test_only_the_requested_states_are_found(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 2)
    assert cloud.reaches(launched[0].id, "running")
    cloud.ec2.terminate_instances(InstanceIds=[launched[0].id])
    assert cloud.reaches(launched[0].id, "terminated")
    assert cloud.reaches(launched[1].id, "running")

    def found(*states: str) -> set[str]:
        return ids(ec2.find(aws.ec2, run=run, states=states))

    assert found("terminated") == {launched[0].id}
    assert found("running") == {launched[1].id}
    assert found(*ec2.LIVE) == {launched[1].id}
    assert found(*ec2.ALL) == ids(launched)
    termination.terminate(aws.ec2, run=run)


def test_a_running_instance_has_the_address_and_port_of_its_ssh(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    (launched,) = launch(aws, cloud, run)
    assert cloud.reaches(launched.id, "running")

    (found,) = ec2.find(aws.ec2, run=run)

    described = cloud.describe(launched.id)
    assert found.address == described["PublicIpAddress"]
    assert str(found.ssh_port) == tags(cloud, launched.id)["cnd:ssh-port"]
    assert (found.state, found.type) == ("running", "t3.micro")
    assert found.zone.startswith(aws.region)
    termination.terminate(aws.ec2, run=run)


def test_instances_are_grouped_by_their_run(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = [*launch(aws, cloud, run, 2), *launch(aws, cloud, f"{run}-other")]

    groups = ec2.by_run(launched)

    assert {name: len(group) for name, group in groups.items()} == {
        run: 2,
        f"{run}-other": 1,
    }
    termination.terminate(aws.ec2, run=run)
    termination.terminate(aws.ec2, run=f"{run}-other")


# --- replies that are none


def test_a_launch_that_tells_of_too_few_instances_is_no_reply(stub: Stub) -> None:
    """It may have launched them all: asked again, it tells of them."""
    stub.add_response("run_instances", {"Instances": []})
    with pytest.raises(CloudError, match="0 instances") as caught:
        stub.launch(8)
    assert capacity.pause([code(caught.value)]) is not None


def test_an_instance_without_an_id_is_no_reply(stub: Stub) -> None:
    stub.add_response("describe_instances", described(**{"": "running"}))
    with pytest.raises(CloudError, match="an instance without an id"):
        ec2.find(stub.ec2)
