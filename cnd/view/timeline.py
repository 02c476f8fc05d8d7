"""What happened in a run, and when: its instances, its classes, its end.

One rule: pure; the events and the result of a run go in, frozen values come out.  The
clock of a worker is another machine's: it counts only where the orchestrator's clock
does not contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cnd.model.catalog import OFFERS
from cnd.model.checkpoint import Checkpoint
from cnd.model.events import NOTHING, Event, amount
from cnd.model.pieces import members
from cnd.model.plan import Plan, billed_hours
from cnd.model.replay import replayed
from cnd.view.instance_history import InstanceHistory, histories, shifted


@dataclass(frozen=True)
class ClassCoverage:
    """How far one residue class was tested."""

    index: int
    size: int
    tested: int  # each nonce once
    below: int  # of these, up to the cursor: without a gap
    ended: str
    counted: bool = True  # False: a worker of the user's own has not reported it


@dataclass(frozen=True)
class Timeline:
    """A run as it went; times are seconds since it was started."""

    run: str
    began: float  # seconds since the epoch
    seconds: float  # until the last that was seen of it
    request: Mapping[str, Any]  # the fields of `run.started`
    result: Mapping[str, Any]  # `result.json`, empty if there is none
    outcome: str  # as in results; or "aborted", "unfinished"
    reason: str
    searching: float | None  # when the first worker began
    decided: float | None  # when the end was decided
    instances: tuple[InstanceHistory, ...]  # by index
    classes: tuple[ClassCoverage, ...]
    events: tuple[Event, ...] = field(repr=False)

    @property
    def tested(self) -> int:
        """Nonces tested, each counted once, as far as it is known."""
        return sum(each.tested for each in self.classes)

    @property
    def counted(self) -> bool:
        """Whether it is known of every class how much was tested."""
        return all(each.counted for each in self.classes)

    @property
    def stops(self) -> list[InstanceHistory]:
        """The instances that had to be stopped, the quickest first."""
        late = [each for each in self.instances if each.stop is not None]
        return sorted(late, key=lambda each: (each.stop, each.index))


def timeline(
    run: str,
    events: Iterable[Event],
    result: Mapping[str, Any] | None,
    history: Iterable[Event | Checkpoint] | None = None,
) -> Timeline:
    """Return what the events of a run, oldest first, and its result show.

    The run may go on, have broken off or have been taken over: what is not known yet
    is left out.

    Args:
        history: what shows how far a run without a result is; None: its events.
    """
    seen = _on_one_clock(events)
    result = result or {}
    request = next((e.fields for e in seen if e.kind == "run.started"), NOTHING)
    began = next((e.time for e in seen), 0.0)
    decided = _decided(seen, result, began)
    outcome, reason = _outcome(seen, result)
    return Timeline(
        run=run,
        began=began,
        seconds=max((e.time for e in seen), default=began) - began,
        request=request,
        result=result,
        outcome=outcome,
        reason=reason,
        searching=_first(seen, ("worker.started",), began),
        decided=None if decided is None else max(0.0, decided - began),
        instances=tuple(shifted(each, began) for each in histories(seen, decided)),
        classes=_classes(request, seen if history is None else history, result),
        events=seen,
    )


def list_usd(line: Timeline) -> float | None:
    """Return what the instances cost on AWS by the shipped list; None: not known."""
    costs = []
    for instance in line.instances:
        paid = instance.running_seconds
        offer = OFFERS.get(instance.type)
        if paid and offer is None:
            return None
        costs.append(
            billed_hours(paid) * offer.price.usd_per_hour if paid and offer else 0.0
        )
    return sum(costs)


# --- time


def _on_one_clock(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return the events with times that do not contradict the orchestrator's clock.

    A worker's report cannot be older than the login to its host, nor newer than the
    orchestrator's own events that follow it.  A report with such a time gets the time
    of the host's next report that is possible.
    """
    seen = list(events)
    ready: dict[str | None, float] = {}
    earliest = []
    for event in seen:
        if event.kind == "instance.ready":
            ready[event.host] = event.time
        earliest.append(ready.get(event.host, 0.0))
    latest = max((e.time for e in seen if _is_ours(e)), default=0.0)
    later: dict[str | None, float] = {}  # the time of each host's next event
    for i in reversed(range(len(seen))):
        event = seen[i]
        if _is_ours(event):
            latest = event.time
        elif not earliest[i] <= event.time <= latest:  # also what is no number
            seen[i] = replace(event, time=min(latest, later.get(event.host, latest)))
        later[event.host] = seen[i].time
    return tuple(seen)


def _is_ours(event: Event) -> bool:
    """Whether the orchestrator has seen it itself: a worker's report is not."""
    return not event.kind.startswith("worker.")


def _first(
    seen: Iterable[Event], kinds: Sequence[str], began: float = 0.0
) -> float | None:
    return next((e.time - began for e in seen if e.kind in kinds), None)


def _decided(
    seen: Sequence[Event], result: Mapping[str, Any], began: float
) -> float | None:
    """Return when the end was decided: as the run measured it, or as events show."""
    took = result.get("seconds") or {}
    boot, search = amount(took.get("boot")), amount(took.get("search"))
    if boot is not None and search is not None:
        return began + boot + search
    return _first(seen, ("run.stop_requested", "run.aborted"))


def _outcome(seen: Sequence[Event], result: Mapping[str, Any]) -> tuple[str, str]:
    if result:
        return str(result.get("outcome", "")), str(result.get("reason", ""))
    if any(e.kind == "run.aborted" for e in seen):
        return "aborted", "it broke off before its end"
    return "unfinished", "it goes on, or its orchestrator died"


# --- classes


def _classes(
    request: Mapping[str, Any],
    history: Iterable[Event | Checkpoint],
    result: Mapping[str, Any],
) -> tuple[ClassCoverage, ...]:
    """Return how far each class was tested: by the result, or else by the events."""
    count, nonces = request.get("instances"), request.get("nonces")
    if not isinstance(count, int) or not isinstance(nonces, int) or count < 1:
        return ()
    coverage = result.get("coverage")
    if not isinstance(coverage, list):
        coverage = _coverage(request, history)
    return tuple(_class(each, nonces, count) for each in coverage)


def _class(coverage: Mapping[str, Any], nonces: int, count: int) -> ClassCoverage:
    index = int(coverage["index"])
    # A row of an older version is that of a whole class.
    step, start = coverage.get("of", count), coverage.get("start", index)
    size = members(start, step, nonces)
    counted = coverage["tested"] is not None
    tested = int(coverage["tested"] or 0) - int(coverage["repeated"])
    below = members(start, step, max(0, int(coverage["cursor"])))
    tested = min(max(0, tested), size)
    below = min(below, tested)
    return ClassCoverage(index, size, tested, below, str(coverage["ended"]), counted)


def _coverage(
    request: Mapping[str, Any], history: Iterable[Event | Checkpoint]
) -> list[dict[str, Any]]:
    """Return the coverage of a run without a result."""
    try:
        plan = Plan(
            difficulty=request["difficulty"],
            instances=request["instances"],
            time_limit=request["time_limit"],
            nonces=request["nonces"],
            block=request["block"],
            script=request.get("script", ""),
            work=tuple(map(tuple, request.get("work", ()))),
            known=request.get("known"),
        )
        return replayed(plan, history).search.coverage
    except (KeyError, ValueError):  # `UsageError` is one
        return []
