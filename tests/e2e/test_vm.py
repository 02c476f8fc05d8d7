"""Real machines: every instance of the local cloud is a Debian under qemu.

By itself: `pytest -m slow tests/e2e/test_vm.py`.  Eleven minutes without KVM,
two of them for the image, unless CND_LOCAL_IMAGES names a folder that has it already.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnd.errors import UsageError
from cnd.local.files import read_endpoint
from cnd.local.host import vmimage
from cnd.provision import user_data
from cnd.transport import keys
from cnd.transport.keys import KeyPair
from tests.support.terminal import Terminal, clean_environment
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

BOOT = 900  # seconds; enough on a busy machine without KVM
SLOWLY = ("--boot", str(BOOT))
UBUNTU = (
    "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
)
LIFETIME = 180  # seconds; longer than a boot without KVM, if the machine is free


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A user whose local cloud has virtual machines."""
    state = tmp_path_factory.mktemp("vm")
    images = vmimage.place(os.environ.get("CND_LOCAL_IMAGES", ""), state)
    try:
        vmimage.prepare(images, mirror=os.environ.get("CND_LOCAL_MIRROR", ""))
    except UsageError as error:
        pytest.skip(f"{error}: {error.hint}")
    environment = {**clean_environment(state), "CND_LOCAL_IMAGES": str(images)}
    user = Terminal(state, environment, tmp_path_factory.mktemp("user"))
    up = user.run("local", "up", "--hosts", "vm")
    assert up.returncode == 0, up.stderr
    yield user
    user.run("local", "down")


def folder_of(vm: Terminal) -> Path:
    return vm.state / "cnd" / "local"


def described(vm: Terminal, instance: str) -> dict[str, Any]:
    reply = vm.client("ec2").describe_instances(InstanceIds=[instance])
    found = reply["Reservations"][0]["Instances"][0]
    assert isinstance(found, dict)
    return found


def launch(vm: Terminal, count: int, host_key: KeyPair | None = None) -> list[str]:
    """Launch machines as `start` does; return their ids."""
    key = host_key or keys.generate()
    reply = vm.client("ec2").run_instances(
        ImageId=vm.client("ssm").get_parameter(Name=UBUNTU)["Parameter"]["Value"],
        InstanceType="t3.micro",
        MinCount=count,
        MaxCount=count,
        InstanceInitiatedShutdownBehavior="terminate",
        UserData=user_data.user_data(lifetime=LIFETIME, host_key=key),
    )
    return [str(instance["InstanceId"]) for instance in reply["Instances"]]


def is_from_rsyslog(log: str) -> bool:
    """Tell a log that a real system wrote: kernel, systemd, cloud-init and rsyslog."""
    makers = ("kernel: ", "systemd[1]: ", "cloud-init[", 'software="rsyslogd"')
    return all(maker in log for maker in makers)


def test_a_run_of_two_finds_its_nonce_and_pulls_the_logs_that_rsyslog_wrote(
    vm: Terminal,
) -> None:
    words = ("start", "--t", "200", "--d", "4", "--n", "2", "--json", *SLOWLY)
    done = vm.run(*words, timeout=BOOT + 400)

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["outcome"] == "found"
    assert result["terminated"] == 2
    assert result["left_running"] == 0
    logs = vm.state / "cnd" / "runs" / result["run"] / "logs"
    for index in range(2):
        assert is_from_rsyslog((logs / f"Instance{index}.log").read_text())
    assert str(result["nonce"]) in (logs / f"Instance{result['index']}.log").read_text()
    assert not any((folder_of(vm) / "hosts").glob("i-*"))


def test_a_machine_without_orchestrator_ends_on_time_and_shows_the_key_of_its_run(
    vm: Terminal,
) -> None:
    host_key = keys.generate()
    (instance,) = launch(vm, 1, host_key)
    launched = time.monotonic()
    console = folder_of(vm) / "hosts" / instance / "console.log"
    eventually(console.exists, within=BOOT)
    with open(console, errors="replace") as output:  # it stays open: the folder goes
        known_hosts = folder_of(vm) / "known_hosts"
        ends = ("shutting-down", "terminated")
        seen = ""

        def over() -> bool:
            nonlocal seen
            seen = known_hosts.read_text() or seen
            return described(vm, instance)["State"]["Name"] in ends

        eventually(over, within=LIFETIME + BOOT, every=0.5)
        took = time.monotonic() - launched
        text = output.read()

    assert took > LIFETIME
    assert "reboot: Power down" in text
    off = float(
        text.rpartition("reboot: Power down")[0].rpartition("[")[2].split("]")[0]
    )
    assert LIFETIME <= off < LIFETIME + 30
    assert seen.split()[-2:] == host_key.public.split()[:2]
    reason = described(vm, instance)["StateReason"]["Code"]
    assert reason == "Client.InstanceInitiatedShutdown"


def test_an_orphan_sends_its_log_and_powers_its_machine_off(vm: Terminal) -> None:
    before = set(vm.runs())
    process = vm.spawn("start", "--d", "30", "--n", "1", "--t", "45", *SLOWLY)

    def searches() -> bool:
        paths = [run / "events.jsonl" for run in set(vm.runs()) - before]
        return any("worker.progress" in p.read_text() for p in paths if p.exists())

    eventually(searches, within=BOOT, every=0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)
    (run,) = set(vm.runs()) - before

    eventually(lambda: vm.live() == [], within=240, every=2)

    s3 = vm.client("s3")
    bucket = s3.list_buckets()["Buckets"][0]["Name"]
    log = s3.get_object(Bucket=bucket, Key=f"runs/{run.name}/logs/Instance0.log")
    text = log["Body"].read().decode()
    assert "cnd-keeper" in text
    assert is_from_rsyslog(text)


def machines(vm: Terminal) -> int:
    """Return how many machines of this user's cloud there are."""
    folder = str(folder_of(vm) / "hosts").encode()
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            found += words[0] == vmimage.QEMU.encode() and folder in b"".join(words)
    return found


def test_no_machine_outlives_its_instance_or_its_cloud(vm: Terminal) -> None:
    first, _ = launch(vm, 2)
    eventually(lambda: machines(vm) == 2, within=30)

    vm.client("ec2").terminate_instances(InstanceIds=[first])
    eventually(lambda: machines(vm) == 1, within=30)
    assert described(vm, first)["State"]["Name"] == "terminated"

    record = read_endpoint(folder_of(vm))
    assert record is not None
    os.kill(record["pid"], signal.SIGKILL)
    eventually(lambda: machines(vm) == 0, within=30)
