"""The user's own programs work with the variables that `local up` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from cnd import local
from tests.hostile.asking import ask
from tests.support.local_cloud import LocalCloud, running_cloud


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    with running_cloud(tmp_path_factory.mktemp("programs")) as cloud:
        yield cloud


@cache
def aws_folder() -> str:
    """Return the path of an AWS command line that works; some paths are shims only."""
    for folder in (*os.environ["PATH"].split(os.pathsep), "/usr/bin"):
        program = shutil.which("aws", path=folder)
        if (
            program
            and not subprocess.run(
                [program, "--version"], capture_output=True, timeout=60
            ).returncode
        ):
            return folder
    return ""


def test_the_aws_command_line(cloud: LocalCloud, tmp_path: Path) -> None:
    """A message that it sends is in `tests/contract/local/api/test_services.py`."""
    if not (folder := aws_folder()):
        pytest.skip("needs the AWS CLI")
    exports = "\n".join(local.exports(cloud.endpoint))
    path = f"{folder}:/usr/bin:/bin"

    def aws(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", f"{exports}\naws {command}"],
            env={"PATH": path, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    (tmp_path / "big").write_bytes(b"0123456789abcdef" * (1 << 19))  # 8 MiB: in parts
    cloud.client("s3").create_bucket(Bucket="cli")
    cloud.client("s3").put_object(Bucket="cli", Key="a b+c", Body=b"shared")
    commands = [
        "s3 cp big s3://cli/big",
        "sts get-caller-identity --query Account --output text",
        "ec2 describe-instances --output text",
        "s3 presign 's3://cli/a b+c'",
    ]
    with ThreadPoolExecutor(2) as pool:
        _, account, _, url = pool.map(aws, commands)
    assert account.isdecimal()
    size = cloud.client("s3").head_object(Bucket="cli", Key="big")["ContentLength"]
    assert size == 8 << 20
    if "X-Amz-Signature" in url:  # version 1 signs in the old way
        with urllib.request.urlopen(url, timeout=60) as reply:
            assert reply.read() == b"shared"


def test_boto3_by_the_exported_variables_alone(
    cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in local.environment(cloud.endpoint).items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    s3, name = session.client("s3"), "strange/ä +%20//../~(*)'!"
    s3.create_bucket(Bucket="boto")
    metadata = {"plain": "two  spaces", "under_score": "x"}
    s3.put_object(Bucket="boto", Key=name, Body=b"x", Metadata=metadata)
    (listed,) = s3.list_objects_v2(Bucket="boto", Prefix="strange/ä +")["Contents"]
    assert listed["Key"] == name
    s3.copy_object(
        Bucket="boto", Key="copy", CopySource={"Bucket": "boto", "Key": name}
    )
    assert s3.get_object(Bucket="boto", Key="copy")["Body"].read() == b"x"
    with (tmp_path / "large").open("wb") as large:
        large.truncate(20 << 20)
    s3.upload_file(str(tmp_path / "large"), "boto", "large")  # in parts
    assert s3.head_object(Bucket="boto", Key="large")["ContentLength"] == 20 << 20
    for region in ("us-east-1", "eu-west-2"):
        ec2 = session.client("ec2", region_name=region)
        assert ec2.describe_availability_zones()["AvailabilityZones"]
    queue = session.client("sqs").create_queue(QueueName="boto")["QueueUrl"]
    entries: Any = [{"Id": str(i), "MessageBody": "ü" * 1000} for i in range(10)]
    sent = session.client("sqs").send_message_batch(QueueUrl=queue, Entries=entries)
    assert len(sent["Successful"]) == 10


def test_an_upload_in_chunks_without_a_hash_of_the_whole(cloud: LocalCloud) -> None:
    """As boto3 does over TLS: the checksum comes last, in a trailer."""
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="chunks")

    endpoint = cloud.endpoint
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    told = {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Decoded-Content-Length": "5",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
    }
    request = AWSRequest("PUT", f"{endpoint.url}/chunks/k", headers=told, data=body)
    request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    keys = ReadOnlyCredentials(endpoint.access_key, endpoint.secret_key, None)
    S3SigV4Auth(keys, "s3", endpoint.region).add_auth(request)
    kept = {name.replace("-", "_"): value for name, value in request.headers.items()}
    answer = ask(f"{endpoint.url}/chunks/k", method="PUT", body=body, **kept)
    assert answer.status == 200, answer.body
    assert s3.get_object(Bucket="chunks", Key="k")["Body"].read() == b"hello"


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs ssh")
def test_openssh_by_the_file_that_the_cloud_writes(cloud: LocalCloud) -> None:
    host = cloud.host()
    config = str(cloud.endpoint.folder / "ssh_config")
    words = ["-F", config, "-i", str(cloud.key), "-o", "BatchMode=yes"]
    for name in (host.address, host.id):
        done = subprocess.run(
            ["ssh", *words, name, "hostname"], capture_output=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"ip-127-")
    cloud.ec2.terminate_instances(InstanceIds=[host.id])
