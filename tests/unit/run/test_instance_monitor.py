"""When an instance is served, and when it is gone; not listed is not gone."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from cnd.cloud.failures import LISTED_WITHIN
from cnd.ec2 import NOT_FOUND, Instance
from cnd.errors import CloudError
from cnd.model.events import Event
from cnd.run.instance_monitor import InstanceMonitor
from cnd.transport.fleet import Part
from tests.support.aws import Stub


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


@dataclass
class World:
    """A cloud that answers as stubbed, and a fleet that notes what it is told."""

    ec2: Any
    reached_at: str = "public"
    over: threading.Event = field(default_factory=threading.Event)
    events: list[Event] = field(default_factory=list)
    served: list[Instance] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    until: str = "serve"  # what ends the monitor

    def serve(self, instance: Instance, name: str, parts: Sequence[Part]) -> None:
        self.served.append(instance)
        self._note("serve")

    def drop(self, instance: str) -> None:
        self.dropped.append(instance)
        self._note("drop")

    def _note(self, what: str) -> None:
        if what == self.until:
            self.over.set()

    def gone(self) -> bool:
        return False

    def monitor(self, *hosts: str, adopts: bool = False) -> InstanceMonitor:
        world: Any = self
        return InstanceMonitor(
            world,
            "r",
            world,
            index={host: place for place, host in enumerate(hosts)},
            parts=lambda instance: [],
            adopts=adopts,
            put=self.events.append,
            over=self.over,
        )

    def told(self) -> list[tuple[str, str | None]]:
        return [(event.kind, event.host) for event in self.events]


def listed(stub: Stub, *instances: dict[str, Any]) -> None:
    """Let the next DescribeInstances list these."""
    usual = {
        "InstanceType": "t3.micro",
        "LaunchTime": dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        "Tags": [{"Key": "cnd:run", "Value": "r"}],
    }
    found = [{**usual, **each} for each in instances]
    stub.add_response("describe_instances", {"Reservations": [{"Instances": found}]})


def described(name: str, state: str = "running", **more: Any) -> dict[str, Any]:
    return {"InstanceId": name, "State": {"Name": state}, **more}


# --- served


@pytest.mark.parametrize(
    ("kind", "first", "then"),
    [
        ("public", {"PrivateIpAddress": "10.0.0.7"}, {"PublicIpAddress": "192.0.2.7"}),
        ("private", {"PublicIpAddress": "192.0.2.7"}, {"PrivateIpAddress": "10.0.0.7"}),
    ],
)
def test_an_instance_is_served_once_the_address_that_the_plan_wants_is_there(
    stub: Stub, kind: str, first: dict[str, str], then: dict[str, str]
) -> None:
    """AWS may say "running" seconds before; the other address is no substitute."""
    listed(stub)  # none is gone
    listed(stub, described("i-0", **first))
    listed(stub, described("i-0", **first, **then))
    world = World(stub.ec2, kind)
    world.monitor("i-0").run()
    (served,) = world.served
    assert served.reached_at(kind) == next(iter(then.values()))
    assert world.told() == [("instance.running", "i-0")]
    stub.assert_no_pending_responses()


def test_an_instance_without_its_address_is_not_waited_for_without_an_end(
    stub: Stub,
) -> None:
    """Its fleet then reports a host that failed."""
    listed(stub)
    listed(stub, described("i-0", PrivateIpAddress="10.0.0.7"))
    world = World(stub.ec2)
    monitor = world.monitor("i-0")
    monitor.address_patience = 0.0
    monitor.run()
    assert [each.address for each in world.served] == [None]


def test_a_fleet_that_needs_no_address_waits_for_none(stub: Stub) -> None:
    listed(stub)
    listed(stub, described("i-0"))
    world = World(stub.ec2, "")
    world.monitor("i-0").run()
    assert len(world.served) == 1


# --- lost


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {
                "Code": "Client.VolumeLimitExceeded",
                "Message": "Client.VolumeLimitExceeded: Volume limit exceeded",
            },
            "Client.VolumeLimitExceeded: Volume limit exceeded",
        ),
        (
            {"Code": "Server.SpotInstanceTermination", "Message": "Spot\ninterrupted"},
            "Server.SpotInstanceTermination: Spot interrupted",
        ),
        (None, None),
    ],
)
def test_why_an_instance_was_lost_is_told_as_aws_says_it(
    stub: Stub, given: dict[str, str] | None, reason: str | None
) -> None:
    why = {"StateReason": given} if given else {}
    listed(stub, described("i-0", "terminated", **why))
    listed(stub)  # none has begun to run
    world = World(stub.ec2, until="drop")
    world.monitor("i-0").run()
    (lost,) = (event for event in world.events if event.kind == "instance.lost")
    assert lost.fields.get("reason") == reason
    assert world.dropped == ["i-0"]


# --- the fleet of a former orchestrator


def caught_up(
    stub: Stub, launched: dict[str, float], *, lost: set[str], ended: set[str]
) -> list[tuple[str, str | None]]:
    """Return the events of a take-over in which no instance is listed by its tag."""
    world = World(stub.ec2)
    monitor = world.monitor(*launched, adopts=True)
    monitor.catch_up([], lost, ended, launched)
    return world.told()


def unknown(stub: Stub, *names: str) -> None:
    """Let the next look for instances by their ids find none of these."""
    quoted = ", ".join(names)
    message = f"The instance IDs '{quoted}' do not exist"
    stub.add_client_error("describe_instances", NOT_FOUND, message)


LONG_AGO = 2 * LISTED_WITHIN  # seconds


def test_what_was_launched_long_ago_and_is_unknown_is_terminated(stub: Stub) -> None:
    listed(stub)
    unknown(stub, "i-0", "i-1", "i-2")
    long_ago = dict.fromkeys(("i-0", "i-1", "i-2"), time.time() - LONG_AGO)
    assert sorted(caught_up(stub, long_ago, lost={"i-1", "i-2"}, ended={"i-2"})) == [
        ("instance.lost", "i-0"),
        ("instance.terminated", "i-0"),
        ("instance.terminated", "i-1"),
    ]


def test_what_was_launched_a_moment_ago_may_be_listed_yet(stub: Stub) -> None:
    assert caught_up(stub, {"i-0": time.time()}, lost=set(), ended=set()) == []


def test_a_terminated_instance_that_has_lost_its_tags_is_found_by_its_id(
    stub: Stub,
) -> None:
    listed(stub, described("i-0", "terminated", Tags=[]))
    found = caught_up(stub, {"i-0": time.time() - LONG_AGO}, lost=set(), ended=set())
    assert found == [("instance.lost", "i-0"), ("instance.terminated", "i-0")]


def test_an_instance_that_a_listing_lacks_is_not_lost(stub: Stub) -> None:
    """Pages of a listing may disagree: asked for by its id, it is there."""
    listed(stub, described("i-0", PublicIpAddress="192.0.2.7"))
    found = caught_up(stub, {"i-0": time.time() - LONG_AGO}, lost=set(), ended=set())
    assert found == [("instance.running", "i-0")]


def test_an_instance_that_cannot_be_looked_up_is_not_given_up(stub: Stub) -> None:
    stub.add_client_error("describe_instances", "RequestLimitExceeded")
    found = caught_up(stub, {"i-0": time.time() - LONG_AGO}, lost=set(), ended=set())
    assert found == [("cloud.trouble", None)]


class Unanswering:
    """A cloud that does not answer, and a fleet that notes what it must drop."""

    def __init__(self) -> None:
        self.ec2, self.dropped = self, list[str]()
        self._gone = iter([False, True])

    def gone(self) -> bool:
        return next(self._gone)

    def get_paginator(self, name: str) -> Any:
        raise CloudError("no answer")

    def drop(self, instance: str) -> None:
        self.dropped.append(instance)


def test_a_cloud_that_has_ended_takes_all_its_instances_along() -> None:
    events: list[Event] = []
    world: Any = Unanswering()
    monitor = InstanceMonitor(
        world,
        "run",
        world,
        index={"i-0": 0, "i-1": 1},
        parts=lambda instance: [],
        adopts=False,
        put=events.append,
        over=threading.Event(),
    )
    monitor.run()  # and it returns
    assert [(event.kind, event.host) for event in events] == [
        ("cloud.trouble", None),
        ("cloud.trouble", None),
        ("instance.lost", "i-0"),
        ("instance.terminated", "i-0"),
        ("instance.lost", "i-1"),
        ("instance.terminated", "i-1"),
    ]
    assert world.dropped == ["i-0", "i-1"]
