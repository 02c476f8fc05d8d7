"""What happened to each instance, and when: a run's events as phases and rates.

One rule: pure; the events and the result of a run go in, frozen values come out.  A
worker is another machine's program: what it says is bounded before anybody draws it,
and its clock is believed only where ours does not contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cnd.errors import UsageError
from cnd.model.catalog import OFFERS
from cnd.model.events import NOTHING, Event, amount
from cnd.model.plan import Plan, billed, class_size
from cnd.model.replay import recall
from cnd.view.instance_history import InstanceHistory, _lives, _shifted


@dataclass(frozen=True)
class Class:
    """How far one residue class was tested."""

    index: int
    size: int
    tested: int  # each nonce once
    below: int  # of these, up to the cursor: without a gap
    ended: str
    counted: bool = True  # False: its worker, somebody's own, has not said


@dataclass(frozen=True)
class Timeline:
    """A run as it went; times are seconds since it was started."""

    run: str
    began: float  # seconds since the epoch
    seconds: float  # until the last that was seen of it
    wish: Mapping[str, Any]  # the fields of `run.started`
    result: Mapping[str, Any]  # `result.json`, empty if there is none
    outcome: str  # as in results; or "aborted", "unfinished"
    reason: str
    searching: float | None  # when the first worker began
    decided: float | None  # when the end was decided
    lives: tuple[InstanceHistory, ...]  # by index
    classes: tuple[Class, ...]
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
        late = [life for life in self.lives if life.stop is not None]
        return sorted(late, key=lambda life: (life.stop, life.index))


def timeline(
    run: str, events: Iterable[Event], result: Mapping[str, Any] | None
) -> Timeline:
    """Return what `events`, oldest first, and the result tell of a run.

    Also of a run that goes on, broke off or was taken over: what is not known yet
    is not there.
    """
    seen = _on_our_clock(events)
    result = result or {}
    wish = next((e.fields for e in seen if e.kind == "run.started"), NOTHING)
    began = next((e.time for e in seen), 0.0)
    decided = _decided(seen, result, began)
    outcome, reason = _outcome(seen, result)
    lives = _lives(seen, decided)
    return Timeline(
        run=run,
        began=began,
        seconds=max((e.time for e in seen), default=began) - began,
        wish=wish,
        result=result,
        outcome=outcome,
        reason=reason,
        searching=_first(seen, ("worker.started",), began),
        decided=None if decided is None else max(0.0, decided - began),
        lives=tuple(_shifted(life, began) for life in lives),
        classes=_classes(wish, seen, result),
        events=seen,
    )


def list_usd(line: Timeline) -> float | None:
    """Return what the instances cost on AWS by the shipped list; None: not known."""
    costs = []
    for life in line.lives:
        paid = sum(span.seconds for span in life.spans if span.name != "pending")
        offer = OFFERS.get(life.type)
        if paid and offer is None:
            return None
        costs.append(billed(paid) * offer.price.usd_per_hour if paid and offer else 0.0)
    return sum(costs)


# --- time


def _on_our_clock(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return the events with times that do not contradict our own clock.

    A worker cannot have spoken before its host let us in, nor after what we have
    written below its word; where it says so, its next word that can be right tells.
    """
    told = list(events)
    ready: dict[str | None, float] = {}
    earliest = []
    for event in told:
        if event.kind == "instance.ready":
            ready[event.host] = event.time
        earliest.append(ready.get(event.host, 0.0))
    latest = max((e.time for e in told if _is_ours(e)), default=0.0)
    later: dict[str | None, float] = {}  # the next word of each host
    for i in reversed(range(len(told))):
        event = told[i]
        if _is_ours(event):
            latest = event.time
        elif not earliest[i] <= event.time <= latest:  # also what is no number
            told[i] = replace(event, time=min(latest, later.get(event.host, latest)))
        later[event.host] = told[i].time
    return tuple(told)


def _is_ours(event: Event) -> bool:
    return not event.kind.startswith("worker.")


def _first(
    seen: Iterable[Event], kinds: Sequence[str], began: float = 0.0
) -> float | None:
    return next((e.time - began for e in seen if e.kind in kinds), None)


def _decided(
    seen: Sequence[Event], result: Mapping[str, Any], began: float
) -> float | None:
    """Return when the end was decided: as the run measured it, or as events tell."""
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


# --- instances


# --- classes


def _classes(
    wish: Mapping[str, Any], seen: Sequence[Event], result: Mapping[str, Any]
) -> tuple[Class, ...]:
    """Return how far each class was tested: by the result, or else by the events."""
    count, nonces = wish.get("instances"), wish.get("nonces")
    if not isinstance(count, int) or not isinstance(nonces, int) or count < 1:
        return ()
    coverage = result.get("coverage")
    if not isinstance(coverage, list):
        coverage = _coverage(wish, seen)
    return tuple(_class(each, nonces, count) for each in coverage)


def _class(told: Mapping[str, Any], nonces: int, count: int) -> Class:
    index = int(told["index"])
    size = class_size(nonces, index, count)
    counted = told["tested"] is not None
    tested = int(told["tested"] or 0) - int(told["repeated"])
    below = class_size(max(0, int(told["cursor"])), index, count)
    tested = min(max(0, tested), size)
    below = min(below, tested)
    return Class(index, size, tested, below, str(told["ended"]), counted)


def _coverage(wish: Mapping[str, Any], seen: Sequence[Event]) -> list[dict[str, Any]]:
    """Return the coverage of a run without a result."""
    try:
        plan = Plan(
            difficulty=wish["difficulty"],
            instances=wish["instances"],
            time_limit=wish["time_limit"],
            nonces=wish["nonces"],
            block=wish["block"],
            script=wish.get("script", ""),
        )
    except (KeyError, UsageError):
        return []
    return recall(plan, seen).race.coverage


# --- values of unknown origin
