"""Another user of the same machine cannot read or change the local cloud."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.asking import FORGED, LAUNCH, ask
from tests.support.local_cloud import Host, LocalCloud, running_cloud

PYTHON = "/usr/bin/python3"  # one that every user may run
NOBODY = 65534
OPEN = 0o055  # what others need to see what is in a folder
SECRET = "the-private-key-of-the-run"
USER_DATA = f"#!/bin/sh\n# {SECRET}\n"
other_user = pytest.mark.skipif(
    os.geteuid() != 0
    or not Path(PYTHON).exists()
    or not Path("/proc/net/tcp").exists(),
    reason="needs root, to be another user, and Linux",
)

# What every user may see: listening ports on loopback, and all processes' arguments.
SPY = """
import glob, json, sys, urllib.error, urllib.request

def ask(url, method="GET", data=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = urllib.request.Request(url, data, named, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=60) as reply:
            return reply.status, reply.read().decode("latin-1")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("latin-1")
    except Exception as error:
        return 0, repr(error)

def listening():
    for line in open("/proc/net/tcp").readlines()[1:]:
        _, local, _, state, *_ = line.split()
        address, port = local.split(":")
        if state == "0A":
            quads = [str(byte) for byte in bytes.fromhex(address)[::-1]]
            yield ".".join(quads), int(port, 16)

def readable(pattern):
    found = ""
    for path in glob.glob(pattern):
        try:
            found += open(path, "rb").read().decode("latin-1")
        except OSError:
            pass
    return found
"""


def spy(code: str, *words: str) -> Any:
    """Run a program as another user; return what it prints as JSON."""
    done = subprocess.run(
        [PYTHON, "-I", "-c", SPY + code, *words],
        cwd="/",
        env={},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def open_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud whose user protects nothing: open folders, and a umask of 0."""
    folder = tmp_path_factory.mktemp("open")
    closed = {
        parent: stat.S_IMODE(parent.stat().st_mode)
        for parent in (folder, *folder.parents)
        if parent.stat().st_mode & OPEN != OPEN and parent.owner() == folder.owner()
    }
    before = os.umask(0)
    try:
        for parent, mode in closed.items():
            parent.chmod(mode | OPEN)
        with running_cloud(folder / "state") as cloud:
            yield cloud
    finally:
        os.umask(before)
        for parent, mode in closed.items():
            parent.chmod(mode)


@pytest.fixture(scope="module")
def host(open_cloud: LocalCloud) -> Host:
    found = open_cloud.host(UserData=USER_DATA)
    assert found.logs("user script: exit status 0")
    return found


@other_user
def test_it_cannot_call_the_cloud(open_cloud: LocalCloud, host: Host) -> None:
    s3 = open_cloud.client("s3")
    before = open_cloud.ec2.describe_instances()["Reservations"]
    s3.create_bucket(Bucket="logs")
    s3.put_object(Bucket="logs", Key="log", Body=SECRET.encode())
    code = """
url, forged, launch = sys.argv[1:]
print(json.dumps([
    ask(url + "/", "POST", launch.encode(), authorization=forged),
    ask(url + "/", "POST", launch.encode()),
    ask(url + "/logs/log"), ask(url + "/logs?list-type=2"), ask(url + "/logs", "PUT"),
    ask(url + "/faults", "POST", b"{}"), ask(url + "/cnd/status"),
    ask(url + "/cnd/touch"),
]))"""
    found = spy(code, open_cloud.endpoint.url, FORGED, LAUNCH)
    assert {status for status, _ in found} == {403}
    assert SECRET not in repr(found)
    assert open_cloud.ec2.describe_instances()["Reservations"] == before


@other_user
def test_it_cannot_ask_the_metadata_service_of_a_host(host: Host) -> None:
    """By all ports that listen at the host's address, and by the names of EC2."""
    code = """
found = []
for address, port in listening():
    if address == sys.argv[1] and port != int(sys.argv[2]):
        base = f"http://{address}:{port}"
        life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        status, token = ask(base + "/latest/api/token", "PUT", b"", **life)
        shown = {"X-aws-ec2-metadata-token": token}
        found.append((status, ask(base + "/latest/user-data", **shown)))
        found.append((status, ask(base + "/latest/meta-data/", **shown)))
print(json.dumps(found))"""
    found = spy(code, host.address, str(host.port))
    assert found == [[404, [404, ""]]] * 2


@other_user
def test_it_can_read_no_file_and_no_environment(
    open_cloud: LocalCloud, host: Host
) -> None:
    endpoint = open_cloud.endpoint
    code = """
folder = sys.argv[1]
print(json.dumps([
    readable(folder + "/*"), readable(folder + "/hosts/*/*"),
    readable(folder + "/hosts/*/var/log/*"), readable("/proc/[0-9]*/environ"),
    readable("/proc/[0-9]*/cmdline"),
]))"""
    *files, environments, commands = spy(code, str(endpoint.folder))
    assert files == ["", "", ""]
    service = host.run("echo $AWS_EC2_METADATA_SERVICE_ENDPOINT")[1].strip()
    for secret in (endpoint.secret_key, endpoint.token, service, SECRET):
        assert secret not in environments + commands


def test_its_files_can_be_read_by_its_user_only(
    open_cloud: LocalCloud, host: Host
) -> None:
    """Permissions inside a host's tree are a machine's; the tree itself is closed."""
    folder = open_cloud.endpoint.folder
    for path in (folder, *folder.iterdir(), *(folder / "hosts").iterdir()):
        rights = stat.S_IMODE(path.lstat().st_mode)
        assert rights == (0o700 if path.is_dir() else 0o600), path


# --- the service of one host


def metadata(host: Host) -> str:
    return host.run("echo $AWS_EC2_METADATA_SERVICE_ENDPOINT")[1].strip()


def test_a_host_finds_its_own_user_data_by_the_standard_variable(host: Host) -> None:
    base = metadata(host) + "/latest"
    token = ask(base + "/api/token", method="PUT").body.decode()
    assert ask(base + "/user-data").status == 401
    found = ask(base + "/user-data", x_aws_ec2_metadata_token=token)
    assert (found.status, found.body.decode()) == (200, USER_DATA)
    through_a_proxy = ask(base + "/api/token", method="PUT", x_forwarded_for="1.2.3.4")
    assert through_a_proxy.status == 403


def test_botocore_finds_the_service_as_well(host: Host) -> None:
    from botocore.utils import InstanceMetadataRegionFetcher

    service = {"ec2_metadata_service_endpoint": metadata(host)}
    fetcher: Any = InstanceMetadataRegionFetcher(config=service, env={})
    path, token = "latest/meta-data/instance-id", fetcher._fetch_metadata_token()
    assert fetcher._get_request(path, lambda reply: False, token).text == host.id


def test_the_token_of_one_host_is_invalid_at_another(
    open_cloud: LocalCloud, host: Host
) -> None:
    second = open_cloud.host()
    token = ask(metadata(second) + "/latest/api/token", method="PUT").body.decode()
    there = metadata(host) + "/latest/user-data"
    assert ask(there, x_aws_ec2_metadata_token=token).status == 401
    open_cloud.ec2.terminate_instances(InstanceIds=[second.id])
