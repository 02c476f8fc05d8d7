"""On a take-over, instances that are gone differ from those not listed yet."""

from __future__ import annotations

import threading
import time
from typing import Any

from cnd.cloud.failures import LISTED_WITHIN
from cnd.errors import CloudError
from cnd.model.events import Event
from cnd.run.instance_monitor import InstanceMonitor


def caught_up(
    launched: dict[str, float], *, lost: set[str], ended: set[str]
) -> list[tuple[str, str | None]]:
    """Return the events where the cloud lists no instance of a fleet any more."""
    events: list[Event] = []
    unused: Any = None
    monitor = InstanceMonitor(
        unused,
        "run",
        unused,
        index={host: place for place, host in enumerate(launched)},
        parts=lambda instance: [],
        adopts=True,
        put=events.append,
        over=threading.Event(),
    )
    monitor.catch_up([], lost, ended, launched)
    return [(event.kind, event.host) for event in events]


def test_what_was_launched_long_ago_and_is_not_listed_is_terminated() -> None:
    long_ago = dict.fromkeys(("i-0", "i-1", "i-2"), time.time() - 2 * LISTED_WITHIN)
    assert caught_up(long_ago, lost={"i-1", "i-2"}, ended={"i-2"}) == [
        ("instance.lost", "i-0"),
        ("instance.terminated", "i-0"),
        ("instance.terminated", "i-1"),
    ]


def test_what_was_launched_a_moment_ago_may_be_listed_yet() -> None:
    assert caught_up({"i-0": time.time()}, lost=set(), ended=set()) == []


class Unanswering:
    """A cloud that does not answer, and a fleet that notes what it must drop."""

    def __init__(self) -> None:
        self.ec2, self.dropped = self, list[str]()
        self._gone = iter([False, True])

    def gone(self) -> bool:
        return next(self._gone)

    def get_paginator(self, name: str) -> Any:
        raise CloudError("no answer")

    def drop(self, instance: str) -> None:
        self.dropped.append(instance)


def test_a_cloud_that_has_ended_takes_all_its_instances_along() -> None:
    events: list[Event] = []
    world: Any = Unanswering()
    monitor = InstanceMonitor(
        world,
        "run",
        world,
        index={"i-0": 0, "i-1": 1},
        parts=lambda instance: [],
        adopts=False,
        put=events.append,
        over=threading.Event(),
    )
    monitor.run()  # and it returns
    assert [(event.kind, event.host) for event in events] == [
        ("cloud.trouble", None),
        ("cloud.trouble", None),
        ("instance.lost", "i-0"),
        ("instance.terminated", "i-0"),
        ("instance.lost", "i-1"),
        ("instance.terminated", "i-1"),
    ]
    assert world.dropped == ["i-0", "i-1"]
