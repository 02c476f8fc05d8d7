"""What a lost worker may have tested unreported has a limit, which holds."""

from __future__ import annotations

import random
from dataclasses import replace

from cnd.model import checkpoint, pieces, resumption
from cnd.model.events import Event
from cnd.model.pieces import Piece
from cnd.model.plan import Plan
from cnd.model.replay import replayed
from cnd.model.search_state import SearchState, repeated_at_most

RUN = "20260102-030405-abcd"
PLAN = Plan(9, 2, 60.0, nonces=100_000)
RATE = 100.0  # nonces/s


def searched_for(plan: Plan = PLAN, *, seconds: float = 20.0) -> SearchState:
    """Return a search whose hosts were ready at 10 s, and have reported since."""
    search = SearchState(plan)
    for i in range(plan.instances):
        search.see(Event("instance.launched", i, f"i-{i}", time=0.0))
        search.see(Event("instance.ready", i, f"i-{i}", time=10.0))
        search.see(Event("worker.started", i, f"i-{i}", {"kernel": "x"}, time=1e9))
        search.see(report(search, i, seconds))
    return search


def report(search: SearchState, index: int, seconds: float) -> Event:
    progress, tested = search.classes[index], int(RATE * seconds)
    cursor = progress.start + tested * progress.step
    fields = {"cursor": cursor, "tested": tested, "rate": RATE, "seconds": seconds}
    return Event("worker.progress", index, progress.host, fields, time=1e9)


def lose(search: SearchState, index: int, at: float) -> None:
    host = search.classes[index].host
    search.see(Event("instance.lost", index, host, time=at))
    search.see(Event("host.failed", index, host, {"reason": "gone"}, time=at))


def row(search: SearchState, index: int) -> dict[str, object]:
    return search.coverage[index]


def test_a_worker_that_has_reported_its_end_has_left_nothing_unreported() -> None:
    search = searched_for()
    search.see(replace(report(search, 0, 21.0), kind="worker.timeout"))

    assert row(search, 0)["again_at_most"] == 0


def test_without_its_loss_a_worker_may_have_searched_until_its_time_was_over() -> None:
    search = searched_for()

    assert row(search, 0)["again_at_most"] == RATE * (60 - 20)


def test_a_loss_that_was_seen_limits_what_was_not_reported() -> None:
    search = searched_for()
    lose(search, 0, at=31.0)

    # Its last report was sent at 30 s or later; to end an instance takes 5 s.
    assert row(search, 0)["again_at_most"] == RATE * (31 + 5 - 30)
    search.see(Event("instance.terminated", 0, "i-0", time=32.0))
    assert row(search, 0)["again_at_most"] == RATE * (32 - 30)
    assert row(search, 1)["again_at_most"] == RATE * (60 - 20)
    search.see(Event("run.aborted", fields={"left": 0}, time=40.0))
    assert row(search, 1)["again_at_most"] == RATE * (40 - 30)


def test_a_clock_that_was_set_back_leaves_an_interval_of_progress() -> None:
    search = searched_for()
    lose(search, 0, at=3.0)

    assert row(search, 0)["again_at_most"] == RATE * PLAN.progress


def test_an_orchestrator_that_comes_back_does_not_narrow_the_limit() -> None:
    search = searched_for()
    search.see(Event("instance.ready", 0, "i-0", time=29.0))  # it connects once more
    lose(search, 0, at=31.0)

    assert row(search, 0)["again_at_most"] == RATE * 6


def test_a_worker_that_never_reported_may_have_been_as_fast_as_the_others() -> None:
    search = searched_for()
    plan = replace(PLAN, instances=3)
    silent, fresh = searched_for(plan), SearchState(plan)
    silent.see(Event("class.handed_over", 2, "i-3", {"start": 2}, time=10.0))
    fresh.see(Event("instance.launched", 0, "i-0", time=0.0))

    assert row(silent, 2)["again_at_most"] == RATE * 60
    assert row(fresh, 0)["again_at_most"] == fresh.plan.pieces[0].size(plan.nonces)
    assert repeated_at_most(search) == 0


def test_what_a_hand_over_may_have_repeated_is_counted_as_far_as_it_has_come() -> None:
    search = searched_for()
    lose(search, 0, at=31.0)
    start = search.resumption(0)
    search.see(Event("class.handed_over", 0, "i-1", {"start": start}, time=31.0))
    assert (search.repeated, repeated_at_most(search)) == (0, 0)

    search.see(report(search, 0, 2.0))
    assert (search.repeated, repeated_at_most(search)) == (0, 200)
    assert row(search, 0)["repeated"] == 0
    search.see(report(search, 0, 20.0))
    assert (search.repeated, repeated_at_most(search)) == (0, 600)
    kept = checkpoint.from_json(checkpoint.of(search).to_json())
    again = replayed(PLAN, [kept]).search
    assert repeated_at_most(again) == 600


def test_a_run_that_goes_on_counts_what_may_have_been_tested_before() -> None:
    first = searched_for()
    lose(first, 0, at=31.0)
    search = replace(PLAN, instances=4)
    past = resumption.past(RUN, PLAN, first.coverage, {})
    plan = resumption.dealt(resumption.continued(past, search))
    second = SearchState(plan)
    assert sum(piece.perhaps for piece in plan.pieces) == RATE * (6 + 40)

    for i in range(4):
        second.see(Event("instance.launched", i, f"i-{i}", time=0.0))
        second.see(report(second, i, 1.0))
    assert (second.repeated, repeated_at_most(second)) == (0, 400)
    for i in range(4):
        second.see(report(second, i, 100.0))
    assert (second.repeated, repeated_at_most(second)) == (0, RATE * 46)


def test_a_piece_that_is_split_splits_what_may_have_been_tested() -> None:
    whole = Piece(3, 5, again=10, perhaps=17)
    for parts in range(1, 8):
        cut = list(pieces.split(whole, parts, 10_000))
        assert sum(piece.again for piece in cut) == 10
        assert sum(piece.perhaps for piece in cut) == 17


def test_the_limit_holds_whatever_was_lost() -> None:
    """Of a worker of a steady rate, with reports that come late or not at all."""
    chance = random.Random(1)
    for _ in range(300):
        began = 10.0 + chance.uniform(0, 3)  # ready, and set up
        dies = began + chance.uniform(0.1, 59)
        last = chance.uniform(0, dies - began)  # of the reports that came
        search = searched_for(seconds=last)
        lose(search, 0, at=dies + chance.uniform(0, 8))

        truth = RATE * (dies - began) - int(RATE * last)
        most = row(search, 0)["again_at_most"]
        assert isinstance(most, int)
        assert truth <= most <= RATE * (60 - last) + 1
