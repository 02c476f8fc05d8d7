"""What happened to each instance, and when: its events as phases and rates.

One rule: pure; events go in, frozen values come out.  A worker is a program of another
machine: the values in its reports are checked before anything is drawn from them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from cnd.model.billing import ended_at
from cnd.model.events import LAST_WORDS, Event
from cnd.model.plan import MAX_NONCES

# What an instance does, in the usual order.  Its bill begins with "boot".
PHASES = {
    "pending": "requested, until the cloud reports it as running",
    "boot": "running, until it accepts the SSH login",
    "push": "files are pushed and the worker starts, or waits for its turn",
    "search": "the worker tests nonces",
    "out of touch": "its connection dropped; the search may go on",
    "stop": "the end is decided, until the worker's last report",
    "log": "until its system log is here",
    "wait": "done; the others are not",
    "terminate": "until the cloud reports it as terminated",
}
KERNEL = re.compile(r"\w[\w.+-]{0,39}")
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
    samples: tuple[RateSample, ...] = ()
    stop: float | None = None  # seconds from the decision to the last report
    was_searching: bool = False  # when the end was decided
    end: str = "not seen terminated"  # or "terminated", "lost"

    def seconds(self, phase: str) -> float:
        """Return how long it was in a phase, all together."""
        return sum(span.seconds for span in self.spans if span.name == phase)

    @property
    def running_seconds(self) -> float:
        """How long it ran, as far as that was seen: what its bill counts."""
        return sum(span.seconds for span in self.spans if span.name != "pending")

    @property
    def is_counted(self) -> bool:
        """Whether its workers, if it had any, have reported how much they tested."""
        return bool(self.samples) or not self.seconds("search")

    @property
    def rate(self) -> float | None:
        """Nonces/s over all of its search, None if it tested nothing."""
        took = sum(sample.end - sample.begin for sample in self.samples)
        return self.tested / took if took and self.tested else None


# --- from events


def histories(seen: Sequence[Event], decided: float | None) -> list[InstanceHistory]:
    """Return the instances of a run by index.

    Args:
        seen: the events of the run, oldest first.
        decided: when the end was decided, seconds since the epoch.

    Returns:
        Histories whose times are since the epoch: see `shifted`.
    """
    builders: dict[str, _HistoryBuilder] = {}
    requested, last_done = 0.0, 0.0
    missing = 0  # instances that were requested, and not launched yet
    for event in seen:
        if event.kind == "instance.requested":
            requested, missing = event.time, count(event.fields.get("count")) or 0
        if event.kind in ("log.pulled", "log.failed", "host.done"):
            last_done = event.time
        if event.kind == "instance.launched" and event.host:
            # An instance that CND did not request, as the replacement by an Auto
            # Scaling group, has no other time than its own.
            since = requested if missing > 0 else event.time
            if event.host not in builders:
                builders[event.host] = _HistoryBuilder(event, since)
                missing -= 1
        elif event.host in builders:
            builders[event.host].add(event)
    end = max((e.time for e in seen), default=0.0)
    scrammed = max(last_done, decided) if decided is not None else end
    found = [each.finished(decided, scrammed, end) for each in builders.values()]
    return sorted(found, key=lambda each: (each.index, each.spans[:1] == (), each.id))


class _HistoryBuilder:
    """Follows one instance through its events; the only thing here that changes."""

    def __init__(self, event: Event, requested: float) -> None:
        self._fields: dict[str, Any] = {
            "id": event.host or "",
            "index": event.index or 0,
            "type": str(event.fields.get("type", "")),
            "zone": str(event.fields.get("zone", "")),
        }
        self._spans: list[Span] = []
        self._samples: list[RateSample] = []
        self._phase, self._since = "pending", min(requested, event.time)
        self._stands_by = False  # it replaces one that was lost, and has no class yet
        self._searching: set[int | None] = set()  # classes whose worker searches
        self._counts: dict[int | None, tuple[float, int]] = {}  # when, tested
        self._last_report: float | None = None
        self._first_search: float | None = None

    def add(self, event: Event) -> None:
        """Take in the next event of this instance."""
        kind = event.kind
        if kind == "instance.running":
            self._fields["address"] = str(event.fields.get("address", ""))
            self._stands_by = not event.fields.get("classes")
            self._enter("boot", event.time)
        elif kind == "instance.ready":
            self._set_up(event.time)
        elif kind == "class.handed_over":
            self._stands_by = False
            self._set_up(event.time)
        elif kind == "host.reconnecting" and self._searching:
            self._enter("out of touch", event.time)
        elif kind.startswith("worker."):
            self._add_report(event)
        elif kind in ("log.pulled", "log.failed", "host.done", "host.failed"):
            self._part_done(event)
        elif kind in ("instance.terminated", "instance.lost"):
            self._fields.setdefault("end", kind.removeprefix("instance."))
            self._enter("", ended_at(event))

    def _set_up(self, time: float) -> None:
        if not self._searching:
            self._enter("wait" if self._stands_by else "push", time)

    def _add_report(self, event: Event) -> None:
        """Take in a report of one of its workers."""
        if event.kind == "worker.started":
            self._searching.add(event.index)
            self._note_kernel(event)
            self._counts[event.index] = (event.time, 0)
            self._first_search = self._first_search or event.time
        if event.kind == "worker.device" and "kernel" in event.fields:
            self._note_kernel(event)
        self._count(event)
        if event.kind in LAST_WORDS:
            self._searching.discard(event.index)
            self._last_report = event.time
        if event.kind != "worker.noise":
            self._enter("search" if self._searching else "log", event.time)

    def _note_kernel(self, event: Event) -> None:
        kernel = str(event.fields.get("kernel", ""))
        self._fields["kernel"] = kernel if KERNEL.fullmatch(kernel) else "?"

    def _count(self, event: Event) -> None:
        """Note how much was tested since the last report of that."""
        tested = count(event.fields.get("tested"))
        if event.index not in self._counts or tested is None:
            return
        since, before = self._counts[event.index]
        if tested < before:
            return
        if event.time > since:
            self._samples.append(RateSample(since, event.time, tested - before))
        elif self._samples:  # two reports at once
            last = self._samples[-1]
            more = last.nonces + tested - before
            self._samples[-1] = replace(last, nonces=more)
        self._counts[event.index] = (max(since, event.time), tested)

    def _part_done(self, event: Event) -> None:
        if event.kind == "host.failed":
            self._searching.discard(event.index)
        if not self._searching:
            self._enter("wait", event.time)

    def _enter(self, phase: str, time: float) -> None:
        """Enter a phase; nothing comes after the end."""
        if not self._phase or phase == self._phase:
            return
        time = max(time, self._since)
        self._spans.append(Span(self._phase, self._since, time))
        self._phase, self._since = phase, time

    def finished(
        self, decided: float | None, scrammed: float, end: float
    ) -> InstanceHistory:
        """Return what there was; the last phase has lasted until `end`, so far."""
        self._enter("", max(end, self._since))
        spans = _cut(self._spans, "search", decided, "stop")
        spans = _cut(spans, "wait", scrammed, "terminate")
        stop, was_searching = None, False
        if decided is not None and self._last_report is not None:
            late = self._last_report - decided
            stop = late if late > 0 else None
            was_searching = (self._first_search or math.inf) < decided
        return InstanceHistory(
            spans=tuple(span for span in spans if span.seconds > 0),
            samples=_smooth(self._samples),
            tested=sum(sample.nonces for sample in self._samples),
            stop=stop,
            was_searching=was_searching,
            **self._fields,
        )


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


def _smooth(samples: Iterable[RateSample]) -> tuple[RateSample, ...]:
    """Join what is too short for a rate with what came right before it."""
    found: list[RateSample] = []
    for each in samples:
        last = found[-1] if found else None
        if last and last.end == each.begin and each.end - each.begin < SHORT:
            found[-1] = RateSample(last.begin, each.end, last.nonces + each.nonces)
        else:
            found.append(each)
    return tuple(found)


def shifted(history: InstanceHistory, began: float) -> InstanceHistory:
    """Return a history with times since `began`, the start of the run."""
    spans = (Span(s.name, s.begin - began, s.end - began) for s in history.spans)
    samples = (
        RateSample(s.begin - began, s.end - began, s.nonces) for s in history.samples
    )
    return replace(history, spans=tuple(spans), samples=tuple(samples))


def count(value: object) -> int | None:
    """Return how many nonces a worker claims to have tested, or None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_NONCES else None


