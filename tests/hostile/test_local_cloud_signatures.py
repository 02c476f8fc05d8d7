"""A signature allows only what was signed: URLs, forms, bodies."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from cnd.local import Endpoint
from tests.fault.truth import Victim
from tests.hostile.asking import Answer, ask, multipart
from tests.support import aws

BUCKET = "signed"
SECRET = b"what no other user may read"


@pytest.fixture
def s3(terminal: Victim, cloud: Endpoint) -> Iterator[Any]:
    """A client of the user, whose bucket holds a secret and an object for others."""
    client = aws.client(cloud, "s3", config=Config(signature_version="s3v4"))
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="secret", Body=SECRET)
    client.put_object(Bucket=BUCKET, Key="a b/+ü", Body=b"shared")
    yield client
    for found in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    client.delete_bucket(Bucket=BUCKET)


def url(s3: Any, method: str, key: str = "a b/+ü", **more: Any) -> str:
    what = {"Bucket": BUCKET, "Key": key}
    return str(s3.generate_presigned_url(f"{method}_object", Params=what, **more))


def sign(signer: Any, request: AWSRequest, when: datetime) -> None:
    """Do what botocore's signers do, at another time than now."""
    request.context["timestamp"] = when.strftime("%Y%m%dT%H%M%SZ")
    signer._modify_request_before_signing(request)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signer._inject_signature_to_request(request, signer.signature(text, request))


def stored(s3: Any) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket=BUCKET)["Contents"]
    return {
        found["Key"]: s3.get_object(Bucket=BUCKET, Key=found["Key"])["Body"].read()
        for found in listed
    }


# --- pre-signed URLs


def test_a_url_does_what_it_was_signed_for(s3: Any) -> None:
    assert ask(url(s3, "get")).body == b"shared"
    assert ask(url(s3, "put", "new"), method="PUT", body=b"put").status == 200
    assert stored(s3)["new"] == b"put"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/a%20b/%2B%C3%BC?", "/secret?"),
        ("X-Amz-Expires=3600", "X-Amz-Expires=86400"),
        ("X-Amz-Signature=", "X-Amz-Signature=0"),
        ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=host%3Brange"),
        ("%2Fs3%2F", "%2Fec2%2F"),
        ("%2Fus-east-1%2F", "%2Feu-west-2%2F"),
        ("X-Amz-Algorithm", "acl=&X-Amz-Algorithm"),
        ("X-Amz-Expires", "X-Amz-Expires=9&X-Amz-Expires"),
        ("X-Amz-Date=20", "X-Amz-Date=21"),
    ],
)
def test_a_url_that_was_changed_is_refused(s3: Any, old: str, new: str) -> None:
    signed = url(s3, "get")
    assert old in signed
    refused = ask(signed.replace(old, new))
    assert refused.status == 403
    assert SECRET not in refused.body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "HEAD"])
def test_a_url_holds_for_its_own_method_only(s3: Any, method: str) -> None:
    before = stored(s3)
    assert ask(url(s3, "get"), method=method, body=b"").status == 403
    assert stored(s3) == before


def signed_at(cloud: Endpoint, when: datetime, *, seconds: int) -> str:
    """Return a pre-signed GET of the secret as it was made at that time."""

    request = AWSRequest("GET", f"{cloud.url}/{BUCKET}/secret")
    keys = ReadOnlyCredentials(cloud.access_key, cloud.secret_key, None)
    sign(S3SigV4QueryAuth(keys, "s3", cloud.region, expires=seconds), request, when)
    return str(request.url)


@pytest.mark.parametrize(
    ("ago", "seconds", "status"),
    [(0, 60, 200), (59, 80, 200), (61, 60, 403), (-1000, 3600, 403), (9, 604801, 403)],
)
def test_a_url_expires(
    s3: Any, cloud: Endpoint, ago: int, seconds: int, status: int
) -> None:
    when = datetime.now(timezone.utc) - timedelta(seconds=ago)
    answer = ask(signed_at(cloud, when, seconds=seconds))
    assert answer.status == status
    assert (answer.body == SECRET) == (status == 200)


