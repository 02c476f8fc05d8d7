"""What a run's journal tells whoever takes it over.

One rule: pure.  The events are seen again, by the same `Race` that saw them first;
what they do not tell is asked from the cloud and the hosts, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cnd.events import Event
from cnd.plan import Plan
from cnd.race import Race

# What these say of a host holds for whoever comes after.
UNFIT = ("worker.failed", "worker.refuted")


@dataclass(frozen=True)
class Past:
    """A run as its last orchestrator left it."""

    race: Race
    index: Mapping[str, int]  # of every instance that was launched, by its id
    launched: Mapping[str, float]  # when each was, seconds since the epoch
    lost: frozenset[str]  # instances that went away
    ended: Mapping[str, float]  # when an instance was seen terminated
    unfit: frozenset[str]  # instances that get no further class
    began: float | None  # when the run was started, seconds since the epoch
    searching: float | None  # when the first worker began


def recall(plan: Plan, events: Iterable[Event]) -> Past:
    """Return what `events`, oldest first, tell of the run of `plan`."""
    race = Race(plan)
    index: dict[str, int] = {}
    launched: dict[str, float] = {}
    ended: dict[str, float] = {}
    lost: set[str] = set()
    unfit: set[str] = set()
    began = searching = None
    now = 0.0  # by our clock: a host's may be wrong
    for event in events:
        race.see(event)
        if not event.kind.startswith("worker."):
            now = event.time
        if event.kind == "run.started":
            began = now
        elif event.kind == "worker.started" and searching is None:
            searching = now
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
            race.stop(event)
    return Past(
        race=race,
        index=index,
        launched=launched,
        lost=frozenset(lost),
        ended=ended,
        unfit=frozenset(unfit),
        began=began,
        searching=searching,
    )


def unanswered(events: Iterable[Event], *, since: float = 0.0) -> int:
    """Return how many instances were asked for of which nobody heard what came.

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
            del counts[:1]  # those of one request come together
        elif event.kind == "run.aborted":
            counts.clear()  # whoever ended it has looked for them
    return sum(counts)
