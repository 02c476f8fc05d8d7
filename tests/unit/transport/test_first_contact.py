"""That SSH reaches no host is reported once, with the rule that may be wrong."""

from __future__ import annotations

import math

import pytest

from cnd.model.events import Event
from cnd.transport.first_contact import FirstContact
from cnd.view.narrator import sentence

RULE = "sg-1 allows SSH from 192.0.2.7/32 only"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def after(
    clock: Clock, contact: FirstContact, seconds: float, *, answered: bool = False
) -> Event | None:
    clock.now += seconds
    return contact.report(answered=answered)


def test_hosts_that_run_for_a_minute_without_an_answer_are_reported(
    clock: Clock,
) -> None:
    contact = FirstContact(RULE, 300.0, clock)
    assert (contact.left, after(clock, contact, 500)) == (math.inf, None)  # none runs
    contact.begin()
    contact.begin()  # another one, later
    assert after(clock, contact, 59) is None
    assert contact.left == 1.0
    event = after(clock, contact, 1)
    assert event is not None
    told = sentence(event)
    assert RULE in told
    assert "--ssh-from" in told
    assert after(clock, contact, 100) is None  # once
    assert contact.left == math.inf


def test_one_host_that_answers_is_enough(clock: Clock) -> None:
    contact = FirstContact(RULE, 300.0, clock)
    contact.begin()
    assert after(clock, contact, 10, answered=True) is None
    assert after(clock, contact, 1000) is None
    assert contact.left == math.inf


def test_a_short_boot_allowance_is_a_short_wait(clock: Clock) -> None:
    contact = FirstContact(RULE, 10.0, clock)
    contact.begin()
    assert after(clock, contact, 2) is not None