def test_a_url_to_write_reads_nothing_by_a_header_that_is_not_signed(s3: Any) -> None:
    """S3 would copy the object in this header; an instance may write, but not read."""
    source = f"/{BUCKET}/secret"
    answer = ask(url(s3, "put", "copy"), method="PUT", x_amz_copy_source=source)
    assert answer.status == 403
    assert "copy" not in stored(s3)


def test_a_signature_does_not_hold_longer_in_another_place(
    s3: Any, cloud: Endpoint
) -> None:
    """The signature of an expired URL, moved to a header."""
    when = datetime.now(timezone.utc) - timedelta(seconds=120)
    address, _, signature = signed_at(cloud, when, seconds=60).rpartition("&")
    stamp = when.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{cloud.access_key}/{stamp[:8]}/{cloud.region}/s3/aws4_request"
    claim = f"SignedHeaders=host, Signature={signature.partition('=')[2]}"
    answer = ask(
        address,
        authorization=f"AWS4-HMAC-SHA256 Credential={scope}, {claim}",
        x_amz_date=stamp,
        x_amz_content_sha256="UNSIGNED-PAYLOAD",
    )
    assert answer.status == 403


def test_a_url_of_the_old_signature_is_refused_with_a_hint(
    s3: Any, cloud: Endpoint
) -> None:
    old = aws.client(cloud, "s3", config=Config(signature_version="s3"))
    refused = ask(url(old, "get"))
    assert refused.status == 403
    assert b"s3v4" in refused.body


def test_an_instance_cannot_turn_its_url_into_a_call_of_another_service(
    s3: Any,
) -> None:
    """Without Authorization, moto guesses the service from the body."""
    body = "Action=AssumeRoleWithSAML&Version=2011-06-15"
    form = "application/x-www-form-urlencoded"
    signed = url(s3, "put", "new")
    answer = ask(signed, method="PUT", body=body, content_type=form)
    assert b"Credentials" not in answer.body


# --- bodies


def signed_put(cloud: Endpoint, body: bytes, *, ago: int = 0) -> dict[str, str]:
    """Return the headers of a PUT of `body` that was signed some seconds ago."""
    when = datetime.now(timezone.utc) - timedelta(seconds=ago)

    request = AWSRequest("PUT", f"{cloud.url}/{BUCKET}/body", data=body)
    keys = ReadOnlyCredentials(cloud.access_key, cloud.secret_key, None)
    sign(S3SigV4Auth(keys, "s3", cloud.region), request, when)
    return {name.replace("-", "_"): value for name, value in request.headers.items()}


def test_a_body_is_the_one_that_was_signed(s3: Any, cloud: Endpoint) -> None:
    target, headers = f"{cloud.url}/{BUCKET}/body", signed_put(cloud, b"mine")
    assert ask(target, method="PUT", body=b"evil", **headers).status == 403
    assert "body" not in stored(s3)
    assert ask(target, method="PUT", body=b"mine", **headers).status == 200


@pytest.mark.parametrize(("ago", "status"), [(890, 200), (910, 403), (-910, 403)])
def test_a_signature_is_valid_for_a_quarter_of_an_hour(
    s3: Any, cloud: Endpoint, ago: int, status: int
) -> None:
    headers = signed_put(cloud, b"x", ago=ago)
    target = f"{cloud.url}/{BUCKET}/body"
    answer = ask(target, method="PUT", body=b"x", **headers)
    assert answer.status == status
    assert (b"RequestTimeTooSkewed" in answer.body) == (status == 403)


def test_a_large_body_arrives_whole(s3: Any) -> None:
    body = bytes(range(256)) * (10 << 12)  # 10 MiB: more than is kept in memory
    s3.put_object(Bucket=BUCKET, Key="large", Body=body)
    found = s3.get_object(Bucket=BUCKET, Key="large")["Body"].read()
    assert hashlib.sha256(found).digest() == hashlib.sha256(body).digest()