# --- all instances together


def phase_seconds(found: Sequence[InstanceHistory]) -> dict[str, list[float]]:
    """Return how long each instance was in each phase that there was, sorted."""
    taken = {
        phase: sorted(s for each in found if (s := each.seconds(phase)) > 0)
        for phase in PHASES
    }
    return {phase: seconds for phase, seconds in taken.items() if seconds}


def phase_counts(
    found: Sequence[InstanceHistory], times: Sequence[float]
) -> dict[str, list[int]]:
    """Return how many instances are in each phase at each of `times`, ascending."""
    counts = {phase: [0] * len(times) for phase in PHASES}
    for history in found:
        for span in history.spans:
            for i, time in enumerate(times):
                if span.begin <= time < span.end:
                    counts[span.name][i] += 1
    return {phase: numbers for phase, numbers in counts.items() if any(numbers)}


def rates(
    found: Sequence[InstanceHistory], edges: Sequence[float]
) -> list[list[float]]:
    """Return the nonces/s of each instance between every two `edges`.

    What was tested in a sample is spread evenly over it, so that the sum of rates times
    widths is what was tested between the first edge and the last.
    """
    return [_binned(history.samples, edges) for history in found]


def _binned(samples: Iterable[RateSample], edges: Sequence[float]) -> list[float]:
    found = [0.0] * (len(edges) - 1)
    for sample in samples:
        for i, (low, high) in enumerate(pairwise(edges)):
            common = min(high, sample.end) - max(low, sample.begin)
            if common > 0:
                found[i] += sample.rate * common / (high - low)
    return found
