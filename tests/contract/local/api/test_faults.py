"""Faults injected into the local cloud, as botocore and SSH clients meet them."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

from cnd import local
from cnd.errors import UsageError
from tests.support.local_cloud import SECONDS, Host, LocalCloud, running_cloud
from tests.support.processes import alive, children, process_state
from tests.support.waiting import SOON, eventually

ONCE = Config(
    retries={"total_max_attempts": 1},
    s3={"addressing_style": "path"},
    signature_version="v4",
)
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "DescribeInstances": ("ec2", {}),
    "GetCallerIdentity": ("sts", {}),
    "ListQueues": ("sqs", {}),
    "GetParameter": ("ssm", {"Name": "/x"}),
    "ListBuckets": ("s3", {}),
    "PutObject": ("s3", {"Bucket": "b-1", "Key": "k/1", "Body": b"x"}),
    "HeadBucket": ("s3", {"Bucket": "b-1"}),
    "CreateBucket": ("s3", {"Bucket": "b-2"}),
}


@pytest.fixture(autouse=True)
def clean(cloud: LocalCloud) -> Iterator[None]:
    local.clear_faults(cloud.endpoint)  # of tests elsewhere
    yield
    local.clear_faults(cloud.endpoint)


def once(cloud: LocalCloud, service: str) -> Any:
    """Return a client that tries a call only once."""
    return cloud.client(service, ONCE)


def call(client: Any, action: str) -> Any:
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in action)[1:]
    return getattr(client, snake)(**CALLS[action][1])


def lay(cloud: LocalCloud, **fault: object) -> dict[str, Any]:
    return local.lay_fault(cloud.endpoint, fault)


@pytest.mark.parametrize("action", [a for a in CALLS if a != "HeadBucket"])
def test_an_error_has_the_format_of_its_service(cloud: LocalCloud, action: str) -> None:
    lay(cloud, action=action, code="RequestLimitExceeded", times=1)
    client = once(cloud, CALLS[action][0])
    with pytest.raises(ClientError) as error:
        call(client, action)
    assert error.value.response["Error"]["Code"] == "RequestLimitExceeded"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    (entry,) = local.faults_laid(cloud.endpoint)
    assert entry["struck"] == 1


def test_a_head_request_gets_the_status_only(cloud: LocalCloud) -> None:
    lay(cloud, action="HeadBucket", code="AccessDenied")
    with pytest.raises(ClientError) as error:
        call(once(cloud, "s3"), "HeadBucket")
    assert error.value.response["Error"]["Code"] == "403"


def test_a_fault_skips_calls_and_then_happens_as_often_as_set(
    cloud: LocalCloud,
) -> None:
    lay(cloud, action="ListQueues", code="InternalError", skip=1, times=2)
    client, failed = once(cloud, "sqs"), []
    for _ in range(5):
        try:
            call(client, "ListQueues")
            failed.append(False)
        except ClientError:
            failed.append(True)
    assert failed == [False, True, True, False, False]


def test_a_fault_for_ever_ends_when_all_faults_are_removed(cloud: LocalCloud) -> None:
    lay(cloud, action="DescribeInstances", code="Unavailable", times="forever")
    client = once(cloud, "ec2")
    for _ in range(3):
        with pytest.raises(ClientError):
            call(client, "DescribeInstances")
    assert local.clear_faults(cloud.endpoint) == 1
    call(client, "DescribeInstances")


def test_a_service_s_own_exception_is_raised(cloud: LocalCloud) -> None:
    gone = "AWS.SimpleQueueService.NonExistentQueue"
    lay(cloud, action="ReceiveMessage", code=gone)
    sqs = once(cloud, "sqs")
    with pytest.raises(sqs.exceptions.QueueDoesNotExist) as error:
        sqs.receive_message(QueueUrl="/1/q")
    assert error.value.response["Error"]["Code"] == gone


def test_a_connection_survives_an_upload_that_was_refused(cloud: LocalCloud) -> None:
    s3, body = once(cloud, "s3"), b"x" * 1_000_000
    s3.create_bucket(Bucket="survivor")
    lay(cloud, action="PutObject", code="SlowDown")
    with pytest.raises(ClientError, match="SlowDown"):
        s3.put_object(Bucket="survivor", Key="k", Body=body)
    s3.put_object(Bucket="survivor", Key="k", Body=body)
    assert s3.get_object(Bucket="survivor", Key="k")["Body"].read() == body


def test_a_fault_applies_to_a_presigned_upload_too(cloud: LocalCloud) -> None:
    s3 = once(cloud, "s3")
    s3.create_bucket(Bucket="presigned")
    address = s3.generate_presigned_url(
        "put_object", Params={"Bucket": "presigned", "Key": "k"}
    )
    lay(cloud, action="PutObject", http=503)
    upload = urllib.request.Request(address, data=b"x", method="PUT")
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(upload, timeout=SECONDS)
    error.value.close()
    assert error.value.code == 503


def test_a_bucket_may_have_the_name_faults(cloud: LocalCloud) -> None:
    lay(cloud, action="CreateQueue", reset=True)
    s3 = once(cloud, "s3")
    s3.create_bucket(Bucket="faults")
    s3.list_objects(Bucket="faults")
    s3.delete_bucket(Bucket="faults")
    assert len(local.faults_laid(cloud.endpoint)) == 1


def test_a_call_on_a_reset_connection_was_not_executed(cloud: LocalCloud) -> None:
    lay(cloud, action="ec2:DescribeInstances", reset=True)
    with pytest.raises((ConnectionError, HTTPClientError)):
        call(once(cloud, "ec2"), "DescribeInstances")


def test_a_lost_reply_is_of_a_call_that_was_executed(cloud: LocalCloud) -> None:
    cloud.ec2  # noqa: B018  # now the key pair exists
    before = instances(cloud)
    lay(cloud, action="RunInstances", lost_reply=True)
    launch = {"ImageId": cloud.image, "MinCount": 1, "MaxCount": 1}
    with pytest.raises((ConnectionError, HTTPClientError)):
        once(cloud, "ec2").run_instances(InstanceType="c5.large", **launch)
    # Only the instances of this test: others share the cloud, and a host in it.
    found = instances(cloud) - before
    assert len(found) == 1
    cloud.ec2.terminate_instances(InstanceIds=list(found))


def test_a_launch_may_give_fewer_instances_than_requested(cloud: LocalCloud) -> None:
    lay(cloud, action="RunInstances", at_most=2)
    made = cloud.launch(count=5, MinCount=1)
    assert len(made) == 2
    lay(cloud, action="RunInstances", at_most=2, times="forever")
    with pytest.raises(ClientError) as error:
        cloud.launch(count=5)
    assert "InsufficientInstanceCapacity" in str(error.value)
    local.clear_faults(cloud.endpoint)
    cloud.ec2.terminate_instances(InstanceIds=made)


def instances(cloud: LocalCloud) -> set[str]:
    pages = cloud.client("ec2").describe_instances(
        Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    )
    return {i["InstanceId"] for r in pages["Reservations"] for i in r["Instances"]}


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"action": "RunInstance", "code": "X"}, "'RunInstance' is no action"),
        ({"action": "RunInstances"}, "what is to happen"),
        ({"action": "RunInstances", "reset": True, "code": "X"}, "exclude each other"),
        ({"action": "RunInstances", "code": "X", "times": -1}, "times must be"),
        ({"action": "RunInstances", "code": "X", "when": 1}, "no 'when'"),
        ({"host": "i-1", "kind": "freeze"}, "'i-1'"),
        ({"host": "i-1", "kind": "explode"}, "'explode'"),
        ({"host": "i-1", "kind": "never-boots"}, "by its place"),
        ({"host": "0", "kind": "mute", "seconds": 3}, "takes no seconds"),
    ],
)
def test_an_invalid_fault_is_refused(
    cloud: LocalCloud, fault: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        lay(cloud, **fault)


# --- hosts


def banner(host: Host, seconds: float = 1.0) -> bytes | None:
    """Return the first line from the SSH port; None if it is closed."""
    try:
        with socket.create_connection((host.address, host.port), seconds) as link:
            return link.recv(20)
    except TimeoutError:
        return b""
    except OSError:
        return None


def befallen(cloud: LocalCloud, kind: str, **more: object) -> Host:
    lay(cloud, host="0", kind=kind, **more)
    return cloud.host()


def test_a_host_that_never_boots_counts_as_running(cloud: LocalCloud) -> None:
    host = befallen(cloud, "never-boots")
    assert banner(host) is None
    assert host.cloud.state(host.id) == "running"
    other = cloud.host()  # only the first
    assert (eventually(lambda: banner(other)) or b"").startswith(b"SSH-2.0")


def test_a_fault_before_a_launch_counts_and_can_be_removed(
    cloud: LocalCloud,
) -> None:
    lay(cloud, host="1", kind="never-boots")
    assert banner(cloud.host())  # the one before it
    assert [f["struck"] for f in local.faults_laid(cloud.endpoint)] == [0]
    assert banner(cloud.host()) is None
    assert [f["struck"] for f in local.faults_laid(cloud.endpoint)] == [1]

    lay(cloud, host="0", kind="never-boots")
    assert local.clear_faults(cloud.endpoint) == 2
    assert banner(cloud.host())


def test_a_host_that_boots_late_answers_late(cloud: LocalCloud) -> None:
    host = befallen(cloud, "boots-late", seconds=1)
    assert banner(host) is None
    assert eventually(lambda: bool(banner(host)))


def test_a_mute_host_accepts_connections_and_sends_nothing(cloud: LocalCloud) -> None:
    host = befallen(cloud, "mute")
    eventually(lambda: banner(host) is not None)  # it listens soon after it is running
    assert banner(host) == b""


def test_a_host_may_refuse_its_key_at_first(cloud: LocalCloud) -> None:
    host = befallen(cloud, "no-key", seconds=1.5)
    with pytest.raises(paramiko.AuthenticationException):
        host.run("true")
    assert eventually(lambda: "ssh-ed25519" in authorized(host))
    assert host.run("echo in")[1] == "in\n"


def authorized(host: Host) -> str:
    path = host.tree / "home/ubuntu/.ssh/authorized_keys"
    return path.read_text() if path.exists() else ""


def test_the_instance_of_a_killed_host_is_terminated(cloud: LocalCloud) -> None:
    host = cloud.host()
    lay(cloud, host=host.id, kind="kill")
    assert cloud.reaches(host.id, "terminated")
    reason = cloud.describe(host.id)["StateReason"]["Code"]
    assert reason == "Server.InternalError"


def test_a_frozen_host_is_silent_until_it_thaws(cloud: LocalCloud) -> None:
    host = cloud.host()
    lay(cloud, host=host.id, kind="freeze")
    assert eventually(lambda: banner(host, 0.3) == b"")
    lay(cloud, host=host.id, kind="thaw")
    assert host.run("echo warm")[1] == "warm\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_frozen_host_does_not_outlive_a_killed_cloud(tmp_path: Path) -> None:
    with running_cloud(tmp_path) as cloud:
        host = cloud.host()
        _, output, _ = host.run("setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $!")
        child = int(output)
        (fork_server,) = children(cloud.endpoint.pid)
        (frozen,) = children(fork_server)
        lay(cloud, host=host.id, kind="freeze")
        assert eventually(lambda: process_state(child) == "T")
        for pid in (fork_server, cloud.endpoint.pid):
            os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not alive(frozen) and not alive(child))


def test_cut_connections_can_be_made_anew(cloud: LocalCloud) -> None:
    host = cloud.host()
    with host.ssh() as client:
        _, out, _ = client.exec_command("sleep 600", timeout=60)
        began = time.monotonic()
        lay(cloud, host=host.id, kind="cut")
        assert out.channel.recv_exit_status() == -1
        assert time.monotonic() - began < SOON
    assert host.run("echo again")[1] == "again\n"


def test_a_host_without_sshd_goes_on_working(cloud: LocalCloud) -> None:
    host = cloud.host()
    host.run("(while sleep 0.1; do date +%N >beat; done) >/dev/null 2>&1 &")
    beat = host.tree / "home/ubuntu/beat"
    assert eventually(beat.exists)
    lay(cloud, host=host.id, kind="no-sshd")
    assert eventually(lambda: banner(host) is None)
    seen = beat.read_text()
    assert eventually(lambda: beat.read_text() not in ("", seen))
    assert cloud.state(host.id) == "running"


def test_nothing_can_be_written_on_a_full_disk(cloud: LocalCloud) -> None:
    host = cloud.host()
    lay(cloud, host=host.id, kind="disk-full")

    def fails() -> bool:
        return host.run("echo text >file && cat file")[1] == ""

    assert eventually(fails)
    with host.ssh() as client, client.open_sftp() as sftp:
        file = sftp.open("other", "w")
        with pytest.raises(OSError):
            file.write("text")
            file.close()


def test_a_spot_instance_is_interrupted_at_the_set_time(cloud: LocalCloud) -> None:
    host = cloud.host()
    lay(cloud, host=host.id, kind="interrupt", seconds=0.5)
    assert cloud.reaches(host.id, "terminated")
    reason = cloud.describe(host.id)["StateReason"]["Code"]
    assert reason == "Server.SpotInstanceTermination"
