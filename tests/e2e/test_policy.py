"""What whole commands ask of the cloud is what the policy of docs/aws.md grants."""

from __future__ import annotations

from collections import Counter

from tests.support.aws import RIGHTS, optional, policy
from tests.support.terminal import Terminal

AWS = ("--cloud", "aws")
ACCESS = ("--ssh-from", "127.0.0.0/8", *AWS)
START = ("start", "--t", "60", "--d", "2", "--n", "1")
OWN = "my-own-bucket"


def calls(terminal: Terminal) -> Counter[str]:
    """Return how often each call was made so far, as "ec2:RunInstances"."""
    return Counter(terminal.json("local", "status")["calls"])


def test_no_command_makes_a_call_that_the_policy_does_not_grant(
    terminal: Terminal,
) -> None:
    """As on AWS: through the endpoint that the local cloud tells other programs."""
    terminal.environment |= terminal.exports()
    before = calls(terminal)
    terminal.ask("doctor", *ACCESS)
    terminal.ask("plan", "--d", "2", "--n", "1", "--spot", *AWS)
    for market in ((), ("--spot",), ("--hold",)):
        terminal.json(*START, *ACCESS, *market)
    kept = terminal.json(*START, *ACCESS, "--keep")
    terminal.json("start", "--t", "60", "--d", "2", "--on", kept["run"], *AWS)
    terminal.run("stop", *AWS)
    terminal.json("scram", *AWS)
    assert terminal.ask("clean", "--yes", "--bucket-too", *AWS)["left"] == {}
    made = {RIGHTS.get(call, call) for call in calls(terminal) - before}
    granted = {right for statement in policy() for right in statement["Action"]}
    assert made - granted == set()
    assert {
        *("ec2:RunInstances", "ec2:CreateFleet", "ec2:TerminateInstances"),
        *("autoscaling:CreateAutoScalingGroup", "sqs:ReceiveMessage", "s3:PutObject"),
        *("ec2:DeleteKeyPair", "s3:DeleteBucket", "ssm:GetParameter"),
    } <= made


def test_a_bucket_of_the_users_own_needs_the_rights_that_are_said_and_no_others(
    terminal: Terminal,
) -> None:
    terminal.environment |= terminal.exports()
    terminal.client("s3").create_bucket(Bucket=OWN)
    before = calls(terminal)
    terminal.json(*START, *AWS, "--bootstrap", "user-data", "--bucket", OWN)
    made = {RIGHTS.get(call, call) for call in calls(terminal) - before}
    made.discard("s3:")  # a form of the instances, by the right to put
    (statement,) = (each for each in optional() if each["Sid"] == "OwnBucket")
    assert {call for call in made if call.startswith("s3:")} == set(statement["Action"])
