"""S3: the bucket that keeps the logs, events, result and report of every run.

One rule: what is uploaded was on this disk before and stays there, under the same
names, so that a report's links work; a refused upload loses a copy, never a log.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.cloud.failures import code, translated
from cnd.errors import CloudError
from cnd.model import system_log
from cnd.system.background import Pool

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

EXPIRE_DAYS = 30
PARALLEL = 16  # uploads at a time
LOGS = "logs/"  # the beginning of the names of logs, as in a run's folder
# With these types a browser shows what it downloads.
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".log": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
OTHER = "application/octet-stream"
OWNED = "BucketAlreadyOwnedByYou"  # two runs have created it at the same time
ABORTED = "OperationAborted"  # a bucket of this name is still being removed
DENIED = ("AccessDenied", "403")
EMPTY = "InvalidRange"  # S3's code for a range of an object of 0 bytes
ABSENT = ("404", "NoSuchBucket", "NoSuchKey", "NotFound")
# Everywhere else CreateBucket must name the region; here it must not.
DEFAULT_REGION = "us-east-1"


def bucket_name(account: str, region: str) -> str:
    """Return the name of CND's own bucket; names are global, so it has the account."""
    return f"cnd-logs-{account}-{region}"


def prefix(run: str) -> str:
    """Return the start of every key of `run`."""
    return f"runs/{run}/"


