"""The instances of a run by its events: which can search, which are gone.

One rule: only events change it, in the order of their arrival; it calls nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping

from cnd.model.class_progress import ClassProgress
from cnd.model.events import Event

# After these an instance is trusted with no further class.
UNFIT = ("instance.lost", "host.failed", "worker.failed", "worker.refuted")


class Roster:
    """The instances of a run, by their ids."""

    def __init__(
        self,
        index: Mapping[str, int] | None = None,
        *,
        lost: Iterable[str] = (),
        unfit: Iterable[str] = (),
        ended: Mapping[str, float] | None = None,
    ) -> None:
        """Begin with no instance, or with those of a former orchestrator."""
        self.index = dict(index or {})  # the place of each that was launched
        self.lost = set(lost)  # gone for good
        # When each was seen terminated, in seconds since the epoch.
        self.ended = dict(ended or {})
        self.running: set[str] = set()  # seen running by this process
        self.logged: set[str] = set()  # their logs are on this disk
        self.serving: set[tuple[str | None, int | None]] = set()  # (instance, class)
        self.last_loss = 0.0  # on the monotonic clock
        self.last_arrival = 0.0  # of an instance that boots, on the monotonic clock
        self._fit: set[str] = set()  # can search
        self._done: set[str] = set()  # their own class has ended
        self._unfit = set(unfit)  # get no further class
        self._leaving: set[str] = set()  # AWS will interrupt them in a moment

    def note(self, event: Event) -> None:
        """Take in one event, of any kind."""
        self._note_service(event)
        self._note_fitness(event)

    def _note_service(self, event: Event) -> None:
        """Keep the sets of instances that exist, run, serve a class."""
        host, service = event.host or "", (event.host, event.index)
        if event.kind == "instance.launched" and event.index is not None:
            self.index[host] = event.index
        elif event.kind == "instance.running":
            self.running.add(host)
            self.last_arrival = time.monotonic()
            self.serving |= {(host, i) for i in event.fields["classes"] or [None]}
        elif event.kind == "instance.lost":
            self.lost.add(host)
            self.last_loss = time.monotonic()
        elif event.kind == "instance.terminated":
            self.ended.setdefault(host, event.time)
        elif event.kind == "log.pulled":
            self.logged.add(host)
        elif event.kind in ("host.returned", "class.handed_over"):
            self.serving.add(service)
        elif event.kind in ("host.failed", "host.done"):
            self.serving.discard(service)

    def _note_fitness(self, event: Event) -> None:
        """Keep the sets of instances that can search, or get no further class."""
        host = event.host or ""
        if event.kind == "host.returned":
            self._unfit.discard(host)
        if event.kind in ("instance.ready", "host.returned"):
            self._fit |= {host} - self._unfit
        elif event.kind in UNFIT:
            self._unfit.add(host)
            self._fit.discard(host)
        elif event.kind == "worker.notice":
            self._leaving.add(host)
            self._fit.discard(host)
        elif event.kind == "host.done":
            self._done.add(host)

    @property
    def may_recover(self) -> set[str]:
        """Booting, or out of reach: they may yet take over the classes of others."""
        return self.index.keys() - self._done - self.lost - self._fit

    @property
    def booting(self) -> set[str]:
        """Launched, and not seen running yet."""
        return self.index.keys() - self.running - self.lost

    @property
    def dropouts(self) -> int:
        """How many search no more, or will soon not."""
        return len((self._unfit | self.lost | self._leaving) & self.index.keys())

    def settled(self, instance_id: str) -> bool:
        """Return whether nothing is awaited of an instance: it is fit, done or lost."""
        return instance_id in self._done | self.lost | self._fit

    def idle(self, classes: Iterable[ClassProgress]) -> list[str]:
        """Return the fit instances that have no class to search, in their order."""
        busy = {s.host for s in classes if not s.ended}
        fit = self._fit - self.lost - busy
        return sorted(fit, key=self.index.__getitem__)

    def survivor(self, classes: Iterable[ClassProgress]) -> str | None:
        """Return the fit instance with the fewest classes to search, or None."""
        load = Counter(s.host for s in classes if not s.ended)
        fit = self._fit - self.lost
        return min(fit, key=lambda host: (load[host], self.index[host]), default=None)
