"""What `cnd.ec2` promises, over HTTP; rare failures of AWS from stubbed replies."""

from __future__ import annotations

import datetime as dt
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import code
from cnd.errors import CloudError, LeakError
from cnd.provision import capacity
from tests.support.aws import Stub
from tests.support.local_cloud import LocalCloud, connected, running_cloud

LIFETIME = 600.0


def spec(cloud: LocalCloud) -> ec2.LaunchSpec:
    groups = cloud.ec2.describe_security_groups()["SecurityGroups"]
    return ec2.LaunchSpec(
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
        owner="somebody",
        token=token or f"token-of-{run}",
        count=count,
        clock=lambda: 1.8e9,  # the same request, whenever it is made
    )


def ids(instances: list[ec2.Instance]) -> set[str]:
    return {instance.id for instance in instances}


def tags(cloud: LocalCloud, instance: str) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in cloud.describe(instance)["Tags"]}


# --- launch


def test_a_launch_makes_exactly_as_many_as_asked_for(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 3)

    found = ec2.find(aws.ec2, run=run)
    assert ids(found) == ids(launched)
    assert [instance.index for instance in found] == [0, 1, 2]
    assert {instance.run for instance in found} == {run}
    ec2.terminate(aws.ec2, run=run)


def test_every_instance_says_whose_it_is_and_when_it_ends(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 2)

    for instance in launched:
        written = tags(cloud, instance.id)
        assert written["cnd:run"] == run
        assert written["cnd:owner"] == instance.owner == "somebody"
        assert written["cnd:deadline"] == instance.deadline
        ends = dt.datetime.fromisoformat(instance.deadline)
        assert ends.timestamp() == 1.8e9 + LIFETIME
    ec2.terminate(aws.ec2, run=run)


