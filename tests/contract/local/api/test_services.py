"""SQS, S3 and the AWS command line against the local cloud."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request

import pytest
from botocore.config import Config

from cnd import local
from tests.support.local_cloud import LocalCloud


def test_a_waiting_reader_gets_a_message_at_once(cloud: LocalCloud) -> None:
    sqs = cloud.client("sqs")
    url = sqs.create_queue(QueueName="wait")["QueueUrl"]
    sent = []

    def send() -> None:
        sent.append(time.monotonic())
        sqs.send_message(QueueUrl=url, MessageBody="stop")

    timer = threading.Timer(0.3, send)
    timer.start()
    reply = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)
    received = time.monotonic()
    timer.join()

    assert [message["Body"] for message in reply["Messages"]] == ["stop"]
    assert received - sent[0] < 10
    sqs.delete_queue(QueueUrl=url)


def test_a_bucket_can_be_closed_and_expire(cloud: LocalCloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="logs")
    blocked = {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    rule = {
        "ID": "expire",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "Expiration": {"Days": 30},
    }

    s3.put_public_access_block(Bucket="logs", PublicAccessBlockConfiguration=blocked)
    s3.put_bucket_lifecycle_configuration(
        Bucket="logs", LifecycleConfiguration={"Rules": [rule]}
    )

    block = s3.get_public_access_block(Bucket="logs")
    assert block["PublicAccessBlockConfiguration"] == blocked
    (kept,) = s3.get_bucket_lifecycle_configuration(Bucket="logs")["Rules"]
    assert kept["Expiration"] == {"Days": 30}


def test_presigned_urls_put_and_get(cloud: LocalCloud) -> None:
    s3 = cloud.client("s3", Config(signature_version="s3v4"))
    s3.create_bucket(Bucket="presigned")
    target = {"Bucket": "presigned", "Key": "a b/c.log"}
    put = urllib.request.Request(
        s3.generate_presigned_url("put_object", Params=target),
        data=b"hello",
        method="PUT",
        headers={"Content-Type": "application/octet-stream"},
    )
    urllib.request.urlopen(put, timeout=60).close()

    url = s3.generate_presigned_url("get_object", Params=target)
    with urllib.request.urlopen(url, timeout=60) as reply:
        assert reply.read() == b"hello"


def test_sts_knows_the_caller(cloud: LocalCloud) -> None:
    identity = cloud.client("sts").get_caller_identity()

    assert identity["Account"].isdigit()


@pytest.mark.skipif(not shutil.which("aws"), reason="needs the AWS CLI")
def test_the_aws_program_needs_only_the_exported_variables(cloud: LocalCloud) -> None:
    exports = "\n".join(local.exports(cloud.endpoint))
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}

    def aws(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", f"{exports}\naws {command}"],
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    host = cloud.host()
    url = cloud.client("sqs").create_queue(QueueName="cli")["QueueUrl"]
    cloud.client("s3").create_bucket(Bucket="cli-bucket")

    described = json.loads(
        aws(f"ec2 describe-instances --instance-ids {host.id} --output json")
    )
    sent = aws(f"sqs send-message --queue-url {url} --message-body stop")
    assert "MessageId" in sent

    (instance,) = described["Reservations"][0]["Instances"]
    assert instance["PublicIpAddress"] == host.address
    assert "cli-bucket" in aws("s3 ls")
    received = cloud.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=5)
    assert received["Messages"][0]["Body"] == "stop"
    cloud.ec2.terminate_instances(InstanceIds=[host.id])
