"""Whether a run still searches, so that no other one may go on with its classes.

One rule: the cloud's list decides, where no process here follows the run.
"""

from __future__ import annotations

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import UsageError
from cnd.run import status
from cnd.run.journal import Journal


def require_ended(journal: Journal, cloud: Cloud | None) -> None:
    """Refuse a run that still searches, or may.

    Args:
        cloud: in the region of the run; None: it is a local cloud, and down.

    Raises:
        UsageError: it does.
        CloudError: the cloud could not be asked.
    """
    run = journal.run
    if journal.is_followed:
        message = f"run {run} still searches"
        raise UsageError(message, hint=f"`fab stop --run {run}` ends it, with its logs")
    if journal.is_over or cloud is None:
        return
    listed = ec2.find(cloud.ec2, run=run, states=ec2.ALL)
    live = [instance for instance in listed if instance.state in ec2.LIVE]
    if live or run in status.under_way(listed, cloud):
        message = f"run {run} still searches, without an orchestrator"
        hint = f"`fab attach {run}` takes it over, `fab scram --run {run}` ends it"
        raise UsageError(message, hint=hint)
