"""Orphans: the orders for a fleet without orchestrator, and what it has left in S3.

One rule: an instance gets no credentials, only pre-signed URLs for the objects that it
may read, and signed forms, which limit their size, for those that it may write; they
are in its job file and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cnd import s3logs
from cnd.errors import CloudError
from cnd.model.events import Event, plain
from cnd.model.plan import MAX_LIFETIME
from cnd.on_instance.agent import MOST_REPORT
from cnd.on_instance.watchdog import LAST_LINE, MOST_LOG
from cnd.on_instance.worker_events import MOST_BYTES
from cnd.system import background
from cnd.system.background import Pool
from cnd.transport import instance_report

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

RESULT = (
    "orphan.json"  # under the run's prefix: put by an orphan that finds a golden nonce
)
MOST_RESULT = LAST_LINE  # bytes: no watchdog reads more
NOTE = 1024  # bytes of a log's first line, at most
PATIENCE = 30.0  # seconds without a sign of life until a host is an orphan
POLL = 5.0  # seconds between an orphan's looks for the others' result
LEFT_PATIENCE = 60.0  # seconds for all reports of a run
FETCHES = 8  # reports read at a time, each of up to `MOST_REPORT` bytes


@dataclass(frozen=True)
class Left:
    """The events of its workers that an orphan has left in S3."""

    # Up to the last event of each; `heard` is when it happened, as far as is known.
    events: tuple[Event, ...]
    age: float  # seconds since it was left, by S3's clock


@dataclass(frozen=True)
class Place:
    """An instance in its run: its place, and the classes that it searched."""

    host: str  # its id
    index: int  # its place in the fleet
    parts: Mapping[str, int]  # their classes, by their names


def orders(
    s3: S3Client,
    bucket: str,
    run: str,
    *,
    seconds: float,
    shutdown: bool,
    spot: bool = False,
    patience: float | None = None,
    refused: Callable[[], bool] = lambda: False,
) -> Callable[[str, str], Mapping[str, object]]:
    """Return a function that gives an instance (id, name) its orders for `watchdog.py`.

    Args:
        seconds: how long the signatures must hold: the lifetime of the instances.
        shutdown: whether an orphan powers its instance off when it is done.
        spot: whether AWS may interrupt an instance, with a notice on it before.
        patience: seconds without a sign of life; None: `PATIENCE`.
        refused: returns whether the bucket is not to be used; called per instance.
    """
    hold = int(min(seconds, MAX_LIFETIME))

    def form(name: str, most: int) -> Mapping[str, object]:
        return s3logs.form(s3, bucket, run, name, seconds=hold, most=most)

    result = {
        "result_get": s3logs.presigned(s3, bucket, run, RESULT, seconds=hold),
        "result_form": form(RESULT, MOST_RESULT),
    }

    def of(instance: str, name: str) -> Mapping[str, object]:
        places: dict[str, object] = {
            "log_form": form(f"{s3logs.LOGS}{name}.log", MOST_LOG + NOTE),
            "report_form": form(f"{s3logs.LOGS}{name}.json", MOST_BYTES),
            **result,
        }
        if refused():
            places = {"log_form": None, "report_form": None}
            places |= {"result_form": {}, "result_get": ""}
        return {
            "instance": instance,
            "patience": PATIENCE if patience is None else patience,
            "poll": POLL,
            "shutdown": shutdown,
            "spot": spot,
            **places,
        }

    return of


def claim(
    s3: S3Client, bucket: str, run: str, owner: Callable[[int], int | None]
) -> Event | None:
    """Return the find that an orphan claims as an event of its worker, or None.

    Args:
        owner: returns the number of the class that a nonce belongs to.
    """
    claimed = result(s3, bucket, run) or {}
    nonce = claimed.get("nonce")
    if not isinstance(nonce, int):
        return None
    fields = {"nonce": nonce, "hash": claimed.get("hash"), "left_in": bucket}
    index, host = owner(nonce) or 0, str(claimed.get("instance"))
    return Event("worker.found", index, host, fields)


def result(s3: S3Client, bucket: str, run: str) -> dict[str, Any] | None:
    """Return what an orphan claims to have found, or None; `CloudError` if refused.

    It is a claim: index, instance and nonce are to be checked.
    """
    text = s3logs.fetch(s3, bucket, run, RESULT, most=MOST_RESULT)
    try:
        return plain(text or b"")
    except ValueError:
        return None


def left(
    s3: S3Client, bucket: str, run: str, places: Collection[Place]
) -> list[Left | CloudError | None]:
    """Return what each instance has left; None: nothing that can be understood.

    The failure of one stands in its place, and the others are read all the same.
    """
    pool = Pool(FETCHES, "left")
    answers = [pool.submit(_left, s3, bucket, run, place) for place in places]
    deadline = time.monotonic() + LEFT_PATIENCE
    try:
        return [_in_time(each, deadline) for each in answers]
    finally:
        pool.close(cancel=True)


def _in_time(
    answer: Future[Left | CloudError | None], deadline: float
) -> Left | CloudError | None:
    try:
        return background.answer(answer, deadline - time.monotonic())
    except TimeoutError:
        return CloudError(f"S3 has not sent a report within {LEFT_PATIENCE:.0f} s")


def _left(
    s3: S3Client, bucket: str, run: str, place: Place
) -> Left | CloudError | None:
    name = f"{s3logs.LOGS}Instance{place.index}.json"
    try:
        found = s3logs.fetch_aged(s3, bucket, run, name, most=MOST_REPORT)
    except CloudError as error:
        return error
    data, age = found or (b"", 0.0)
    report = instance_report.parsed(data, place.host)
    return Left(events(report, place, time.monotonic() - age), age) if report else None


def events(report: dict[str, Any], place: Place, put: float) -> tuple[Event, ...]:
    """Return the events in a report of the parts of its instance.

    Args:
        put: when it was put into S3, on the monotonic clock.
    """
    return tuple(
        replace(event, received=put - min(before, MAX_LIFETIME))
        for part, index in place.parts.items()
        for event, before in instance_report.events(
            report, part, index=index, host=place.host
        )
    )
