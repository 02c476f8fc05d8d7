"""A fleet serves no host that is gone, and none after its end."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import boto3
import pytest
from botocore.config import Config

from cnd.ec2 import Instance
from cnd.errors import HostError, HostLost
from cnd.model.events import Emit, Event
from cnd.model.plan import Plan
from cnd.run.journal import Journal
from cnd.transport.fleet import Part
from cnd.transport.s3_fleet import FETCHES, MOST_AT_ONCE, S3Fleet, batches
from cnd.transport.ssh import Host
from cnd.transport.ssh_connection import Login
from cnd.transport.ssh_fleet import SshFleet
from tests.support.waiting import eventually

LATE = Instance(
    id="i-0",
    run="20261123-120000-0000",
    index=0,
    owner="a user",
    type="t3.micro",
    state="running",
    address="127.0.0.1",
    ssh_port=22,
    zone="us-east-1a",
    launched=dt.datetime.now(dt.timezone.utc),
    deadline="",
)
Make = Callable[[Emit], SshFleet]
PLAN = Plan(difficulty=2, instances=1, time_limit=10)


def fleet(put: Emit) -> SshFleet:
    return SshFleet(
        PLAN,
        Journal(LATE.run),
        Login("nobody", Path("no-key"), "ssh-ed25519 AAAA"),
        code=lambda instance_type, machine: {},
        alone=lambda instance, name: {},
        put=put,
    )


def s3_fleet(put: Emit) -> S3Fleet:
    """Return a fleet at a bucket that cannot be reached."""
    client = boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nothing",
        config=Config(retries={"total_max_attempts": 1}),
    )
    journal = Journal(LATE.run)
    return S3Fleet(
        PLAN, journal, client, "bucket", put=put, owner="", polls_per_second=1
    )


@pytest.fixture
def dropping() -> Iterator[int]:
    """A port that drops what comes, as a security group does: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_a_fleet_of_which_ssh_reaches_no_host_says_so_with_the_rule(
    dropping: int,
) -> None:
    events: Queue[Event] = Queue()
    rule = "sg-1 allows SSH from 198.51.100.7/32 only"
    unreached = SshFleet(
        replace(PLAN, boot_allowance=2.0),
        Journal(LATE.run),
        Login("nobody", Path("no-key"), "ssh-ed25519 AAAA", rule),
        code=lambda type_, machine: {},
        alone=lambda instance, name: {},
        put=events.put,
    )
    unreached.serve(replace(LATE, ssh_port=dropping), "Instance0", [Part(0, 0)])
    while (event := events.get(timeout=20)).kind != "cloud.trouble":
        pass
    unreached.close()
    assert rule in str(event.fields["reason"])


@pytest.mark.parametrize("make", [fleet, s3_fleet])
def test_an_instance_that_runs_after_the_end_is_not_served(make: Make) -> None:
    events: list[Event] = []
    late = make(events.append)
    late.close()
    late.serve(LATE, "Instance0", [Part(0, 0)])
    assert (late.threads, events) == ([], [])


@pytest.mark.parametrize("make", [fleet, s3_fleet])
def test_a_class_given_to_an_instance_that_is_gone_comes_back_at_once(
    make: Make,
) -> None:
    events: Queue[Event] = Queue()
    late = make(events.put)
    late.serve(LATE, "Instance0", [Part(0, 0)])
    late.drop(LATE.id)
    late.serve(LATE, "Instance0", [Part(1, 1)])  # the caller does not know yet
    lost: set[int | None] = set()
    while lost != {0, 1}:
        event = events.get(timeout=60)
        if event.kind == "host.failed":
            assert "the instance is gone" in event.fields["reason"]
            lost.add(event.index)
    late.close()


def test_a_report_of_too_many_lines_is_read_to_its_last_event_and_not_kept() -> None:
    events: list[Event] = []
    late: Any = s3_fleet(events.append)
    late.serve(LATE, "Instance0", [Part(0, 0)])
    late.close()
    events.clear()
    lines = [[i, "noise"] for i in range(1, 20_001)]
    lines.append([20_001, '{"event": "stopped"}'])
    report = {"instance": LATE.id, "parts": {"class-0-from-0": lines}}
    late._take(late._hosts["Instance0"], report)
    assert events[-1].kind == "worker.stopped"
    assert len([event for event in events if "dropped" in event.fields]) == 1
    assert len(events) < 150


def test_lines_after_the_last_event_of_a_report_are_ignored() -> None:
    events: list[Event] = []
    late: Any = s3_fleet(events.append)
    late.serve(LATE, "Instance0", [Part(0, 0)])
    late.close()
    events.clear()
    for first in (1, 1001):
        line = json.dumps({"event": "failed", "reason": 60_000 * "x"})
        lines = [[i, line] for i in range(first, first + 1000)]
        report = {"instance": LATE.id, "parts": {"class-0-from-0": lines}}
        late._take(late._hosts["Instance0"], report)
    assert [e.kind for e in events if "text" not in e.fields][-1] == "worker.failed"
    assert len([e for e in events if e.kind == "worker.failed"]) == 1


