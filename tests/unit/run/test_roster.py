"""Who may be trusted with a class that somebody else has left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cnd.model.class_progress import ClassProgress
from cnd.model.events import Event
from cnd.run.roster import UNFIT, Roster

IDS = ("i-0", "i-1", "i-2", "i-3")
# Whatever may be told of an instance, in whatever order.
HAPPENINGS = (
    "instance.ready",
    "host.returned",
    "host.done",
    "worker.notice",
    "worker.noise",
    *UNFIT,
)


def at_work(*happened: tuple[str, str]) -> Roster:
    """Return a crew of four that runs, after what happened to whom."""
    crew = Roster()
    for index, host in enumerate(IDS):
        crew.note(Event("instance.launched", index, host))
        crew.note(Event("instance.running", index, host, {"classes": [index]}))
        crew.note(Event("instance.ready", index, host))
    for kind, host in happened:
        crew.note(Event(kind, IDS.index(host), host))
    return crew


def holds(*hosts: str) -> list[ClassProgress]:
    """Return how far the classes are that these search, one each."""
    return [ClassProgress(0, host) for host in hosts]


def test_who_has_the_fewest_classes_gets_the_next() -> None:
    assert at_work().survivor(holds(*IDS, "i-0", "i-1", "i-3")) == "i-2"


def test_nobody_is_left_where_all_have_failed() -> None:
    crew = at_work(*(("host.failed", host) for host in IDS))
    assert crew.survivor([]) is None
    assert crew.dropouts == len(IDS)
    assert not crew.serving


def test_a_host_that_comes_back_serves_again_and_may_get_more() -> None:
    crew = at_work(("host.failed", "i-1"), ("host.returned", "i-1"))
    assert ("i-1", 1) in crew.serving
    assert crew.survivor(holds("i-0", "i-2", "i-3")) == "i-1"


@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.sampled_from(IDS))))
def test_the_lost_and_the_leaving_get_nothing_more(
    happened: list[tuple[str, str]],
) -> None:
    crew = at_work(*happened)
    assert crew.survivor([]) not in {h for k, h in happened if k == "instance.lost"}
    last = {host: kind for kind, host in happened if kind not in ("host.done",)}
    distrusted = (*UNFIT, "worker.notice")
    assert crew.survivor([]) not in {h for h, k in last.items() if k in distrusted}


@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.sampled_from(IDS))))
def test_everybody_is_settled_or_hoped_for(happened: list[tuple[str, str]]) -> None:
    crew = at_work(*happened)
    assert {h for h in IDS if not crew.settled(h)} == crew.may_recover


def test_it_is_kept_when_an_instance_was_first_seen_terminated() -> None:
    crew = at_work(("instance.lost", "i-1"))
    assert crew.ended == {}
    for seconds in (10.0, 20.0):
        crew.note(Event("instance.terminated", 1, "i-1", time=seconds))
    assert crew.ended == {"i-1": 10.0}
