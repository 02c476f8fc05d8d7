"""What `cnd.s3logs` promises: a private bucket that expires, no other touched."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from botocore.stub import ANY

from cnd import s3logs
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError
from tests.support.clerk import stubbed

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REGION: Final = "eu-west-2"


def content(s3: S3Client, bucket: str, key: str) -> bytes:
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def expiry(s3: S3Client, bucket: str) -> list[int]:
    rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    return [rule["Expiration"]["Days"] for rule in rules]


@pytest.fixture
def bucket(aws: Cloud, run: str) -> str:
    """The name of a bucket that does not exist yet."""
    return f"bucket-{run}"


@pytest.fixture
def made(aws: Cloud, bucket: str) -> str:
    """A bucket as CND creates it."""
    s3logs.ensure_bucket(aws.s3, bucket, REGION, aws.account)
    return bucket


def test_the_name_of_a_bucket_has_account_and_region() -> None:
    name = s3logs.bucket_name("123456789012", "ap-southeast-2")
    assert name == "cnd-logs-123456789012-ap-southeast-2"
    assert len(name) <= 63  # the most that S3 allows


def test_a_missing_bucket_is_created_private_and_its_objects_expire(
    aws: Cloud, made: str
) -> None:
    blocked = aws.s3.get_public_access_block(Bucket=made)
    assert blocked["PublicAccessBlockConfiguration"] == {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": True,
        "RestrictPublicBuckets": True,
    }
    assert expiry(aws.s3, made) == [30]


def test_a_bucket_is_created_in_the_region_of_the_run(aws: Cloud, made: str) -> None:
    location = aws.s3.get_bucket_location(Bucket=made)
    assert location["LocationConstraint"] == REGION


def test_the_oldest_region_has_no_location(aws: Cloud, bucket: str) -> None:
    """us-east-1 refuses a LocationConstraint that names it."""
    s3 = aws.clients.get("s3")
    s3logs.ensure_bucket(s3, bucket, "us-east-1", aws.account)
    assert s3.get_bucket_location(Bucket=bucket).get("LocationConstraint") is None


def test_a_bucket_that_exists_is_left_as_it_is(aws: Cloud, bucket: str) -> None:
    aws.s3.create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    aws.s3.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "the user's own",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "Expiration": {"Days": 999},
                }
            ]
        },
    )

    s3logs.ensure_bucket(aws.s3, bucket, REGION, aws.account)

    assert expiry(aws.s3, bucket) == [999]
    with pytest.raises(aws.s3.exceptions.ClientError, match="NoSuchPublicAccessBlock"):
        aws.s3.get_public_access_block(Bucket=bucket)


def test_an_incomplete_bucket_is_completed(aws: Cloud, bucket: str) -> None:
    aws.s3.create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    s3logs.ensure_bucket(aws.s3, bucket, REGION, aws.account)
    assert expiry(aws.s3, bucket) == [30]
    blocked = aws.s3.get_public_access_block(Bucket=bucket)
    assert all(blocked["PublicAccessBlockConfiguration"].values())


def test_a_bucket_whose_rule_may_not_be_read_is_left_as_it_is() -> None:
    with stubbed("s3") as clerk:
        cloud = clerk.cloud
        clerk.answer("s3", "head_bucket", {})
        clerk.refuse("s3", "get_bucket_lifecycle_configuration", "AccessDenied")
        s3logs.ensure_bucket(cloud.s3, "cnd-logs", cloud.region, cloud.account)


def test_a_bucket_of_cnds_name_in_another_account_is_not_used() -> None:
    with stubbed("s3") as clerk:
        cloud = clerk.cloud
        asked = {"Bucket": "cnd-logs", "ExpectedBucketOwner": cloud.account}
        clerk.refuse("s3", "head_bucket", "403", asked)
        with pytest.raises(CloudError, match="look for the bucket cnd-logs"):
            s3logs.ensure_bucket(cloud.s3, "cnd-logs", cloud.region, cloud.account)


def test_a_bucket_that_another_run_creates_at_the_same_time_is_no_failure() -> None:
    with stubbed("s3") as clerk:
        cloud = clerk.cloud
        clerk.refuse("s3", "head_bucket", "404")
        clerk.refuse("s3", "create_bucket", "BucketAlreadyOwnedByYou")
        clerk.answer("s3", "put_public_access_block", {})
        clerk.answer("s3", "put_bucket_lifecycle_configuration", {})
        s3logs.ensure_bucket(cloud.s3, "cnd-logs", cloud.region, cloud.account)


def test_a_bucket_that_may_not_be_private_is_not_used() -> None:
    with stubbed("s3") as clerk:
        cloud = clerk.cloud
        for code in ("NoSuchLifecycleConfiguration", "InternalError"):
            clerk.answer("s3", "head_bucket", {})
            clerk.refuse("s3", "get_bucket_lifecycle_configuration", code)
            with pytest.raises(CloudError):
                s3logs.check_finished(cloud.s3, "cnd-logs", cloud.account)
        s3logs.check_finished(cloud.s3, "the-users-own", "")


def test_every_put_names_the_account_that_it_expects(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("text")
    with stubbed("s3") as clerk:
        cloud = clerk.cloud
        asked = {
            "Bucket": "cnd-logs",
            "Key": "runs/r/log",
            "Body": ANY,
            "ContentType": s3logs.OTHER,
            "ExpectedBucketOwner": cloud.account,
        }
        clerk.answer("s3", "put_object", {"ETag": "x"}, asked)
        files = {"log": tmp_path / "log"}
        owner = cloud.account
        assert s3logs.upload(cloud.s3, "cnd-logs", "r", files, owner=owner) == {}


def test_a_users_own_bucket_must_exist(aws: Cloud, made: str, bucket: str) -> None:
    s3logs.check_bucket(aws.s3, made)
    with pytest.raises(CloudError, match="no such bucket: not-there") as caught:
        s3logs.check_bucket(aws.s3, "not-there")
    assert "--bucket" in (caught.value.hint or "")


def test_files_are_uploaded_under_the_runs_name(
    aws: Cloud, made: str, run: str, tmp_path: Path
) -> None:
    files = {f"Instance{i}.log": tmp_path / str(i) for i in range(3)}
    for name, path in files.items():
        path.write_text(f"the log of {name}\n")
    (tmp_path / "empty").touch()
    files["empty.log"] = tmp_path / "empty"

    assert s3logs.upload(aws.s3, made, run, files, owner="") == {}

    for name, path in files.items():
        assert content(aws.s3, made, f"runs/{run}/{name}") == path.read_bytes()


def test_objects_have_content_types_for_browsers(
    aws: Cloud, made: str, run: str, tmp_path: Path
) -> None:
    kinds = {"report.html": "text/html; charset=utf-8", "logs/a.log": "text/plain"}
    kinds |= {"figures/rate.svg": "image/svg+xml", "result.json": "application/json"}
    files = {name: tmp_path / name.replace("/", "-") for name in kinds}
    for path in files.values():
        path.write_text("x")
    assert s3logs.upload(aws.s3, made, run, files, owner="") == {}
    for name, kind in kinds.items():
        kept = aws.s3.head_object(Bucket=made, Key=f"runs/{run}/{name}")
        assert kept["ContentType"].startswith(kind)


def test_nothing_to_upload_is_no_failure(aws: Cloud) -> None:
    assert s3logs.upload(aws.s3, "no-such-bucket", "r", {}, owner="") == {}


def test_a_missing_bucket_fails_every_upload_and_raises_nothing(
    aws: Cloud, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("kept")
    files = {"a": tmp_path / "log", "b": tmp_path / "log"}

    failures = s3logs.upload(aws.s3, "no-such-bucket", "r", files, owner="")

    assert set(failures) == {"a", "b"}
    assert "NoSuchBucket" in str(failures["a"])
    assert (tmp_path / "log").read_text() == "kept"


def test_a_file_that_cannot_be_read_is_reported_by_name_and_stops_no_other(
    aws: Cloud, made: str, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("here")
    files = {"log": tmp_path / "log", "gone": tmp_path / "gone"}

    failures = s3logs.upload(aws.s3, made, "r", files, owner="")

    assert list(failures) == ["gone"]
    assert content(aws.s3, made, "runs/r/log") == b"here"


def test_uploads_run_in_parallel(
    aws: Cloud, made: str, run: str, tmp_path: Path
) -> None:
    """Sixteen at a time: as many files as that begin before the first one ends."""
    files = {str(i): tmp_path / str(i) for i in range(s3logs.PARALLEL)}
    for path in files.values():
        path.write_bytes(b"x" * 1000)
    spans: list[tuple[float, float]] = []
    begun: dict[str, float] = {}

    def before(params: dict[str, str], **_: object) -> None:
        begun[params["Key"]] = time.monotonic()
        deadline = time.monotonic() + 30
        while len(begun) < len(files) and time.monotonic() < deadline:
            time.sleep(0.001)
        spans.append((begun[params["Key"]], time.monotonic()))

    event = "provide-client-params.s3.PutObject"
    aws.s3.meta.events.register(event, before)
    try:
        assert s3logs.upload(aws.s3, made, run, files, owner="") == {}
    finally:
        aws.s3.meta.events.unregister(event, before)

    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_an_object_that_is_too_large_is_refused_and_a_log_is_cut(
    aws: Cloud, made: str
) -> None:
    key = s3logs.prefix("r") + "thing"
    aws.s3.put_object(Bucket=made, Key=key, Body=b"first line\nlast line\n")
    with pytest.raises(CloudError, match="the most that are read are 20"):
        s3logs.fetch(aws.s3, made, "r", "thing", most=20)
    assert s3logs.fetch(aws.s3, made, "r", "thing", most=21) is not None
    cut = s3logs.fetch_log(aws.s3, made, "r", "thing", most=15)
    assert cut is not None
    assert cut[0].endswith(b"here: it is too long, or came too slowly]\nlast line\n")
    assert cut[1].missing == 6
    whole = s3logs.fetch_log(aws.s3, made, "r", "thing", most=100)
    assert whole is not None
    assert (whole[0], whole[1].whole) == (b"first line\nlast line\n", True)


def test_a_log_of_0_bytes_counts_as_none(aws: Cloud, made: str) -> None:
    aws.s3.put_object(Bucket=made, Key=s3logs.prefix("r") + "empty", Body=b"")
    assert s3logs.fetch_log(aws.s3, made, "r", "empty", most=10) is None
    assert s3logs.fetch_log(aws.s3, made, "r", "absent", most=10) is None


def test_a_form_names_one_object_and_the_most_that_it_may_have(
    aws: Cloud, made: str
) -> None:
    form = s3logs.form(aws.s3, made, "r", "logs/a.log", seconds=60, most=9)
    policy = json.loads(base64.b64decode(form["fields"]["policy"]))
    assert {"key": "runs/r/logs/a.log"} in policy["conditions"]
    assert ["content-length-range", 0, 9] in policy["conditions"]
    named = [each for each in policy["conditions"] if isinstance(each, dict)]
    signed = {name for each in named for name in each}
    unsigned = {"policy", "x-amz-signature", "key"}
    assert form["fields"].keys() - unsigned <= signed
