"""Who takes a fleet over tells what is gone from what is not listed yet."""

from __future__ import annotations

import threading
import time
from typing import Any

from cnd.ec2 import LISTED_WITHIN
from cnd.events import Event
from cnd.watch import Watch


def caught_up(
    launched: dict[str, float], *, lost: set[str], ended: set[str]
) -> list[tuple[str, str | None]]:
    """Return what is told where the cloud lists nothing of a fleet any more."""
    told: list[Event] = []
    unused: Any = None
    watch = Watch(
        unused,
        "run",
        unused,
        index={host: place for place, host in enumerate(launched)},
        parts=lambda instance: [],
        adopts=True,
        put=told.append,
        over=threading.Event(),
        is_gone=lambda: False,
    )
    watch.catch_up([], lost, ended, launched)
    return [(event.kind, event.host) for event in told]


def test_what_was_launched_long_ago_and_is_not_listed_is_terminated() -> None:
    long_ago = dict.fromkeys(("i-0", "i-1", "i-2"), time.time() - 2 * LISTED_WITHIN)
    assert caught_up(long_ago, lost={"i-1", "i-2"}, ended={"i-2"}) == [
        ("instance.lost", "i-0"),
        ("instance.terminated", "i-0"),
        ("instance.terminated", "i-1"),
    ]


def test_what_was_launched_a_moment_ago_may_be_listed_yet() -> None:
    assert caught_up({"i-0": time.time()}, lost=set(), ended=set()) == []
