"""Before the first run and after the last one: doctor and clean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import a_state
from tests.support.terminal import Terminal, clean_environment

AS_ON_AWS = ("--ssh-from", "127.0.0.0/8", "--cloud", "aws")


@pytest.fixture
def user(
    terminal: Terminal, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal]:
    """A user whose cloud no other test has used."""
    with a_state(tmp_path_factory, "doctor") as state:
        yield Terminal(state, clean_environment(state), terminal.folder)


def test_a_fit_account_is_reported_line_by_line(user: Terminal) -> None:
    user.exports()
    done = user.call("doctor", "--n", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    told = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert told.pop("quota") == "warning"
    assert told.pop("data")  # it ages
    assert set(told.values()) == {"ok"}, done.stdout


def test_without_credentials_the_local_cloud_is_brought_up_and_examined(
    user: Terminal,
) -> None:
    done = user.run("doctor", "--n", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no AWS credentials: this is the local cloud" in done.stderr
    assert done.stdout.startswith("ok ")
    again = user.call("doctor", "--cloud", "local")
    assert (again.returncode, again.stderr.count("\n")) == (0, 1)
    refused = user.call("doctor", "--cloud", "aws")
    assert refused.returncode == 2


def test_an_unfit_one_is_status_3_with_the_ways_out(terminal: Terminal) -> None:
    terminal.exports()
    found = terminal.ask("doctor", "--instance-type", "t9.giant", status=3)
    assert found["healthy"] is False
    faults = {c["name"]: c for c in found["checks"] if c["status"] == "fault"}
    assert faults["machine"]["way_out"].startswith("check --instance-type")


def test_a_fault_is_noticed_before_anything_is_bought(terminal: Terminal) -> None:
    """As on AWS: through the endpoint that the local cloud tells other programs."""
    terminal.environment |= terminal.exports()
    words = ("start", "--d", "2", "--subnet", "subnet-0123", "--cloud", "aws")
    before = terminal.runs()
    done = terminal.run(*words)
    assert done.returncode == 3
    assert "cnd: network: could not look up the subnets" in done.stderr
    assert terminal.live() == []
    assert terminal.runs() == before


def test_a_budget_is_held_against_the_worst_case(terminal: Terminal) -> None:
    """620 s of a t3.micro at full load cost some two cents."""
    terminal.environment |= terminal.exports()
    words = ("--t", "200", "--d", "2", "--n", "4", *AS_ON_AWS)
    planned = terminal.ask("plan", *words)
    worst = planned["usd"]["worst_case"]
    assert "table of" in planned["usd"]["source"]
    refused = terminal.run("start", *words, "--budget", f"{worst * 0.99}")
    assert refused.returncode == 2
    assert "exceeds the budget" in refused.stderr
    assert terminal.live() == []
    result = terminal.json("start", *words, "--budget", f"{worst * 1.01}")
    hourly = planned["plan"]["usd_per_hour"]
    assert abs(result["usd"] - 4 * 60 * hourly / 3600) < 1e-9
    assert result["usd"] < worst


def test_a_run_leaves_for_the_next_one_what_clean_removes(terminal: Terminal) -> None:
    terminal.json("start", "--t", "60", "--d", "2", "--n", "1")
    listed = terminal.ask("clean")
    kinds = {title.rsplit(" ", 1)[0] for title in listed["found"]}
    assert {"key pair", "security group", "content of bucket"} <= kinds
    assert listed["removed"] == []
    assert terminal.ask("clean", "--yes")["removed"] == listed["found"]
    assert terminal.call("clean").stdout == "there is nothing of CND\n"
    told = terminal.ask("clean", "--yes", "--bucket-too")
    assert [title.partition(" ")[0] for title in told["removed"]] == ["bucket"]
    terminal.json("start", "--t", "60", "--d", "2", "--n", "1")


def test_what_clean_may_not_look_at_is_said_and_the_rest_goes_on(
    terminal: Terminal,
) -> None:
    terminal.json("start", "--t", "60", "--d", "2", "--n", "1")
    there = terminal.ask("clean")["found"]
    fault = ("local", "fault", "DescribeKeyPairs", "--code", "UnauthorizedOperation")
    assert terminal.run(*fault).returncode == 0
    told = terminal.ask("clean", "--yes", status=3)
    (unseen,) = told["unseen"]
    assert "could not list the key pairs" in unseen
    assert {"security group", "content of bucket"} <= {
        t.rsplit(" ", 1)[0] for t in there
    }
    assert told["removed"] == [t for t in there if not t.startswith("key pair ")]
    assert terminal.ask("clean", "--yes")["unseen"] == []


def test_clean_waits_for_the_instances_to_be_gone(terminal: Terminal) -> None:
    terminal.json("start", "--t", "60", "--d", "2", "--n", "1", "--keep")
    done = terminal.call("clean", "--yes")
    assert done.returncode == 2
    assert "1 instances of CND are there" in done.stderr
    assert terminal.json("scram")["terminated"]


def test_a_run_goes_into_the_subnet_that_was_chosen(terminal: Terminal) -> None:
    """With a group of its own, since the subnet's network may be another one."""
    ec2 = terminal.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][-1]
    words = ("--subnet", subnet["SubnetId"], "--ssh-from", "127.0.0.0/8")
    result = terminal.json("start", "--d", "2", "--n", "2", *words, "--keep")
    assert result["outcome"] == "found"
    reply = ec2.describe_instances(InstanceIds=result["receipt"]["left_running"])
    launched = [i for r in reply["Reservations"] for i in r["Instances"]]
    assert {i["SubnetId"] for i in launched} == {subnet["SubnetId"]}
    groups = {g["GroupName"] for i in launched for g in i["SecurityGroups"]}
    assert groups == {f"cnd-ssh-{subnet['VpcId']}"}
