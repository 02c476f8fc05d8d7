"""Whatever AWS answers, a run ends with the truth and with zero instances."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from cnd.ec2 import find
from cnd.local import Endpoint, faults_laid, summary
from tests.fault.truth import Victim, forget, struck
from tests.support.aws import client
from tests.support.faults import lay
from tests.support.processes import ended
from tests.support.runs import searching, told
from tests.support.waiting import eventually

JOB = ("start", "--d", "2", "--n", "2", "--t", "60")
LONG = ("start", "--d", "30", "--n", "2")


ZONES = tuple(f"us-east-1{letter}" for letter in "abcdef")  # of the local cloud
HOWS: dict[str, dict[str, object]] = {
    "throttled": {"code": "RequestLimitExceeded", "http": 503},
    "reset": {"reset": True},
    "500": {"code": "InternalError", "http": 500},
}
QUICK = JOB
TAGGING = ("start", "--d", "30", "--n", "2", "--t", "3")  # time to tag, if not to find
BY_S3 = (*JOB, "--bootstrap", "user-data", "--boot", "6")
# Each call that a run makes: the run that makes it, and how that ends if the call fails
# for ever.  What a run can do without costs it nothing.
CALLS: dict[str, tuple[tuple[str, ...], int]] = {
    "sts:GetCallerIdentity": (QUICK, 3),
    "ssm:GetParameter": (QUICK, 3),
    "ec2:DescribeInstanceTypes": (QUICK, 3),
    "ec2:ImportKeyPair": (QUICK, 3),
    "ec2:DescribeSubnets": (QUICK, 3),
    "ec2:DescribeSecurityGroups": (QUICK, 3),
    "ec2:CreateSecurityGroup": (QUICK, 3),
    "ec2:AuthorizeSecurityGroupIngress": (QUICK, 3),
    "ec2:RunInstances": (QUICK, 3),
    "ec2:DescribeInstances": (QUICK, 3),
    "ec2:CreateTags": (TAGGING, 10),
    # No caller may terminate them: left alone, they power themselves off.
    "ec2:TerminateInstances": (QUICK, 0),
    "sqs:CreateQueue": (QUICK, 3),
    "sqs:ReceiveMessage": (QUICK, 0),
    "sqs:SendMessage": (QUICK, 0),
    "sqs:DeleteQueue": (QUICK, 0),
    "s3:HeadBucket": (QUICK, 0),
    "s3:CreateBucket": (QUICK, 0),
    "s3:PutPublicAccessBlock": (QUICK, 0),
    "s3:PutBucketLifecycleConfiguration": (QUICK, 0),
    "s3:PutObject": (QUICK, 0),
    "s3:ListObjectsV2": (BY_S3, 4),
    "s3:GetObject": (BY_S3, 4),
}
# For ever, these take minutes.
PATIENT = (
    *("ec2:RunInstances", "ec2:TerminateInstances"),
    *("s3:ListObjectsV2", "s3:GetObject"),
)
# Throttled for ever, these take a minute; given up sooner where they fail otherwise.
LASTING = (
    *("s3:CreateBucket", "s3:PutPublicAccessBlock", "s3:PutObject"),
    *("s3:PutBucketLifecycleConfiguration", "sqs:DeleteQueue"),
    "ec2:AuthorizeSecurityGroupIngress",
)


def soonest(action: str) -> str:
    """Return the failure of a call that is tried here; the others are slow."""
    if action in PATIENT:
        return ""
    return "500" if action in LASTING else "throttled"


def unmake(terminal: Victim) -> None:
    """Let the next run make anew what runs leave for each other."""
    ec2, s3 = terminal.client("ec2"), terminal.client("s3")
    for group in ec2.describe_security_groups()["SecurityGroups"]:
        if group["GroupName"].startswith("cnd"):
            ec2.delete_security_group(GroupId=group["GroupId"])
    for bucket in s3.list_buckets()["Buckets"]:
        name = bucket["Name"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
            for each in page.get("Contents", []):
                s3.delete_object(Bucket=name, Key=each["Key"])
        s3.delete_bucket(Bucket=name)


@pytest.mark.parametrize("how", HOWS)
def test_all_calls_of_a_run_may_fail_twice(
    terminal: Victim, cloud: Endpoint, how: str
) -> None:
    unmake(terminal)
    before = Counter(summary(cloud)["calls"])
    for action in CALLS:
        lay(cloud, action, times=2, **HOWS[how])
    result = terminal.json(*TAGGING, status=10)
    assert (result["terminated"], result["left_running"]) == (2, 0)
    assert result["logs"]["s3"]
    made = Counter(summary(cloud)["calls"]) - before
    assert made.keys() <= CALLS.keys()
    by_s3 = {"s3:ListObjectsV2", "s3:GetObject"}
    # Those that another case laid for hosts have no action.
    laid = [fault for fault in faults_laid(cloud) if "action" in fault]
    assert {fault["action"]: fault["struck"] for fault in laid} == {
        action: 0 if action in by_s3 else 2 for action in CALLS
    }


def test_what_was_just_made_may_be_unknown_to_the_next_calls(
    terminal: Victim, cloud: Endpoint
) -> None:
    """As AWS answers for seconds: it costs the run some of them, and nothing else."""
    unmake(terminal)
    unknown = {
        "ec2:AuthorizeSecurityGroupIngress": "InvalidGroup.NotFound",
        "ec2:RunInstances": "InvalidKeyPair.NotFound",
        "ec2:CreateTags": "InvalidInstanceID.NotFound",
    }
    for action, code in unknown.items():
        lay(cloud, action, code=code, times=2)
    process, folder = searching(terminal, *TAGGING, "--json")
    status, out, err = ended(process, within=120)
    assert status == 10, err
    assert json.loads(out)["terminated"] == 2
    assert struck(cloud) == 2 * len(unknown)
    assert told(folder, "cloud.trouble") == []
    assert len(told(folder, "launch.delayed")) == 2


def test_what_goes_through_s3_may_fail_thrice(
    terminal: Victim, cloud: Endpoint
) -> None:
    for how in HOWS.values():
        for action in ("s3:GetObject", "s3:ListObjectsV2", "s3:PutObject"):
            lay(cloud, action, **how)
    result = terminal.json(*JOB, "--bootstrap", "user-data")
    assert (result["outcome"], result["left_running"]) == ("found", 0)
    assert struck(cloud) == 9


@pytest.mark.parametrize(
    ("action", "how"),
    [
        pytest.param(
            action,
            how,
            marks=() if how == soonest(action) else pytest.mark.slow,
        )
        for action in CALLS
        for how in HOWS
    ],
)
def test_a_call_that_fails_for_ever_ends_in_an_honest_status(
    terminal: Victim, cloud: Endpoint, action: str, how: str
) -> None:
    words, status = CALLS[action]
    unmake(terminal)
    lay(cloud, action, times="forever", **HOWS[how])
    done = terminal.run(*words, timeout=700)
    assert done.returncode == status, done.stderr
    assert struck(cloud) >= 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("cnd: ")]
    assert len(failures) == (status == 3)
    assert "Traceback" not in done.stderr


def test_a_fleet_that_cannot_be_seen_for_a_while_is_seen_in_the_end(
    terminal: Victim, cloud: Endpoint
) -> None:
    process, folder = searching(terminal, *LONG, "--t", "10", "--json")
    lay(cloud, "DescribeInstances", times=10, **HOWS["throttled"])
    code, out, err = ended(process, within=120)
    assert code == 10, err
    assert json.loads(out)["terminated"] == 2
    assert told(folder, "cloud.trouble")


@pytest.mark.slow
def test_a_fleet_that_can_never_be_seen_again_is_ended_and_not_called_gone(
    terminal: Victim, cloud: Endpoint
) -> None:
    process, _ = searching(terminal, *LONG, "--t", "10", "--json")
    lay(cloud, "DescribeInstances", times="forever", **HOWS["throttled"])
    code, out, err = ended(process, within=500)
    assert code == 5, err
    assert (json.loads(out)["terminated"], json.loads(out)["left_running"]) == (0, 2)
    forget(terminal, cloud)
    assert terminal.live() == []


# What AWS may answer to a launch for good, and a word of the way out.
LAUNCH_REFUSALS = {
    "AuthFailure": "aws configure",
    "IdempotentInstanceTerminated": "start again",
    "InstanceLimitExceeded": "quota",
    "InsufficientInstanceCapacity": "--instance-type",
    "InvalidAMIID.NotFound": "--region",
    "InvalidGroup.NotFound": "is created",
    "InvalidInstanceType": "--instance-type",
    "InvalidKeyPair.NotFound": "is created",
    "InvalidParameterValue": "--instance-type",
    "MissingInput": "create-default-vpc",
    "OptInRequired": "signed up",
    "UnauthorizedOperation": "docs/aws.md",
    "Unsupported": "--instance-type",
    "VPCIdNotSpecified": "create-default-vpc",
    "VcpuLimitExceeded": "quota",
}
# These are asked for again for half a minute; tests/contract/provision/test_launch.py
# shows the same without the wait.
LATE = {
    code: pytest.mark.slow
    for code in ("InvalidGroup.NotFound", "InvalidKeyPair.NotFound")
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
        *(
            pytest.param("RunInstances", code, way, marks=LATE.get(code, ()))
            for code, way in LAUNCH_REFUSALS.items()
        ),
        *(("CreateFleet", code, way) for code, way in SPOT_REFUSALS.items()),
        pytest.param(
            "RunInstances", "RequestLimitExceeded", "again", marks=pytest.mark.slow
        ),
    ],
)
def test_a_refused_launch_is_one_line_with_a_way_out_and_nothing_is_left(
    terminal: Victim, cloud: Endpoint, action: str, code: str, way_out: str
) -> None:
    lay(cloud, action, code=code, times="forever")
    market = ("--spot",) if action == "CreateFleet" else ()
    before = left(cloud)  # a run that was killed in another case leaves its queue
    done = terminal.run("start", "--d", "2", "--n", "1", *market)
    forget(terminal, cloud)
    assert done.returncode == 3, done.stderr
    first, hint = done.stderr.splitlines()[-2:]
    assert first.startswith("cnd: could not launch")
    assert f"({code})" in first
    assert hint.startswith("hint: ")
    assert way_out in hint
    assert left(cloud) <= before


def left(cloud: Endpoint) -> set[str]:
    """Return what is there of any run: live instances, queues, launch templates."""

    ec2 = client(cloud, "ec2")
    names = {i.id for i in find(ec2)}
    names |= set(
        client(cloud, "sqs").list_queues(QueueNamePrefix="cnd-").get("QueueUrls", [])
    )
    templates = ec2.describe_launch_templates()["LaunchTemplates"]
    return names | {template["LaunchTemplateName"] for template in templates}


def test_a_launch_whose_reply_is_lost_is_not_paid_twice(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "RunInstances", lost_reply=True)
    result = terminal.json(*JOB)
    assert (struck(cloud), result["terminated"]) == (1, 2)
    assert terminal.live() == []


def test_a_launch_whose_replies_are_all_lost_leaves_nothing(
    terminal: Victim, cloud: Endpoint
) -> None:
    """The instances exist; their ids never arrived."""
    terminal.environment["CND_LOCAL_LISTED_SECONDS"] = "4"
    lay(cloud, "RunInstances", lost_reply=True, times="forever")
    done = terminal.run(*JOB)
    assert done.returncode == 3, done.stderr
    assert struck(cloud) > 1
    assert terminal.live() == []


def test_instances_that_are_not_listed_at_first_are_waited_for(
    terminal: Victim, cloud: Endpoint
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


def test_nothing_is_put_into_a_bucket_that_could_not_be_made_private(
    terminal: Victim, cloud: Endpoint
) -> None:
    unmake(terminal)
    lay(cloud, "s3:PutPublicAccessBlock", code="AccessDenied", times="forever")
    before = Counter(summary(cloud)["calls"])
    done = terminal.run(*JOB, CND_REPORT="1")
    assert done.returncode == 0, done.stderr
    assert terminal.run("report").returncode == 0  # it waits for the one of the run
    assert (Counter(summary(cloud)["calls"]) - before)["s3:PutObject"] == 0
    assert "logs are in S3" not in done.stderr
    assert "s3://" not in done.stdout
    assert "could not make the bucket" in done.stderr


def test_a_new_bucket_that_is_not_known_everywhere_gets_the_logs_all_the_same(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "s3:PutObject", code="NoSuchBucket", times=3)
    result = terminal.json(*JOB)
    assert result["logs"]["s3"]
    assert struck(cloud) == 3


def test_where_s3_refuses_the_logs_stay_here_and_are_named(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "s3:PutObject", code="AccessDenied", times="forever")
    result = terminal.json(*JOB)
    assert result["logs"]["s3"] is None
    logs = Path(result["logs"]["local"])
    assert sorted(p.name for p in logs.iterdir()) == ["Instance0.log", "Instance1.log"]
    assert result["left_running"] == 0


def test_a_queue_that_vanishes_in_mid_run_is_reported_and_the_run_goes_on(
    terminal: Victim, cloud: Endpoint
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


def test_credentials_that_expire_in_mid_run_are_reported_with_the_way_out(
    terminal: Victim, cloud: Endpoint
) -> None:
    """Nothing can be terminated any more: the instances' own timers are left."""
    terminal.environment["CND_LOCAL_REFUSED_SECONDS"] = "2"
    process, folder = searching(terminal, *LONG, "--t", "10")
    for service in ("ec2", "sqs", "s3"):
        lay(cloud, f"{service}:*", code="ExpiredToken", http=400, times="forever")
    eventually(lambda: told(folder, "worker.timeout"))
    process.send_signal(2)
    code, _, err = ended(process, within=400)
    forget(terminal, cloud)
    assert code == 5, err
    assert "fab scram --run" in err
    assert "ExpiredToken" in err
    assert all(instance["id"] in err for instance in terminal.live())
    assert terminal.run("scram").returncode == 0
    assert terminal.live() == []


