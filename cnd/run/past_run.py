"""What a run has tested, read for a run that is to resume it.

One rule: nothing of the run is changed.  What it has proved counts: by its result;
where it broke off, by its journal and by what its orphans have left in S3.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, UsageError
from cnd.model import replay
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.model.resumption import Past, past, require_open
from cnd.model.search_state import SearchState
from cnd.run import order
from cnd.run.journal import RESULT, Journal
from cnd.system.typed_json import made
from cnd.transport import orphans
from cnd.transport.fleet import Part

TRANSITION = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
# What the first event of a run says of its plan.
ASKED = (
    *("block", "difficulty", "instances", "nonces", "time_limit"),
    *("smallest", "chain", "tested_before", "known", "work"),
)


@dataclass(frozen=True)
class Place:
    """Where a run was; "": not known."""

    cloud: str
    region: str
    account: str


def place(journal: Journal) -> Place:
    """Return where a run was."""
    if kept := order.kept(journal):
        return Place(kept.cloud, kept.region, kept.account)
    result = journal.result() or {}
    return Place(str(result.get("cloud", "")), str(result.get("region", "")), "")


def read(journal: Journal, cloud: Cloud | None = None) -> Past:
    """Return what a run has tested.

    Args:
        cloud: in the region of the run, for what orphans have left; None: only what is
            on this disk.

    Raises:
        UsageError: its files are gone or damaged.
        CloudError: the cloud could not be asked.
    """
    result = journal.result()
    try:
        if result is not None:
            plan = _plan(journal, result)
            rows = result.get("coverage")
            if not isinstance(rows, list):
                raise ValueError(f"{RESULT} has no coverage")
            return past(journal.run, plan, rows, result)
        if journal.is_over:  # its progress went into the result
            raise ValueError(f"{RESULT} cannot be read")
        plan = _plan(journal, {})
        return _broken_off(journal, plan, cloud)
    except ValueError as error:
        why = journal.complaint or str(error)
        message = f"run {journal.run} cannot be resumed: {why}"
        raise UsageError(message, hint="`fab start` begins anew") from error


def _plan(journal: Journal, result: dict[str, Any]) -> Plan:
    """Return the plan of a run, with the number of classes that it had."""
    count = result.get("instances")
    if kept := order.kept(journal):
        return kept.plan
    if isinstance(result.get("plan"), dict):
        plan = made(Plan, result["plan"])
        return replace(plan, instances=count or plan.instances)
    first = next(journal.events(), None)
    is_start = first is not None and first.kind == "run.started"
    if first is None or not is_start or first.fields.get("script"):  # with what words?
        raise ValueError("what it was to search is not known")
    asked = {name: first.fields[name] for name in ASKED if name in first.fields}
    plan = made(Plan, {**asked, "instance_type": first.fields.get("type", "t3.micro")})
    return replace(plan, instances=count or plan.instances)


def _broken_off(journal: Journal, plan: Plan, cloud: Cloud | None) -> Past:
    """Return what a run without a result has tested."""
    history = replay.replayed(plan, journal.history())
    search = history.search
    kept = order.kept(journal)
    if cloud and kept:
        _take_in_reports(history, cloud, kept.provision.bucket, journal.run)
        for event in _ends(cloud, journal.run):
            search.see(event)
    best = search.best
    tested = plan.tested_before + search.tested - search.repeated
    found: dict[str, object] = {
        "outcome": "found" if best else "",
        "nonce": best.nonce if best else None,
        "smallest": search.smallest,
    }
    if search.counted:
        found["tested_in_all"] = tested
    return past(journal.run, plan, search.coverage, found)


def _take_in_reports(
    history: replay.RunHistory, cloud: Cloud, bucket: str, run: str
) -> None:
    """Take in what the instances of a run have left in S3, as `OrphanReports` does."""
    search = history.search
    places = [
        orphans.Place(host, index, dict(_parts(search, host)))
        for host, index in history.index.items()
    ]
    for left in orphans.left(cloud.s3, bucket, run, places):
        if isinstance(left, CloudError):
            raise left
        for event in left.events if left else ():
            search.see(event)
    if claim := orphans.claim(cloud.s3, bucket, run, search.plan.owners.of):
        search.see(claim)


def _ends(cloud: Cloud, run: str) -> Iterator[Event]:
    """Yield when instances of a run have ended, of those that EC2 still lists."""
    for each in ec2.find(cloud.ec2, run=run, states=("shutting-down", "terminated")):
        if (end := requested_at(each.transition)) is not None:
            yield Event("instance.lost", each.index, each.id, time=end + 1)


def requested_at(transition: str) -> float | None:
    """Return the time in a reason such as "User initiated (2026-01-02 03:04:05 GMT)".

    That is when the end of an instance was requested, in seconds since the epoch, to
    the second; None: AWS does not say.
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html
    """
    if not (found := TRANSITION.search(transition)):
        return None
    try:
        return dt.datetime.fromisoformat(f"{found[1]}+00:00").timestamp()
    except ValueError:
        return None


def _parts(search: SearchState, host: str) -> Iterator[tuple[str, int]]:
    """Yield the names and numbers of the classes that a host had."""
    for index, progress in search.classes.items():
        if progress.host == host:
            yield Part(index, progress.start).name, index


def left(journal: Journal) -> int | None:
    """Return how many nonces a run has left to resume it; None: it cannot be."""
    if journal.is_followed:
        return None
    try:
        past = read(journal)
        require_open(past, smallest=past.plan.smallest)
    except UsageError:
        return None
    return past.left
