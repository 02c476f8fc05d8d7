"""Whatever fails, a termination is seen, or what is left is named."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import LeakError
from cnd.provision import termination
from tests.support.aws import Stub
from tests.support.instances import described, ids, launch
from tests.support.local_cloud import LocalCloud, connected, running_cloud

# --- terminate


def test_a_terminated_run_was_seen_terminated(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 3)
    seen: list[ec2.Instance] = []

    ended = termination.terminate(aws.ec2, run=run, seen=seen.append)

    assert ids(ended) == ids(launched) == ids(seen)
    assert [instance.index for instance in ended] == [0, 1, 2]
    assert {instance.state for instance in ended} == {"terminated"}
    assert {cloud.state(instance.id) for instance in launched} == {"terminated"}


def test_terminating_twice_is_no_failure(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run)
    termination.terminate(aws.ec2, run=run)

    assert termination.terminate(aws.ec2, run=run) == []
    again = termination.terminate(aws.ec2, run=run, known=ids(launched))
    assert ids(again) == ids(launched)


def test_terminating_one_run_spares_every_other_instance(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launch(aws, cloud, run)
    (other,) = launch(aws, cloud, f"{run}-other")
    (foreign,) = cloud.launch()
    assert cloud.reaches(other.id, "running")
    assert cloud.reaches(foreign, "running")

    termination.terminate(aws.ec2, run=run)

    assert cloud.state(other.id) == cloud.state(foreign) == "running"
    termination.terminate(aws.ec2, run=f"{run}-other")
    cloud.ec2.terminate_instances(InstanceIds=[foreign])


def test_terminating_all_runs_spares_what_cnd_did_not_launch(tmp_path: Path) -> None:
    """Pending instances included: CND's are terminated, others are not."""
    with running_cloud(tmp_path, CND_LOCAL_BOOT_SECONDS="600") as cloud:
        aws = connected(cloud)
        mine = [*launch(aws, cloud, "first", 2), *launch(aws, cloud, "second")]
        (foreign,) = cloud.launch()
        assert {instance.state for instance in ec2.find(aws.ec2)} == {"pending"}

        ended = termination.terminate(aws.ec2, patience=termination.Patience(60))

        assert ids(ended) == ids(mine)
        assert cloud.state(foreign) == "pending"


def test_a_stopped_instance_is_terminated_too(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    (launched,) = launch(aws, cloud, run)
    assert cloud.reaches(launched.id, "running")
    cloud.ec2.stop_instances(InstanceIds=[launched.id])
    assert cloud.reaches(launched.id, "stopped")

    assert ids(termination.terminate(aws.ec2, run=run)) == {launched.id}


def test_tagged_instances_are_terminated_before_they_are_described(
    aws: Cloud, cloud: LocalCloud, run: str
) -> None:
    launched = launch(aws, cloud, run, 2)
    (other,) = launch(aws, cloud, f"{run}-other")
    (foreign,) = cloud.launch()

    assert ec2.terminate_tagged(aws.ec2, run=run) == ids(launched)

    ended = termination.terminate(aws.ec2, run=run, asked=ids(launched))
    assert ids(ended) == ids(launched)
    assert (
        ec2.terminate_tagged(aws.ec2, run=run) == set()
    )  # they were terminated before
    assert cloud.reaches(other.id, "running")
    assert cloud.reaches(foreign, "running")
    termination.terminate(aws.ec2, run=f"{run}-other")
    cloud.ec2.terminate_instances(InstanceIds=[foreign])


# --- terminate, when AWS fails


def terminate(
    stub: Stub,
    *known: str,
    looks: int = 4,
    look: float = 0.0,
    vanished_after: float = 1000.0,
    **more: Any,
) -> list[ec2.Instance]:
    """Terminate the run r; the timeout ends it after `looks` readings of the clock."""
    seconds = itertools.count()
    patience = termination.Patience(
        timeout=float(looks),
        look=look,
        vanished_after=vanished_after,
        clock=lambda: float(next(seconds)),
        sleep=lambda pause: None,
    )
    return termination.terminate(
        stub.ec2, run="r", known=known, patience=patience, **more
    )


def asks(stub: Stub, *names: str) -> None:
    stub.add_response("terminate_instances", {}, {"InstanceIds": list(names)})


def test_a_refused_batch_of_tagged_instances_does_not_stop_the_others(
    stub: Stub,
) -> None:
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
    assert ec2.terminate_tagged(stub.ec2, run="r") == {names[149]}


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
    count: int, options: dict[str, Any], alone: bool
) -> None:
    client: Any = Terminating()
    names = [f"i-{number:017x}" for number in range(count)]
    ec2.request_termination(client, names, **options)
    assert sorted(client.asked) == names
    assert (set(client.threads) == {threading.current_thread().name}) is alone


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
    """And not reported as terminated, since that was not seen."""
    for _ in range(2):
        stub.add_client_error("describe_instances", "RequestLimitExceeded")
        asks(stub, "i-1", "i-2")
    with pytest.raises(LeakError, match="i-1 i-2"):
        terminate(stub, "i-2", "i-1")
    stub.assert_no_pending_responses()


