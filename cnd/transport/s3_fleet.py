"""The hosts of a run without SSH: messages and reports go through S3.

One rule: as in `ssh_fleet.py`, the failure of one host is recorded and the others go
on, and the reader of the events decides; but one thread reads the reports of all hosts,
with a few helpers, and another sends: a message must not wait until hundreds of reports
are read.

It writes one object that all instances poll, lists theirs, and fetches those that have
changed.  Its cost does not grow with the length of the search, and with the fleet only
as the number of reports does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cnd import s3logs
from cnd.cloud.failures import translated
from cnd.ec2 import Instance
from cnd.errors import CloudError
from cnd.model import system_log
from cnd.model.events import LAST_WORDS, Emit, Event, from_worker, trouble
from cnd.model.plan import Plan
from cnd.model.s3_requests import pace
from cnd.on_instance.agent import LAST_RETRY, MOST_REPORT
from cnd.system import private_files
from cnd.system.background import Pool
from cnd.transport import instance_report, s3_protocol
from cnd.transport.bounded_lines import LONGEST, Allowance
from cnd.transport.fleet import (
    BEAT,
    EARLY,
    END_PATIENCE,
    GONE,
    NOISE,
    TOO_MUCH,
    Part,
    RunFiles,
    believed,
    dropped,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

FETCHES = 16  # reports fetched at a time
MOST_AT_ONCE = 32 << 20  # bytes of reports fetched at a time


@dataclass
class _Task:
    """A class that a host has to search; None: it stands by."""

    part: Part | None
    passed: int = 0  # lines of its worker that were passed on
    ended: bool = False  # its worker has sent its last event
    lost: bool = False  # the host was silent for too long
    over: bool = False  # nothing more is expected of it

    @property
    def index(self) -> int | None:
        return self.part.index if self.part else None


@dataclass
class _Host:
    """An instance, and what is known of it."""

    id: str
    name: str
    booted_by: float  # when its first report is late, on the monotonic clock
    tasks: list[_Task] = field(default_factory=list)
    etag: str = ""  # of its latest report
    received: float | None = None  # when that came, on the monotonic clock
    gone: bool = False  # the instance was dropped
    allowance: Allowance | None = None  # since its first report

    @property
    def pending(self) -> list[_Task]:
        return [task for task in self.tasks if not task.over]


def _is_own(plan: Plan, name: str, part: Part) -> bool:
    """Return whether an instance begins with a class by itself, without an order."""
    return not plan.work and (name, part.start) == (f"Instance{part.index}", part.index)


def _given_away(host: _Host, holders: Mapping[int, str]) -> Iterator[str]:
    """Yield the parts that others search now, or that are not needed any more."""
    for task in host.pending:
        part = None if task.ended else task.part
        if part and holders[part.index] != host.name:
            yield part.name


def batches(changed: Iterable[tuple[_Host, int]]) -> Iterator[list[_Host]]:
    """Yield hosts, few enough at a time to keep their reports in memory."""
    batch: list[_Host] = []
    size = 0
    for host, more in changed:
        if batch and (len(batch) == FETCHES or size + more > MOST_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(host)
        size += more
    if batch:
        yield batch


class S3Fleet:
    """Serves the instances it is given, through objects in S3: see `fleet.Fleet`."""

    def __init__(
        self,
        plan: Plan,
        files: RunFiles,
        s3: S3Client,
        bucket: str,
        *,
        put: Emit,
        owner: str,
        polls_per_second: float,
        search_began: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Make a fleet of no hosts yet.

        Args:
            put: takes every event, from any thread.
            owner: the account that must own the bucket; empty: any account.
            polls_per_second: how often the whole fleet may look for a message.
            search_began: returns when the search of a run that is taken over began, on
                the monotonic clock, as far as that is known by now.
        """
        self._plan, self._files = plan, files
        self._s3, self._bucket, self._put = s3, bucket, put
        self._owner = owner
        self._pace = pace(plan.instances, polls_per_second)
        self._known_began = search_began
        self._search_began: float | None = None
        self._ended_by = math.inf  # when all reports are late: the run is decided
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}  # by name
        self._holders: dict[int, str] = {}  # name of the host that has each class now
        self._awake = threading.Event()  # there is a new message to send
        self._ending = threading.Event()
        self._closed = threading.Event()
        # So it is higher than the last beat of a former orchestrator.
        self._beat = int(time.time())
        self._reported: set[str] = set()  # failures
        self._deaf = (
            False  # reports could not be listed of late: silence proves nothing
        )
        self._pool = Pool(2, "s3-fleet")
        self.at_rest = threading.Event()
        self.at_rest.set()  # a message takes seconds, and costs the hosts no time
        self.threads: list[Future[None]] = []
        self.reached_at = ""

    @property
    def delay(self) -> float:
        """Seconds that a message and the answer to it may take together, at worst."""
        return 1.5 * self._pace.poll + self._pace.look

    def divide(self, plan: Plan) -> None:
        """Fail: the number of classes is in the user data.

        `Plan` refuses fewer instances than wanted for a fleet of this kind.
        """
        raise ValueError("user data cannot be changed after the launch")

    def serve(self, instance: Instance, name: str, parts: Sequence[Part]) -> None:
        """Expect an instance to search its classes; later calls add more of them."""
        with self._lock:
            if self._closed.is_set():  # the instance was found before the end
                return
            booted_by = time.monotonic() + self._plan.boot_allowance
            host = self._hosts.setdefault(name, _Host(instance.id, name, booted_by))
            # Lines that a former orchestrator has received are passed on again.
            host.tasks += [_Task(part) for part in parts or (None,)]
            self._holders.update({part.index: name for part in parts})
            if host.gone:  # the caller gave it a class before it knew
                self._give_up(host, GONE)
            if not self.threads:
                self.threads.append(self._pool.submit(self._receive))
                self.threads.append(self._pool.submit(self._send))
        own = all(_is_own(self._plan, name, part) for part in parts)
        if host.etag or not own:
            self._awake.set()

    def stop(self) -> None:
        """Stop every worker; the log of its host comes with its last event."""
        self._ended_by = time.monotonic() + END_PATIENCE + self.delay
        self._ending.set()
        self._awake.set()

    def release(self, index: int) -> None:
        """Stop the worker of a class: its result is not needed."""
        with self._lock:
            known = not self._holders[index]
            self._holders[index] = ""
        if not known:  # the message is written once
            self._awake.set()

    def drop(self, instance_id: str) -> None:
        """Give up for good an instance that is gone."""
        with self._lock:
            gone = [h for h in self._hosts.values() if h.id == instance_id]
            for host in gone:
                host.gone = True
                self._give_up(host, GONE)

    def close(self) -> None:
        """End both threads."""
        with self._lock:
            self._closed.set()
        self._ending.set()
        self._awake.set()
        self._pool.close()

    # --- in the thread that sends

    def _send(self) -> None:
        """Write a message when there is a new one, and regularly as a sign of life."""
        while not self._closed.is_set():
            self._awake.clear()
            try:
                self._write_message()
            except CloudError as error:
                self._report(error)
                self._closed.wait(self._pace.look)
                continue
            self._awake.wait(BEAT)

    def _report(self, error: CloudError) -> None:
        """Emit a failure as an event, once for each text."""
        if str(error) not in self._reported and not self._closed.is_set():
            self._put(trouble(error))
        self._reported.add(str(error))

    def _write_message(self) -> None:
        self._beat += 1
        with self._lock:
            hosts = list(self._hosts.values())
            parts = {h.name: list(self._handed(h)) for h in hosts}
            away = {h.name: list(_given_away(h, self._holders)) for h in hosts}
        message = s3_protocol.ControlMessage(
            self._beat,
            self._ending.is_set(),
            {name: handed for name, handed in parts.items() if handed},
            {name: lost for name, lost in away.items() if lost},
        )
        s3, run, data = self._s3, self._files.run, message.encoded()
        s3_protocol.put(
            s3, self._bucket, run, s3_protocol.MESSAGE, data, owner=self._owner
        )

    def _handed(self, host: _Host) -> Iterator[s3_protocol.HandedPart]:
        """Yield the classes that a host takes over; it knows its own."""
        for part in (task.part for task in host.pending):
            if part and not _is_own(self._plan, host.name, part):
                seconds = max(1.0, round(self._remaining(), 3))
                piece = self._plan.pieces[part.index]
                other = (piece.residue, piece.modulus) if self._plan.work else ()
                yield part.index, part.start, seconds, *other

    def _remaining(self) -> float:
        return self._plan.time_limit - (time.monotonic() - self._began())

    def _began(self) -> float:
        """Return when the search began, on the monotonic clock; now, if it has not."""
        known = self._known_began()
        began = self._search_began if known is None else known
        return time.monotonic() if began is None else began

    # --- in the thread that receives

    def _receive(self) -> None:
        """Look for new reports until the end, for half of the time at most."""
        fetchers = Pool(FETCHES, "fetch")
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._look(fetchers)
            except CloudError as error:
                self._deaf = True
                self._report(error)
            self._closed.wait(max(self._pace.look, time.monotonic() - began))

    def _look(self, fetchers: Pool) -> None:
        """Fetch the reports that have changed, and pass their events on."""
        for hosts in batches(self._changed()):
            answers = [fetchers.submit(self._fetch, host) for host in hosts]
            for host, answer in zip(hosts, answers, strict=True):
                # One at a time is parsed: it takes memory.
                report = instance_report.parsed(answer.result(), host.id)
                with self._lock:
                    self._take(host, report)
        with self._lock:
            for host in self._hosts.values():
                if self._deaf and host.received is not None:
                    host.received = time.monotonic()
                self._check(host)
        self._deaf = False

    def _changed(self) -> Iterator[tuple[_Host, int]]:
        """List the reports; yield the hosts with a new one, and its size.

        One that is larger than the signed form allows is none of a host.
        """
        start = s3logs.prefix(self._files.run) + s3logs.LOGS
        pages = self._s3.get_paginator("list_objects_v2")
        with translated("list the reports"):
            for page in pages.paginate(Bucket=self._bucket, Prefix=start):
                for item in page.get("Contents", []):
                    name = item["Key"][len(start) :].removesuffix(".json")
                    host = self._hosts.get(name)
                    if host and host.pending and host.etag != item["ETag"]:
                        host.etag = item["ETag"]
                        if item["Size"] <= MOST_REPORT:
                            yield host, item["Size"]

    def _fetch(self, host: _Host) -> bytes:
        """Return the report of a host; nothing if it cannot be fetched.

        One that is listed is there: in a new bucket, a call may not know it yet.
        """
        if self._closed.is_set():
            return b""
        data = None
        try:
            name = f"{s3logs.LOGS}{host.name}.json"
            run, most = self._files.run, MOST_REPORT
            data = s3logs.fetch(self._s3, self._bucket, run, name, most=most)
        except CloudError as error:
            self._report(error)
        if data is None:
            host.etag = ""  # try again
        return data or b""

    # --- with the lock

    def _take(self, host: _Host, report: dict[str, Any]) -> None:
        if not report:
            return
        first, host.received = host.received is None, time.monotonic()
        for task in host.pending:
            if first:
                self._put(Event("instance.ready", task.index, host.id))
            if task.lost:
                task.lost = False
                self._put(Event("host.returned", task.index, host.id))
            if task.part:
                self._pass_on(host, task, task.part, report)
            log = report.get("log")
            # With no event of its worker, the host has not received that class yet.
            idle = task.ended or task.part is None or self._ending.is_set()
            if isinstance(log, str) and idle:
                self._end(host, task, log, instance_report.missing(report))

    def _pass_on(
        self, host: _Host, task: _Task, part: Part, report: dict[str, Any]
    ) -> None:
        """Pass on the lines that are new."""
        fresh = () if task.ended else instance_report.lines(report, part.name)
        for number, text in fresh:
            if number <= task.passed:
                continue
            task.passed = number
            event = from_worker(text[:LONGEST], index=part.index, host=host.id)
            if not self._is_kept(host, event, len(text)):
                continue
            if event.kind == "worker.started" and self._search_began is None:
                self._search_began = time.monotonic()
            self._put(self._judged(host, part, event))
            task.ended |= event.kind in LAST_WORDS
            if task.ended:  # lines after the last event are not counted
                break

    def _judged(self, host: _Host, part: Part, event: Event) -> Event:
        """Return what is believed of an event: see `fleet.believed`.

        A worker begins before its report arrives, which S3 may refuse for a while.
        """
        if part.resumed:
            return event
        early = self._remaining() > EARLY + self.delay + LAST_RETRY
        asked = self._ending.is_set() or self._holders[part.index] != host.name
        return believed(event, early=early, asked=asked)

    def _is_kept(self, host: _Host, event: Event, size: int) -> bool:
        """Return whether an event is within its host's allowance, or the last one."""
        if host.allowance is None:
            host.allowance = Allowance(self._began())
        allowed = host.allowance
        before = allowed.dropped
        if allowed.keeps(size) and (event.kind != NOISE or allowed.keeps_noise(size)):
            return True
        if not before:
            self._put(dropped(host.id, TOO_MUCH, allowed))
        return event.kind in LAST_WORDS

    def _end(self, host: _Host, task: _Task, log: str, missing: int | None) -> None:
        """Keep the log of a host whose worker has ended."""
        path = self._files.log(host.name)
        try:
            if not log:
                raise ValueError("it is empty")
            private_files.write(path, log)
        except (OSError, ValueError) as error:
            fields: dict[str, object] = {"reason": str(error)}
            self._put(Event("log.failed", task.index, host.id, fields))
        else:
            fields = {"path": str(path), **system_log.LogPart(len(log), missing).fields}
            self._put(Event("log.pulled", task.index, host.id, fields))
        task.over = True
        self._put(Event("host.done", task.index, host.id))

    def _check(self, host: _Host) -> None:
        """Notice a host that does not report, or has ceased to."""
        now = time.monotonic()
        if host.received is None:
            if now >= min(host.booted_by, self._ended_by):
                self._give_up(host, "it did not report in time")
            return
        silent = now - host.received >= self._pace.silence
        for task in host.pending:
            if silent and task.part and not task.ended and not task.lost:
                task.lost = True
                reason = f"no report for {self._pace.silence:g} s"
                fields = {"reason": reason}
                self._put(Event("host.failed", task.index, host.id, fields))

    def _give_up(self, host: _Host, reason: str) -> None:
        for task in host.pending:
            task.over = True
            fields = {"reason": reason}
            self._put(Event("host.failed", task.index, host.id, fields))
            self._put(Event("host.done", task.index, host.id))
