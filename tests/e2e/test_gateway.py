"""SSH through a jump host: another host of the local cloud, with a real sshd."""

from __future__ import annotations

import getpass
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.terminal import Terminal, clean_environment
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

    @property
    def home(self) -> Path:
        return Path(self.terminal.environment["HOME"])

    def make_known(self) -> None:
        """Know the host key, as a user who has logged in by ssh before."""
        known = self.terminal.state / "cnd" / "local" / "known_hosts"
        (self.home / ".ssh/known_hosts").write_text(known.read_text())

    def configure(self, text: bytes) -> None:
        (self.home / ".ssh/config").write_bytes(text)

    def use(self, way: str) -> None:
        """Have an `ssh` that reads this user's files, or have none.

        It would read those in the home that the password database names.
        """
        folder = self.home / "bin"
        folder.mkdir()
        self.terminal.environment["PATH"] = str(folder)
        if way == "paramiko":
            return
        ssh, files = shutil.which("ssh"), self.home / ".ssh"
        known = f"-oUserKnownHostsFile={files}/known_hosts"
        script = f'#!/bin/sh\nexec {ssh} -F {files}/config {known} "$@"\n'
        (folder / "ssh").write_text(script)
        (folder / "ssh").chmod(0o700)
        self.configure(b"")


@pytest.fixture(scope="module")
def gateway(
    state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The instance that all jumps are made through: its id, and user@host:port."""
    folder = tmp_path_factory.mktemp("gateway")
    user = Terminal(state, clean_environment(state), folder)
    result = user.json("start", "--d", "1", "--n", "1")  # imports CND's key
    ec2 = user.client("ec2")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def described(instance: str) -> dict[str, Any]:
        found = ec2.describe_instances(InstanceIds=[instance])
        return dict(found["Reservations"][0]["Instances"][0])

    pair = described(result["fleet"][0]["id"])["KeyName"]  # there may be others
    launched = ec2.run_instances(ImageId=image, KeyName=pair, MinCount=1, MaxCount=1)
    name = launched["Instances"][0]["InstanceId"]
    eventually(lambda: described(name)["State"] == {"Code": 16, "Name": "running"})
    told = described(name)
    tags = {tag["Key"]: tag["Value"] for tag in told["Tags"]}
    login = next(iter((state / "cnd/local/hosts" / name / "home").iterdir())).name
    yield name, f"{login}@{told['PrivateIpAddress']}:{tags['cnd:ssh-port']}"
    ec2.terminate_instances(InstanceIds=[name])


@pytest.fixture
def jump(gateway: tuple[str, str], terminal: Terminal, tmp_path: Path) -> Jump:
    terminal.environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home/.ssh").mkdir(parents=True)
    return Jump(terminal, *gateway)


ways = pytest.mark.parametrize("way", ["ssh", "paramiko"])


@ways
def test_a_run_reaches_its_hosts_through_a_gateway(jump: Jump, way: str) -> None:
    jump.make_known()
    jump.use(way)
    before = jump.log.count("Accepted publickey")
    result = jump.terminal.json(*JOB, *FROM, "--gateway", jump.where)
    assert (result["outcome"], result["terminated"]) == ("found", 2)
    # One connection to look before the purchase, and one for all hosts.
    assert jump.log.count("Accepted publickey") == before + 2


def test_a_gateway_is_entered_by_all_that_ssh_reads(jump: Jump) -> None:
    """Each line of this was one that another reader of it refused."""
    jump.use("ssh")
    user, _, rest = jump.where.partition("@")
    address, _, port = rest.partition(":")
    known = (jump.terminal.state / "cnd/local/known_hosts").read_text().splitlines()
    key = next(line for line in known if address in line).split(" ", 1)[1]
    listed = f"# caf\xe9\n@cert-authority *.example {key}\n|1|odd|hash {key}\n"
    listed += f"jump-* {key}\n"
    (jump.home / ".ssh/known_hosts").write_bytes(listed.encode("latin-1"))
    (jump.home / ".ssh/more").write_text(f"Port {port}\nProxyJump none\n")
    jump.configure(
        f"""\
# caf\xe9
Match host="jumper" exec "true"
  HostName {address}
Host jumper
  User {user}  # this one
  HostKeyAlias jump-1
  IdentityFile ~/.ssh/no-such-key  # of old
  Include {jump.home}/.ssh/more
  RemoteCommand tmux
  RequestTTY force
""".encode("latin-1")
    )
    result = jump.terminal.json(*JOB, *FROM, "--gateway", "jumper")
    assert (result["outcome"], result["terminated"]) == ("found", 2)


@ways
def test_a_gateway_with_an_unknown_key_is_not_talked_to(jump: Jump, way: str) -> None:
    jump.use(way)
    done = jump.terminal.run(*JOB, *FROM, "--gateway", jump.where)
    assert done.returncode == 2, done.stderr
    told = {
        "ssh": "Host key verification failed.",
        "paramiko": "not found in known_hosts",
    }
    assert told[way] in done.stderr
    assert "must work without questions" in done.stderr
    assert jump.terminal.live() == []
    assert json.loads(jump.terminal.call("status", "--json").stdout)["instances"] == []


def test_files_that_only_ssh_can_read_are_one_line_where_there_is_none(
    terminal: Terminal, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/config").write_bytes("# caf\xe9\nMatch host=x\n".encode("latin-1"))
    terminal.environment |= {"HOME": str(home), "PATH": str(home)}
    done = terminal.run(*JOB, *FROM, "--gateway", "jumper")
    assert done.returncode == 2, done.stderr
    assert "the SSH configuration cannot be read without ssh" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_gateway_that_is_not_there_is_reported_before_anything_is_bought(
    terminal: Terminal,
) -> None:
    where = f"{getpass.getuser()}@127.0.0.1:1"
    done = terminal.run(*JOB, *FROM, "--gateway", where)
    assert done.returncode == 2
    assert f"--gateway {where}: " in done.stderr
    assert "launching" not in done.stderr
