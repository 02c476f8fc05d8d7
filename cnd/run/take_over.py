"""What is done before a run is taken over: its account, its past and the way to it.

One rule: nothing of the run is changed here, and a way that is closed is only reported.
"""

from __future__ import annotations

from cnd.cloud.connection import Cloud
from cnd.errors import CloudError, UsageError
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.provision.prepare import security_group
from cnd.run.journal import Journal
from cnd.run.order import RunOrder
from cnd.run.viewer import Say
from cnd.system import open_files


def prepared(journal: Journal, order: RunOrder, cloud: Cloud, say: Say) -> list[Event]:
    """Return the past events of a run whose instances this machine can reach from now.

    Raises:
        UsageError: the run belongs to another account, or this machine cannot hold so
            many connections.
    """
    if cloud.account != order.account:
        message = f"run {journal.run} belongs to account {order.account}"
        raise UsageError(message, hint="log in to that account, then attach again")
    past = list(journal.events())
    if journal.complaint:
        say(f"run {journal.run}: {journal.complaint}")
    if not order.plan.without_ssh:
        open_files.allow(order.plan.instances)
        _let_in(cloud, order.plan, say)
    return past


def _let_in(cloud: Cloud, plan: Plan, say: Say) -> None:
    """Let SSH in from this machine's present address; it may be let in already."""
    try:
        security_group(cloud, plan)
    except CloudError as error:
        say(f"{error}: SSH is allowed only from where the run was started")