# --- forms


Fields = dict[str, str]


def signed_form(s3: Any, *, seconds: int = 60) -> Fields:
    conditions = [["starts-with", "$key", "in/"], ["content-length-range", 2, 100]]
    made = s3.generate_presigned_post(
        BUCKET, "in/${filename}", Conditions=conditions, ExpiresIn=seconds
    )
    return dict(made["fields"], key="in/1")


def post(
    cloud: Endpoint,
    fields: Fields,
    data: bytes = b"data",
    *,
    to: str = f"/{BUCKET}",
    more: tuple[tuple[str, str], ...] = (),
    after: tuple[tuple[str, str], ...] = (),
) -> Answer:
    kind, body = multipart([*fields.items(), *more], data, list(after))
    return ask(cloud, to, method="POST", body=body, content_type=kind)


def test_a_form_writes_what_its_policy_allows(s3: Any, cloud: Endpoint) -> None:
    assert post(cloud, signed_form(s3), b"x" * 100).status == 204
    assert stored(s3)["in/1"] == b"x" * 100


@pytest.mark.parametrize("size", [0, 1, 101, 3_000_000])
def test_a_form_has_a_range_of_sizes(s3: Any, cloud: Endpoint, size: int) -> None:
    before = stored(s3)
    refused = post(cloud, signed_form(s3), b"x" * size)
    assert refused.status == 403
    assert b"EntityToo" in refused.body
    assert stored(s3) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"key": "secret"},
        {"key": "in"},
        {"x-amz-signature": "0" * 64},
        {"x-amz-credential": "AKIAFORGED/20260101/us-east-1/s3/aws4_request"},
        {"x-amz-date": "20260101T000000Z"},
        {"acl": "public-read"},
        {"success_action_redirect": "http://evil.example"},
        {"policy": "e30="},
        {"policy": ""},
    ],
)
def test_a_form_that_was_changed_is_refused(
    s3: Any, cloud: Endpoint, changed: Fields
) -> None:
    before = stored(s3)
    assert post(cloud, signed_form(s3) | changed).status == 403
    assert stored(s3) == before


def test_a_wider_policy_is_not_the_one_that_was_signed(
    s3: Any, cloud: Endpoint
) -> None:
    fields = signed_form(s3)
    policy = json.loads(b64decode(fields["policy"]))
    policy["conditions"] = [
        ["starts-with", "$key", ""] if "starts-with" in condition else condition
        for condition in policy["conditions"]
    ]
    wider = b64encode(json.dumps(policy).encode()).decode()
    refused = post(cloud, fields | {"policy": wider, "key": "secret"})
    assert refused.status == 403
    assert stored(s3)["secret"] == SECRET


@pytest.mark.parametrize(
    "more",
    [
        {"more": (("key", "secret"),)},
        {"more": (("Key", "secret"),)},
        {"after": (("key", "secret"),)},
        {"to": f"/{BUCKET}?key=secret"},
        {"to": f"/{BUCKET}/secret"},
        {"to": "/another-bucket"},
        {"to": "/"},
    ],
)
def test_a_form_has_each_field_once(
    s3: Any, cloud: Endpoint, more: dict[str, Any]
) -> None:
    before = stored(s3)
    assert post(cloud, signed_form(s3), **more).status == 403
    assert stored(s3) == before


def test_a_form_expires(s3: Any, cloud: Endpoint) -> None:
    refused = post(cloud, signed_form(s3, seconds=-1))
    assert refused.status == 403
    assert b"expired" in refused.body


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=x"]
)
def test_an_invalid_form_is_refused(cloud: Endpoint, kind: str) -> None:
    for body in (b"", b"--x\r\n\r\n", b"x" * 5_000_000, b"--x--\r\n"):
        answer = ask(cloud, "/b", method="POST", body=body, content_type=kind)
        assert answer.status == 403
