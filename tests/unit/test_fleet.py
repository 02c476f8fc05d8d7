"""A fleet that is closed takes no more hosts, whoever still brings them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, cast

from cnd.ec2 import Instance
from cnd.events import Event
from cnd.fleet import Fleet, Part
from cnd.journal import Journal
from cnd.mailbox import Mailbox
from cnd.plan import Plan
from cnd.remote import Login

LATE = Instance(
    id="i-0",
    run="20261123-120000-0000",
    index=0,
    owner="somebody",
    type="t3.micro",
    state="running",
    address="127.0.0.1",
    ssh_port=22,
    zone="us-east-1a",
    launched=dt.datetime.now(dt.timezone.utc),
    deadline="",
)
PLAN = Plan(difficulty=2, instances=1, time_limit=10)


def test_an_instance_that_runs_after_the_end_is_let_be() -> None:
    told: list[Event] = []
    fleet = Fleet(
        PLAN,
        Journal(LATE.run),
        Login("nobody", Path("no-key"), "ssh-ed25519 AAAA"),
        code=lambda machine: {},
        alone=lambda instance, name: {},
        put=told.append,
    )
    fleet.close()
    fleet.serve(LATE, "Instance0", [Part(0, 0)])
    assert (fleet.threads, told) == ([], [])


def test_the_same_holds_where_nobody_is_reached_over_ssh() -> None:
    told: list[Event] = []
    nothing_is_asked = cast(Any, None)
    mailbox = Mailbox(
        PLAN,
        Journal(LATE.run),
        nothing_is_asked,
        "bucket",
        put=told.append,
        polls_per_second=1.0,
    )
    mailbox.close()
    mailbox.serve(LATE, "Instance0", [Part(0, 0)])
    assert (mailbox.threads, told) == ([], [])
