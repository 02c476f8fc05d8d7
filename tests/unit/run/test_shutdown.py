"""The end of a fleet: what can wait, waits until its workers have stopped."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

from cnd.run.shutdown import LIMITS, Shutdown
from tests.support.waiting import eventually


class Decided:
    """A decided run, and the order in which its parts are used."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.marks: dict[str, float] = {}
        self.observers: list[object] = []
        self.at_rest = threading.Event()
        self.delay = 0.0
        self.plan = SimpleNamespace(keep=True)
        self.search = SimpleNamespace(outcome=None)
        self.roster = SimpleNamespace(serving=set(), booting=set(), last_arrival=0.0)
        self.sqs = self

    def mark(self, name: str) -> None:
        self.marks[name] = time.monotonic()

    def stop(self) -> None:
        self.order.append("stop")
        threading.Timer(0.1, self._come_to_rest).start()

    def _come_to_rest(self) -> None:
        self.order.append("all have stopped")
        self.at_rest.set()

    def drain(self) -> None:
        self.order.append("events")

    def send_message(self, **message: str) -> None:
        self.order.append("message")


def test_the_message_on_the_queue_waits_until_all_workers_have_stopped() -> None:
    run: Any = Decided()
    shutdown = Shutdown(run, run, "run", launcher=run, replacements=run, limits=LIMITS)
    shutdown.wind_down("queue", run, lambda: None)
    eventually(lambda: len(run.order) == 3)
    assert run.order == ["stop", "all have stopped", "message"]


def test_a_worker_that_does_not_stop_keeps_no_event_waiting() -> None:
    run: Any = Decided()
    run.stop = lambda: None
    run.drain = run._come_to_rest
    shutdown = Shutdown(run, run, "run", launcher=run, replacements=run, limits=LIMITS)
    shutdown.wind_down("queue", run, lambda: None)
    eventually(lambda: len(run.order) == 2)
    assert run.order == ["all have stopped", "message"]