@pytest.mark.slow
def test_a_fleet_whose_credentials_expired_ends_itself(
    terminal: Victim, cloud: Endpoint
) -> None:
    """By its watchdogs and timers, without any command; S3 takes nothing any more."""
    words = ("--t", "5", "--boot", "20")
    process, _ = searching(terminal, *LONG, *words)
    for service in ("ec2", "sqs", "s3"):
        lay(cloud, f"{service}:*", code="ExpiredToken", http=400, times="forever")
    expired = time.monotonic()
    code, _, err = ended(process, within=400)
    assert code == 5, err
    forget(terminal, cloud)
    lay(cloud, "s3:*", code="ExpiredToken", http=400, times="forever")
    terminal.see_zero(expired, within=300)


def room_for_one(cloud: Endpoint) -> None:
    """Let AWS have one instance, in the first zone where it is asked for so few."""
    lay(cloud, "RunInstances", at_most=1, times=1 + len(ZONES) + 1)
    lay(cloud, "RunInstances", code="InsufficientInstanceCapacity", times="forever")


def test_a_zone_without_room_is_passed_over(terminal: Victim, cloud: Endpoint) -> None:
    lay(cloud, "RunInstances", code="InsufficientInstanceCapacity", times=2)
    result = terminal.json(*JOB)
    assert (result["outcome"], result["terminated"]) == ("found", 2)
    assert {each["zone"] for each in result["fleet"]} == {ZONES[1]}


