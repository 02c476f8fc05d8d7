"""A fleet that an Auto Scaling group holds at its size."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from tests.support.runs import HOPELESS, LONG_NONCES, SLOWLY, Run, searching
from tests.support.terminal import Terminal
from tests.support.waiting import eventually

pytestmark = pytest.mark.paced


def groups(terminal: Terminal, run: str) -> list[dict[str, Any]]:
    """Return the groups of a run: other tests may have left theirs."""
    names = [f"cnd-{run}"]
    found = terminal.client("autoscaling").describe_auto_scaling_groups(
        AutoScalingGroupNames=names
    )
    return list(found["AutoScalingGroups"])


def test_a_lost_instances_class_is_finished_by_the_one_that_replaces_it(
    terminal: Terminal,
) -> None:
    words = ("--d", "30", "--nonces", str(LONG_NONCES), "--n", "2", "--hold", *SLOWLY)
    run = Run(terminal, "start", *words)
    run.searching(2)
    victim = run.told("instance.launched")[0]["host"]
    terminal.client("ec2").terminate_instances(InstanceIds=[victim])
    code, result = run.result()
    assert (code, result["outcome"]) == (11, "exhausted")
    assert [each["index"] for each in result["fleet"]] == [0, 1, 2]
    (handed,) = run.told("class.handed_over")
    assert handed["host"] == result["fleet"][2]["id"]
    assert (result["terminated"], result["left_running"]) == (3, 0)
    assert terminal.live() == []
    assert groups(terminal, result["run"]) == []
    templates = terminal.client("ec2").describe_launch_templates()["LaunchTemplates"]
    assert f"cnd-{result['run']}" not in {t["LaunchTemplateName"] for t in templates}


def test_scram_ends_the_group_before_its_instances(terminal: Terminal) -> None:
    process, folder = searching(terminal, *HOPELESS, "--n", "2", "--hold", "--json")
    process.kill()
    process.wait(60)
    done = terminal.run("scram")
    assert done.stdout.rstrip().endswith("0 instances running"), done.stderr
    assert groups(terminal, folder.name) == []
    assert terminal.live() == []


def test_a_group_without_an_orchestrator_is_emptied_by_the_cloud(
    terminal: Terminal,
) -> None:
    process, folder = searching(terminal, *HOPELESS, "--n", "1", "--hold", "--json")
    process.kill()
    process.wait(60)
    client = terminal.client("autoscaling")
    (group,) = groups(terminal, folder.name)
    name = group["AutoScalingGroupName"]
    actions = client.describe_scheduled_actions(AutoScalingGroupName=name)
    (action,) = actions["ScheduledUpdateGroupActions"]
    assert (action["MaxSize"], action["DesiredCapacity"]) == (0, 0)
    client.put_scheduled_update_group_action(  # the same, now
        AutoScalingGroupName=name,
        ScheduledActionName=action["ScheduledActionName"],
        StartTime=dt.datetime.now(dt.timezone.utc),
        **{key: action[key] for key in ("MinSize", "MaxSize", "DesiredCapacity")},
    )
    eventually(lambda: terminal.live() == [])
