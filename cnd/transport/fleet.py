"""A fleet as the orchestrator uses it, whichever way its instances are reached.

One rule: one host's failure is recorded and the others go on.  A fleet only puts
events; the orchestrator reads them, decides, and calls `stop`.
"""

from __future__ import annotations

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
# long as one of them answers this soon after the other.  It costs nothing: EC2 bills
# 60 s at least.
END_PATIENCE = 15.0  # seconds
GONE = "the instance is gone"
NOISE = "worker.noise"
TOO_MUCH = "says too much: what is over its allowance is not kept"
# A worker has the time that is left when it is set up, and begins later.
EARLY = 1.0  # seconds before the end at which no worker of ours says that it is over

# A host that hears nothing for `orphans.PATIENCE` goes on by itself.
BEAT = 8.0  # seconds between two signs of life to every host


@dataclass(frozen=True)
class Part:
    """What one thread's worker searches."""

    index: int  # the class
    start: int  # nonce
    heard: int = 0  # lines of its worker that are known already
    resumed: bool = False  # it may have been started by an orchestrator that died

    @property
    def name(self) -> str:
        """What it is called on its host."""
        return f"class-{self.index}-from-{self.start}"


def dropped(host: str, what: str, allowance: Allowance) -> Event:
    """Return what tells of the words of a host that are not kept.

    It is of no class: it is not the worker's own word, which would be counted.
    """
    fields = {"text": f"{host} {what}", **allowance.account()}
    return Event(NOISE, None, host, fields)


def believed(event: Event, *, early: bool, asked: bool) -> Event:
    """Return a last event; or that the worker has failed, where it cannot be true.

    Args:
        early: whether the time is not over.
        asked: whether the worker was to stop.
    """
    if event.kind == "worker.timeout" and early:
        why = "it says that the time is over, which it is not"
    elif event.kind == "worker.stopped" and not asked:
        why = "it has stopped, and was not asked to"
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

    @property
    def delay(self) -> float:
        """Seconds that a message may take to reach a host, at worst."""

    def divide(self, plan: Plan) -> None:
        """Take the plan for the instances that could be had; before any is served."""

    def serve(self, instance: Instance, name: str, parts: Sequence[Part]) -> None:
        """Begin with a running instance; later calls add more classes.

        Without `parts` it stands by: its log is fetched, and it gets signs of life.
        """

    def stop(self) -> None:
        """Tell every worker to stop; its host's log is fetched after its last word."""

    def drop(self, instance_id: str) -> None:
        """Give up an instance that is gone, for good."""

    def close(self) -> None:
        """Close every connection; what is still under way ends with a failure."""
