"""What a fleet needs in order to end without us, and what it has left in S3 then.

One rule: an instance gets no credentials, only pre-signed URLs for the objects that it
may read and write; they stand in its job file and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cnd import s3logs
from cnd.events import Event, plain
from cnd.plan import MAX_LIFETIME

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

RESULT = "orphan.json"  # under the run's prefix; whoever finds a golden nonce puts it
PATIENCE = 30.0  # seconds without a sign of life until a host goes on alone
POLL = 5.0  # seconds between an orphan's looks for the others' result


def orders(
    s3: S3Client,
    bucket: str,
    run: str,
    *,
    owner: str,
    seconds: float,
    shutdown: bool,
    spot: bool = False,
    refused: Callable[[], bool] = lambda: False,
) -> Callable[[str, str], Mapping[str, object]]:
    """Return what gives each instance, by id and name, its orders for `keeper.py`.

    Args:
        owner: the account whose bucket it must be; empty for anybody's.
        seconds: how long the URLs must hold: the lifetime of the instances.
        shutdown: whether an orphan powers its instance off when it is done.
        spot: whether AWS may take an instance back, and says so on it before.
        refused: whether the bucket is not to be used, asked for each instance.
    """
    hold = int(min(seconds, MAX_LIFETIME))

    def url(method: str, name: str) -> str:
        whose = owner if method == "put" else ""
        return s3logs.presigned(
            s3, bucket, run, name, method=method, seconds=hold, owner=whose
        )

    result = {"result_get": url("get", RESULT), "result_put": url("put", RESULT)}

    def of(instance: str, name: str) -> Mapping[str, object]:
        places = {**result, "log_put": url("put", f"{s3logs.LOGS}{name}.log")}
        if refused():
            places = dict.fromkeys(places, "")
        return {
            "instance": instance,
            "patience": PATIENCE,
            "poll": POLL,
            "shutdown": shutdown,
            "spot": spot,
            "owner": owner,
            **places,
        }

    return of


def claim(s3: S3Client, bucket: str, run: str, instances: int) -> Event | None:
    """Return what an orphan claims to have found, as if its worker said so, or None."""
    told = result(s3, bucket, run) or {}
    nonce = told.get("nonce")
    if not isinstance(nonce, int):
        return None
    fields = {"nonce": nonce, "hash": told.get("hash"), "left_in": bucket}
    index, host = nonce % instances, str(told.get("instance"))
    return Event("worker.found", index, host, fields)


def result(s3: S3Client, bucket: str, run: str) -> dict[str, Any] | None:
    """Return what an orphan claims to have found, or None; `CloudError` if refused.

    It is a claim: index, instance and nonce are to be checked.
    """
    text = s3logs.fetch(s3, bucket, run, RESULT)
    try:
        return plain(text or b"")
    except ValueError:
        return None
