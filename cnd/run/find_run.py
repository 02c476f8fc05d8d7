"""Which run on this disk a user means; a run started elsewhere is fetched from S3.

One rule: events and result of a fetched run are stored as they are in S3.
"""

from __future__ import annotations

from collections.abc import Callable

from cnd import s3logs
from cnd.cloud import connection
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, UsageError
from cnd.model.run_name import is_run
from cnd.run import order
from cnd.run.journal import EVENTS, RESULT, Journal, runs
from cnd.system import private_files

Say = Callable[[str], None]  # takes a message for the user


MOST_FETCHED = 256 << 20  # bytes of each file of a run that is fetched from S3


def chosen(text: str, say: Say) -> Journal:
    """Return the run that `text` means: its name, or the only one that fits.

    A run that was started elsewhere is fetched from the bucket of the account.

    Raises:
        UsageError: there is none, or more than one.
    """
    names = runs()
    if is_run(text) and text not in names and _fetched(Journal(text), say):
        return Journal(text)
    return Journal(pick(names, text))


def _fetched(journal: Journal, say: Say) -> bool:
    """Fetch events and result of a run that is over; return whether they are in S3."""
    if (place := kept_at(journal, say)) is None:
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
    if None in found.values():
        return False
    say(f"run {journal.run} was brought from s3://{bucket}")
    journal.create()
    for name, data in found.items():
        private_files.write(journal.folder / name, data or b"")
    return True


def kept_at(journal: Journal, say: Say) -> tuple[Cloud, str] | None:
    """Return the cloud and the bucket of a run's files, or None; say why, if known."""
    kept, result = order.kept(journal), journal.result() or {}
    place = (result.get("cloud", ""), result.get("region", ""))
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


def pick(names: list[str], text: str) -> str:
    """Return the name that begins or ends with `text`; the last one if it is empty."""
    if text in names:
        return text
    fits = [name for name in names if name.startswith(text) or name.endswith(text)]
    if fits and not text:
        return fits[-1]
    if len(fits) != 1:
        message = f"{len(fits)} runs are called {text!r}" if fits else ""
        none = f"no run on this disk is called {text!r}" if text else "there is no run"
        raise UsageError(message or none, hint="`fab runs` lists them")
    return fits[0]
