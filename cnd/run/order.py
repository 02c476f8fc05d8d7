"""The order of a run, ``order.json``, as checked values: its plan, cloud and resources.

One rule: an order with one wrong value is damaged as a whole, and the message about it
names the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from cnd.errors import UsageError
from cnd.model.plan import Plan
from cnd.provision.prepare import Provision
from cnd.run.journal import ORDER, Journal
from cnd.system.typed_json import fits, made


@dataclass(frozen=True)
class RunOrder:
    """All that is needed to take a run over, or to find what it has left."""

    cloud: str
    region: str
    account: str
    plan: Plan
    provision: Provision


def to_take_over(journal: Journal) -> RunOrder:
    """Return the order of a run that has not ended.

    Raises:
        UsageError: there is no such run, it is over, or its order is damaged.
    """
    journal.order()
    if (found := kept(journal)) is None:
        message = f"run {journal.run} cannot be taken over: {ORDER} "
        hint = f"`fab scram --run {journal.run}` ends what is left of it"
        raise UsageError(message + journal.damage.get(ORDER, "is gone"), hint=hint)
    return found


def kept(journal: Journal) -> RunOrder | None:
    """Return the order of a run, also of one that is over; None if there is none."""
    if (record := journal.kept_order()) is None:
        return None
    place = [record.get(name) for name in ("cloud", "region", "account")]
    try:
        if not fits(place, list[str]):
            raise ValueError("names no cloud")
        plan = made(Plan, record.get("plan"))
        provision = Provision.from_json(record.get("provision"))
    except ValueError as error:  # `UsageError` is one
        journal.damage[ORDER] = f"is damaged: {error}"
        return None
    cloud, region, account = map(str, place)
    return RunOrder(cloud, region, account, plan, provision)
