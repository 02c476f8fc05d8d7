"""Whatever AWS answers, a run ends with the truth and with zero instances."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from cnd.ec2 import find
from cnd.local import Endpoint, clear_faults, faults_laid, lay_fault
from cnd.local.files import read_endpoint
from tests.conftest import Terminal, ended, eventually

JOB = ("start", "--d", "2", "--n", "2", "--t", "60")
LONG = ("start", "--d", "30", "--n", "2", "--kernel", "hashlib")


def endpoint(terminal: Terminal) -> Endpoint:
    terminal.exports()  # it is up
    folder = terminal.state / "cnd" / "local"
    record = read_endpoint(folder)
    assert record is not None
    return Endpoint(**record, folder=folder)


@pytest.fixture
def cloud(terminal: Terminal) -> Any:
    found = endpoint(terminal)
    yield found
    clear_faults(found)


def lay(cloud: Endpoint, action: str, **fault: object) -> None:
    lay_fault(cloud, {"action": action, **fault})


def struck(cloud: Endpoint) -> int:
    return sum(fault["struck"] for fault in faults_laid(cloud))


def newest(terminal: Terminal) -> Path:
    return terminal.runs()[-1]


ZONES = tuple(f"us-east-1{letter}" for letter in "abcdef")  # of the embedded cloud
VITAL = ("ec2:RunInstances", "ec2:DescribeInstances", "ec2:TerminateInstances")
OTHERS = (
    *("ec2:DescribeSecurityGroups", "sqs:CreateQueue", "sqs:ReceiveMessage"),
    *("sqs:DeleteQueue", "s3:HeadBucket", "s3:PutObject", "ssm:GetParameter"),
    "sts:GetCallerIdentity",
)


@pytest.mark.parametrize(
    ("action", "how"),
    [
        *((call, how) for call in VITAL for how in ("throttled", "reset", "500")),
        *(pytest.param(call, "throttled", marks=pytest.mark.slow) for call in OTHERS),
    ],
)
def test_a_call_that_fails_twice_costs_nothing_but_time(
    terminal: Terminal, cloud: Endpoint, action: str, how: str
) -> None:
    faults: dict[str, dict[str, object]] = {
        "throttled": {"code": "RequestLimitExceeded", "http": 503},
        "reset": {"reset": True},
        "500": {"code": "InternalError", "http": 500},
    }
    lay(cloud, action, times=2, **faults[how])
    result = terminal.json(*JOB)
    assert struck(cloud) >= 1
    assert (result["outcome"], result["left_running"]) == ("found", 0)
    assert result["terminated"] == 2
    assert terminal.live() == []


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("ec2:DescribeSecurityGroups", 3),
        ("sqs:CreateQueue", 3),
        ("ssm:GetParameter", 3),
        ("sts:GetCallerIdentity", 3),
        ("sqs:ReceiveMessage", 0),
        ("sqs:DeleteQueue", 0),
        ("s3:HeadBucket", 0),
        ("s3:PutObject", 0),
        ("ec2:DescribeInstances", 3),
        # Nobody may terminate them: left alone, they power themselves off.
        pytest.param("ec2:TerminateInstances", 0, marks=pytest.mark.slow),
    ],
)
def test_a_call_that_is_throttled_for_ever_ends_in_an_honest_status(
    terminal: Terminal, cloud: Endpoint, action: str, status: int
) -> None:
    lay(cloud, action, code="RequestLimitExceeded", times="forever")
    done = terminal.run(*JOB, timeout=700)
    assert done.returncode == status, done.stderr
    assert status == 0 or "RequestLimitExceeded" in done.stderr
    assert "Traceback" not in done.stderr
    clear_faults(cloud)
    assert terminal.live() == []


# What AWS may answer to a launch for good, and a word of the way out.
LAUNCH_REFUSALS = {
    "AuthFailure": "aws configure",
    "IdempotentInstanceTerminated": "start again",
    "InstanceLimitExceeded": "quota",
    "InsufficientInstanceCapacity": "--instance-type",
    "InvalidAMIID.NotFound": "--region",
    "InvalidGroup.NotFound": "made anew",
    "InvalidInstanceType": "--instance-type",
    "InvalidKeyPair.NotFound": "made anew",
    "InvalidParameterValue": "--instance-type",
    "MissingInput": "create-default-vpc",
    "OptInRequired": "signed up",
    "UnauthorizedOperation": "docs/aws.md",
    "Unsupported": "--instance-type",
    "VPCIdNotSpecified": "create-default-vpc",
    "VcpuLimitExceeded": "quota",
}
SPOT_REFUSALS = {
    "MaxSpotInstanceCountExceeded": "quota",
    "SpotMaxPriceTooLow": "--spot-or-on-demand",
    "UnauthorizedOperation": "docs/aws.md",
    "UnfulfillableCapacity": "--instance-type",
}


@pytest.mark.parametrize(
    ("action", "code", "way_out"),
    [
        *(("RunInstances", code, way) for code, way in LAUNCH_REFUSALS.items()),
        *(("CreateFleet", code, way) for code, way in SPOT_REFUSALS.items()),
        pytest.param(
            "RunInstances", "RequestLimitExceeded", "again", marks=pytest.mark.slow
        ),
    ],
)
def test_a_refused_launch_is_one_line_with_a_way_out_and_nothing_is_left(
    terminal: Terminal, cloud: Endpoint, action: str, code: str, way_out: str
) -> None:
    lay(cloud, action, code=code, times="forever")
    market = ("--spot",) if action == "CreateFleet" else ()
    done = terminal.run("start", "--d", "2", "--n", "1", *market)
    clear_faults(cloud)
    assert done.returncode == 3, done.stderr
    first, hint = done.stderr.splitlines()[-2:]
    assert first.startswith("cnd: could not launch")
    assert f"({code})" in first
    assert hint.startswith("hint: ")
    assert way_out in hint
    assert left(cloud) == []


def left(cloud: Endpoint) -> list[str]:
    """Return what is there of any run: live instances, queues, launch templates."""

    def client(service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=cloud.url,
            region_name=cloud.region,
            aws_access_key_id=cloud.access_key,
            aws_secret_access_key=cloud.secret_key,
        )

    ec2 = client("ec2")
    names = [i.id for i in find(ec2)]
    names += client("sqs").list_queues(QueueNamePrefix="cnd-").get("QueueUrls", [])
    templates = ec2.describe_launch_templates()["LaunchTemplates"]
    return names + [template["LaunchTemplateName"] for template in templates]


def test_a_launch_whose_reply_is_lost_is_not_paid_twice(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "RunInstances", lost_reply=True)
    result = terminal.json(*JOB)
    assert (struck(cloud), result["terminated"]) == (1, 2)
    assert terminal.live() == []


def test_a_launch_whose_replies_are_all_lost_leaves_nothing(
    terminal: Terminal, cloud: Endpoint
) -> None:
    """The instances are there; nobody was told their names."""
    lay(cloud, "RunInstances", lost_reply=True, times="forever")
    done = terminal.run(*JOB)
    assert done.returncode == 3, done.stderr
    assert struck(cloud) > 1
    assert terminal.live() == []


def test_instances_that_are_not_listed_at_first_are_waited_for(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(
        cloud,
        "DescribeInstances",
        code="InvalidInstanceID.NotFound",
        skip=1,
        times=6,
    )
    result = terminal.json(*JOB)
    assert (result["outcome"], result["left_running"]) == ("found", 0)


def test_where_s3_refuses_the_logs_stay_here_and_are_named(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "s3:PutObject", code="AccessDenied", times="forever")
    result = terminal.json(*JOB)
    assert result["logs"]["s3"] is None
    logs = Path(result["logs"]["local"])
    assert sorted(p.name for p in logs.iterdir()) == ["Instance0.log", "Instance1.log"]
    assert result["left_running"] == 0


def test_a_queue_that_vanishes_in_mid_run_is_told_and_the_run_goes_on(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(
        cloud,
        "sqs:ReceiveMessage",
        code="AWS.SimpleQueueService.NonExistentQueue",
        times="forever",
    )
    done = terminal.run("start", "--d", "30", "--t", "3", "--n", "2")
    assert done.returncode == 10
    assert "queue" in done.stderr
    assert terminal.live() == []


def test_credentials_that_expire_in_mid_run_are_told_with_the_way_out(
    terminal: Terminal, cloud: Endpoint
) -> None:
    """Nothing can be terminated any more: the instances' own timers are left."""
    process = terminal.spawn(*LONG, "--t", "6")
    eventually(lambda: len(terminal.live()) == 2, within=30)
    for service in ("ec2", "sqs", "s3"):
        lay(cloud, f"{service}:*", code="ExpiredToken", http=400, times="forever")
    time.sleep(8)
    process.send_signal(2)
    code, _, err = ended(process, within=400)
    clear_faults(cloud)
    assert code == 5, err
    assert "fab scram --run" in err
    assert "ExpiredToken" in err
    assert all(instance["id"] in err for instance in terminal.live())
    assert terminal.run("scram").returncode == 0
    assert terminal.live() == []


