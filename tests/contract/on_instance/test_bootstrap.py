"""Instances without SSH: what their user data contains, and what S3 allows them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import zipfile
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import yaml
from botocore.config import Config

from cnd.model.plan import Plan
from cnd.on_instance import agent
from cnd.provision import user_data
from cnd.transport import orphans, s3_protocol
from cnd.transport.shell import LOG_COMMAND

PLAN = Plan(
    difficulty=8,
    instances=1000,
    time_limit=200.0,
    block="b" * 4000,
    bootstrap="user-data",
)
RUN = "20261123-101112-abcd"
# Credentials of a role have a token; 1 to 2 KB are usual.
# https://docs.aws.amazon.com/STS/latest/APIReference/API_GetSessionToken.html
TOKEN = base64.b64encode(bytes(i * i % 251 for i in range(1000))).decode()


def s3() -> Any:
    return boto3.client(
        "s3",
        region_name="eu-west-2",
        aws_access_key_id="AKIA" + "X" * 16,
        aws_secret_access_key="s" * 40,
        aws_session_token=TOKEN,
        config=Config(signature_version="v4", s3={"addressing_style": "virtual"}),
    )


@pytest.fixture(scope="module")
def boot() -> dict[str, Any]:
    bucket = "cnd-logs-123456789012-eu-west-2"
    return s3_protocol.boot(s3(), bucket, RUN, PLAN, polls_per_second=500.0)


def test_the_user_data_of_a_thousand_instances_fits_into_what_ec2_allows(
    boot: dict[str, Any],
) -> None:
    data = user_data.without_ssh(lifetime=PLAN.lifetime, boot=boot, log=LOG_COMMAND)
    assert len(data.encode()) < user_data.MOST_BYTES


def test_the_timer_is_armed_before_anything_is_fetched(boot: dict[str, Any]) -> None:
    data = user_data.without_ssh(lifetime=PLAN.lifetime, boot=boot, log=LOG_COMMAND)
    config = yaml.safe_load(user_data.numbered(data, 128))
    assert list(config) == ["bootcmd", "write_files", "runcmd"]
    assert "cnd-lifetime.timer" in config["bootcmd"][-1]
    assert "bootstrap.py 128 " in config["runcmd"][0]
    assert {file["permissions"] for file in config["write_files"]} == {"0600"}
    (orders, _) = config["write_files"]
    assert json.loads(gzip.decompress(base64.b64decode(orders["content"]))) == boot


def test_no_instance_gets_a_secret_key(boot: dict[str, Any]) -> None:
    assert "s" * 40 not in json.dumps(boot)


def test_urls_hold_for_the_life_of_an_instance_and_name_one_object(
    boot: dict[str, Any],
) -> None:
    urls = {
        "word.json": boot["word"],
        "x86_64.zip": boot["bundles"]["x86_64"]["url"],
        "aarch64.zip": boot["bundles"]["aarch64"]["url"],
        "orphan.json": boot["keeper"]["result_get"],
    }
    for name, url in urls.items():
        parts = urlsplit(url)
        assert parts.path == f"/runs/{RUN}/{name}"
        query = parse_qs(parts.query)
        assert query["X-Amz-Expires"] == [str(int(PLAN.lifetime))]
        assert query["X-Amz-SignedHeaders"] == ["host"]


def test_only_instances_that_may_have_a_gpu_fetch_what_it_needs() -> None:
    for gpu in (False, True):
        orders = s3_protocol.boot(s3(), "b", RUN, PLAN, polls_per_second=500.0, gpu=gpu)
        archive = s3_protocol.bundle("x86_64", gpu=gpu)
        url = urlsplit(orders["bundles"]["x86_64"]["url"])
        name = s3_protocol.bundle_name("x86_64", gpu=gpu)
        assert url.path.rpartition("/")[2] == name
        digest = hashlib.sha256(archive).hexdigest()
        assert orders["bundles"]["x86_64"]["sha256"] == digest
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            assert ("golden.cl" in opened.namelist()) == gpu
    assert s3_protocol.bundle_name("x86_64") != s3_protocol.bundle_name(
        "x86_64", gpu=True
    )


def test_one_form_lets_every_instance_write_its_own_objects_only(
    boot: dict[str, Any],
) -> None:
    fields = boot["report"]["fields"]
    policy = json.loads(base64.b64decode(fields["policy"]))
    assert ["starts-with", "$key", f"runs/{RUN}/logs/Instance"] in policy["conditions"]
    assert ["content-length-range", 0, agent.MOST_REPORT] in policy["conditions"]
    assert {"bucket": "cnd-logs-123456789012-eu-west-2"} in policy["conditions"]
    assert "key" not in fields


def test_an_orphan_can_write_its_result_and_no_more_than_that(
    boot: dict[str, Any],
) -> None:
    fields = boot["keeper"]["result_form"]["fields"]
    policy = json.loads(base64.b64decode(fields["policy"]))
    assert fields["key"] == f"runs/{RUN}/orphan.json"
    assert {"key": fields["key"]} in policy["conditions"]
    most = orphans.MOST_RESULT
    assert ["content-length-range", 0, most] in policy["conditions"]
