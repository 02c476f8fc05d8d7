"""Nothing is believed that was not checked: not a nonce, not "exhausted"."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan, class_size
from cnd.model.search_state import SearchState

PLAN = Plan(difficulty=2, instances=8, time_limit=10.0)
GOLDEN = 116  # belongs to index 4, because 116 mod 8 = 4


def worker(kind: str, index: int, **fields: object) -> Event:
    return Event(f"worker.{kind}", index, f"i-{index}", fields)


def hand_over(search: SearchState, index: int, host: str) -> None:
    search.see(Event("class.handed_over", index, host))


def exhausted(plan: Plan, index: int, *, short: int = 0) -> Event:
    size = class_size(plan.nonces, index, plan.instances)
    cursor = index + size * plan.instances
    return worker("exhausted", index, cursor=cursor, tested=size - short)


def test_a_golden_nonce_of_the_right_class_decides() -> None:
    search = SearchState(PLAN)
    assert search.see(worker("found", 4, nonce=GOLDEN)) is None
    assert search.outcome is not None
    assert search.outcome.ending is Ending.FOUND
    assert (search.outcome.nonce, search.outcome.index) == (GOLDEN, 4)
    assert search.outcome.digest is not None
    assert search.outcome.digest.startswith("00")


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
def test_a_false_claim_never_decides(nonce: object, index: int) -> None:
    search = SearchState(PLAN)
    objection = search.see(worker("found", index, nonce=nonce))
    if search.outcome is None:
        assert objection is not None
        assert objection.kind == "worker.refuted"
    else:
        assert isinstance(nonce, int)
        assert nonce % 8 == index
        assert search.outcome.ending is Ending.FOUND


def test_a_golden_nonce_of_another_class_is_refused() -> None:
    search = SearchState(PLAN)
    objection = search.see(worker("found", 3, nonce=GOLDEN))
    assert objection is not None
    assert "outside its class" in str(objection.fields["reason"])
    assert search.outcome is None


def test_a_refuted_worker_does_not_end_the_search_of_the_others() -> None:
    search = SearchState(PLAN)
    search.see(worker("found", 0, nonce=0))
    search.see(worker("found", 4, nonce=GOLDEN))
    assert search.outcome is not None
    assert search.outcome.nonce == GOLDEN


def test_a_run_is_exhausted_when_every_class_is_tested_to_its_end() -> None:
    plan = Plan(difficulty=9, instances=4, time_limit=10.0, nonces=100_001)
    search = SearchState(plan)
    for index in range(4):
        assert search.outcome is None
        search.see(exhausted(plan, index))
        search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.EXHAUSTED
    assert search.tested == 100_001


def test_one_nonce_short_is_not_exhausted() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(exhausted(plan, 0))
    search.see(exhausted(plan, 1, short=1))
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.INCOMPLETE
    assert "class 1" in search.outcome.reason


def test_silence_is_not_exhaustion() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(exhausted(plan, 0))
    search.see(Event("host.done", 1, "i-1"))
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.INCOMPLETE


def test_a_failed_host_is_named_with_its_reason() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(Event("host.failed", 1, "i-1", {"reason": "SSH did not answer"}))
    search.see(exhausted(plan, 0))
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending.exit_status == 4
    assert "class 1: SSH did not answer" in search.outcome.reason


def test_the_time_limit_is_reached_when_all_workers_report_it() -> None:
    search = SearchState(PLAN)
    for index in range(8):
        assert search.outcome is None
        search.see(worker("timeout", index, tested=10, cursor=index))
        search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.TIMEOUT


def test_a_nonce_that_comes_after_the_time_limit_is_still_the_answer() -> None:
    search = SearchState(PLAN)
    search.decide(Ending.TIMEOUT, "10 s are over")
    search.see(worker("found", 4, nonce=GOLDEN))
    assert search.outcome is not None
    assert search.outcome.ending is Ending.FOUND


def test_the_first_decision_stands() -> None:
    search = SearchState(PLAN)
    search.decide(Ending.STOPPED, "enough")
    search.decide(Ending.TIMEOUT, "10 s are over")
    assert search.outcome is not None
    assert search.outcome.reason == "enough"


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
    search = SearchState(PLAN)
    for kind, index, fields in steps:
        search.see(Event(f"worker.{kind}", index, "i-x", fields))
        search.settle()
    assert search.tested >= 0
    if search.outcome:
        assert search.outcome.ending is Ending.INCOMPLETE


def test_a_class_that_is_handed_over_goes_on_from_its_cursor() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(Event("instance.launched", 1, "i-1"))
    # 100 are tested below the cursor, and 20 of another range above it.
    search.see(worker("progress", 1, cursor=201, tested=120))
    search.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    assert search.failed == [1]
    hand_over(search, 1, "i-0")
    assert search.classes[1].start == 201
    search.see(exhausted(plan, 0))
    search.see(Event("worker.exhausted", 1, "i-0", {"cursor": 1001, "tested": 400}))
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.EXHAUSTED
    assert (search.tested, search.repeated) == (1020, 20)


def test_events_of_a_worker_whose_class_was_handed_over_are_ignored() -> None:
    plan = Plan(difficulty=2, instances=8, time_limit=10.0)
    search = SearchState(plan)
    search.see(Event("instance.launched", 4, "i-4"))
    search.see(Event("host.failed", 4, "i-4", {"reason": "silent"}))
    hand_over(search, 4, "i-0")
    search.see(worker("exhausted", 4, cursor=2**32 + 4, tested=2**29))
    search.see(Event("host.done", 4, "i-4"))
    assert search.classes[4].ended == ""
    # But a golden nonce is golden, whichever host reports it.
    search.see(worker("found", 4, nonce=GOLDEN))
    assert search.outcome is not None
    assert search.outcome.ending is Ending.FOUND


def test_a_class_that_is_not_exhausted_as_claimed_is_searched_again() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(Event("instance.launched", 1, "i-1"))
    search.see(exhausted(plan, 0))
    objection = search.see(exhausted(plan, 1, short=1))
    assert objection is not None
    assert objection.kind == "worker.refuted"
    assert "499 of 500" in str(objection.fields["reason"])
    assert search.failed == [1]
    hand_over(search, 1, "i-0")
    fields = {"cursor": 1001, "tested": 500}
    search.see(Event("worker.exhausted", 1, "i-0", fields))
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.EXHAUSTED
    assert search.tested == 1000


def test_a_false_claim_costs_a_host_every_class_that_it_has() -> None:
    plan = Plan(difficulty=9, instances=3, time_limit=10.0, nonces=999)
    search = SearchState(plan)
    for index in range(3):
        search.see(Event("instance.launched", index, f"i-{index}"))
    search.see(exhausted(plan, 1))
    hand_over(search, 0, "i-1")
    search.see(Event("worker.progress", 0, "i-1", {"cursor": 300, "tested": 100}))
    search.see(exhausted(plan, 2))
    search.see(Event("worker.found", 0, "i-1", {"nonce": 300}))
    assert search.failed == [0, 1]
    assert search.classes[2].ended == "exhausted"
    assert search.tested == 333


def test_a_false_claim_about_the_class_of_another_host_does_not_affect_that_host() -> (
    None
):
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    for index in range(2):
        search.see(Event("instance.launched", index, f"i-{index}"))
    search.see(Event("host.failed", 1, "i-1", {"reason": "silent"}))
    hand_over(search, 1, "i-0")
    search.see(Event("worker.progress", 1, "i-0", {"cursor": 301, "tested": 150}))
    objection = search.see(worker("found", 1, nonce=301))
    assert objection is not None
    assert objection.host == "i-1"
    assert (search.failed, search.classes[1].cursor) == ([], 301)


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
def test_after_any_reports_the_next_worker_can_exhaust_the_class(
    reports: list[dict[str, int]],
) -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(Event("instance.launched", 1, "i-1"))
    for fields in reports:
        search.see(worker("progress", 1, **fields))
    search.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))
    hand_over(search, 1, "i-0")
    start = search.classes[1].start
    left = len(range(start, 1000, 2))
    fields = {"cursor": start + 2 * left, "tested": left}
    assert search.see(Event("worker.exhausted", 1, "i-0", fields)) is None
    search.see(exhausted(plan, 0))
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.EXHAUSTED
    assert search.tested - search.repeated == 1000


def test_nothing_that_a_refuted_worker_reported_counts_as_tested() -> None:
    plan = Plan(difficulty=9, instances=2, time_limit=10.0, nonces=1000)
    search = SearchState(plan)
    search.see(worker("progress", 1, cursor=901, tested=450))
    search.see(worker("found", 1, nonce=901, tested=451))
    hand_over(search, 1, "i-0")
    assert search.classes[1].start == 1
    assert search.tested == 0


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_the_classes_partition_the_space(nonces: int, instances: int) -> None:
    sizes = [class_size(nonces, i, instances) for i in range(instances)]
    assert sum(sizes) == nonces
    assert max(sizes) - min(sizes) <= 1


def test_what_a_users_own_worker_has_not_reported_is_unknown() -> None:
    plan = Plan(difficulty=0, instances=3, time_limit=9, nonces=90, script="worker.py")
    search = SearchState(plan)
    for index in range(2):
        search.see(worker("started", index))
    search.see(worker("progress", 0, cursor=9, tested=3))
    claim = {"verdict": "true", "verdict_reason": "its own check confirms it"}
    search.see(worker("found", 1, nonce=4, **claim))
    assert [each["tested"] for each in search.coverage] == [3, None, 0]
    assert not search.counted
    assert search.outcome is not None
    assert search.outcome.reason == "number 4; verified: its own check confirms it"
    search.see(worker("stopped", 1, tested=2))
    assert [each["tested"] for each in search.coverage] == [3, 2, 0]
    assert search.counted
