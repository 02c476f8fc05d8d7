"""How long instances were paid for, by what was seen of them.

One rule: the events of the run and nothing else.  AWS bills from *running* until
*shutting-down*, by the second; what is seen is a moment later, at both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cnd.model.events import Event, amount
from cnd.model.plan import Plan, Usage

LAUNCHED, RUNNING = "instance.launched", "instance.running"
ENDS = frozenset({"instance.terminated", "instance.lost"})


def ended_at(event: Event) -> float:
    """Return when an instance had ended of whose end an event tells, since the epoch.

    Where nobody followed it: when it left its report, a moment before it ended.
    """
    at = amount(event.fields.get("at"))
    return event.time if at is None else at


def spent(plan: Plan, events: Iterable[Event]) -> float | None:
    """Return what the instances cost so far, in USD; None if a price is not known."""
    seen = list(events)
    told: dict[str, dict[str, object]] = {}
    for event in seen:
        if event.kind in (LAUNCHED, RUNNING):
            told.setdefault(event.host or "", {}).update(event.fields)
    # Its own timer has ended what was not seen to end.
    stays = ((i, min(seconds, plan.lifetime)) for i, seconds in lives(seen).items())
    return plan.usd(_stay(told[i], seconds) for i, seconds in stays)


def _stay(told: Mapping[str, object], seconds: float) -> Usage:
    kind, zone = str(told.get("type") or ""), str(told.get("zone") or "")
    return Usage(seconds, kind, zone, told.get("spot") is True)


def lives(events: Iterable[Event]) -> dict[str, float]:
    """Return how many seconds each instance ran that was seen running, by its id.

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