class Broken:
    """An EC2 client that raises for some calls, and then works."""

    def __init__(self, client: Any, errors: Iterator[Exception]) -> None:
        self._client, self._errors = client, errors

    def __getattr__(self, name: str) -> Any:
        if name == "get_paginator" and (error := next(self._errors, None)):
            raise error
        return getattr(self._client, name)


def test_no_exception_stops_a_termination(stub: Stub) -> None:
    errors = (KeyError("Reservations"), MemoryError(), RecursionError(), ValueError())
    broken: Any = Broken(stub.ec2, iter(errors))
    reported: list[str] = []

    def seen(instance: ec2.Instance) -> None:
        reported.append(instance.id)
        raise ZeroDivisionError("a view")

    for _ in range(1 + len(errors)):
        asks(stub, "i-1", "i-2")
    stub.add_response("describe_instances", described(i_1="running", i_2="terminated"))
    asks(stub, "i-1")
    stub.add_response(
        "describe_instances", described(i_1="terminated", i_2="terminated")
    )
    with pytest.raises(ZeroDivisionError):  # a bug is raised when all are terminated
        termination.terminate(
            broken,
            run="r",
            known=["i-1", "i-2"],
            patience=termination.Patience(sleep=lambda _: None),
            seen=seen,
        )
    assert reported == ["i-2", "i-1"]


def test_a_leak_names_region_and_command(stub: Stub) -> None:
    broken: Any = Broken(stub.ec2, itertools.repeat(KeyError("Reservations")))
    seconds = itertools.count()
    patience = termination.Patience(
        4.0, clock=lambda: float(next(seconds)), sleep=lambda _: None
    )
    with pytest.raises(LeakError, match="running in eu-west-2: i-1") as caught:
        termination.terminate(broken, run="r", known=["i-1"], patience=patience)
    assert caught.value.hint == "run `fab scram --run r --region eu-west-2`"


@pytest.mark.parametrize(
    ("kind", "state", "looks"),
    [
        ("t3.micro", "running", 4),
        ("c7g.metal", "running", 16),
        ("m7i.metal-24xl", "shutting-down", 16),
        ("t3.micro", "shutting-down", 16),
    ],
)
def test_what_is_known_to_end_slowly_is_waited_for_longer(
    stub: Stub, kind: str, state: str, looks: int
) -> None:
    reply = described(i_1=state)
    reply["Reservations"][0]["Instances"][0]["InstanceType"] = kind
    readings = itertools.count()
    patience = termination.Patience(
        4.0, clock=lambda: float(next(readings)), sleep=lambda _: None
    )
    for _ in range(looks):
        stub.add_response("describe_instances", reply)
        if state == "running":  # else it was requested before
            stub.add_response("terminate_instances", {})
    with pytest.raises(LeakError, match="i-1"):
        termination.terminate(stub.ec2, run="r", patience=patience)
    assert looks - 4 <= next(readings) <= looks + 4


def test_instances_of_a_cloud_that_has_ended_have_ended(stub: Stub) -> None:
    reported: list[str] = []
    for _ in range(2):
        stub.add_client_error("terminate_instances", "Unavailable")
        stub.add_client_error("describe_instances", "Unavailable")
    gone = iter([False, True])
    ended = terminate(
        stub,
        "i-1",
        "i-2",
        looks=10,
        seen=lambda instance: reported.append(instance.id),
        is_gone=lambda: next(gone),
    )
    assert [(i.id, i.state) for i in ended] == [
        ("i-1", "terminated"),
        ("i-2", "terminated"),
    ]
    assert sorted(reported) == ["i-1", "i-2"]


def test_a_leak_is_reported_even_if_no_id_is_known(stub: Stub) -> None:
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


def test_earlier_failures_do_not_matter_once_the_termination_is_seen(
    stub: Stub,
) -> None:
    stub.add_client_error("describe_instances", "RequestLimitExceeded")
    stub.add_response("describe_instances", described(i_1="running"))
    stub.add_client_error("terminate_instances", "InternalError")
    stub.add_response("describe_instances", described(i_1="running"))
    asks(stub, "i-1")
    stub.add_response("describe_instances", described(i_1="shutting-down"))
    stub.add_response("describe_instances", described(i_1="terminated"))

    assert ids(terminate(stub, looks=20)) == {"i-1"}


def untagged(**states: str) -> dict[str, Any]:
    """Return the same reply as `described`, of instances that have lost their tags."""
    reply = described(**states)
    for each in reply["Reservations"][0]["Instances"]:
        each["Tags"] = []
    return reply


