"""Only programs of its user may call the local cloud, and no web page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cnd.local import Endpoint, faults_laid, files, summary
from tests.fault.truth import Victim
from tests.hostile.asking import FORGED, FORM, LAUNCH, ask

CORS = "access-control-"
FAULT = json.dumps({"action": "RunInstances", "times": "forever"})


@pytest.fixture(autouse=True)
def untouched(terminal: Victim, cloud: Endpoint) -> Iterator[None]:
    """No refused request has an effect: no call, no fault, and the cloud lives."""
    before = summary(cloud)["calls"]
    yield
    found = summary(cloud)
    assert found["calls"] == before
    assert found["live"] == 0
    assert faults_laid(cloud) == []
    assert found["pid"] == cloud.pid


@pytest.mark.parametrize("forged", ["", FORGED, "AWS AKIAX:c2ln", "Bearer x", "x" * 99])
def test_without_the_key_no_instance_is_launched(cloud: Endpoint, forged: str) -> None:
    signed = {"authorization": forged} if forged else {}
    answer = ask(cloud, method="POST", body=LAUNCH, content_type=FORM, **signed)
    assert answer.status == 403
    assert b"<Code>" in answer.body


@pytest.mark.parametrize(
    ("service", "call", "code"),
    [
        ("ec2", "describe_instances", "InvalidClientTokenId"),
        ("sqs", "list_queues", "InvalidClientTokenId"),
        ("ssm", "describe_parameters", "InvalidClientTokenId"),
        ("sts", "get_caller_identity", "InvalidClientTokenId"),
        ("s3", "list_buckets", "InvalidAccessKeyId"),
    ],
)
def test_a_wrong_key_and_a_wrong_secret_get_the_errors_of_the_service(
    cloud: Endpoint, service: str, call: str, code: str
) -> None:
    def error(access: str, secret: str) -> Any:
        client = boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=cloud.url,
            region_name=cloud.region,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
        )
        with pytest.raises(ClientError) as told:
            getattr(client, call)()
        return told.value.response

    assert error("AKIAFORGED", cloud.secret_key)["Error"]["Code"] == code
    wrong = error(cloud.access_key, "another")
    assert wrong["Error"]["Code"] == "SignatureDoesNotMatch"
    assert wrong["ResponseMetadata"]["HTTPStatusCode"] == 403


@pytest.mark.parametrize(
    "header",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1"},
        {"host": "127.0.0.1.evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/checkip", "/cnd/status", "/faults"])
def test_no_page_is_answered_whatever_it_knows(
    cloud: Endpoint, header: dict[str, str], path: str
) -> None:
    """Even with the token, as a page cannot hide its origin."""
    answer = ask(cloud, path, x_cnd_token=cloud.token, **header)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith(CORS)]


def test_another_name_with_the_right_port_is_refused(cloud: Endpoint) -> None:
    port = cloud.url.rpartition(":")[2]
    assert ask(cloud, "/checkip", host=f"evil.example:{port}").status == 403
    assert ask(cloud, "/checkip", host=f"localhost:{port}").status == 200


def test_no_preflight_is_allowed(cloud: Endpoint) -> None:
    answer = ask(cloud, method="OPTIONS", access_control_request_method="POST")
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith(CORS)]


@pytest.mark.parametrize("token", ["", "guessed"])
def test_faults_and_status_need_the_token(cloud: Endpoint, token: str) -> None:
    shown = {"x_cnd_token": token} if token else {}
    laid = ask(cloud, "/faults", method="POST", body=FAULT, **shown)
    assert laid.status == 403
    for path in ("/cnd/status", "/cnd/touch", "/faults"):
        answer = ask(cloud, path, **shown)
        assert answer.status == 403
        assert b"calls" not in answer.body


@pytest.mark.parametrize("body", [60_000 * b"[", b"\xff\xfe", b"[]", b""])
def test_a_fault_that_is_no_object_is_refused(cloud: Endpoint, body: bytes) -> None:
    told = ask(cloud, "/faults", method="POST", body=body, x_cnd_token=cloud.token)
    assert told.status == 400


@pytest.mark.parametrize("path", ["/moto-api/reset", "/moto-api/data.json"])
def test_the_interface_that_empties_moto_is_closed(
    terminal: Victim, cloud: Endpoint, path: str
) -> None:
    assert ask(cloud, path, method="POST").status == 404
    assert ask(cloud, path, x_cnd_token=cloud.token).status == 404


def test_the_metadata_that_moto_invents_is_closed(cloud: Endpoint) -> None:
    assert ask(cloud, "/latest/meta-data/iam/security-credentials/").status == 403
    assert ask(cloud, "/latest/api/token", method="PUT").status == 403


def test_an_impostor_at_the_port_of_a_dead_cloud_gets_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock shows whether a cloud lives; another user may have the port by now."""
    from cnd import local

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = files.made_folder({"XDG_STATE_HOME": str(tmp_path)})
    record = {"url": "http://127.0.0.1:9", "region": "us-east-1", "pid": 1}
    keys = {"access_key": "a", "secret_key": "s", "token": "t"}
    files.write_endpoint(folder, {**record, **keys})
    assert local.status() is None