def room_for_one(cloud: Endpoint) -> None:
    """Let AWS have one instance, in the first zone where it is asked for so few."""
    lay(cloud, "RunInstances", at_most=1, times=1 + len(ZONES) + 1)
    lay(cloud, "RunInstances", code="InsufficientInstanceCapacity", times="forever")


def test_a_zone_without_room_is_passed_over(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "RunInstances", code="InsufficientInstanceCapacity", times=2)
    result = terminal.json(*JOB)
    assert (result["outcome"], result["terminated"]) == ("found", 2)
    assert {each["zone"] for each in result["fleet"]} == {ZONES[1]}


def test_a_fleet_that_cannot_be_whole_is_not_kept_in_part(
    terminal: Terminal, cloud: Endpoint
) -> None:
    room_for_one(cloud)
    done = terminal.run(*JOB)
    assert done.returncode == 3, done.stderr
    assert "only 1 of 2 instances could be launched" in done.stderr
    assert "--at-least 1 takes what there is" in done.stderr
    assert "1 instances terminated, 0 running" in done.stderr
    assert terminal.live() == []


def test_with_at_least_the_space_is_divided_among_those_that_can_be_had(
    terminal: Terminal, cloud: Endpoint
) -> None:
    room_for_one(cloud)
    words = ("--d", "9", "--nonces", "100000", "--n", "2", "--at-least", "1")
    result = terminal.json("start", *words, status=11)
    assert (result["asked"], result["instances"], result["terminated"]) == (2, 1, 1)
    assert (result["outcome"], result["tested"]) == ("exhausted", 100000)


