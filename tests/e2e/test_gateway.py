"""SSH through a jump host: another host of the embedded cloud, with a real sshd."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.terminal import Terminal
from tests.support.waiting import eventually

JOB = ("start", "--d", "2", "--n", "2", "--address", "private")
FROM = ("--ssh-from", "127.0.0.0/8")


@dataclass
class Jump:
    """An instance that is not of CND, and that CND's key opens."""

    terminal: Terminal
    id: str
    where: str  # user@host:port

    @property
    def log(self) -> str:
        tree = self.terminal.state / "cnd" / "local" / "hosts" / self.id
        return (tree / "var/log/syslog").read_text()

    def make_known(self) -> None:
        """Do as somebody who has been there by ssh before."""
        folder = Path(self.terminal.environment["HOME"]) / ".ssh"
        folder.mkdir()
        known = self.terminal.state / "cnd" / "local" / "known_hosts"
        (folder / "known_hosts").write_text(known.read_text())


@pytest.fixture
def jump(terminal: Terminal, tmp_path: Path) -> Iterator[Jump]:
    terminal.environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    terminal.json("start", "--d", "1", "--n", "1")  # imports CND's key
    ec2 = terminal.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    (pair,) = ec2.describe_key_pairs()["KeyPairs"]
    launched = ec2.run_instances(
        ImageId=image, KeyName=pair["KeyName"], MinCount=1, MaxCount=1
    )
    name = launched["Instances"][0]["InstanceId"]

    def description() -> dict[str, object]:
        found = ec2.describe_instances(InstanceIds=[name])
        return dict(found["Reservations"][0]["Instances"][0])

    eventually(lambda: description()["State"] == {"Code": 16, "Name": "running"})
    told = description()
    tags = {tag["Key"]: tag["Value"] for tag in told["Tags"]}  # type: ignore[attr-defined]
    user = next(
        iter(Path(terminal.state / "cnd/local/hosts" / name / "home").iterdir())
    )
    where = f"{user.name}@{told['PrivateIpAddress']}:{tags['cnd:ssh-port']}"
    yield Jump(terminal, name, where)
    ec2.terminate_instances(InstanceIds=[name])


def test_a_run_reaches_its_hosts_through_a_gateway(jump: Jump) -> None:
    jump.make_known()
    result = jump.terminal.json(*JOB, *FROM, "--gateway", jump.where)
    assert (result["outcome"], result["terminated"]) == ("found", 2)
    # One connection to look before the purchase, and one for all hosts.
    assert jump.log.count("Accepted publickey") == 2


def test_a_gateway_whose_key_nobody_knows_is_not_talked_to(jump: Jump) -> None:
    done = jump.terminal.run(*JOB, *FROM, "--gateway", jump.where)
    assert done.returncode == 2, done.stderr
    assert "not found in known_hosts" in done.stderr
    assert "must work without questions" in done.stderr
    assert jump.terminal.live() == []
    assert json.loads(jump.terminal.call("status", "--json").stdout)["instances"] == []


def test_a_gateway_that_is_not_there_is_told_before_anything_is_bought(
    terminal: Terminal,
) -> None:
    where = f"{getpass.getuser()}@127.0.0.1:1"
    done = terminal.run(*JOB, *FROM, "--gateway", where)
    assert done.returncode == 2
    assert f"--gateway {where}: " in done.stderr
    assert "launching" not in done.stderr
