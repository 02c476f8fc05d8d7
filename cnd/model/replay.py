"""A run's journal replayed, for an orchestrator that takes the run over.

One rule: pure.  The events go through the same `SearchState` logic as before; what they
do not say is asked from the cloud and the hosts, not guessed.  How long the search has
gone on is taken from its workers: this machine's clock may have been set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median_high

from cnd.model.checkpoint import Checkpoint, in_series
from cnd.model.events import Event, amount
from cnd.model.plan import Plan
from cnd.model.search_state import SearchState

JITTER = 0.05  # seconds by which a reported start must be earlier than the known one
RUNS = ("pending", "running")  # states of an instance that may search
UNLISTED = "no longer listed"
# What these say of a host holds for the next orchestrator, too.
UNFIT = ("worker.failed", "worker.refuted")


@dataclass(frozen=True)
class RunHistory:
    """A run as its last orchestrator left it."""

    search: SearchState
    index: Mapping[str, int]  # of every instance that was launched, by its id
    launched: Mapping[str, float]  # when each was, seconds since the epoch
    lost: frozenset[str]  # instances that went away
    ended: Mapping[str, float]  # when an instance was seen terminated
    unfit: frozenset[str]  # instances that get no further class
    # Seconds by the clock of the orchestrator: from the start of the run until its
    # first worker began, and until the last event of the orchestrator.
    boot: float | None
    lasted: float
    searched: Mapping[int, float]  # seconds that each class's first worker has reported


class SearchClock:
    """When a search that was taken over began, by the reports of its workers.

    A worker that reports `seconds` began that long ago.  A report that is read late
    sets the beginning too late, until the next one.  The median of the classes holds:
    neither a false report nor a worker that died early decides.
    """

    def __init__(self, searched: Mapping[int, float], now: float) -> None:
        """Begin with what was reported before `now`, on a clock that is never set."""
        self._began = {index: now - seconds for index, seconds in searched.items()}

    @property
    def began(self) -> float | None:
        """When the search began; None: no worker has reported yet."""
        return median_high(self._began.values()) if self._began else None

    def update(self, event: Event, search: SearchState) -> bool:
        """Take in an event just received; return whether `began` has changed."""
        reported = searched_seconds(event, search)
        if reported is None:
            return False
        index, seconds = reported
        began = event.received - seconds
        if began > self._began.get(index, math.inf) - JITTER:
            return False
        self._began[index] = began
        return True


def searched_seconds(event: Event, search: SearchState) -> tuple[int, float] | None:
    """Return the class and the seconds of search that a worker's event reports.

    None where it reports none; a worker that took a class over began later.
    """
    index = event.index
    seconds = 0.0 if event.kind == "worker.started" else event.fields.get("seconds")
    reported = amount(seconds)
    if reported is None or index is None or not event.kind.startswith("worker."):
        return None
    progress = search.classes.get(index)
    if progress is None or event.host != progress.host:
        return None
    if not _is_first(search, index):
        return None
    return index, min(reported, search.plan.time_limit)


def _is_first(search: SearchState, index: int) -> bool:
    """Return whether the worker of a class began with the run, and not later."""
    begins = index < search.plan.instances  # not after another class
    return begins and search.classes[index].start == search.plan.pieces[index].start


def replayed(plan: Plan, history: Iterable[Event | Checkpoint]) -> RunHistory:
    """Return the run of `plan` as its events, oldest first, have left it.

    Args:
        history: with a checkpoint, in its place, where earlier progress is left out.
    """
    search = SearchState(plan)
    index: dict[str, int] = {}
    launched: dict[str, float] = {}
    ended: dict[str, float] = {}
    lost: set[str] = set()
    unfit: set[str] = set()
    marks: dict[str, float] = {}  # when a kind came first
    searched: dict[int, float] = {}
    now = 0.0  # by the orchestrator's clock: a host's may be wrong
    for entry in history:
        if (event := _seen(search, entry)) is None:
            continue
        if not event.kind.startswith("worker."):
            now = event.time
        marks.setdefault(event.kind, now)
        if reported := searched_seconds(event, search):
            i, seconds = reported
            searched[i] = max(seconds, searched.get(i, 0.0))
        host = event.host or ""
        if event.kind == "instance.launched" and event.index is not None:
            index[host] = event.index
            launched[host] = now
        elif event.kind == "instance.lost":
            lost.add(host)
        elif event.kind == "instance.terminated":
            ended[host] = now
        elif event.kind in UNFIT:
            unfit.add(host)
        elif event.kind == "run.stop_requested":
            search.stop(event)
    searched |= {
        i: max(s.seconds, searched.get(i, 0.0))
        for i, s in search.classes.items()
        if s.seconds and _is_first(search, i)
    }
    began, searching = marks.get("run.started", now), marks.get("worker.started")
    return RunHistory(
        search=search,
        index=index,
        launched=launched,
        lost=frozenset(lost),
        ended=ended,
        unfit=frozenset(unfit),
        boot=None if searching is None else max(0.0, searching - began),
        lasted=max(0.0, now - began),
        searched=searched,
    )


def _seen(search: SearchState, entry: Event | Checkpoint) -> Event | None:
    """Take in an entry of a journal; return the event, if it is one."""
    if isinstance(entry, Checkpoint):
        entry.restore(search)
        return None
    if not in_series(entry):
        search.see(entry)
    return entry


def ended(
    listed: Mapping[str, str],
    launched: Mapping[str, float],
    now: float,
    *,
    listed_within: float,
) -> dict[str, str]:
    """Return the instances that have ended, or begun to, and their states.

    Args:
        listed: the state of each instance that the cloud lists.
        launched: when each was launched, in seconds since the epoch, as `now` is.
        listed_within: seconds after the launch in which one may not be listed yet.
    """
    late = {host for host, at in launched.items() if now - at >= listed_within}
    states = {**dict.fromkeys(late, UNLISTED), **listed}
    return {host: state for host, state in states.items() if state not in RUNS}


def unanswered(events: Iterable[Event], *, since: float = 0.0) -> int:
    """Return how many instances were requested without an answer in the journal.

    Args:
        since: earlier requests do not count, seconds since the epoch.
    """
    counts: list[int] = []
    for event in events:
        if event.kind == "instance.requested":
            count = event.fields.get("count")
            fresh = event.time >= since
            counts.append(count if fresh and isinstance(count, int) else 0)
        elif event.kind in ("instance.launched", "launch.refused"):
            del counts[:1]  # the answers of one request come together
        elif event.kind == "run.aborted":
            counts.clear()  # the command that ended it has looked for them
    return sum(counts)