@pytest.mark.parametrize("kind", ["timeout", "stopped"])
@pytest.mark.parametrize("true", [False, True])
def test_without_ssh_too_a_worker_does_not_decide_when_the_time_is_over(
    kind: str, true: bool
) -> None:
    events: list[Event] = []
    late: Any = s3_fleet(events.append)
    late._plan = replace(PLAN, time_limit=10 if true else 600)
    late.serve(LATE, "Instance0", [Part(0, 0)])
    late.close()
    late._ending.clear()
    if true:
        late.stop()
    lines = [[1, '{"event": "started"}'], [2, json.dumps({"event": kind})]]
    report = {"instance": LATE.id, "parts": {"class-0-from-0": lines}}
    late._take(late._hosts["Instance0"], report)
    assert events[-1].kind == ("worker." + kind if true else "worker.failed")


def test_reports_are_fetched_few_at_a_time_where_they_are_large() -> None:
    hosts: list[Any] = list(range(100))
    small = [len(batch) for batch in batches((host, 1000) for host in hosts)]
    assert small == [*6 * [FETCHES], 4]
    large = list(batches((host, MOST_AT_ONCE // 2) for host in hosts))
    assert [len(batch) for batch in large] == 50 * [2]
    assert [host for batch in large for host in batch] == hosts
    assert len(list(batches([(hosts[0], 2 * MOST_AT_ONCE)]))) == 1


class Flapping:
    """A host whose connection drops some times before its worker sends an event."""

    position = 0

    def __init__(self, drops: int) -> None:
        self.drops = drops

    def connect(self, deadline: Callable[[], float]) -> None:
        pass

    def stop(self) -> bool:
        return True

    def follow(
        self, folder: str, *, position: int, dropped: Callable[[int], None]
    ) -> Iterator[bytes]:
        if self.drops:
            self.drops -= 1
            raise HostLost("Instance0", "connection lost")
        yield b'{"event": "stopped"}'


def test_a_host_whose_connection_drops_repeatedly_is_not_lost() -> None:
    events: list[Event] = []
    flapping = fleet(events.append)
    flapping.serve(LATE, "Instance0", [Part(0, 0)])
    flapping.close()
    events.clear()
    host: Any = Flapping(drops=3)
    flapping._pass_on(host, LATE.id, Part(0, 0), "folder")
    kinds = [event.kind for event in events if event.kind != "host.done"]
    assert kinds[-4:] == [*3 * ["host.reconnecting"], "worker.stopped"]


@pytest.mark.parametrize("before", [0, 1])
def test_a_worker_is_stopped_until_its_last_event_and_not_by_it(before: int) -> None:
    stops: list[int] = []

    class Searching(Flapping):
        def stop(self) -> bool:
            stops.append(1)
            return True

        def follow(self, *folder: str, **options: object) -> Iterator[bytes]:
            yield from before * [b'{"event": "progress", "cursor": 1}']
            yield b'{"event": "stopped"}'

    busy = fleet(lambda event: None)
    busy.serve(LATE, "Instance0", [Part(0, 0)])
    busy.close()
    host: Any = Searching(drops=0)
    assert busy._pass_on(host, LATE.id, Part(0, 0), "folder") == "worker.stopped"
    assert len(stops) == before


@pytest.mark.parametrize(
    ("instances", "look"), [(1, 0.02), (8, 0.02), (128, 0.0512), (512, 0.2)]
)
def test_the_hosts_of_a_large_fleet_look_for_events_the_less_often(
    instances: int, look: float
) -> None:
    some = fleet(lambda event: None)
    some.divide(replace(PLAN, instances=instances))
    command = some._new_host(LATE, "Instance0")._follow("folder")
    assert f"-s {look:g} --pid=$pid" in command
    some.close()


def test_connections_of_pieces_that_are_done_are_closed_when_the_next_one_begins() -> (
    None
):
    """An instance may search hundreds of pieces, one after the other."""

    class Done:
        closed = False

        def close(self, why: str = "") -> None:
            self.closed = True

    busy = fleet(lambda event: None)
    done: Any = Done()
    busy._hosts.append((LATE.id, done))
    busy._idle[LATE.id] = [done]
    busy.serve(LATE, "Instance0", [Part(0, 0)])
    try:
        eventually(lambda: done.closed)
        assert done not in [host for _, host in busy._hosts]
    finally:
        busy.close()


@pytest.mark.parametrize("make", [fleet, s3_fleet])
def test_a_class_whose_result_is_not_needed_is_released(make: Make) -> None:
    """Its holder is to stop; a later one may get the class."""
    busy = make(lambda event: None)
    busy.serve(LATE, "Instance0", [Part(0, 0)])
    try:
        busy.release(0)
        assert busy._holders == {0: ""}
    finally:
        busy.close()


class Reached(SshFleet):
    """A fleet with one host, as if it had been reached."""

    def reached_is(self, host: Host) -> None:
        self._reached["i-0"] = host


def test_a_host_that_does_not_do_what_it_is_told_is_not_waited_for_without_end() -> (
    None
):
    login = Login("nobody", Path("no-key"), "ssh-ed25519 AAAA")
    told, files = threading.Event(), Journal(LATE.run)
    hosts = Reached(
        PLAN,
        files,
        login,
        code=lambda instance_type, machine: {},
        alone=lambda instance, name: {},
        put=lambda event: None,
    )
    hosts.reached_is(Host("Instance0", "127.0.0.1", login, port=1))

    def hangs() -> str:
        told.wait(60)
        return "true"

    with pytest.raises(HostError, match=r"Instance0.*no answer within 0\.1 s"):
        hosts.tell(hangs, patience=0.1)
    told.set()
