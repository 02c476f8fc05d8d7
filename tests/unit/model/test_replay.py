"""A replayed journal gives the state of the run, whatever the hosts' clocks show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan
from cnd.model.replay import SearchClock, replayed, unanswered
from cnd.model.search_state import SearchState

PLAN = Plan(difficulty=9, instances=2, time_limit=60.0, nonces=1000)
HOUR = 3600.0


def journal(host_clock: float = 0.0) -> list[Event]:
    def worker(kind: str, index: int, at: float, **fields: object) -> Event:
        return Event(f"worker.{kind}", index, f"i-{index}", fields, at + host_clock)

    return [
        Event("run.started", time=100.0),
        Event("instance.requested", time=101.0),
        Event("instance.launched", 0, "i-0", time=102.0),
        Event("instance.launched", 1, "i-1", time=102.0),
        Event("instance.ready", 1, "i-1", time=120.0),
        worker("started", 1, 121.0, kernel="shani"),
        worker("progress", 1, 122.0, cursor=201, tested=100),
        Event("instance.lost", 0, "i-0", {"state": "terminated"}, time=123.0),
        Event("host.failed", 0, "i-0", {"reason": "gone"}, time=123.0),
        Event("class.handed_over", 0, "i-1", {"start": 0}, time=124.0),
    ]


@given(st.floats(-2 * HOUR, 2 * HOUR))
def test_a_hosts_clock_does_not_affect_when_the_search_began(wrong: float) -> None:
    history = replayed(PLAN, journal(wrong))
    assert (history.boot, history.lasted) == (20.0, 24.0)
    assert history.searched == {1: 0.0}


def report(index: int, seconds: object, *, received: float, host: str = "") -> Event:
    fields = {"seconds": seconds}
    return Event(
        "worker.progress", index, host or f"i-{index}", fields, received=received
    )


def clocked(*reports: Event, began: dict[int, float]) -> float | None:
    """Return when the search began, by reports of three classes, attached at 1000."""
    search = SearchState(Plan(difficulty=9, instances=3, time_limit=100))
    for index in range(3):
        search.see(Event("instance.launched", index, f"i-{index}"))
    clock = SearchClock(began, 1000.0)
    for event in reports:
        clock.update(event, search)
    return clock.began


def test_the_elapsed_time_is_what_the_workers_report() -> None:
    assert clocked(began={}) is None
    assert clocked(began={0: 7.0}) == 993.0
    # Received in a burst: the last report was sent just now.
    burst = [report(0, seconds, received=1000.1) for seconds in (8.0, 20.0, 60.1)]
    assert clocked(*burst, began={0: 7.0}) == pytest.approx(940.0)
    # The same a while later, which changes nothing.
    later = report(0, 62.6, received=1002.6)
    assert clocked(*burst, later, began={0: 7.0}) == pytest.approx(940.0)


@given(st.one_of(st.none(), st.floats(), st.text(), st.integers()))
def test_no_single_worker_decides_the_elapsed_time(claim: object) -> None:
    honest = [report(index, 50.0, received=1000.0) for index in (0, 1)]
    stranger = report(1, 99.0, received=1000.0, host="i-9")
    found = clocked(*honest, report(2, claim, received=1000.0), stranger, began={})
    assert found == pytest.approx(950.0)


def test_classes_are_replayed_with_every_event_that_was_received() -> None:
    history = replayed(PLAN, journal())
    assert dict(history.index) == {"i-0": 0, "i-1": 1}
    assert history.lost == {"i-0"}
    assert dict(history.launched) == {"i-0": 102.0, "i-1": 102.0}
    taken, own = history.search.classes[0], history.search.classes[1]
    assert (taken.host, taken.start, taken.lines) == ("i-1", 0, 0)
    assert (own.host, own.cursor, own.tested, own.lines) == ("i-1", 201, 100, 2)
    assert history.search.outcome is None


def test_a_requested_stop_is_replayed() -> None:
    stop = Event("run.stop_requested", fields={"by": "queue", "text": "enough"})
    history = replayed(PLAN, [*journal(), stop])
    assert history.search.outcome is not None
    assert history.search.outcome.ending is Ending.STOPPED


def test_a_request_is_unanswered_until_its_outcome_is_in_the_journal() -> None:
    def stop(count: int, at: float) -> Event:
        return Event("instance.requested", fields={"count": count}, time=at)

    launched, refused = Event("instance.launched", 2, "i-2"), Event("launch.refused")
    assert unanswered([stop(4, 1.0)]) == 4
    assert unanswered([stop(4, 1.0)], since=2.0) == 0
    assert unanswered([stop(1, 1.0), stop(1, 1.0), launched]) == 1
    assert unanswered([stop(2, 1.0), launched, launched]) == 0
    assert unanswered([stop(2, 1.0), refused, stop(2, 2.0)]) == 2
    assert unanswered([stop(2, 1.0), Event("run.aborted")]) == 0


def test_a_refuted_host_stays_unfit_after_a_replay() -> None:
    claim = Event("worker.found", 1, "i-1", {"nonce": 7})
    refuted = Event("worker.refuted", 1, "i-1", {"nonce": 7, "reason": "not golden"})
    history = replayed(PLAN, [*journal(), claim, refuted])
    assert history.unfit == {"i-1"}
    assert history.search.tested == 0


@given(st.integers(0, 10))
def test_any_beginning_of_a_journal_can_be_taken_over(length: int) -> None:
    history = replayed(PLAN, journal()[:length])
    assert history.search.outcome is None
    assert set(history.index) <= {"i-0", "i-1"}