def test_the_same_token_never_buys_twice(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    first = launch(aws, cloud, run, 2, token=run)
    again = launch(aws, cloud, run, 2, token=run)

    assert ids(first) == ids(again) == ids(ec2.find(aws.ec2, run=run))
    ec2.terminate(aws.ec2, run=run)


def test_the_same_token_at_the_same_time_buys_once(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    with ThreadPoolExecutor(4) as pool:
        attempts = [
            pool.submit(launch, aws, cloud, run, 2, token=run) for _ in range(4)
        ]
        launched = [ids(attempt.result()) for attempt in attempts]

    assert all(each == launched[0] for each in launched)
    assert ids(ec2.find(aws.ec2, run=run)) == launched[0]
    ec2.terminate(aws.ec2, run=run)


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
    ec2.terminate(aws.ec2, run=run)


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

    ec2.terminate(aws.ec2, run=run)
    ec2.terminate(aws.ec2, run=f"{run}-other")
    cloud.ec2.terminate_instances(InstanceIds=[foreign])


def test_only_the_states_asked_for_are_found(
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
    ec2.terminate(aws.ec2, run=run)


def test_a_running_instance_says_where_its_ssh_is(
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
    ec2.terminate(aws.ec2, run=run)


def test_instances_are_grouped_by_their_run(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = [*launch(aws, cloud, run, 2), *launch(aws, cloud, f"{run}-other")]

    groups = ec2.by_run(launched)

    assert {name: len(group) for name, group in groups.items()} == {
        run: 2,
        f"{run}-other": 1,
    }
    ec2.terminate(aws.ec2, run=run)
    ec2.terminate(aws.ec2, run=f"{run}-other")


# --- terminate


def test_a_terminated_run_was_seen_terminated(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 3)
    seen: list[ec2.Instance] = []

    ended = ec2.terminate(aws.ec2, run=run, seen=seen.append)

    assert ids(ended) == ids(launched) == ids(seen)
    assert [instance.index for instance in ended] == [0, 1, 2]
    assert {instance.state for instance in ended} == {"terminated"}
    assert {cloud.state(instance.id) for instance in launched} == {"terminated"}


def test_terminating_twice_is_harmless(aws: Cloud, cloud: LocalCloud, run: str) -> None:
    launched = launch(aws, cloud, run)
    ec2.terminate(aws.ec2, run=run)

    assert ec2.terminate(aws.ec2, run=run) == []
    again = ec2.terminate(aws.ec2, run=run, known=ids(launched))
    assert ids(again) == ids(launched)


def test_one_runs_end_spares_every_other_instance(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launch(aws, cloud, run)
    (other,) = launch(aws, cloud, f"{run}-other")
    (foreign,) = cloud.launch()
    assert cloud.reaches(other.id, "running")
    assert cloud.reaches(foreign, "running")

    ec2.terminate(aws.ec2, run=run)

    assert cloud.state(other.id) == cloud.state(foreign) == "running"
    ec2.terminate(aws.ec2, run=f"{run}-other")
    cloud.ec2.terminate_instances(InstanceIds=[foreign])


def test_the_end_of_all_runs_spares_what_cnd_did_not_launch(tmp_path: Path) -> None:
    """Pending ones included: a run that has only begun is ended, a foreigner is not."""
    with running_cloud(tmp_path, CND_LOCAL_BOOT_SECONDS="60") as cloud:
        aws = connected(cloud)
        mine = [*launch(aws, cloud, "first", 2), *launch(aws, cloud, "second")]
        (foreign,) = cloud.launch()
        assert {instance.state for instance in ec2.find(aws.ec2)} == {"pending"}

        ended = ec2.terminate(aws.ec2, timeout=20)

        assert ids(ended) == ids(mine)
        assert cloud.state(foreign) == "pending"


def test_a_stopped_instance_is_terminated_too(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    (launched,) = launch(aws, cloud, run)
    assert cloud.reaches(launched.id, "running")
    cloud.ec2.stop_instances(InstanceIds=[launched.id])
    assert cloud.reaches(launched.id, "stopped")

    assert ids(ec2.terminate(aws.ec2, run=run)) == {launched.id}


def test_what_is_tagged_goes_before_it_is_described(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 2)
    (other,) = launch(aws, cloud, f"{run}-other")
    (foreign,) = cloud.launch()

    assert ec2.sweep(aws.ec2, run=run) == ids(launched)

    ended = ec2.terminate(aws.ec2, run=run, asked=ids(launched))
    assert ids(ended) == ids(launched)
    assert ec2.sweep(aws.ec2, run=run) == set()  # they were terminated before
    assert cloud.reaches(other.id, "running")
    assert cloud.reaches(foreign, "running")
    ec2.terminate(aws.ec2, run=f"{run}-other")
    cloud.ec2.terminate_instances(InstanceIds=[foreign])


# --- terminate, when AWS does not play along


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


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


def terminate(
    stub: Stub, *known: str, looks: int = 4, **more: Any
) -> list[ec2.Instance]:
    """Terminate the run r; time is up after so many looks."""
    seconds = itertools.count()
    return ec2.terminate(
        stub.ec2,
        run="r",
        known=known,
        timeout=float(looks),
        clock=lambda: float(next(seconds)),
        sleep=lambda pause: None,
        **more,
    )


def asks(stub: Stub, *names: str) -> None:
    stub.add_response("terminate_instances", {}, {"InstanceIds": list(names)})


def test_a_batch_that_is_refused_keeps_no_other_from_its_end(stub: Stub) -> None:
    names = [f"i-{i:03}" for i in range(150)]
    tags = [{"ResourceId": name, "Key": "cnd:run", "Value": "r"} for name in names]
    filters = [
        {"Name": "resource-type", "Values": ["instance"]},
        {"Name": "key", "Values": ["cnd:run"]},
        {"Name": "value", "Values": ["r"]},
    ]
    stub.add_response("describe_tags", {"Tags": tags}, {"Filters": filters})
    stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound", "?")
    last = {"InstanceId": names[149], "PreviousState": {"Name": "running"}}
    gone = {"InstanceId": names[148], "PreviousState": {"Name": "terminated"}}
    stub.add_response("terminate_instances", {"TerminatingInstances": [gone, last]})
    assert ec2.sweep(stub.ec2, run="r") == {names[149]}


class Terminating:
    """A client whose calls are answered at once; it knows which threads made them."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.asked: list[str] = []

    def terminate_instances(self, InstanceIds: list[str]) -> dict[str, Any]:
        self.threads.append(threading.current_thread().name)
        self.asked += InstanceIds
        return {"TerminatingInstances": []}


@pytest.mark.parametrize(
    ("count", "options", "alone"),
    [(100, {}, True), (250, {"at_once": 1}, True), (250, {}, False)],
)
def test_a_termination_needs_no_thread_where_it_is_to_need_none(
    count: int, options: dict[str, int], alone: bool
) -> None:
    client: Any = Terminating()
    names = [f"i-{number:017x}" for number in range(count)]
    ec2.request_termination(client, names, **options)
    assert sorted(client.asked) == names
    assert (set(client.threads) == {threading.current_thread().name}) is alone


def test_a_launch_that_tells_of_too_few_instances_is_no_reply(stub: Stub) -> None:
    """It may have launched them all: asked again, it tells of them."""
    stub.add_response("run_instances", {"Instances": []})
    with pytest.raises(CloudError, match="0 instances") as caught:
        stub.launch(8)
    assert capacity.pause(code(caught.value), 1) is not None


def test_an_instance_without_an_id_is_no_reply(stub: Stub) -> None:
    stub.add_response("describe_instances", described(**{"": "running"}))
    with pytest.raises(CloudError, match="an instance without an id"):
        ec2.find(stub.ec2)


def test_survivors_are_named_when_aws_never_answers(stub: Stub) -> None:
    for _ in range(4):
        stub.add_client_error("describe_instances", "Unavailable", "try later")
        stub.add_client_error("terminate_instances", "Unavailable", "not now")

    with pytest.raises(LeakError, match="i-1 i-2") as caught:
        terminate(stub, "i-2", "i-1")

    assert caught.value.ids == ("i-1", "i-2")
    assert caught.value.exit_status == 5
    assert "fab scram --run r" in (caught.value.hint or "")
    assert "try later" in str(caught.value.__cause__)


def test_instances_that_are_known_are_terminated_although_none_can_be_listed(
    stub: Stub,
) -> None:
    """And not called gone, since nobody has seen that."""
    for _ in range(2):
        stub.add_client_error("describe_instances", "RequestLimitExceeded")
        asks(stub, "i-1", "i-2")
    with pytest.raises(LeakError, match="i-1 i-2"):
        terminate(stub, "i-2", "i-1")
    stub.assert_no_pending_responses()


class Broken:
    """An EC2 client that is broken in itself for some calls, and then is not."""

    def __init__(self, client: Any, errors: Iterator[Exception]) -> None:
        self._client, self._errors = client, errors

    def __getattr__(self, name: str) -> Any:
        if name == "get_paginator" and (error := next(self._errors, None)):
            raise error
        return getattr(self._client, name)


def test_nothing_that_is_raised_keeps_a_termination_from_going_on(stub: Stub) -> None:
    errors = (KeyError("Reservations"), MemoryError(), RecursionError(), ValueError())
    broken: Any = Broken(stub.ec2, iter(errors))
    told: list[str] = []

    def seen(instance: ec2.Instance) -> None:
        told.append(instance.id)
        raise ZeroDivisionError("a view")

    for _ in range(1 + len(errors)):
        asks(stub, "i-1", "i-2")
    stub.add_response("describe_instances", described(i_1="running", i_2="terminated"))
    asks(stub, "i-1")
    stub.add_response(
        "describe_instances", described(i_1="terminated", i_2="terminated")
    )
    with pytest.raises(ZeroDivisionError):  # a bug is told, when all are gone
        ec2.terminate(
            broken, run="r", known=["i-1", "i-2"], sleep=lambda _: None, seen=seen
        )
    assert told == ["i-2", "i-1"]


def test_a_leak_names_region_and_command(stub: Stub) -> None:
    broken: Any = Broken(stub.ec2, itertools.repeat(KeyError("Reservations")))
    seconds = itertools.count()
    with pytest.raises(LeakError, match="running in eu-west-2: i-1") as caught:
        ec2.terminate(
            broken,
            run="r",
            known=["i-1"],
            timeout=4.0,
            clock=lambda: float(next(seconds)),
            sleep=lambda _: None,
        )
    assert caught.value.hint == "run `fab scram --run r --region eu-west-2`"


def test_what_ran_in_a_cloud_that_has_ended_has_ended(stub: Stub) -> None:
    told: list[str] = []
    for _ in range(2):
        stub.add_client_error("terminate_instances", "Unavailable")
        stub.add_client_error("describe_instances", "Unavailable")
    gone = iter([False, True])
    ended = terminate(
        stub,
        "i-1",
        "i-2",
        looks=10,
        seen=lambda instance: told.append(instance.id),
        is_gone=lambda: next(gone),
    )
    assert [(i.id, i.state) for i in ended] == [
        ("i-1", "terminated"),
        ("i-2", "terminated"),
    ]
    assert sorted(told) == ["i-1", "i-2"]


def test_a_leak_is_told_even_if_nothing_is_known(stub: Stub) -> None:
    for _ in range(4):
        stub.add_client_error("describe_instances", "Unavailable")
    with pytest.raises(LeakError, match="unknown"):
        terminate(stub)


def test_instances_that_may_not_be_terminated_are_named(stub: Stub) -> None:
    for _ in range(4):
        stub.add_response("describe_instances", described(i_1="running", i_2="pending"))
        stub.add_client_error("terminate_instances", "UnauthorizedOperation")
    with pytest.raises(LeakError, match="i-1 i-2"):
        terminate(stub)


def test_an_instance_that_never_ends_is_named_and_the_others_are_not(
    stub: Stub,
) -> None:
    stub.add_response("describe_instances", described(i_1="running", i_2="running"))
    asks(stub, "i-1", "i-2")
    for _ in range(3):
        stub.add_response(
            "describe_instances", described(i_1="terminated", i_2="shutting-down")
        )
    with pytest.raises(LeakError) as caught:
        terminate(stub)
    assert caught.value.ids == ("i-2",)


def test_failures_on_the_way_do_not_matter_once_the_end_is_seen(stub: Stub) -> None:
    stub.add_client_error("describe_instances", "RequestLimitExceeded")
    stub.add_response("describe_instances", described(i_1="running"))
    stub.add_client_error("terminate_instances", "InternalError")
    stub.add_response("describe_instances", described(i_1="running"))
    asks(stub, "i-1")
    stub.add_response("describe_instances", described(i_1="shutting-down"))
    stub.add_response("describe_instances", described(i_1="terminated"))

    assert ids(terminate(stub, looks=20)) == {"i-1"}


def test_an_id_that_is_known_but_not_listed_yet_is_terminated(stub: Stub) -> None:
    stub.add_response("describe_instances", described())
    asks(stub, "i-1")
    stub.add_response("describe_instances", described(i_1="terminated"))

    assert ids(terminate(stub, "i-1")) == {"i-1"}


def test_an_id_that_aws_does_not_know_yet_holds_up_no_other(stub: Stub) -> None:
    unknown = "InvalidInstanceID.NotFound"
    stub.add_response("describe_instances", described(i_1="running"))
    stub.add_client_error("terminate_instances", unknown)
    asks(stub, "i-1")
    stub.add_response("describe_instances", described(i_1="terminated", i_2="running"))
    asks(stub, "i-2")
    stub.add_response(
        "describe_instances", described(i_1="terminated", i_2="terminated")
    )

    assert ids(terminate(stub, "i-1", "i-2", looks=9)) == {"i-1", "i-2"}


def test_what_somebody_else_ended_between_two_looks_was_there_all_the_same(
    stub: Stub,
) -> None:
    stub.add_response("describe_instances", described(i_0="terminated"))
    both = described(i_0="terminated", i_1="terminated")
    for _ in range(2):
        stub.add_response("describe_instances", both)

    ended = terminate(stub, looks=20, look=6.0, past=["i-0"])

    assert ids(ended) == {"i-1"}


def test_an_id_that_is_never_listed_is_named(stub: Stub) -> None:
    for _ in range(4):
        stub.add_response("describe_instances", described())
        stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound")
    with pytest.raises(LeakError, match="i-9"):
        terminate(stub, "i-9")