def by_id(*names: str) -> dict[str, Any]:
    return {"Filters": [{"Name": "instance-id", "Values": list(names)}]}


def test_terminated_instances_that_have_lost_their_tags_are_found_by_their_ids(
    stub: Stub,
) -> None:
    asks(stub, "i-1", "i-2")
    stub.add_response("describe_instances", described(i_1="shutting-down"))
    found = untagged(i_2="terminated")
    stub.add_response("describe_instances", found, by_id("i-2"))
    stub.add_response("describe_instances", described())
    found = untagged(i_1="terminated")
    stub.add_response("describe_instances", found, by_id("i-1"))
    ended = terminate(stub, "i-1", "i-2", looks=20)
    assert [(each.id, each.run) for each in ended] == [("i-1", "r"), ("i-2", "r")]
    stub.assert_no_pending_responses()


def test_a_living_instance_without_tags_is_terminated_all_the_same(stub: Stub) -> None:
    asks(stub, "i-1")
    stub.add_response("describe_instances", described())
    stub.add_response("describe_instances", untagged(i_1="running"), by_id("i-1"))
    asks(stub, "i-1")
    stub.add_response("describe_instances", described())
    stub.add_response("describe_instances", untagged(i_1="terminated"), by_id("i-1"))
    assert ids(terminate(stub, "i-1", looks=20)) == {"i-1"}
    stub.assert_no_pending_responses()


def unknown(stub: Stub, *names: str) -> None:
    """Let AWS answer that it does not know these, when it is asked for them."""
    quoted = ", ".join(names)
    message = f"The instance IDs '{quoted}' do not exist"
    asked = {"InstanceIds": list(names)}
    stub.add_client_error(
        "describe_instances", ec2.NOT_FOUND, message, expected_params=asked
    )


def unlisted(stub: Stub, *names: str) -> None:
    """Let no instance be listed, neither by its tag nor by its id."""
    stub.add_response("describe_instances", described())
    stub.add_response("describe_instances", described(), by_id(*names))


def refuses(stub: Stub, times: int) -> None:
    for _ in range(times):
        stub.add_client_error("terminate_instances", ec2.NOT_FOUND)


def test_an_instance_that_aws_does_not_know_any_more_is_gone_and_not_left(
    stub: Stub,
) -> None:
    """It is listed for about an hour after its end, and forgotten then."""
    asks(stub, "i-1")
    unlisted(stub, "i-1")
    unknown(stub, "i-1")
    ended = terminate(stub, "i-1", looks=20, vanished_after=0.0)
    assert [(each.id, each.state) for each in ended] == [("i-1", "terminated")]
    stub.assert_no_pending_responses()


def test_an_instance_that_is_unknown_a_moment_after_its_launch_is_not_gone(
    stub: Stub,
) -> None:
    refuses(stub, 1)
    unlisted(stub, "i-1")
    refuses(stub, 1)
    stub.add_response("describe_instances", described(i_1="running"))
    asks(stub, "i-1")
    stub.add_response("describe_instances", described(i_1="terminated"))
    assert ids(terminate(stub, "i-1", looks=20)) == {"i-1"}
    stub.assert_no_pending_responses()


def test_an_instance_that_is_only_not_listed_is_not_gone(stub: Stub) -> None:
    """Asked for by its id, AWS does not say that it does not know it."""
    for _ in range(2):
        asks(stub, "i-1")
        unlisted(stub, "i-1")
        stub.add_response("describe_instances", described(), {"InstanceIds": ["i-1"]})
    asks(stub, "i-1")
    with pytest.raises(LeakError, match="i-1"):
        terminate(stub, "i-1", looks=6, vanished_after=0.0)


def test_an_id_that_is_known_but_not_listed_yet_is_terminated(stub: Stub) -> None:
    asks(stub, "i-1")
    unlisted(stub, "i-1")
    asks(stub, "i-1")
    stub.add_response("describe_instances", described(i_1="terminated"))

    assert ids(terminate(stub, "i-1")) == {"i-1"}


def test_an_id_that_aws_does_not_know_yet_does_not_delay_the_others(stub: Stub) -> None:
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


def test_an_instance_that_another_program_ended_between_two_polls_counts(
    stub: Stub,
) -> None:
    stub.add_response("describe_instances", described(i_0="terminated"))
    both = described(i_0="terminated", i_1="terminated")
    for _ in range(2):
        stub.add_response("describe_instances", both)

    ended = terminate(stub, looks=20, look=6.0, already_ended=["i-0"])

    assert ids(ended) == {"i-1"}


def test_an_id_that_is_never_listed_is_named(stub: Stub) -> None:
    for _ in range(4):
        stub.add_response("describe_instances", described())
        stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound")
    with pytest.raises(LeakError, match="i-9"):
        terminate(stub, "i-9")
