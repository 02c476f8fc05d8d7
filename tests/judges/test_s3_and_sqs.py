"""What CND says to S3 and SQS is right in the judgement of other authors' server."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from cnd import s3logs
from cnd.cloud.connection import Clients
from cnd.local import Endpoint
from cnd.model.plan import Plan
from cnd.on_instance import http_client
from cnd.transport import orphans, s3_protocol
from tests.judges.server import LocalStack
from tests.support.runs import told
from tests.support.terminal import Terminal
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow
BUCKET, RUN, NAME = "judged", "r1", "logs/Instance0.log"
KEY = s3logs.prefix(RUN) + NAME
MOST = 1000  # bytes that a form lets in
AWS = ("--cloud", "aws")


@pytest.fixture
def s3(endpoint: Endpoint, judge: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The client that CND makes, of the server that judges; a bucket is there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", judge.url)
    session = boto3.Session(endpoint.access_key, endpoint.secret_key, None, "us-east-1")
    client = Clients(session, None).get("s3")
    s3logs.ensure_bucket(client, BUCKET, "us-east-1", "")
    client.put_object(Bucket=BUCKET, Key=KEY, Body=b"kept")
    return client


def asked(
    url: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """Return what an anonymous request gets: a status and some text."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def signed(s3: Any, seconds: int = 60) -> str:
    return s3logs.presigned(s3, BUCKET, RUN, NAME, seconds=seconds)


def posted(form: Mapping[str, Any], data: bytes = b"sent", key: str = "") -> int:
    """Put data by a form as an instance does; return the status."""
    body, headers = http_client.form_body(dict(form), data, key)
    return asked(form["url"], "POST", body, **headers)[0]


def form_for(s3: Any, name: str = NAME, seconds: int = 60) -> dict[str, Any]:
    return s3logs.form(s3, BUCKET, RUN, name, seconds=seconds, most=MOST)


def kept(s3: Any, key: str = KEY) -> bytes:
    return bytes(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


# --- what is signed


def test_a_url_gets_its_object(s3: Any) -> None:
    assert asked(signed(s3)) == (200, b"kept")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (NAME, "logs/Instance1.log"),
        (BUCKET, "elsewhere"),
        (r"X-Amz-Expires=\d+", "X-Amz-Expires=86400"),
        (r"X-Amz-Signature=....", "X-Amz-Signature=0000"),
        (r"X-Amz-Date=\d+", "X-Amz-Date=20300101"),
        (r"%2Fus-east-1%2F", "%2Feu-west-2%2F"),
    ],
)
def test_a_url_that_was_changed_gets_nothing(s3: Any, old: str, new: str) -> None:
    url, count = re.subn(old, new, signed(s3), count=1)
    assert count == 1
    assert asked(url)[0] == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "POST"])
def test_a_url_is_for_one_method(s3: Any, method: str) -> None:
    body = b"new" if method in ("PUT", "POST") else None
    assert asked(signed(s3), method, body)[0] in (403, 405, 412)
    assert kept(s3) == b"kept"


def test_a_url_ends_when_it_was_to_end(s3: Any) -> None:
    url = signed(s3, seconds=1)
    eventually(lambda: asked(url)[0] != 200, within=20, every=0.5)
    status, text = asked(url)
    assert (status, b"expired" in text.lower()) == (403, True)


def test_a_form_writes_its_object(s3: Any) -> None:
    assert posted(form_for(s3)) == 204
    assert kept(s3) == b"sent"


def test_a_form_for_a_prefix_writes_what_begins_so(s3: Any) -> None:
    form = form_for(s3, "logs/Instance${filename}")
    assert posted(form, key=f"runs/{RUN}/logs/Instance7.json") == 204
    assert kept(s3, f"runs/{RUN}/logs/Instance7.json") == b"sent"
    assert posted(form, key=f"runs/{RUN}/result.json") == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"key": f"runs/{RUN}/result.json"},
        {"Content-Type": "text/html"},
        {"x-amz-date": "20300101T000000Z"},
    ],
    ids=str,
)
def test_a_form_that_was_changed_writes_nothing(
    s3: Any, changes: dict[str, str]
) -> None:
    form = form_for(s3)
    form["fields"] = {**form["fields"], **changes}
    assert posted(form) == 403
    assert kept(s3) == b"kept"


