"""What happened to each instance, and when: a run's events as phases and rates.

One rule: pure; the events and the result of a run go in, frozen values come out.  A
worker is another machine's program: what it says is bounded before anybody draws it,
and its clock is believed only where ours does not contradict it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from cnd.errors import UsageError
from cnd.model.catalog import OFFERS
from cnd.model.events import LAST_WORDS, NOTHING, Event, amount
from cnd.model.plan import MAX_NONCES, Plan, billed_hours, class_size
from cnd.model.replay import replayed

# What an instance does, in the usual order.  Its bill begins with "boot".
PHASES = {
    "pending": "asked for, until the cloud says that it runs",
    "boot": "running, until its SSH lets us in",
    "push": "files are pushed and the worker starts, or waits for its turn",
    "search": "the worker tests nonces",
    "out of touch": "its connection dropped; the search may go on",
    "stop": "the end is decided, until the worker's last word",
    "log": "until its system log is here",
    "wait": "done; the others are not",
    "terminate": "until the cloud says that it is terminated",
}
KERNEL = re.compile(r"\w[\w.-]{0,39}")
SHORT = 0.25  # seconds; a rate over less is noise and joins the one before


@dataclass(frozen=True)
class Span:
    """A stretch of time in seconds since the run was started."""

    name: str  # one of PHASES
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True)
class RateSample:
    """So many nonces were tested from `begin` to `end`, seconds of the run."""

    begin: float
    end: float
    nonces: int

    @property
    def rate(self) -> float:
        """Nonces/s."""
        return self.nonces / (self.end - self.begin)


@dataclass(frozen=True)
class InstanceHistory:
    """One instance from its request to its end."""

    id: str
    index: int
    type: str = ""
    zone: str = ""
    address: str = ""
    kernel: str = ""
    tested: int = 0
    spans: tuple[Span, ...] = ()
    paces: tuple[RateSample, ...] = ()
    stop: float | None = None  # seconds from the decision to its last word
    was_searching: bool = False  # when the end was decided
    end: str = "not seen terminated"  # or "terminated", "lost"

    def seconds(self, phase: str) -> float:
        """Return how long it was in a phase, all together."""
        return sum(span.seconds for span in self.spans if span.name == phase)

    @property
    def is_counted(self) -> bool:
        """Whether its workers, if it had any, have said how much they tested."""
        return bool(self.paces) or not self.seconds("search")

    @property
    def rate(self) -> float | None:
        """Nonces/s over all of its search, None if it tested nothing."""
        took = sum(pace.end - pace.begin for pace in self.paces)
        return self.tested / took if took and self.tested else None


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
        costs.append(
            billed_hours(paid) * offer.price.usd_per_hour if paid and offer else 0.0
        )
    return sum(costs)


def phases_of(lives: Sequence[InstanceHistory]) -> dict[str, list[float]]:
    """Return how long each instance was in each phase that there was, sorted."""
    found = {
        phase: sorted(s for life in lives if (s := life.seconds(phase)) > 0)
        for phase in PHASES
    }
    return {phase: seconds for phase, seconds in found.items() if seconds}


def rates(
    lives: Sequence[InstanceHistory], edges: Sequence[float]
) -> list[list[float]]:
    """Return the nonces/s of each instance between every two `edges`.

    What was tested in a pace is spread evenly over it, so that the sum of rates times
    widths is what was tested between the first edge and the last.
    """
    return [_binned(life.paces, edges) for life in lives]


def present(
    lives: Sequence[InstanceHistory], times: Sequence[float]
) -> dict[str, list[int]]:
    """Return how many instances are in each phase at each of `times`, ascending."""
    found = {phase: [0] * len(times) for phase in PHASES}
    for life in lives:
        for span in life.spans:
            for i, time in enumerate(times):
                if span.begin <= time < span.end:
                    found[span.name][i] += 1
    return {phase: counts for phase, counts in found.items() if any(counts)}


def _binned(paces: Iterable[RateSample], edges: Sequence[float]) -> list[float]:
    found = [0.0] * (len(edges) - 1)
    for pace in paces:
        for i, (low, high) in enumerate(pairwise(edges)):
            common = min(high, pace.end) - max(low, pace.begin)
            if common > 0:
                found[i] += pace.rate * common / (high - low)
    return found


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


class _InstanceHistory:
    """Follows one instance through its events; the only thing here that changes."""

    def __init__(self, event: Event, asked: float) -> None:
        self.fields: dict[str, Any] = {
            "id": event.host or "",
            "index": event.index or 0,
            "type": str(event.fields.get("type", "")),
            "zone": str(event.fields.get("zone", "")),
        }
        self.spans: list[Span] = []
        self.paces: list[RateSample] = []
        self._phase, self._since = "pending", min(asked, event.time)
        self._stands_by = False  # it replaces one that was lost, and has no class yet
        self._busy: set[int | None] = set()  # classes whose worker searches
        self._told: dict[int | None, tuple[float, int]] = {}  # when, tested
        self._last_word: float | None = None
        self._first_search: float | None = None

    def see(self, event: Event) -> None:
        """Take in the next event of this instance."""
        kind = event.kind
        if kind == "instance.running":
            self.fields["address"] = str(event.fields.get("address", ""))
            self._stands_by = not event.fields.get("classes")
            self._go("boot", event.time)
        elif kind == "instance.ready":
            self._set_up(event.time)
        elif kind == "class.handed_over":
            self._stands_by = False
            self._set_up(event.time)
        elif kind == "host.reconnecting" and self._busy:
            self._go("out of touch", event.time)
        elif kind.startswith("worker."):
            self._hear(event)
        elif kind in ("log.pulled", "log.failed", "host.done", "host.failed"):
            self._part_done(event)
        elif kind in ("instance.terminated", "instance.lost"):
            self.fields.setdefault("end", kind.removeprefix("instance."))
            self._go("", event.time)

    def _set_up(self, time: float) -> None:
        if not self._busy:
            self._go("wait" if self._stands_by else "push", time)

    def _hear(self, event: Event) -> None:
        """Take in what one of its workers says."""
        if event.kind == "worker.started":
            self._busy.add(event.index)
            kernel = str(event.fields.get("kernel", ""))
            self.fields["kernel"] = kernel if KERNEL.fullmatch(kernel) else "?"
            self._told[event.index] = (event.time, 0)
            self._first_search = self._first_search or event.time
        self._count(event)
        if event.kind in LAST_WORDS:
            self._busy.discard(event.index)
            self._last_word = event.time
        if event.kind != "worker.noise":
            self._go("search" if self._busy else "log", event.time)

    def _count(self, event: Event) -> None:
        """Note how much was tested since the last word on it."""
        tested = count(event.fields.get("tested"))
        if event.index not in self._told or tested is None:
            return
        since, before = self._told[event.index]
        if tested < before:
            return
        if event.time > since:
            self.paces.append(RateSample(since, event.time, tested - before))
        elif self.paces:  # two words at once
            last = self.paces[-1]
            more = last.nonces + tested - before
            self.paces[-1] = replace(last, nonces=more)
        self._told[event.index] = (max(since, event.time), tested)

    def _part_done(self, event: Event) -> None:
        if event.kind == "host.failed":
            self._busy.discard(event.index)
        if not self._busy:
            self._go("wait", event.time)

    def _go(self, phase: str, time: float) -> None:
        """Enter a phase; nothing comes after the end."""
        if not self._phase or phase == self._phase:
            return
        time = max(time, self._since)
        self.spans.append(Span(self._phase, self._since, time))
        self._phase, self._since = phase, time

    def life(
        self, decided: float | None, scrammed: float, end: float
    ) -> InstanceHistory:
        """Return what there was; the last phase has lasted until `end`, so far."""
        self._go("", max(end, self._since))
        spans = _cut(self.spans, "search", decided, "stop")
        spans = _cut(spans, "wait", scrammed, "terminate")
        stop, was_searching = None, False
        if decided is not None and self._last_word is not None:
            late = self._last_word - decided
            stop = late if late > 0 else None
            was_searching = (self._first_search or math.inf) < decided
        return InstanceHistory(
            spans=tuple(span for span in spans if span.seconds > 0),
            paces=_smooth(self.paces),
            tested=sum(pace.nonces for pace in self.paces),
            stop=stop,
            was_searching=was_searching,
            **self.fields,
        )


def _lives(seen: Sequence[Event], decided: float | None) -> list[InstanceHistory]:
    """Return the instances by index, with times since the epoch."""
    watches: dict[str, _InstanceHistory] = {}
    asked, searched = 0.0, 0.0
    missing = 0  # instances that were asked for, and not launched yet
    for event in seen:
        if event.kind == "instance.requested":
            asked, missing = event.time, count(event.fields.get("count")) or 0
        if event.kind in ("log.pulled", "log.failed", "host.done"):
            searched = event.time
        if event.kind == "instance.launched" and event.host:
            # What nobody asked for here, as an Auto Scaling group's replacement, has
            # no other time than its own.
            since = asked if missing > 0 else event.time
            if event.host not in watches:
                watches[event.host] = _InstanceHistory(event, since)
                missing -= 1
        elif event.host in watches:
            watches[event.host].see(event)
    end = max((e.time for e in seen), default=0.0)
    scrammed = max(searched, decided) if decided is not None else end
    lives = [watch.life(decided, scrammed, end) for watch in watches.values()]
    return sorted(lives, key=lambda life: (life.index, life.spans[:1] == (), life.id))


def _cut(
    spans: Iterable[Span], name: str, time: float | None, after: str
) -> list[Span]:
    """Return the spans with those called `name` called `after` from `time` on."""
    found: list[Span] = []
    for span in spans:
        if span.name != name or time is None or span.end <= time:
            found.append(span)
        else:
            middle = max(span.begin, time)
            found.append(Span(name, span.begin, middle))
            found.append(Span(after, middle, span.end))
    return found


def _smooth(paces: Iterable[RateSample]) -> tuple[RateSample, ...]:
    """Join what is too short for a rate with what came right before it."""
    found: list[RateSample] = []
    for pace in paces:
        last = found[-1] if found else None
        if last and last.end == pace.begin and pace.end - pace.begin < SHORT:
            found[-1] = RateSample(last.begin, pace.end, last.nonces + pace.nonces)
        else:
            found.append(pace)
    return tuple(found)


def _shifted(life: InstanceHistory, began: float) -> InstanceHistory:
    """Return a life with times since the start of the run."""
    spans = (Span(s.name, s.begin - began, s.end - began) for s in life.spans)
    paces = (RateSample(p.begin - began, p.end - began, p.nonces) for p in life.paces)
    return replace(life, spans=tuple(spans), paces=tuple(paces))


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
    return replayed(plan, seen).search.coverage


# --- values of unknown origin


def count(value: object) -> int | None:
    """Return how many nonces a worker claims to have tested, or None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_NONCES else None