def test_a_fleet_that_cannot_be_whole_is_not_kept_in_part(
    terminal: Victim, cloud: Endpoint
) -> None:
    room_for_one(cloud)
    done = terminal.run(*JOB)
    assert done.returncode == 3, done.stderr
    assert "only 1 of 2 instances could be launched" in done.stderr
    assert "--at-least 1 takes what there is" in done.stderr
    assert "1 instances terminated, 0 running" in done.stderr
    assert terminal.live() == []


def test_with_at_least_the_space_is_divided_among_those_that_can_be_had(
    terminal: Victim, cloud: Endpoint
) -> None:
    room_for_one(cloud)
    words = ("--d", "9", "--nonces", "100000", "--n", "2", "--at-least", "1")
    result = terminal.json("start", *words, status=11)
    assert (result["asked"], result["instances"], result["terminated"]) == (2, 1, 1)
    assert (result["outcome"], result["tested"]) == ("exhausted", 100000)


def test_the_next_type_is_taken_where_there_is_no_room_for_the_first(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "RunInstances", code="VcpuLimitExceeded")
    result = terminal.json(*JOB, "--instance-type", "c5.large,t3.micro")
    assert result["terminated"] == 2
    assert {each["type"] for each in result["fleet"]} == {"t3.micro"}


def test_spot_takes_what_there_is_and_the_rest_comes_on_demand(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "CreateFleet", at_most=1)
    lay(cloud, "CreateFleet", code="RequestLimitExceeded")  # the second call, once
    words = ("--instance-type", "c5.large,t3.micro", "--spot-or-on-demand")
    result = terminal.json("start", "--d", "2", "--n", "3", *words)
    assert (result["outcome"], result["terminated"]) == ("found", 3)
    assert [each["spot"] for each in result["fleet"]] == [True, False, False]
    templates = terminal.client("ec2").describe_launch_templates()["LaunchTemplates"]
    assert f"cnd-{result['run']}" not in {t["LaunchTemplateName"] for t in templates}


