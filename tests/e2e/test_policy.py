"""What whole commands ask of the cloud is what the policy of docs/aws.md grants."""

from __future__ import annotations

from collections import Counter

from tests.support.aws import RIGHTS, policy
from tests.support.terminal import Terminal

START = ("start", "--t", "60", "--d", "2", "--n", "1", "--ssh-from", "127.0.0.0/8")


def calls(terminal: Terminal) -> Counter[str]:
    """Return how often each call was made so far, as "ec2:RunInstances"."""
    return Counter(terminal.json("local", "status")["calls"])


def test_no_command_makes_a_call_that_the_policy_does_not_grant(
    terminal: Terminal,
) -> None:
    """As on AWS: through the endpoint that the local cloud tells other programs."""
    terminal.environment |= terminal.exports()
    before = calls(terminal)
    terminal.ask("doctor", "--ssh-from", "127.0.0.0/8")
    terminal.ask("plan", "--d", "2", "--n", "1", "--spot")
    for market in ((), ("--spot",), ("--hold",)):
        terminal.json(*START, *market)
    kept = terminal.json(*START, "--keep")
    terminal.json("start", "--t", "60", "--d", "2", "--on", kept["run"])
    terminal.run("stop")
    terminal.json("scram")
    assert terminal.ask("clean", "--yes")["left"] == {}
    made = {RIGHTS.get(call, call) for call in calls(terminal) - before}
    granted = {right for statement in policy() for right in statement["Action"]}
    assert made - granted == set()
    assert {
        *("ec2:RunInstances", "ec2:CreateFleet", "ec2:TerminateInstances"),
        *("autoscaling:CreateAutoScalingGroup", "sqs:ReceiveMessage", "s3:PutObject"),
        *("ec2:DeleteKeyPair", "s3:DeleteBucket", "ssm:GetParameter"),
    } <= made
