"""A fleet as the orchestrator uses it, over SSH or through S3.

One rule: the failure of one host is recorded and the others go on.  A fleet only emits
events; the orchestrator reads them, decides, and calls `stop`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from cnd.ec2 import Instance
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.transport.bounded_lines import Allowance

# After the end, hosts that have not answered yet are waited for, for their logs, as
# long as each answer follows the one before within this time.  It costs nothing: EC2
# bills 60 s at least.
END_PATIENCE = 15.0  # seconds
GONE = "the instance is gone"
NOISE = "worker.noise"
TOO_MUCH = "sends too much: what exceeds its allowance is not kept"
# A worker gets the time that is left when it is set up, and begins later: so no honest
# worker reports its time-out more than these seconds before the end.
EARLY = 1.0

# A host that gets no sign of life for `orphans.PATIENCE` goes on by itself.
BEAT = 8.0  # seconds between two signs of life to every host


@dataclass(frozen=True)
class Part:
    """What one worker searches: a class, from a nonce on."""

    index: int  # the number of the class: see `Plan.pieces`
    start: int  # nonce
    received: int = 0  # lines of its worker that are known already
    resumed: bool = False  # it may have been started by an orchestrator that died

    @property
    def name(self) -> str:
        """The name of its folder on its host."""
        return f"class-{self.index}-from-{self.start}"


def dropped(host: str, what: str, allowance: Allowance) -> Event:
    """Return the event that reports what was dropped of a host's output.

    It belongs to no class: it is not a line of the worker, and is not counted as one.
    """
    fields = {"text": f"{host} {what}", **allowance.account()}
    return Event(NOISE, None, host, fields)


def believed(event: Event, *, early: bool, asked: bool) -> Event:
    """Return a last event; or that the worker has failed, if it cannot be true.

    Args:
        early: whether the time is not over yet.
        asked: whether the worker was asked to stop.
    """
    if event.kind == "worker.timeout" and early:
        why = "it reports a time-out before the time is over"
    elif event.kind == "worker.stopped" and not asked:
        why = "it has stopped without a request"
    else:
        return event
    return replace(event, kind="worker.failed", fields={**event.fields, "reason": why})


class RunFiles(Protocol):
    """Where a run keeps its files on this machine."""

    @property
    def run(self) -> str:
        """The name of the run."""

    def log(self, name: str) -> Path:
        """Return where the log of a host belongs, by the host's name."""


class Fleet(Protocol):
    """The instances of a run; `stop` ends the search, `close` everything."""

    threads: list[Future[None]]
    # Set once all workers have stopped, after `stop`; or from the beginning on, where
    # that takes so long that nothing else should wait for it.
    at_rest: threading.Event
    # The kind of address at which it reaches instances, "public" or "private"; "": it
    # needs none.
    reached_at: str

    @property
    def delay(self) -> float:
        """Seconds that a message may take to reach a host, at worst."""

    def divide(self, plan: Plan) -> None:
        """Replace the plan by one for fewer instances; before any is served."""

    def serve(self, instance: Instance, name: str, parts: Sequence[Part]) -> None:
        """Begin with a running instance; later calls add more classes.

        Without `parts` it stands by: it gets signs of life, and its log is fetched.
        """

    def stop(self) -> None:
        """Stop every worker; the log of its host is fetched after its last event."""

    def release(self, index: int) -> None:
        """Stop the worker of a class, once it reports: its result is not needed."""

    def drop(self, instance_id: str) -> None:
        """Give up for good an instance that is gone."""

    def close(self) -> None:
        """Close every connection; what is under way ends with a failure."""
