"""The stop message of a user: which run it is for, and its way to the run's queue.

One rule: a message is sent to one run only, and only where a process may read it.
"""

from __future__ import annotations

import time

from cnd import ec2, sqs
from cnd.cloud.connection import Cloud, required
from cnd.errors import CloudError, UsageError
from cnd.run.journal import Journal


def stop(cloud: Cloud | None, run: str, message: str) -> str:
    """Put `message` on the queue of a run, which then ends in order; return the run.

    Args:
        run: its name; "": the only one that is going on.

    Raises:
        UsageError: there is no such run, or more than one is going on, or an
            orchestrator of this machine that died has left it.
        CloudError: there is no cloud.
    """
    place = required(cloud)
    runs = [run] if run else _going_on(place)
    if len(runs) != 1:
        found = f"{len(runs)} runs are going on: {', '.join(runs)}" if runs else ""
        hint = "say which: fab stop --run ID" if runs else "`fab status` shows runs"
        raise UsageError(found or "no run is going on", hint=hint)
    _require_reader(runs[0])
    if Journal(runs[0]).is_over or not _sent(place, runs[0], message):
        reason = f"no such run is going on: {runs[0]!r}"
        raise UsageError(reason, hint="`fab status` shows runs")
    return runs[0]


def _require_reader(run: str) -> None:
    """Refuse a run of this machine that no process follows: nothing reads its queue."""
    journal = Journal(run)
    if not journal.is_there or journal.is_over or journal.is_followed:
        return
    message = f"run {run} has no orchestrator that a stop message could reach"
    takes = f"`fab attach {run}` takes it over, and Ctrl-C then ends it with its logs"
    raise UsageError(message, hint=f"{takes}; `fab scram --run {run}` ends it at once")


def _going_on(cloud: Cloud) -> list[str]:
    """Return the runs that go on, of those that have a queue.

    A queue is listed for up to a minute after its deletion.  Where several are left,
    those count that are followed on this machine or have live instances.
    """
    queued = [run for run in sqs.runs(cloud.sqs) if not Journal(run).is_over]
    if len(queued) < 2:
        return queued
    try:
        live = ec2.by_run(ec2.find(cloud.ec2))
    except CloudError:
        return queued
    shown = [run for run in queued if run in live or Journal(run).is_followed]
    return shown or queued


def _sent(cloud: Cloud, run: str, message: str) -> bool:
    """Put `message` on the queue of a run; return whether it has one."""
    if not (queue := sqs.url(cloud.sqs, run)):
        return False
    if sqs.send_if_there(cloud.sqs, queue, message):
        return True
    time.sleep(sqs.NEW_RETRY)  # perhaps it is new
    return sqs.send_if_there(cloud.sqs, queue, message)
