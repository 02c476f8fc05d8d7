"""Scram: end the instances of one run, or of all runs, in one region or in several.

One rule: instances are found by their tags, and an instance without CND's tags is never
touched.  A message or a queue that the cloud refuses keeps no instance from its end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnd import ec2, sqs
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, CndError
from cnd.provision import auto_scaling
from cnd.provision.retry import again
from cnd.provision.scram import scram
from cnd.provision.termination import Patience
from cnd.run import status
from cnd.run.journal import Journal
from cnd.run.viewer import Say


def all_regions(cloud: Cloud) -> list[Cloud]:
    """Return the account's cloud in each region that it may use."""
    return [cloud.in_region(name) for name in ec2.regions(cloud.ec2)]


def scram_regions(
    regions: Sequence[Cloud], run: str, say: Say
) -> tuple[list[ec2.Instance], list[CndError]]:
    """Scram regions one after the other; a failure in one does not stop the next.

    Args:
        run: only this run; "": all runs.

    Returns:
        The instances that were seen terminated, and the failures.
    """
    ended: list[ec2.Instance] = []
    failures: list[CndError] = []
    for region in regions:
        try:
            ended += scram_region(region, run, say)
        except CndError as error:
            failures.append(error)
            if len(regions) > 1:
                say(f"{region.region}: {error}")
    return ended, failures


def scram_region(cloud: Cloud, run: str, say: Say) -> list[ec2.Instance]:
    """Scram the instances in one region; return them.

    Those of one run are also those on which other runs have searched since.

    Raises:
        LeakError, CloudError: some were not seen terminated.
    """
    heirs: list[str] = []
    if run:
        with _reported(say):
            heirs = ec2.heirs(cloud.ec2, run)
    ended, failures = [], []
    for name in (*heirs, run):
        try:
            ended += _scram(cloud, name, say)
        except CndError as error:
            failures.append(error)
    if failures:
        raise max(failures, key=lambda error: error.exit_status)
    return ended


def _scram(cloud: Cloud, run: str, say: Say) -> list[ec2.Instance]:
    """Scram the instances of a run, or of all; see `scram_region`."""
    client = cloud.ec2  # it takes time to make: before the first run is notified
    groups = _groups(cloud, run, say)
    notified = _notified(cloud, run, say)
    # Instances cost while hundreds of them are listed, which takes seconds; but a group
    # replaces those that are terminated before it.
    asked = set() if groups else ec2.terminate_tagged(client, run=run or None)
    listed = again(lambda: ec2.find(client, run=run or None, states=ec2.ALL))
    unsure = [r for r in status.under_way(listed, cloud) if run in ("", r)]
    going = {i.id for i in listed if i.state in ec2.EXISTING} | asked
    lived = [i for i in listed if i.id in going or i.run in notified.followed]
    queued = [*notified.queued, *_made_just_now(cloud, notified.unknown, say)]
    unsure += status.launching(queued, lived)
    if unsure:
        launch = f"a launch of {', '.join(unsure)} may be under way: looking for"
        say(f"{launch} {cloud.listed_within:.0f} s what comes of it")
    ended = scram(
        cloud,
        run or None,
        groups=groups,
        known=going - asked,
        asked=asked,
        patience=Patience(look=cloud.listed_within if unsure else 0.0),
        # A run that is stopped may itself end what it has launched meanwhile.
        already_ended={i.id for i in listed} - {i.id for i in lived},
    )
    by_run = ec2.by_run(ended)
    for name in {*by_run, *unsure}:
        Journal(name).note_scram(len(by_run.get(name, [])))
    with _reported(say):
        for _, queue in _queues(cloud, run):
            sqs.delete(cloud.sqs, queue)
    return ended


@dataclass(frozen=True)
class _Notified:
    """The runs that have a queue, after the reason of their end was put on it."""

    queued: tuple[str, ...]
    # Those among them that an orchestrator follows: it may end its instances before
    # we do.
    followed: frozenset[str]
    # Runs whose queue is listed and does not exist, with its URL: it is being deleted,
    # or so new that it is not known yet.
    unknown: tuple[tuple[str, str], ...]


def _notified(cloud: Cloud, run: str, say: Say) -> _Notified:
    """Send the reason of their end to the orchestrators of runs."""
    queued: list[str] = []
    followed = set()
    unknown: list[tuple[str, str]] = []
    with _reported(say):  # after a refusal nothing more is sent: instances cost
        for name, queue in _queues(cloud, run):
            if status.may_be_followed(name):  # before the message: it ends the run
                followed.add(name)
            queued.append(name)
            if not sqs.send_if_there(cloud.sqs, queue, "scram"):
                unknown.append((queued.pop(), queue))
    return _Notified(tuple(queued), frozenset(followed), tuple(unknown))


def _made_just_now(
    cloud: Cloud, unknown: Sequence[tuple[str, str]], say: Say
) -> list[str]:
    """Return the runs whose queue was unknown because it is new; notify them, too."""
    maybe = [each for each in unknown if status.may_be_followed(each[0])]
    found = []
    if maybe:
        time.sleep(sqs.NEW_RETRY)
    with _reported(say):
        for name, queue in maybe:
            found.append(name)
            if not sqs.send_if_there(cloud.sqs, queue, "scram"):
                found.pop()
    return found


def _queues(cloud: Cloud, run: str) -> Iterator[tuple[str, str]]:
    """Yield the runs that have a stop queue, with its URL."""
    for name in [run] if run else sqs.runs(cloud.sqs):
        if queue := sqs.url(cloud.sqs, name):
            yield name, queue


@contextlib.contextmanager
def _reported(say: Say) -> Iterator[None]:
    """Report what the cloud refuses in the block: nothing depends on it."""
    try:
        yield
    except CloudError as error:
        say(str(error))


def _groups(cloud: Cloud, run: str, say: Say) -> list[str]:
    """Return the Auto Scaling groups to delete.

    A user who may not list them has made none: the failure is reported.
    """
    try:
        found = auto_scaling.find(cloud)
    except CloudError as error:
        say(f"{error}: if a run was started with --hold, see to its group")
        return []
    return [name for name in found if run in ("", name.removeprefix("cnd-"))]
