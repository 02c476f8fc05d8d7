"""Which instance gets the class that another one has lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cnd.model.class_progress import ClassProgress
from cnd.model.events import Event
from cnd.run.roster import UNFIT, Roster

IDS = ("i-0", "i-1", "i-2", "i-3")
# The events that may be recorded of an instance, in any order.
HAPPENINGS = (
    "instance.ready",
    "host.returned",
    "host.done",
    "worker.notice",
    "worker.noise",
    *UNFIT,
)


def at_work(*happened: tuple[str, str]) -> Roster:
    """Return a roster of four running instances, after some events (kind, host)."""
    roster = Roster()
    for index, host in enumerate(IDS):
        roster.note(Event("instance.launched", index, host))
        roster.note(Event("instance.running", index, host, {"classes": [index]}))
        roster.note(Event("instance.ready", index, host))
    for kind, host in happened:
        roster.note(Event(kind, IDS.index(host), host))
    return roster


def holds(*hosts: str) -> list[ClassProgress]:
    """Return the progress of classes that these hosts search, one each."""
    return [ClassProgress(0, host) for host in hosts]


def test_the_host_with_the_fewest_classes_gets_the_next() -> None:
    assert at_work().survivor(holds(*IDS, "i-0", "i-1", "i-3")) == "i-2"


def test_no_survivor_is_left_when_all_have_failed() -> None:
    roster = at_work(*(("host.failed", host) for host in IDS))
    assert roster.survivor([]) is None
    assert roster.dropouts == len(IDS)
    assert not roster.serving


def test_a_host_that_comes_back_serves_again_and_may_get_more() -> None:
    roster = at_work(("host.failed", "i-1"), ("host.returned", "i-1"))
    assert ("i-1", 1) in roster.serving
    assert roster.survivor(holds("i-0", "i-2", "i-3")) == "i-1"


def test_an_instance_is_known_to_be_logged_once_its_log_was_pulled() -> None:
    roster = at_work(("log.pulled", "i-2"), ("log.failed", "i-1"))
    assert roster.logged == {"i-2"}


@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.sampled_from(IDS))))
def test_the_lost_and_the_leaving_get_nothing_more(
    happened: list[tuple[str, str]],
) -> None:
    roster = at_work(*happened)
    assert roster.survivor([]) not in {h for k, h in happened if k == "instance.lost"}
    last = {host: kind for kind, host in happened if kind not in ("host.done",)}
    distrusted = (*UNFIT, "worker.notice")
    assert roster.survivor([]) not in {h for h, k in last.items() if k in distrusted}


@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.sampled_from(IDS))))
def test_every_instance_is_settled_or_may_recover(
    happened: list[tuple[str, str]],
) -> None:
    roster = at_work(*happened)
    assert {h for h in IDS if not roster.settled(h)} == roster.may_recover


def test_the_first_time_that_an_instance_was_seen_terminated_is_kept() -> None:
    roster = at_work(("instance.lost", "i-1"))
    assert roster.ended == {}
    for seconds in (10.0, 20.0):
        roster.note(Event("instance.terminated", 1, "i-1", time=seconds))
    assert roster.ended == {"i-1": 10.0}
