"""Follows the system logs of a run that goes on, over SSH sessions of its own.

One rule: it only reads; a host that cannot be followed costs its own lines only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from queue import Empty, Queue

from cnd import ec2
from cnd.cloud.connection import Cloud
from cnd.errors import HostError
from cnd.model.plan import Plan
from cnd.run.journal import Journal
from cnd.transport.gateway import Gateway
from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import Login

MOST = 16  # instances at once, unless one is asked for
MOST_LINES = 1000  # that wait to be read
LOOK = 2.0  # seconds between two looks at the fleet
PATIENCE = 60.0  # seconds for a running instance to answer
LAST_LINES = 1.0  # seconds for the lines under way when the fleet is gone


@dataclass(frozen=True)
class Line:
    """One line of an instance's system log."""

    name: str  # Instance3
    text: str


class Follower:
    """Follows the logs of one run's instances; for one thread."""

    def __init__(
        self,
        journal: Journal,
        cloud: Cloud,
        plan: Plan,
        login: Login,
        *,
        only: int | None = None,
        say: Callable[[str], None],
    ) -> None:
        """Make a follower.

        Args:
            only: the index of the one instance to follow; None: all.
            say: takes messages for the user, besides the lines.
        """
        self._journal, self._cloud, self._plan, self._login = (
            journal,
            cloud,
            plan,
            login,
        )
        self._only, self._say = only, say
        self._lines: Queue[Line] = Queue(MOST_LINES)  # while it is full, hosts wait
        self._hosts: dict[str, Host] = {}
        self._dropped: dict[str, str] = {}  # by instance id: why its lines ended
        self._full = False
        self._gateway = Gateway(plan.gateway, login.key) if plan.gateway else None

    def lines(self) -> Generator[Line, None, None]:
        """Yield lines as they come, until no instance of the run is left.

        Raises:
            CloudError: the cloud does not answer.
        """
        try:
            while self._look() or self._journal.is_followed:
                yield from self._until(time.monotonic() + LOOK)
            yield from self._until(time.monotonic() + LAST_LINES)
        finally:
            for host in self._hosts.values():
                host.close("it is not followed any more")
            if self._gateway:
                self._gateway.close()

    def _until(self, deadline: float) -> Iterator[Line]:
        while (left := deadline - time.monotonic()) > 0:
            try:
                yield self._lines.get(timeout=left)
            except Empty:
                return

    def _look(self) -> bool:
        """Begin to follow the instances that run now; return whether one lives."""
        live = ec2.find(self._cloud.ec2, run=self._journal.run, states=ec2.EXISTING)
        launched = (e for e in self._journal.events() if e.kind == "instance.launched")
        index = {e.host: e.index for e in launched}
        for each in live:
            place = index.get(each.id)
            if each.state == "running" and (why := self._dropped.pop(each.id, "")):
                self._say(why)  # an instance that is gone explains itself
            wanted = place is not None and self._only in (None, place)
            reachable = each.state == "running" and self._address(each)
            if wanted and reachable and each.id not in self._hosts:
                self._begin(each, f"Instance{place}")
        return bool(live)

    def _address(self, instance: ec2.Instance) -> str:
        """Return where SSH goes to; "": AWS has not said yet."""
        return instance.reached_at(self._plan.address) or ""

    def _begin(self, instance: ec2.Instance, name: str) -> None:
        if len(self._hosts) == MOST:
            if not self._full:
                self._say(f"no more than {MOST} are followed at once; say --instance i")
            self._full = True
            return
        self._hosts[instance.id] = host = Host(
            name,
            self._address(instance),
            self._login,
            port=instance.ssh_port,
            gateway=self._gateway,
        )
        # A daemon: the end of the program does not wait for a host that hangs.
        work = (host, instance.id)
        threading.Thread(target=self._tail, args=work, daemon=True).start()

    def _tail(self, host: Host, instance_id: str) -> None:
        deadline = time.monotonic() + PATIENCE
        try:
            host.connect(lambda: deadline)
            for line in host.tail():
                self._lines.put(Line(host.name, line.decode("utf-8", "replace")))
        except HostError as error:
            if not host.closed:
                self._dropped[instance_id] = str(error)
