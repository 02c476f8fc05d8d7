"""How long instances ran and what they cost, by the events of the run.

One rule: the events of the run and nothing else.  AWS bills from *running* until
*shutting-down*, by the second; an event comes a moment later, at both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cnd.model.events import Event, amount
from cnd.model.plan import Plan, Usage

LAUNCHED, RUNNING = "instance.launched", "instance.running"
ENDS = frozenset({"instance.terminated", "instance.lost"})


def ended_at(event: Event) -> float:
    """Return when the instance of an event in `ENDS` had ended, since the epoch.

    Without an orchestrator: when it left its report, a moment before it ended.
    """
    at = amount(event.fields.get("at"))
    return event.time if at is None else at


def spent(plan: Plan, events: Iterable[Event]) -> float | None:
    """Return what the instances cost so far, in USD; None if a price is not known."""
    seen = list(events)
    fields: dict[str, dict[str, object]] = {}
    for event in seen:
        if event.kind in (LAUNCHED, RUNNING):
            fields.setdefault(event.host or "", {}).update(event.fields)
    # Its own timer has ended what was not seen to end.
    ran = ((i, min(seconds, plan.lifetime)) for i, seconds in lives(seen).items())
    return plan.usd(_usage(fields[i], seconds) for i, seconds in ran)


def _usage(fields: Mapping[str, object], seconds: float) -> Usage:
    kind, zone = str(fields.get("type") or ""), str(fields.get("zone") or "")
    return Usage(seconds, kind, zone, fields.get("spot") is True)


def lives(events: Iterable[Event]) -> dict[str, float]:
    """Return the seconds that each instance ran, by its id, if it was seen running.

    Or that has left a report: it ran from its launch on, for all that is known.  One
    that was not seen to end has run until the last event, so far.
    """
    launched: dict[str, float] = {}
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    last = 0.0
    for event in events:
        last = max(last, event.time)
        host = event.host or ""
        if event.kind == LAUNCHED:
            launched[host] = event.time
        elif event.kind == RUNNING:
            began.setdefault(host, event.time)
        elif event.kind in ENDS:
            ended.setdefault(host, ended_at(event))
            if "at" in event.fields and host in launched:
                began.setdefault(host, launched[host])
    return {host: max(0.0, ended.get(host, last) - t) for host, t in began.items()}
