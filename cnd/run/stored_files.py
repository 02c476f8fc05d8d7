"""The files of a run that is over, or seems to be: on this disk, and in S3.

One rule: files are copied as they are; what cannot be copied is reported and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cnd import s3logs
from cnd.cloud import connection
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, CndError, UsageError
from cnd.model import system_log
from cnd.run import order
from cnd.run.event_files import EVENTS
from cnd.run.journal import RESULT, Journal
from cnd.run.viewer import Say
from cnd.system import private_files, small_files

MOST_FETCHED = 256 << 20  # bytes of events, and of a result, that are fetched from S3
MOST_LOG = 2 * system_log.MOST  # bytes of a log here: what is kept, a note, and more


def fetch_run(journal: Journal, say: Say, where: tuple[str, str] = ("", "")) -> bool:
    """Fetch events and result of a run that is over; return whether it is in S3.

    Its result is enough to go on from it; events may be missing.

    Args:
        where: the cloud and the region; "": as configured.
    """
    if (place := _place(journal, say, where)) is None:
        return False
    cloud, bucket = place
    try:
        found = {
            name: s3logs.fetch(cloud.s3, bucket, journal.run, name, most=MOST_FETCHED)
            for name in (EVENTS, RESULT)
        }
    except CloudError as error:
        say(f"run {journal.run} is not here, and S3 could not be asked: {error}")
        return False
    if found[RESULT] is None:
        return False
    say(f"run {journal.run} was brought from s3://{bucket}")
    if found[EVENTS] is None:
        say(f"its events are not there: of run {journal.run} only the result is known")
    journal.create()
    for name, data in found.items():
        if data is not None:
            private_files.write(journal.folder / name, data)
    return True


def system_logs(journal: Journal, only: int | None, say: Say) -> dict[str, bytes]:
    """Return the system logs of a run by their names, from S3 where they are not here.

    Args:
        only: the index of an instance; None: those of all instances.

    Raises:
        UsageError: there are none.
    """
    events = journal.events()
    wanted = {e.index for e in events if e.kind == "instance.launched"}
    found, missing = {}, []
    for index in sorted(i for i in wanted if i is not None and only in (None, i)):
        path = journal.log(f"Instance{index}")
        try:
            found[path.name] = small_files.read(path, MOST_LOG)
        except FileNotFoundError:
            missing.append(path.name)
        except OSError as error:
            say(f"{path} cannot be read: {error.strerror}")
            missing.append(path.name)
    if missing:
        found |= _fetch_logs(journal, missing, say)
        if lost := [name for name in missing if name not in found]:
            say(f"not here and not in S3: {' '.join(lost)}")
    if not found:
        which = "" if only is None else f" of instance {only}"
        message = f"run {journal.run} has no log{which}, here or in S3"
        raise UsageError(message, hint=f"`fab logs {journal.run} --events`: its events")
    return found


def _fetch_logs(journal: Journal, names: Sequence[str], say: Say) -> dict[str, bytes]:
    """Return the logs that are in S3."""
    if (place := _place(journal, say)) is None:
        return {}
    cloud, bucket = place
    copies = {}
    try:
        for name in names:
            at = cloud.s3, bucket, journal.run, s3logs.LOGS + name
            copies[name] = s3logs.fetch_log(*at, most=system_log.MOST)
    except CloudError as error:
        say(f"{len(names)} logs could not be fetched: {error}")
        return {}
    return {name: copy[0] for name, copy in copies.items() if copy}


def _place(
    journal: Journal, say: Say, where: tuple[str, str] = ("", "")
) -> tuple[Cloud, str] | None:
    """Return the cloud and the bucket of a run's files, or None; say why, if known."""
    kept, result = order.kept(journal), journal.result() or {}
    place = (result.get("cloud", where[0]), result.get("region", where[1]))
    if kept:
        place = (kept.cloud, kept.region)
    try:
        cloud = connection.connect(*place)
    except CloudError as error:
        say(f"S3 could not be asked: {error}")
        return None
    if cloud is None or (kept and cloud.account != kept.account):
        if kept:
            say("what is in S3 is in a cloud that is not here")
        return None
    bucket = kept.provision.bucket if kept else ""
    return cloud, bucket or s3logs.bucket_name(cloud.account, cloud.region)


def upload(journal: Journal, files: Mapping[str, Path]) -> str:
    """Put files of a run beside its logs in S3; return what went wrong, or "".

    Args:
        files: by their names in S3.  None is uploaded of a run without an order, or
            whose local cloud is down: its S3 is gone.
    """
    if (kept := order.kept(journal)) is None:
        return ""
    try:
        if (cloud := connection.connect(kept.cloud, kept.region)) is None:
            return ""
        if cloud.account != kept.account:
            return "it belongs to another account"
        bucket, owner = kept.provision.bucket, kept.provision.owner
        s3logs.check_finished(cloud.s3, bucket, owner)
        failures = s3logs.upload(cloud.s3, bucket, journal.run, files, owner=owner)
    except CndError as error:
        return str(error)
    return next((str(failure) for failure in failures.values()), "")
