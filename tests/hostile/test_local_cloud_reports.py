"""A failure inside the local cloud does not end it."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnd import local
from tests.hostile.asking import ask
from tests.support.local_cloud import LocalCloud, running_cloud
from tests.support.processes import children
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with running_cloud(tmp_path_factory.mktemp("reports")) as cloud:
        yield cloud


@pytest.fixture(autouse=True)
def alive(cloud: LocalCloud) -> Iterator[None]:
    """The same cloud answers afterwards, without instances."""
    yield
    found = cloud.ec2.describe_instances()["Reservations"]
    ids = [i["InstanceId"] for each in found for i in each["Instances"]]
    if ids:
        cloud.ec2.terminate_instances(InstanceIds=ids)
    eventually(lambda: local.summary(cloud.endpoint)["live"] == 0)
    assert local.summary(cloud.endpoint)["pid"] == cloud.endpoint.pid


def written(cloud: LocalCloud, name: str) -> str:
    path = cloud.endpoint.folder / name
    return path.read_text() if path.is_file() else ""


@pytest.mark.parametrize("name", ["known_hosts.new", "known_hosts", "ssh_config.new"])
def test_a_folder_in_place_of_a_file_delays_the_file_only(
    cloud: LocalCloud, name: str
) -> None:
    place = cloud.endpoint.folder / name
    place.unlink(missing_ok=True)
    place.mkdir()
    (place / "something").touch()
    host = cloud.host()
    assert host.run("echo here")[1] == "here\n"
    (place / "something").unlink()
    place.rmdir()
    eventually(lambda: host.address in written(cloud, "known_hosts"))
    eventually(lambda: host.id in written(cloud, "ssh_config"))


def limit(pid: int, size: int) -> None:
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_a_full_disk_ends_no_host_that_runs(cloud: LocalCloud) -> None:
    """The closest to a full disk without special rights: no file can grow."""
    host = cloud.host()
    server = cloud.endpoint.pid
    (fork_server,) = children(server)[:1]
    limit(server, 0)
    limit(fork_server, 0)
    try:
        # A host that boots now may be lost; the others, and the cloud, are not.
        (victim,) = cloud.launch()
        eventually(lambda: cloud.state(victim) in ("running", "terminated"))
        assert host.run("echo here")[1] == "here\n"
        cloud.ec2.terminate_instances(InstanceIds=[victim])
        assert cloud.reaches(victim, "terminated")
    finally:
        limit(server, resource.RLIM_INFINITY)
        limit(fork_server, resource.RLIM_INFINITY)
    assert cloud.host().run("echo here")[1] == "here\n"


def test_no_reset_makes_the_cloud_forget_its_hosts(cloud: LocalCloud) -> None:
    host = cloud.host()
    assert ask(cloud.endpoint, "/moto-api/reset", method="POST").status == 404
    assert cloud.state(host.id) == "running"


def test_a_failure_is_logged_and_a_full_log_is_no_failure(
    tmp_path: Path,
) -> None:
    code = """
from cnd.local.host.guard import guarded
for number in range(2):
    with guarded(f"number {number}"):
        raise KeyError("id")
print("here")"""

    def run(log: str) -> subprocess.CompletedProcess[str]:
        words = ["sh", "-c", f'exec "$0" -c "$1" 2>{log}', sys.executable, code]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    assert run("/dev/full").stdout == "here\n"
    assert run(str(tmp_path / "log")).stdout == "here\n"
    logged = (tmp_path / "log").read_text()
    assert "number 1: failed" in logged
    assert "KeyError: 'id'" in logged
