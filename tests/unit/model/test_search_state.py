"""Nothing is believed that was not checked: not a nonce, not "exhausted"."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model.events import Event
from cnd.model.plan import Plan, class_size
from cnd.model.search_state import Ending, SearchState

PLAN = Plan(difficulty=2, instances=8, time_limit=10.0)
GOLDEN = 116  # belongs to index 4, because 116 mod 8 = 4


def worker(kind: str, index: int, **fields: object) -> Event:
    return Event(f"worker.{kind}", index, f"i-{index}", fields)


def hand_over(race: SearchState, index: int, host: str) -> None:
    race.see(Event("class.handed_over", index, host))


def exhausted(plan: Plan, index: int, *, short: int = 0) -> Event:
    size = class_size(plan.nonces, index, plan.instances)
    cursor = index + size * plan.instances
    return worker("exhausted", index, cursor=cursor, tested=size - short)


def test_a_golden_nonce_of_the_right_class_wins() -> None:
    race = SearchState(PLAN)
    assert race.see(worker("found", 4, nonce=GOLDEN)) is None
    assert race.outcome is not None
    assert race.outcome.ending is Ending.FOUND
    assert (race.outcome.nonce, race.outcome.index) == (GOLDEN, 4)
    assert race.outcome.digest is not None
    assert race.outcome.digest.startswith("00")


@given(
    st.one_of(
        st.integers(),
        st.text(),
        st.none(),
        st.booleans(),
        st.floats(),
        st.just(124),
        st.just(2**32 + 4),
    ),
    st.integers(0, 7),
)
def test_a_lying_worker_never_wins(nonce: object, index: int) -> None:
    race = SearchState(PLAN)
    objection = race.see(worker("found", index, nonce=nonce))
    if race.outcome is None:
        assert objection is not None
        assert objection.kind == "worker.refuted"
    else:
        assert isinstance(nonce, int)
        assert nonce % 8 == index
        assert race.outcome.ending is Ending.FOUND


def test_a_golden_nonce_of_another_class_is_refused() -> None:
    race = SearchState(PLAN)
    objection = race.see(worker("found", 3, nonce=GOLDEN))
    assert objection is not None
    assert "outside its class" in str(objection.fields["reason"])
    assert race.outcome is None


def test_a_refuted_worker_leaves_the_others_in_the_race() -> None:
    race = SearchState(PLAN)
    race.see(worker("found", 0, nonce=0))
    race.see(worker("found", 4, nonce=GOLDEN))
    assert race.outcome is not None
    assert race.outcome.nonce == GOLDEN


def test_exhausted_is_said_when_every_class_is_tested_to_its_end() -> None:
    plan = Plan(difficulty=9, instances=4, time_limit=10.0, nonces=100_001)
    race = SearchState(plan)
    for index in range(4):
        assert race.outcome is None
        race.see(exhausted(plan, index))
        race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.EXHAUSTED
    assert race.tested == 100_001


def test_one_nonce_short_is_not_exhausted() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(exhausted(plan, 0))
    race.see(exhausted(plan, 1, short=1))
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.INCOMPLETE
    assert "class 1" in race.outcome.reason


def test_silence_is_not_exhaustion() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(exhausted(plan, 0))
    race.see(Event("host.done", 1, "i-1"))
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.INCOMPLETE


def test_a_failed_host_is_named_with_its_reason() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(Event("host.failed", 1, "i-1", {"reason": "SSH did not answer"}))
    race.see(exhausted(plan, 0))
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending.exit_status == 4
    assert "class 1: SSH did not answer" in race.outcome.reason


def test_the_time_limit_is_reached_when_all_workers_say_so() -> None:
    race = SearchState(PLAN)
    for index in range(8):
        assert race.outcome is None
        race.see(worker("timeout", index, tested=10, cursor=index))
        race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.TIMEOUT


def test_a_nonce_that_comes_after_the_time_limit_is_still_the_answer() -> None:
    race = SearchState(PLAN)
    race.decide(Ending.TIMEOUT, "10 s are over")
    race.see(worker("found", 4, nonce=GOLDEN))
    assert race.outcome is not None
    assert race.outcome.ending is Ending.FOUND


def test_the_first_decision_stands() -> None:
    race = SearchState(PLAN)
    race.decide(Ending.STOPPED, "enough")
    race.decide(Ending.TIMEOUT, "10 s are over")
    assert race.outcome is not None
    assert race.outcome.reason == "enough"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["started", "progress", "stopped", "noise", "failed"]),
            st.one_of(st.none(), st.integers(-5, 20)),
            st.dictionaries(
                st.sampled_from(["cursor", "tested", "rate", "kernel", "reason"]),
                st.one_of(st.integers(), st.text(), st.none(), st.booleans()),
            ),
        ),
        max_size=30,
    )
)
def test_no_sequence_of_odd_events_finds_or_exhausts(
    steps: list[tuple[str, int | None, dict[str, object]]],
) -> None:
    race = SearchState(PLAN)
    for kind, index, fields in steps:
        race.see(Event(f"worker.{kind}", index, "i-x", fields))
        race.settle()
    assert race.tested >= 0
    if race.outcome:
        assert race.outcome.ending is Ending.INCOMPLETE


def test_a_class_that_is_handed_over_goes_on_from_its_cursor() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(Event("instance.launched", 1, "i-1"))
    # 100 are tested below the cursor, and 20 of another stretch above it.
    race.see(worker("progress", 1, cursor=201, tested=120))
    race.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    assert race.failed == [1]
    hand_over(race, 1, "i-0")
    assert race.standings[1].start == 201
    race.see(exhausted(plan, 0))
    race.see(Event("worker.exhausted", 1, "i-0", {"cursor": 1001, "tested": 400}))
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.EXHAUSTED
    assert (race.tested, race.repeated) == (1020, 20)


def test_a_worker_whose_class_was_handed_over_is_heard_no_more() -> None:
    plan = Plan(difficulty=2, instances=8, time_limit=10.0)
    race = SearchState(plan)
    race.see(Event("instance.launched", 4, "i-4"))
    race.see(Event("host.failed", 4, "i-4", {"reason": "silent"}))
    hand_over(race, 4, "i-0")
    race.see(worker("exhausted", 4, cursor=2**32 + 4, tested=2**29))
    race.see(Event("host.done", 4, "i-4"))
    assert race.standings[4].ended == ""
    # But a golden nonce is golden, whoever says so.
    race.see(worker("found", 4, nonce=GOLDEN))
    assert race.outcome is not None
    assert race.outcome.ending is Ending.FOUND


def test_a_class_that_is_not_exhausted_as_claimed_is_searched_again() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(Event("instance.launched", 1, "i-1"))
    race.see(exhausted(plan, 0))
    objection = race.see(exhausted(plan, 1, short=1))
    assert objection is not None
    assert objection.kind == "worker.refuted"
    assert "499 of 500" in str(objection.fields["reason"])
    assert race.failed == [1]
    hand_over(race, 1, "i-0")
    fields = {"cursor": 1001, "tested": 500}
    race.see(Event("worker.exhausted", 1, "i-0", fields))
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.EXHAUSTED
    assert race.tested == 1000


def test_a_liar_loses_every_class_it_has_had_to_itself() -> None:
    plan = Plan(difficulty=9, instances=3, time_limit=10.0, nonces=999)
    race = SearchState(plan)
    for index in range(3):
        race.see(Event("instance.launched", index, f"i-{index}"))
    race.see(exhausted(plan, 1))
    hand_over(race, 0, "i-1")
    race.see(Event("worker.progress", 0, "i-1", {"cursor": 300, "tested": 100}))
    race.see(exhausted(plan, 2))
    race.see(Event("worker.found", 0, "i-1", {"nonce": 300}))
    assert race.failed == [0, 1]
    assert race.standings[2].ended == "exhausted"
    assert race.tested == 333


def test_a_lie_about_a_class_of_somebody_else_costs_that_one_nothing() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    for index in range(2):
        race.see(Event("instance.launched", index, f"i-{index}"))
    race.see(Event("host.failed", 1, "i-1", {"reason": "silent"}))
    hand_over(race, 1, "i-0")
    race.see(Event("worker.progress", 1, "i-0", {"cursor": 301, "tested": 150}))
    objection = race.see(worker("found", 1, nonce=301))
    assert objection is not None
    assert objection.host == "i-1"
    assert (race.failed, race.standings[1].cursor) == ([], 301)


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "cursor": st.one_of(st.integers(), st.integers(0, 1001)),
                "tested": st.one_of(st.integers(), st.integers(0, 500)),
            },
        ),
        max_size=5,
    )
)
def test_whatever_a_worker_says_of_itself_whoever_takes_over_can_exhaust_the_class(
    said: list[dict[str, int]],
) -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(Event("instance.launched", 1, "i-1"))
    for fields in said:
        race.see(worker("progress", 1, **fields))
    race.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    hand_over(race, 1, "i-0")
    start = race.standings[1].start
    left = len(range(start, 1000, 2))
    fields = {"cursor": start + 2 * left, "tested": left}
    assert race.see(Event("worker.exhausted", 1, "i-0", fields)) is None
    race.see(exhausted(plan, 0))
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.EXHAUSTED
    assert race.tested - race.repeated == 1000


def test_nothing_of_a_liar_counts_as_tested() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    race = SearchState(plan)
    race.see(worker("progress", 1, cursor=901, tested=450))
    race.see(worker("found", 1, nonce=901, tested=451))
    hand_over(race, 1, "i-0")
    assert race.standings[1].start == 1
    assert race.tested == 0


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_the_classes_partition_the_space(nonces: int, instances: int) -> None:
    sizes = [class_size(nonces, i, instances) for i in range(instances)]
    assert sum(sizes) == nonces
    assert max(sizes) - min(sizes) <= 1


def test_what_a_worker_of_ones_own_has_not_said_is_not_known() -> None:
    plan = Plan(difficulty=0, instances=3, time_limit=9, nonces=90, script="worker.py")
    race = SearchState(plan)
    for index in range(2):
        race.see(worker("started", index))
    race.see(worker("progress", 0, cursor=9, tested=3))
    claim = {"verdict": "true", "verdict_reason": "its own check confirms it"}
    race.see(worker("found", 1, nonce=4, **claim))
    assert [each["tested"] for each in race.coverage] == [3, None, 0]
    assert not race.counted
    assert race.outcome is not None
    assert race.outcome.reason == "number 4; verified: its own check confirms it"
    race.see(worker("stopped", 1, tested=2))
    assert [each["tested"] for each in race.coverage] == [3, 2, 0]
    assert race.counted