def ensure_bucket(s3: S3Client, bucket: str, region: str, owner: str) -> None:
    """Create the bucket if it is missing: private, with objects that expire.

    The expiry rule is set last: a bucket without one is incomplete, and is completed.
    A bucket that has one is left as it is.

    Raises `CloudError` if it exists and is not the account `owner`'s: names are global
    and this one can be guessed, so another account may have created it to read logs.
    """
    if not exists(s3, bucket, owner):
        _create(s3, bucket, region)
    elif _is_finished(s3, bucket):
        return
    with translated(f"make the bucket {bucket} private, its objects expiring"):
        s3.put_public_access_block(
            Bucket=bucket,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        s3.put_bucket_lifecycle_configuration(
            Bucket=bucket,
            LifecycleConfiguration={
                "Rules": [
                    {
                        "ID": "expire",
                        "Status": "Enabled",
                        "Filter": {"Prefix": ""},
                        "Expiration": {"Days": EXPIRE_DAYS},
                    }
                ]
            },
        )


def _create(s3: S3Client, bucket: str, region: str) -> None:
    place: Any = {"LocationConstraint": region}
    where = {} if region == DEFAULT_REGION else {"CreateBucketConfiguration": place}
    try:
        with translated(f"create the bucket {bucket}"):
            s3.create_bucket(Bucket=bucket, **where)
    except CloudError as error:
        if code(error) == ABORTED:
            message = (
                f"could not create the bucket {bucket}: S3 is still removing a bucket "
                f"of this name, which may take an hour ({ABORTED})"
            )
            raise CloudError(message, hint="until then --bucket, of yours") from error
        if code(error) != OWNED:
            raise


def _is_finished(s3: S3Client, bucket: str) -> bool:
    """Return whether the bucket has an expiry rule; if reading it is denied: yes."""
    try:
        with translated(f"ask how {bucket} expires"):
            s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    except CloudError as error:
        if code(error) in DENIED:
            return True
        if code(error) == "NoSuchLifecycleConfiguration":
            return False
        raise
    return True


def check_finished(s3: S3Client, bucket: str, owner: str) -> None:
    """Raise `CloudError` unless a bucket is fit for what only its owner may read.

    Args:
        owner: the account that must own CND's bucket; empty for a bucket that the user
            has chosen, which is not checked.
    """
    if owner and not (exists(s3, bucket, owner) and _is_finished(s3, bucket)):
        raise CloudError(
            f"the bucket {bucket} could not be made private: nothing is uploaded"
        )


def check_bucket(s3: S3Client, bucket: str) -> None:
    """Raise `CloudError` unless the user's own bucket exists."""
    if not exists(s3, bucket):
        raise CloudError(f"no such bucket: {bucket}", hint="leave out --bucket")


def exists(s3: S3Client, bucket: str, owner: str = "") -> bool:
    """Return whether a bucket exists.

    Raises `CloudError` if the caller may not use it, or it is not the account
    `owner`'s.
    """
    try:
        with translated(f"look for the bucket {bucket}"):
            s3.head_bucket(Bucket=bucket, **owned(owner))
    except CloudError as error:
        if code(error) in ABSENT:
            return False
        raise
    return True


def owned(owner: str) -> Any:
    """Return the condition that the bucket is the account `owner`'s; empty: none.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-owner-condition.html
    """
    return {"ExpectedBucketOwner": owner} if owner else {}


def upload(
    s3: S3Client, bucket: str, run: str, files: Mapping[str, Path], *, owner: str
) -> dict[str, CloudError]:
    """Upload `files` (name -> path) under the run's prefix, in parallel.

    Nothing is uploaded to a bucket that is not the account `owner`'s (empty: any).

    Returns the failures by name; an empty dict means that everything was uploaded.
    """

    def put(item: tuple[str, Path]) -> CloudError | None:
        name, path = item
        try:
            with path.open("rb") as body, translated(f"upload {name}"):
                s3.put_object(
                    Bucket=bucket,
                    Key=prefix(run) + name,
                    Body=body,
                    ContentType=TYPES.get(path.suffix, OTHER),
                    **owned(owner),
                )
        except CloudError as error:
            return error
        except OSError as error:  # of the file, not of the cloud
            return CloudError(f"could not upload {name}: {error}")
        return None

    if not files:
        return {}
    pool = Pool(PARALLEL, "upload")
    failures = [pool.submit(put, item) for item in files.items()]
    answers = (failure.result() for failure in failures)
    return _only_failures(zip(files, answers, strict=True))


def fetch(s3: S3Client, bucket: str, run: str, name: str, *, most: int) -> bytes | None:
    """Return the run's object `name`, or None if there is none; as `fetch_aged`."""
    found = fetch_aged(s3, bucket, run, name, most=most)
    return found[0] if found else None


def fetch_aged(
    s3: S3Client, bucket: str, run: str, name: str, *, most: int
) -> tuple[bytes, float] | None:
    """Return the run's object `name` and its age in seconds, or None if there is none.

    Raises:
        CloudError: S3 refuses, or the object has more than `most` bytes: an instance
            may have written it, and is not trusted.
    """
    try:
        with translated(f"fetch {name}"):
            reply = s3.get_object(Bucket=bucket, Key=prefix(run) + name)
            size, data = reply["ContentLength"], reply["Body"].read(most + 1)
    except CloudError as error:
        if code(error) in ABSENT:
            return None
        raise
    if len(data) > most:
        told = f"{size:,} bytes, the most that are read are {most:,}"
        raise CloudError(f"could not fetch {name}: it has {told}")
    return data, _age(reply)


def _age(reply: Mapping[str, Any]) -> float:
    """Return how old an object is, in seconds: S3's clock says both, if it says so."""
    now = dt.datetime.now(dt.timezone.utc)
    told = reply["ResponseMetadata"].get("HTTPHeaders", {}).get("date", "")
    with contextlib.suppress(ValueError, TypeError):
        now = parsedate_to_datetime(told)
    if now.tzinfo is None:  # "-0000": it is in UTC, of an unknown place
        now = now.replace(tzinfo=dt.timezone.utc)
    since: dt.datetime = reply.get("LastModified", now)
    return max(0.0, (now - since).total_seconds())


def fetch_log(
    s3: S3Client, bucket: str, run: str, name: str, *, most: int
) -> tuple[bytes, system_log.LogPart] | None:
    """Return a log that is the run's object `name`, or None if there is none.

    Of a log of more than `most` bytes it is the newest part, with a first line that
    states what is missing.  An object of 0 bytes counts as none.
    """
    try:
        with translated(f"fetch {name}"):
            reply = s3.get_object(
                Bucket=bucket, Key=prefix(run) + name, Range=f"bytes=-{most}"
            )
            data = reply["Body"].read(most)
    except CloudError as error:
        if code(error) in (*ABSENT, EMPTY):
            return None
        raise
    # "bytes 5-14/15"
    size = reply.get("ContentRange", "").rpartition("/")[2]
    whole = int(size) if size.isdecimal() else len(data)
    part, target = (
        system_log.LogPart(len(data), max(0, whole - len(data))),
        io.BytesIO(),
    )
    system_log.copy(part, io.BytesIO(data), target)
    return (target.getvalue(), part) if data else None


def presigned(s3: S3Client, bucket: str, run: str, name: str, *, seconds: int) -> str:
    """Return a URL that reads the run's object `name`.

    It is valid for `seconds`, at most a week, and not longer than the credentials that
    sign it.
    """
    with translated(f"sign a URL for {name}"):
        return s3.generate_presigned_url(
            "get_object",
            Params={"Bucket": bucket, "Key": prefix(run) + name},
            ExpiresIn=seconds,
        )


def form(
    s3: S3Client, bucket: str, run: str, name: str, *, seconds: int, most: int
) -> dict[str, Any]:
    """Return a signed form that writes the run's object `name`, up to `most` bytes.

    If `name` ends with ``${filename}``, the form writes any object whose name begins
    with the rest; the name is then not among its fields, and has to be added.  It
    allows no other write.

    https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html
    """
    kind = {"Content-Type": TYPES[".log"]}
    conditions: list[Any] = [kind, ["content-length-range", 0, most]]
    with translated(f"sign a form for {name}"):
        signed = s3.generate_presigned_post(
            bucket,
            prefix(run) + name,
            Fields={**kind},
            Conditions=conditions,
            ExpiresIn=seconds,
        )
    fields = {k: v for k, v in signed["fields"].items() if "${" not in v}
    return {"url": signed["url"], "fields": fields}


def _only_failures(
    results: Iterable[tuple[str, CloudError | None]],
) -> dict[str, CloudError]:
    return {name: error for name, error in results if error is not None}
