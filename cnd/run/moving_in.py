"""The first steps of a run on a fleet that is up: reached, its timers set, tagged.

One rule: each step leaves every instance with a lifetime timer; what fails before the
tags leaves the fleet to the run that had it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from functools import partial

from cnd import ec2, sqs
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, ForeignHost, HostError, UsageError
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.provision import user_data
from cnd.run.reuse import FleetLeft
from cnd.transport.ssh_fleet import SshFleet


@contextlib.contextmanager
def undone(fleet: SshFleet, cloud: Cloud, queue: str) -> Iterator[None]:
    """Close the connections and delete the queue if the block fails."""
    try:
        yield
    except BaseException:
        fleet.close()
        with contextlib.suppress(CloudError):  # a queue costs nothing
            sqs.delete(cloud.sqs, queue)
        raise


def reach(fleet: SshFleet, left: FleetLeft) -> None:
    """Connect to the instances that run; `UsageError` if one is not of this fleet."""
    running = {f"Instance{i.index}": i for i in left.instances if i.state == "running"}
    try:
        fleet.reach(running, left.runs)
    except ForeignHost as error:
        message = f"the fleet of run {left.run} is not searched on: {error}"
        hint = "another machine answers in its place; `fab start` launches a new fleet"
        raise UsageError(message, hint=hint) from error


def set_timers(
    fleet: SshFleet, cloud: Cloud, left: FleetLeft, plan: Plan, run: str
) -> None:
    """Set the lifetime timers of a fleet anew; the tags tell the new deadline before.

    Raises:
        CloudError, HostError: not all could be set; each instance has one, old or new.
    """
    for each in left.instances:
        if each.id not in fleet.reached:
            why = f"it does not answer: its timer cannot be set anew ({each.id})"
            raise HostError(f"Instance{each.index}", why)
    end = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=plan.holds)
    ec2.tag_deadline(cloud.ec2, [each.id for each in left.instances], end)
    fleet.tell(partial(_rearming, end, run))


def _rearming(end: dt.datetime, run: str) -> str:
    seconds = (end - dt.datetime.now(dt.timezone.utc)).total_seconds()
    return user_data.rearming(seconds, run)


def event(left: FleetLeft, plan: Plan) -> Event:
    """Return the event that a run begins on a fleet that is up."""
    fields = {
        "of": left.run,
        "instances": len(left.instances),
        "holds": plan.holds,
        "keep": plan.keep,
    }
    return Event("fleet.reused", fields=fields)


def tag(cloud: Cloud, left: FleetLeft, run: str) -> None:
    """Make the instances those of `run`, and keep the names of the runs before it."""
    runs = ec2.shared_by(run, left.runs)
    ec2.hand_over(cloud.ec2, [each.id for each in left.instances], runs)
