"""Events of runs that never were, for what reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnd.model.events import Event
from cnd.view.timeline import Timeline, timeline

if TYPE_CHECKING:
    from cnd.view.figures import Picture

REQUEST: dict[str, Any] = {
    "run": "r",
    "block": "b",
    "difficulty": 9,
    "instances": 2,
    "nonces": 1000,
    "time_limit": 30.0,
    "type": "t3.micro",
}
BEGAN = 1_000_000.0


def at(
    seconds: float, kind: str, index: int | None = None, host: str = "", **fields: Any
) -> Event:
    return Event(kind, index, host or None, fields, BEGAN + seconds)


def instance_events(index: int, host: str, *, late: float = 0.0) -> list[Event]:
    """Return an instance that is stopped at 10 s while it searches."""
    return [
        at(1, "instance.launched", index, host, type="t3.micro", zone="z"),
        at(2 + late, "instance.running", index, host, address="a", classes=[index]),
        at(3 + late, "instance.ready", index, host),
        at(4 + late, "worker.started", index, host, kernel="avx2"),
        at(6 + late, "worker.progress", index, host, tested=100, cursor=200),
        at(10.25, "worker.stopped", index, host, tested=300, cursor=600),
        at(10.5, "log.pulled", index, host),
        at(10.5, "host.done", index, host),
    ]


def whole_run() -> list[Event]:
    instances = instance_events(0, "i-0") + instance_events(1, "i-1", late=1.0)
    return [
        at(0, "run.started", **REQUEST),
        at(0.5, "instance.requested", count=2),
        *sorted(instances, key=lambda event: event.time),
        at(12, "instance.terminated", 0, "i-0"),
        at(13, "instance.terminated", 1, "i-1"),
        at(13, "run.ended", outcome="timeout", reason="6 s are over"),
    ]


RESULT = {
    "outcome": "timeout",
    "reason": "6 s are over",
    "seconds": {"boot": 4.0, "search": 6.0, "stop": 0.25},
}


def observed(events: list[Event], result: dict[str, Any] | None = None) -> Timeline:
    """Return the timeline of a run called "r"."""
    return timeline("r", events, result)


def of(count: int) -> Timeline:
    """Return a run of so many instances, each a little later than the one before."""
    events = [at(0, "run.started", **{**REQUEST, "instances": count})]
    for index in range(count):
        events += instance_events(index, f"i-{index}", late=index / count)
        events.append(at(12, "instance.terminated", index, f"i-{index}"))
    coverage = [
        {"index": i, "cursor": 600, "tested": 300, "repeated": 0, "ended": "stopped"}
        for i in range(count)
    ]
    return timeline("r", events, {**RESULT, "coverage": coverage})


def drawn(line: Timeline) -> dict[str, Picture]:
    """Return the figures of a run.

    They are imported here: Matplotlib takes half a second of computing, which test
    processes that draw nothing do without.
    """
    from cnd.view import figures

    return figures.draw(line)
