"""Classes that lost their host: handed over to a survivor, or to a new instance.

One rule: it decides in the deciding thread, and launches in others; no class is given
up while an instance may still appear that can search it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import CloudError
from cnd.model.events import Event
from cnd.model.search_state import needless, waiting
from cnd.provision.launch import Launcher
from cnd.provision.prepare import Provision
from cnd.run.recorder import Recorder
from cnd.system.background import Pool
from cnd.transport.fleet import Fleet, Part

# An Auto Scaling group notices a loss within a minute or two, and boots another.
HOLD_PATIENCE = 240.0  # seconds


class Replacements:
    """The instances launched to replace others, and the classes handed over."""

    def __init__(
        self, recorder: Recorder, cloud: Cloud, launcher: Launcher, pool: Pool
    ) -> None:
        self._recorder, self._launcher, self._pool = recorder, launcher, pool
        self._listed_within = cloud.listed_within
        self.launches: list[Future[bool]] = []  # each: whether the instance is there
        # By a former orchestrator: how many replacements, and the next free place.
        self._bought, self._next_place = 0, 0
        # How many instances a former orchestrator asked for, and until when those that
        # it did not know may yet be listed.
        self._expected, self._listed_by = 0, 0.0

    def expect(self, instances: int) -> None:
        """Note how many instances a former orchestrator asked for."""
        self._expected = instances
        self._listed_by = time.monotonic() + self._listed_within

    @property
    def adopts(self) -> bool:
        """Whether instances may appear that this process did not launch itself."""
        return self._recorder.attached or self._recorder.plan.hold

    @property
    def patience(self) -> float:
        """Seconds after which such instances are not expected any more."""
        return HOLD_PATIENCE if self._recorder.plan.hold else self._listed_within

    @property
    def late_launches(self) -> float:
        """Seconds for which instances of a former orchestrator may yet be listed."""
        if len(self._recorder.roster.index) >= self._expected:
            return 0.0
        return max(0.0, self._listed_by - time.monotonic())

    def go_on(
        self, provision: Provision, fleet: Fleet, served: Mapping[str, ec2.Instance]
    ) -> None:
        """Do what is due for the classes that lost their host."""
        if self._recorder.plan.replace:
            self._replace(provision)
        self._give_up_unlaunched()
        self._hand_over(fleet, served)

    def _give_up_unlaunched(self) -> None:
        """Let the classes of instances that never appeared go on elsewhere."""
        recorder = self._recorder
        late = time.monotonic() >= recorder.marks["launched"] + self.patience
        if not (self.adopts and recorder.roster.index and late):
            return
        for index, progress in list(recorder.search.classes.items()):
            if not progress.host and not progress.ended:
                fields = {"reason": f"Instance{index} was never launched"}
                recorder.take(Event("host.failed", index, fields=fields))

    def _hand_over(self, fleet: Fleet, served: Mapping[str, ec2.Instance]) -> None:
        """Let the classes of lost hosts go on elsewhere; decide if nothing is left."""
        search, roster = self._recorder.search, self._recorder.roster
        if search.awaits_check:
            return
        self._begin_waiting(fleet, served)
        if search.failed and self._awaited():
            return
        for index in search.failed:
            host = roster.survivor(search.classes.values())
            if host is None:
                break
            self._give(index, host, fleet, served)
        if not ((search.failed or waiting(search)) and roster.may_recover):
            search.settle()

    def _begin_waiting(self, fleet: Fleet, served: Mapping[str, ec2.Instance]) -> None:
        """Let instances that have nothing left to search begin with what waits."""
        search, roster = self._recorder.search, self._recorder.roster
        if not (begun := waiting(search)):
            return
        for index in needless(search):  # what waits can change the answer
            fleet.release(index)
        idle = roster.idle(search.classes.values())
        for index, host in zip(begun, idle, strict=False):
            self._give(index, host, fleet, served)

    def _give(
        self,
        index: int,
        host: str,
        fleet: Fleet,
        served: Mapping[str, ec2.Instance],
    ) -> None:
        """Let an instance go on with a class, or begin with it."""
        start = self._recorder.search.resumption(index)
        fields: dict[str, object] = {"start": start}
        if self._recorder.plan.work:
            fields["of"] = self._recorder.plan.pieces[index].modulus
        self._recorder.take(Event("class.handed_over", index, host, fields))
        name = f"Instance{self._recorder.roster.index[host]}"
        fleet.serve(served[host], name, [Part(index, start)])

    def _replace(self, provision: Provision) -> None:
        """Launch an instance for each that was lost, at most N in all."""
        if self.late_launches:
            return
        roster, plan = self._recorder.roster, self._recorder.plan
        if not self.launches:
            self._bought = len(self._known)
            self._next_place = 1 + max(roster.index.values(), default=-1)
        wanted = min(roster.dropouts, plan.instances)
        while self._bought + len(self.launches) < wanted:
            index = max(plan.instances, self._next_place) + len(self.launches)
            launch = self._pool.submit(self._replacement, provision, index)
            self.launches.append(launch)

    @property
    def _known(self) -> list[str]:
        """The known instances that were launched to replace others."""
        index = self._recorder.roster.index
        return [i for i in index if index[i] >= self._recorder.plan.instances]

    def _replacement(self, provision: Provision, index: int) -> bool:
        """Launch one instance; return whether it is there."""
        try:
            new = self._launcher.launch(
                provision,
                1,
                least=1,
                emit=self._recorder.put_durably,
                wait=lambda seconds: not self._recorder.over.wait(seconds),
                first=index,
            )
        except CloudError as error:
            self._recorder.trouble(error)  # the survivors take over
            return False
        return bool(new)

    def _awaited(self) -> bool:
        """Whether a replacement may soon be ready to take a class over."""
        roster, plan = self._recorder.roster, self._recorder.plan
        if plan.replace and self.late_launches:
            return True
        if any(not launch.done() for launch in self.launches):
            return True
        known = self._known
        launched = self._bought + sum(launch.result() for launch in self.launches)
        if plan.hold and time.monotonic() < roster.last_loss + HOLD_PATIENCE:
            launched = len(roster.lost)
        return launched > len(known) or not all(map(roster.settled, known))
