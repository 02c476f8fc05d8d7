"""The hosts of a run, each served by a thread from its first answer to its log.

One rule: the failure of one host is recorded and the others go on.  Threads only emit
events; the reader of the events decides, and calls `stop`.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial

from cnd.ec2 import Instance
from cnd.errors import ForeignHost, HostError, HostLost
from cnd.model import system_log
from cnd.model.events import Emit, Event
from cnd.model.plan import MARKETS, Plan
from cnd.system.background import Pool, answer
from cnd.transport import shell
from cnd.transport.bounded_lines import Allowance
from cnd.transport.deadlines import LOST_PATIENCE, Deadlines, within
from cnd.transport.first_contact import FirstContact
from cnd.transport.fleet import BEAT, EARLY, GONE, Part, RunFiles, believed
from cnd.transport.gateway import Gateway
from cnd.transport.ssh import (
    LOG_TIMEOUT,
    ROTATED,
    SPOT_WATCHDOG_PAUSE,
    WATCHDOG_PAUSE,
    Host,
)
from cnd.transport.ssh_connection import SILENCE, Login
from cnd.transport.turns import Turns
from cnd.transport.worker_output import WorkerOutput

SET_UP_ATTEMPTS = 3
# For all hosts together, seconds: handshakes and commands have shorter limits of their
# own, and take turns where a fleet is large.
REACH_PATIENCE, TELL_PATIENCE = 60.0, 120.0
# Seconds from a worker's last event to its line in the system log, for each instance,
# and at most: in the local cloud, whose hosts share a machine, all workers stop first.
LOG_DELAY, MOST_LOG_DELAY = 0.001, 0.5
# Seconds between two looks for a worker's events, for each instance, and at least: of
# hosts that share a machine few are notified, and the others look 2500 times a second.
LOOK, LEAST_LOOK = 0.0004, 0.02
FOLDER = "cnd-"  # how the name of a run's folder on a host begins


class SshFleet:
    """Serves the instances it is given; `stop` ends the search, `close` everything."""

    delay = 0.0  # seconds that a message may take to reach a host, at worst

    def __init__(
        self,
        plan: Plan,
        files: RunFiles,
        login: Login,
        *,
        code: Callable[[str, str], Mapping[str, bytes]],
        alone: Callable[[str, str], Mapping[str, object]],
        put: Emit,
        at_once: int = 32,
        search_began: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Make a fleet of no hosts yet.

        Args:
            code: returns the files that a host needs, by its instance type and its
                machine (`uname -m`).
            alone: returns the orders of an instance (id, name) in case that it becomes
                an orphan: see `watchdog.py`.
            put: takes every event, from any thread.
            at_once: how many hosts to connect to, how many to set up, and of how many
                to fetch the log, at a time.
            search_began: returns when the search of a run that is taken over began, on
                the monotonic clock, as far as that is known by now.
        """
        self._plan = plan
        self._files = files
        self._login = login
        self._code, self._alone = code, alone
        self._put = put
        self._gateway = Gateway(plan.gateway, login.key) if plan.gateway else None
        self._folder = FOLDER + files.run
        self._contact = FirstContact(login.rule, plan.boot_allowance)
        self._ending = threading.Event()
        self._closed = threading.Event()
        self._beating: Future[None] | None = None
        self._lock = threading.Lock()
        self._hosts: list[tuple[str, Host]] = []  # instance id, connection
        # Connections whose worker has ended, open for signs of life; by instance.
        self._idle: dict[str, list[Host]] = {}
        self._reached: dict[str, Host] = {}  # by instance id: not served yet
        self._former: list[str] = []  # folders of earlier runs on these hosts
        self._types: dict[str, str] = {}  # of each instance
        self._gone: set[str] = set()  # instances that were dropped
        self._holders: dict[
            int, str
        ] = {}  # the instance that was given each class last
        self.threads: list[Future[None]] = []
        self.reached_at = plan.address
        self._deadlines = Deadlines(plan, self._ending, search_began)
        self._turns = Turns(plan.instances, at_once, self._ending)
        self.at_rest = self._turns.at_rest
        # A thread for each instance, for each that replaces it, for each class that is
        # handed over, and for the signs of life.
        threads = 3 * max(plan.instances, plan.fleet_size) + 1
        self._pool = Pool(threads, "host")
        self._allowances: dict[str, Allowance] = {}  # of each instance

    def divide(self, plan: Plan) -> None:
        """Replace the plan by one for fewer instances; before any is served."""
        self._plan = self._deadlines.plan = plan

    def reach(self, named: Mapping[str, Instance], former: Sequence[str]) -> None:
        """Connect to instances that have booted long ago; `serve` goes on from there.

        One that does not answer soon is left to `serve`, which waits for it.

        Args:
            named: running instances by their names.
            former: the runs that have searched on them, the newest first.

        Raises:
            ForeignHost: one shows another host key.
        """
        deadline = within(LOST_PATIENCE)
        self._former = [FOLDER + run for run in former]
        with self._lock:
            reached = [
                (each.id, self._new_host(each, name)) for name, each in named.items()
            ]
            self._hosts += reached
        answers = [self._pool.submit(host.connect, deadline) for _, host in reached]
        for (instance_id, host), connected in zip(reached, answers, strict=True):
            try:
                answer(connected, REACH_PATIENCE)
            except ForeignHost:
                raise
            except (HostError, TimeoutError):
                host.close()
            else:
                self._reached[instance_id] = host

    @property
    def reached(self) -> set[str]:
        """The instances that are connected, and not served yet."""
        return set(self._reached)

    def tell(self, command: Callable[[], str], patience: float = TELL_PATIENCE) -> None:
        """Run a command on all hosts that were reached, and are not served yet.

        Args:
            command: returns it; called just before it is sent to a host.
            patience: seconds for all hosts to have done it.

        Raises:
            HostError: it failed on a host, or one has not answered in time; what was
                sent to others is done.
        """
        answers = {
            host: self._pool.submit(lambda host=host: host.run(command()))  # type: ignore[misc]
            for host in self._reached.values()
        }
        wait(answers.values(), timeout=patience)
        for host, ran in answers.items():
            try:
                answer(ran, 0)
            except TimeoutError as error:
                why = f"no answer within {patience:g} s"
                raise HostError(host.name, why) from error

    def serve(self, instance: Instance, name: str, parts: Sequence[Part]) -> None:
        """Begin with a running instance: connect, search its classes, fetch its log.

        Each class has a connection of its own; later calls add more of them.  Without
        `parts` it stands by: it gets signs of life, and its log is fetched.
        """
        first, *more = parts or (None,)
        self._begin(instance, name, first)
        for part in more:
            self._begin(instance, name, part)

    def _new_host(self, instance: Instance, name: str) -> Host:
        return Host(
            name,
            instance.reached_at(self.reached_at) or "",
            self._login,
            port=instance.ssh_port,
            turn=self._turns.handshake,
            gateway=self._gateway,
            look=min(shell.LOOK, max(LEAST_LOOK, LOOK * self._plan.instances)),
        )

    def _begin(self, instance: Instance, name: str, part: Part | None) -> None:
        with self._lock:
            if self._closed.is_set():  # the instance was found before the end
                return
            host = self._reached.pop(instance.id, None)
            is_open = host is not None
            if host is None:
                host = self._new_host(instance, name)
                self._hosts.append((instance.id, host))
            self._types[instance.id] = instance.type
            self._deadlines.expect(instance.id)
            self._contact.begin()
            if part:
                self._holders[part.index] = instance.id
            if instance.id in self._gone:  # the caller gave it a class before it knew
                host.close(GONE)
            work = (host, instance.id, part, is_open)
            self.threads.append(self._pool.submit(self._serve, *work))
            if self._beating is None:
                self._beating = self._pool.submit(self._beat)
                self.threads.append(self._beating)

    def _beat(self) -> None:
        """Send all hosts signs of life; report if SSH reaches none of them."""
        while not self._closed.wait(min(BEAT, self._contact.left)):
            hosts = [host for _, host in self._all()]
            for host in hosts:
                host.beat()
            answered = any(host.answered for host in hosts) or self._ending.is_set()
            if silence := self._contact.report(answered=answered):
                self._put(silence)

    def stop(self) -> None:
        """Stop every worker; the log of its host is fetched after its last event."""
        self._deadlines.end()
        self._ending.set()
        self._turns.note_work(0)
        for _, host in self._all():
            host.stop()

    def release(self, index: int) -> None:
        """Stop the worker of a class, once it reports: its result is not needed."""
        self._holders[index] = ""

    def drop(self, instance_id: str) -> None:
        """Give up for good an instance that is gone."""
        with self._lock:
            self._gone.add(instance_id)
        for owner, host in self._all():
            if owner == instance_id:
                host.close(GONE)

    def close(self) -> None:
        """Close every connection; what is under way ends with a failure."""
        self._ending.set()
        with self._lock:
            self._closed.set()
        for _, host in self._all():
            host.close()
        if self._gateway:
            self._gateway.close()
        self._pool.close(cancel=True)

    def _all(self) -> list[tuple[str, Host]]:
        with self._lock:
            return list(self._hosts)

    # --- in the host's own thread

    def _close_idle(self, instance_id: str) -> None:
        """Close connections of an instance whose worker is done: a new one is made.

        An instance may search hundreds of pieces, one after the other.
        """
        with self._lock:
            idle = self._idle.pop(instance_id, [])
            self._hosts = [each for each in self._hosts if each[1] not in idle]
        for host in idle:
            host.close()

    def _serve(
        self, host: Host, instance_id: str, part: Part | None, is_open: bool
    ) -> None:
        index = part.index if part else None
        self._close_idle(instance_id)
        try:
            if not is_open:
                host.connect(self._deadlines.of_first_answer(instance_id))
            self._deadlines.note_answer(instance_id)
            self._put(Event("instance.ready", index, instance_id))
            last = ""
            if part:
                with self._turns.working():
                    last = self._search(host, instance_id, part)
            self._turns.let_stop(decides=last == "worker.found")
            self._fetch_log(host, instance_id, part)
        except HostError as failure:
            host.close()
            fields = {"reason": str(failure)}
            self._put(Event("host.failed", index, instance_id, fields))
        finally:
            # The connection stays open, for signs of life.
            with self._lock:
                self._idle.setdefault(instance_id, []).append(host)
            self._put(Event("host.done", index, instance_id))

    def _search(self, host: Host, instance_id: str, part: Part) -> str:
        """Start the worker, and pass its events on until the last one.

        Return the kind of the last event, or "" if there was none.
        """
        folder = f"{self._folder}/{part.name}"
        if not (part.resumed and host.has(folder)):
            if self._deadlines.remaining() <= 0:
                self._put(Event("host.late", part.index, instance_id))
                return ""
            with self._turns.set_up:
                if not self._set_up(host, instance_id, part):
                    return ""
        return self._pass_on(host, instance_id, part, folder)

    def _pass_on(self, host: Host, instance_id: str, part: Part, folder: str) -> str:
        """Pass the worker's events on until the last one, through lost connections.

        Return the kind of the last event, or "" if the host is given up.
        """
        known = part.received
        mute = math.inf  # since when the host answers, but sends no event
        output = self._output(instance_id, part)
        with contextlib.closing(output):
            while True:
                try:
                    lines = host.follow(
                        folder, position=host.position, dropped=output.drop
                    )
                    for line in lines:
                        mute = math.inf
                        if ROTATED.match(line):  # it sums up those that are known
                            known = 0
                        if known:
                            known -= 1
                        elif output.is_last(line):
                            return output.last
                        # It began after `stop` was called, or was out of reach for so
                        # long that another host has its class.
                        if self._is_to_stop(instance_id, part):
                            host.stop()
                except HostLost as error:
                    # A connection that drops repeatedly proves nothing about a worker
                    # that writes an event every second or two.
                    if time.monotonic() - mute >= SILENCE:
                        raise
                    if self._reconnect(host, instance_id, part.index, error):
                        mute = min(mute, time.monotonic())
                    else:
                        mute = time.monotonic()

    def _is_to_stop(self, instance_id: str, part: Part) -> bool:
        return self._ending.is_set() or self._holders[part.index] != instance_id

    def _judged(self, instance_id: str, part: Part, event: Event) -> Event:
        """Return what is believed of a last event: see `believed`.

        Where a former orchestrator started the workers, every one is believed: an
        orphan's find may have stopped them, and only they know when their time is over.
        """
        if part.resumed:
            return event
        asked = self._is_to_stop(instance_id, part)
        return believed(event, early=self._deadlines.remaining() > EARLY, asked=asked)

    def _output(self, instance_id: str, part: Part) -> WorkerOutput:
        """Return what emits a worker's events, with the allowance of its host."""
        with self._lock:
            allowance = self._allowances.setdefault(
                instance_id, Allowance(self._deadlines.search_began())
            )
        judged = partial(self._judged, instance_id, part)
        out = self._put, self._turns.slow_down
        return WorkerOutput(part.index, instance_id, allowance, *out, judged)

    def _set_up(self, host: Host, instance_id: str, part: Part) -> bool:
        """Push and start the worker, again if the connection drops meanwhile.

        Return whether it was started: once the run is decided it is not needed.
        """
        job = json.dumps(self._job(part, host.name, instance_id)).encode()
        on_demand = self._plan.market == MARKETS[0]
        for attempt in range(1, SET_UP_ATTEMPTS + 1):
            try:
                if not self._ending.is_set():
                    return host.start(
                        self._folder,
                        part.name,
                        job,
                        code=partial(self._code, self._types[instance_id]),
                        program="script_runner.py" if self._plan.script else "pow.py",
                        pause=WATCHDOG_PAUSE if on_demand else SPOT_WATCHDOG_PAUSE,
                        former=self._former,
                    )
            except HostLost:
                if attempt == SET_UP_ATTEMPTS:
                    raise
                host.connect(within(LOST_PATIENCE))
        return False

    def _reconnect(
        self, host: Host, instance_id: str, index: int, error: HostLost
    ) -> bool:
        """Take up a dropped connection; return whether that was in time.

        The search has gone on meanwhile.  After `LOST_PATIENCE` the host counts as
        lost, and its class may go on elsewhere.  But where all hosts are out of reach,
        this machine's own network is down: so attempts go on until the time limit.
        """
        fields = {"reason": str(error)}
        self._put(Event("host.reconnecting", index, instance_id, fields))
        try:
            host.connect(within(LOST_PATIENCE))
        except HostError as lost:
            fields = {"reason": str(lost)}
            self._put(Event("host.failed", index, instance_id, fields))
            host.connect(self._deadlines.of_return)
            self._put(Event("host.returned", index, instance_id))
            return False
        return True

    def _job(self, part: Part, name: str, instance_id: str) -> dict[str, object]:
        """Return the job file of a host: for `pow.py` and for `watchdog.py`."""
        plan = self._plan
        piece = plan.pieces[part.index]
        return {
            "run": self._files.run,
            "block": plan.block,
            "difficulty": plan.difficulty,
            "index": piece.residue,
            "start": part.start,
            "of": piece.modulus,
            "nonces": plan.nonces,
            "time_limit": max(1.0, round(self._deadlines.remaining(), 3)),
            "kernel": plan.kernel,
            "progress": plan.progress,
            "witness_bits": plan.witness_bits,
            "log_delay": min(MOST_LOG_DELAY, LOG_DELAY * plan.instances),
            "script": plan.script,
            "words": plan.words,
            **self._alone(instance_id, name),
        }

    def _fetch_log(self, host: Host, instance_id: str, part: Part | None) -> None:
        index = part.index if part else None
        folder = f"{self._folder}/{part.name}" if part else ""
        try:
            with self._turns.fetch:
                late = time.monotonic() + LOG_TIMEOUT
                came = host.log(
                    self._files.log(host.name),
                    folder,
                    most=system_log.most_of(self._plan.instances),
                    deadline=lambda: min(late, self._deadlines.logs_by),
                )
        except (HostError, OSError) as error:
            fields: dict[str, object] = {"reason": str(error)}
            self._put(Event("log.failed", index, instance_id, fields))
        else:
            fields = {"path": str(self._files.log(host.name)), **came.fields}
            self._put(Event("log.pulled", index, instance_id, fields))