def test_the_next_type_is_taken_where_there_is_no_room_for_the_first(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "RunInstances", code="VcpuLimitExceeded")
    result = terminal.json(*JOB, "--instance-type", "c5.large,t3.micro")
    assert result["terminated"] == 2
    assert {each["type"] for each in result["fleet"]} == {"t3.micro"}


def test_spot_takes_what_there_is_and_the_rest_comes_on_demand(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "CreateFleet", at_most=1)
    lay(cloud, "CreateFleet", code="RequestLimitExceeded")  # the second call, once
    words = ("--instance-type", "c5.large,t3.micro", "--spot-or-on-demand")
    result = terminal.json("start", "--d", "2", "--n", "3", *words)
    assert (result["outcome"], result["terminated"]) == ("found", 3)
    assert [each["spot"] for each in result["fleet"]] == [True, False, False]
    templates = terminal.client("ec2").describe_launch_templates()
    assert templates["LaunchTemplates"] == []


def test_spot_alone_is_refused_as_a_whole_where_there_is_too_little(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "CreateFleet", at_most=1)
    done = terminal.run(*JOB, "--spot")
    assert done.returncode == 3
    assert "only 1 of 2 instances could be launched" in done.stderr
    assert terminal.live() == []


def test_a_fleet_request_whose_answer_is_lost_is_not_paid_twice(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "CreateFleet", lost_reply=True)
    result = terminal.json(*JOB, "--spot")
    assert (struck(cloud), result["terminated"]) == (1, 2)


def test_a_group_that_may_not_be_made_leaves_nothing(
    terminal: Terminal, cloud: Endpoint
) -> None:
    lay(cloud, "CreateAutoScalingGroup", code="AccessDenied", times="forever")
    done = terminal.run(*JOB, "--hold")
    assert done.returncode == 3, done.stderr
    assert "could not make an Auto Scaling group" in done.stderr
    assert terminal.live() == []


@pytest.mark.slow
def test_a_fleet_whose_orchestrator_died_while_launching_is_searched_to_the_end(
    terminal: Terminal, cloud: Endpoint
) -> None:
    """The class of the instance that was never launched goes on on the other one."""
    lay(cloud, "RunInstances", at_most=1, times=1 + len(ZONES) + 1)
    lay(cloud, "RunInstances", delay=60, times="forever")
    words = ("--d", "30", "--nonces", "100000", "--n", "2", "--t", "60")
    process = terminal.spawn("start", *words)
    eventually(lambda: len(terminal.live()) == 1, within=30)
    process.kill()
    process.wait(10)
    clear_faults(cloud)
    result = terminal.json("attach", newest(terminal).name, status=11)
    assert (result["outcome"], result["tested"]) == ("exhausted", 100000)
    assert (result["terminated"], result["left_running"]) == (1, 0)