def test_a_forms_signature_is_the_one_that_minio_makes_of_its_policy(
    s3: Any, endpoint: Endpoint, python: Path
) -> None:
    """LocalStack does not look at it; so MinIO's own signer has to agree."""
    fields = form_for(s3)["fields"]
    code = (
        "import sys; from datetime import datetime;"
        "from minio.signer import post_presign_v4 as sign;"
        "policy, secret, date = sys.stdin.read().split();"
        "when = datetime.strptime(date, '%Y%m%dT%H%M%SZ');"
        "print(sign(policy, secret, when, 'us-east-1'))"
    )
    told = "\n".join([fields["policy"], endpoint.secret_key, fields["x-amz-date"]])
    done = subprocess.run(
        [python, "-c", code], input=told, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == fields["x-amz-signature"], done.stderr


def test_a_form_writes_no_more_than_it_lets_in(s3: Any) -> None:
    assert posted(form_for(s3), bytes(MOST + 1)) == 400
    assert posted(form_for(s3), bytes(MOST)) == 204


def test_a_form_ends_when_it_was_to_end(s3: Any) -> None:
    form = form_for(s3, seconds=1)
    time.sleep(2)
    assert posted(form) == 403


def test_all_that_instances_are_given_holds(s3: Any) -> None:
    """The watchdog's orders, and the user data of instances without SSH."""
    orders = orphans.orders(s3, BUCKET, RUN, seconds=60, shutdown=True)("i-1", "I1")
    for name in ("log_form", "report_form", "result_form"):
        form = orders[name]
        assert isinstance(form, dict)
        assert posted(form) == 204, name
    assert asked(str(orders["result_get"]))[0] == 200
    s3_protocol.send(s3, BUCKET, RUN, "")
    plan = Plan(difficulty=9, instances=2, time_limit=60.0)
    boot = s3_protocol.boot(s3, BUCKET, RUN, plan, polls_per_second=500.0)
    for each in boot["bundles"].values():
        assert asked(each["url"])[0] == 200
    assert asked(boot["word"])[0] == 200
    assert posted(boot["report"], key=boot["prefix"] + "Instance0.json") == 204


# --- whole runs


WAY = {"ssh": ("--ssh-from", "127.0.0.1/32"), "user-data": ("--bootstrap", "user-data")}


@pytest.mark.parametrize("way", WAY)
def test_a_run_finds_its_nonce_and_its_files_are_there(
    customer: Terminal, s3: Any, way: str
) -> None:
    words = ("start", "--d", "3", "--n", "2", "--t", "60", *WAY[way], *AWS)
    result = customer.json(*words)
    assert (result["outcome"], result["left_running"]) == ("found", 0)
    bucket = result["logs"]["s3"].split("/")[2]
    prefix = s3logs.prefix(result["run"])
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    names = {each["Key"].removeprefix(prefix) for each in listed}
    logs = {f"logs/Instance{index}.log" for index in range(2)}
    assert {"events.jsonl", "result.json", *logs} <= names


def test_a_message_on_the_queue_stops_a_run(customer: Terminal) -> None:
    before = set(customer.runs())
    words = ("start", "--d", "30", "--n", "2", "--t", "120", *WAY["ssh"], *AWS)
    run = customer.spawn(*words)
    (folder,) = eventually(lambda: set(customer.runs()) - before)
    eventually(lambda: told(folder, "worker.progress"))
    assert customer.run("stop", *AWS).returncode == 0
    _, err = run.communicate(timeout=60)
    assert run.returncode == 12, err


@pytest.mark.parametrize("way", WAY)
def test_orphans_leave_there_what_tells_how_they_ended(
    customer: Terminal, way: str
) -> None:
    before = set(customer.runs())
    words = ("start", "--d", "30", "--n", "2", "--t", "5", *WAY[way], *AWS)
    run = customer.spawn(*words)
    (folder,) = eventually(lambda: set(customer.runs()) - before)
    eventually(lambda: len(told(folder, "worker.started")) == 2)
    run.kill()
    run.communicate(timeout=20)
    eventually(lambda: not customer.live(), within=120, every=0.5)
    result = customer.json("attach", folder.name, status=10)
    assert [part["ended"] for part in result["coverage"]] == ["timeout"] * 2
    assert all(part["tested"] for part in result["coverage"])
