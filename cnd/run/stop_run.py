"""The stop message of a user: which run it is for, and its way to the run's queue.

One rule: a message is sent to one run only, and only to one that has a queue.
"""

from __future__ import annotations

from cnd import sqs
from cnd.cloud.connection import Cloud, required
from cnd.errors import UsageError


def stop(cloud: Cloud | None, run: str, message: str) -> str:
    """Put `message` on the queue of a run, which then ends in order; return the run.

    Args:
        run: its name; "": the only one that is going on.

    Raises:
        UsageError: there is no such run, or more than one is going on.
        CloudError: there is no cloud.
    """
    client = required(cloud).sqs
    runs = [run] if run else sqs.runs(client)
    if len(runs) != 1:
        found = f"{len(runs)} runs are going on: {', '.join(runs)}" if runs else ""
        hint = "say which: fab stop --run ID" if runs else "`fab status` shows runs"
        raise UsageError(found or "no run is going on", hint=hint)
    if not (queue := sqs.url(client, runs[0])):
        reason = f"no such run is going on: {runs[0]!r}"
        raise UsageError(reason, hint="`fab status` shows runs")
    sqs.send(client, queue, message)
    return runs[0]
