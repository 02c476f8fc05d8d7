"""Lists a run's instances repeatedly until the run is over.

One rule: a thread of its own, which serves and drops them in the fleet, and otherwise
only emits events: the reader of the events decides.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.cloud.failures import LISTED_WITHIN
from cnd.errors import CloudError
from cnd.model.events import Emit, Event, trouble
from cnd.model.replay import RUNS, UNLISTED
from cnd.provision import launch
from cnd.system.pauses import growing
from cnd.transport.fleet import Fleet, Part

FIRST_LOOK, LAST_LOOK = 0.05, 1.0  # seconds between two looks at the fleet, growing
# Seconds for which an instance that runs may be without its address; AWS shows it in
# most cases with the state, and seconds later in the others.
ADDRESS_PATIENCE = 60.0
TERMINATED = "terminated"
NO_CLOUD = "the cloud has ended"


class InstanceMonitor:
    """Serves each instance the moment that it runs; notices those that vanish."""

    def __init__(
        self,
        cloud: Cloud,
        run: str,
        fleet: Fleet,
        *,
        index: Mapping[str, int],
        parts: Callable[[str], Sequence[Part]],
        adopts: bool,
        put: Emit,
        over: threading.Event,
    ) -> None:
        """Make a monitor that has listed nothing yet.

        Args:
            index: the place of each instance that was launched; grows meanwhile.
            parts: what an instance has to search, by its id.
            adopts: whether instances may appear that this process did not launch.
            over: ends it.
        """
        self._cloud, self._run, self._fleet = cloud, run, fleet
        self._index, self._parts, self._adopts = index, parts, adopts
        self._put, self._over = put, over
        self.served: dict[str, ec2.Instance] = {}  # as they were when they first ran
        self._lost: set[str] = set()
        self._ended: set[str] = set()  # seen terminated
        self._without_way: dict[str, float] = {}  # runs, without its address, since
        self.address_patience = ADDRESS_PATIENCE
        self._missing: dict[str, float] = {}  # not listed -> until when it may yet be
        self._next_loss = 0.0  # when to look again for those that vanished
        self._adopted: dict[
            str, int
        ] = {}  # places of instances that this process did not launch

    def catch_up(
        self,
        listed: Sequence[ec2.Instance],
        lost: Collection[str],
        ended: Collection[str],
        launched: Mapping[str, float],
    ) -> None:
        """Take note of what is left of the fleet of a former orchestrator.

        Args:
            listed: all that the cloud still knows of it.
            lost: the instances whose loss is known already.
            ended: those of them that were seen terminated.
            launched: when each instance was, in seconds since the epoch.
        """
        self._lost.update(lost)
        self._ended.update(ended)
        for instance in listed:
            if (
                instance.id not in self._index
            ):  # its orchestrator died before the answer came
                self._adopt(instance)
        # The clock may have been set since: no wait is longer than `LISTED_WITHIN`.
        waits = {i: at + LISTED_WITHIN - time.time() for i, at in launched.items()}
        self._missing = {
            instance: time.monotonic() + min(wait, LISTED_WITHIN)
            for instance, wait in waits.items()
        }
        try:
            self._miss(listed)
        except CloudError as error:  # `run` tries it again
            self._put(trouble(error))

    def take_up(self, listed: Sequence[ec2.Instance]) -> None:
        """Serve the instances of an earlier run; those that boot are served later."""
        for instance in listed:
            self._look_at(instance)

    def _miss(self, listed: Sequence[ec2.Instance]) -> None:
        """Give up instances that are not listed, unless launched a moment ago.

        A listing may lack some, and terminated ones lose their tags: each is looked up
        by its id before.
        """
        for instance in listed:
            self._missing.pop(instance.id, None)
        now = time.monotonic()
        due = {i for i, deadline in self._missing.items() if now >= deadline}
        found = {i.id: i for i in ec2.look_up(self._cloud.ec2, due)}
        for instance in found.values():
            self._look_at(instance)
            if instance.state in (*RUNS, TERMINATED):
                del self._missing[instance.id]
        for gone in ec2.unknown(self._cloud.ec2, due - found.keys()):
            del self._missing[gone]
            if gone not in self._lost:
                self._lose(gone, UNLISTED)
            self._see_ended(gone)

    def run(self) -> None:
        """Look until it is over."""
        pauses, reported = growing(FIRST_LOOK, LAST_LOOK, 1.15), ""
        while not self._over.wait(next(pauses)):
            try:
                for instance in self._changed():
                    self._look_at(instance)
                reported = ""
            except CloudError as error:
                if self._cloud.gone():
                    self._lose_all()
                    return
                if str(error) != reported:
                    self._put(trouble(error))
                reported = str(error)

    def _changed(self) -> list[ec2.Instance]:
        """Return instances that may run by now, and those that vanished.

        Not the whole fleet: to parse the description of one takes half a millisecond.
        Those that vanished are listed every `LAST_LOOK` seconds at most.
        """
        client, run = self._cloud.ec2, self._run
        if self._adopts:  # unknown ones may be listed late
            listed = ec2.find(client, run=run, states=ec2.ALL)
            self._miss(listed)
            return listed
        awaited = self._index.keys() - self.served.keys() - self._lost
        found = []
        if time.monotonic() >= self._next_loss:
            found += ec2.find(client, run=run, states=ec2.GONE)
            self._next_loss = time.monotonic() + LAST_LOOK
        if awaited:
            ids = sorted(awaited, key=self._index.__getitem__)[: ec2.FILTER_VALUES]
            found += ec2.find(client, run=run, states=("running",), ids=ids)
        return found

    def _look_at(self, instance: ec2.Instance) -> None:
        index = self._index.get(instance.id)
        if index is None and self._adopts:
            self._adopt(instance)
        if index is None:
            return
        known = self.served.keys() | self._lost
        if instance.state == "running" and instance.id not in known:
            if self._is_reachable(instance):
                self._serve(instance, index)
        elif instance.state not in RUNS and not self._over.is_set():
            if instance.id not in self._lost:
                self._lose(instance.id, instance.state, instance.reason)
                self._fleet.drop(instance.id)
            if instance.state == TERMINATED:
                self._see_ended(instance.id)

    def _is_reachable(self, instance: ec2.Instance) -> bool:
        """Return whether to serve a running instance: its address is there, or late.

        A fleet reports one without the address that it needs as a host that failed.
        """
        since = self._without_way.setdefault(instance.id, time.monotonic())
        kind = self._fleet.reached_at
        late = time.monotonic() >= since + self.address_patience
        return late or not kind or instance.reached_at(kind) is not None

    def _serve(self, instance: ec2.Instance, index: int) -> None:
        self.served[instance.id] = instance
        parts = self._parts(instance.id)
        fields = {
            "address": instance.address or instance.private,
            "zone": instance.zone,
            "classes": [part.index for part in parts],
        }
        self._put(Event("instance.running", index, instance.id, fields))
        self._fleet.serve(instance, f"Instance{index}", parts)

    def _lose(self, instance_id: str, state: str, reason: str = "") -> None:
        self._lost.add(instance_id)
        index = self._index[instance_id]
        fields = {"state": state, **({"reason": reason} if reason else {})}
        self._put(Event("instance.lost", index, instance_id, fields))

    def _lose_all(self) -> None:
        """Give up every instance: all have ended with their cloud."""
        self._put(trouble(CloudError(f"{NO_CLOUD}, and with it all its instances")))
        for instance_id in list(self._index):
            if instance_id not in self._lost:
                self._lose(instance_id, TERMINATED)
                self._fleet.drop(instance_id)
            self._see_ended(instance_id)

    def _see_ended(self, instance_id: str) -> None:
        """Report, once, that an instance that was lost is terminated."""
        if instance_id not in self._ended:
            self._ended.add(instance_id)
            index = self._index[instance_id]
            self._put(Event("instance.terminated", index, instance_id))

    def _adopt(self, instance: ec2.Instance) -> None:
        """Give an unknown instance the first free place."""
        if instance.id in self._adopted or instance.state not in ec2.LIVE:
            return
        taken = {*list(self._index.values()), *self._adopted.values()}
        index = next(i for i in count() if i not in taken)
        self._adopted[instance.id] = index
        self._put(launch.event(instance, index))