def test_a_queue_is_removed_also_where_the_launch_template_is_not(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "DeleteLaunchTemplate", code="UnauthorizedOperation", times="forever")
    result = terminal.json(*JOB, "--spot")
    queues = terminal.client("sqs").list_queues().get("QueueUrls", [])
    assert not any(url.endswith(result["run"]) for url in queues)
    forget(terminal, cloud)
    terminal.client("ec2").delete_launch_template(
        LaunchTemplateName=f"cnd-{result['run']}"
    )


def test_spot_alone_is_refused_as_a_whole_where_there_is_too_little(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "CreateFleet", at_most=1)
    done = terminal.run(*JOB, "--spot")
    assert done.returncode == 3
    assert "only 1 of 2 instances could be launched" in done.stderr
    assert terminal.live() == []


def test_a_fleet_request_whose_answer_is_lost_is_not_paid_twice(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "CreateFleet", lost_reply=True)
    result = terminal.json(*JOB, "--spot")
    assert (struck(cloud), result["terminated"]) == (1, 2)


def test_a_group_that_may_not_be_made_leaves_nothing(
    terminal: Victim, cloud: Endpoint
) -> None:
    lay(cloud, "CreateAutoScalingGroup", code="AccessDenied", times="forever")
    done = terminal.run(*JOB, "--hold")
    assert done.returncode == 3, done.stderr
    assert "could not create an Auto Scaling group" in done.stderr
    assert terminal.live() == []


@pytest.mark.slow
def test_a_fleet_whose_orchestrator_died_while_launching_is_searched_to_the_end(
    terminal: Victim, cloud: Endpoint
) -> None:
    """The class of the instance that was never launched goes on on the other one."""
    lay(cloud, "RunInstances", at_most=1, times=1 + len(ZONES) + 1)
    lay(cloud, "RunInstances", delay=60, times="forever")
    words = ("--d", "30", "--nonces", "100000", "--n", "2", "--t", "60")
    process = terminal.spawn("start", *words)
    eventually(lambda: len(terminal.live()) == 1)
    process.kill()
    process.wait(10)
    forget(terminal, cloud)
    result = terminal.json("attach", terminal.runs()[-1].name, status=11)
    assert (result["outcome"], result["tested"]) == ("exhausted", 100000)
    assert (result["terminated"], result["left_running"]) == (1, 0)
