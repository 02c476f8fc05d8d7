"""A run over the pieces that another one has left, as the search state sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cnd.errors import UsageError
from cnd.model import checkpoint, resumption
from cnd.model.claim import hashed
from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.pieces import Piece
from cnd.model.plan import Plan
from cnd.model.replay import replayed
from cnd.model.resumption import Past
from cnd.model.search_state import SearchState, evidence, needless, waiting

PLAN = Plan(9, 2, 60.0, nonces=1000)
RUN = "20260102-030405-abcd"


def past(*pieces: Piece, **more: object) -> Past:
    return replace(Past(RUN, PLAN, pieces, 100), **more)  # type: ignore[arg-type]


def plan(instances: int, *pieces: Piece, **more: object) -> Plan:
    """Return the plan of a run over these pieces."""
    wanted = replace(PLAN, instances=instances)
    return resumption.dealt(resumption.continued(past(*pieces, **more), wanted))


def begun(plan: Plan) -> SearchState:
    """Return a search whose instances have begun with their pieces."""
    search = SearchState(plan)
    for i in range(plan.instances):
        search.see(Event("instance.launched", i, f"i-{i}"))
        search.see(Event("worker.started", i, f"i-{i}", {"kernel": "x"}))
    return search


def end(search: SearchState, number: int, host: str, kind: str = "exhausted") -> None:
    """Let the worker of a piece end; `exhausted` with all of it tested."""
    piece = search.plan.pieces[number]
    size = piece.size(search.plan.nonces)
    cursor = piece.start + size * piece.modulus
    fields = {"cursor": cursor, "tested": size} if kind == "exhausted" else {}
    assert search.see(Event(f"worker.{kind}", number, host, fields)) is None


def give(search: SearchState, number: int, host: str) -> None:
    start = search.resumption(number)
    search.see(Event("class.handed_over", number, host, {"start": start}))
    search.see(Event("worker.started", number, host, {}))


def test_pieces_without_an_instance_wait_and_are_handed_over() -> None:
    search = begun(plan(1, Piece(2, 100), Piece(2, 801)))
    assert waiting(search) == [1]

    end(search, 0, "i-0")
    give(search, 1, "i-0")
    assert waiting(search) == []
    end(search, 1, "i-0")
    search.settle()

    assert search.outcome is not None
    assert search.outcome.ending is Ending.EXHAUSTED
    assert (search.tested, search.repeated) == (450 + 100, 0)


def test_what_still_waits_when_the_time_is_over_has_not_failed() -> None:
    search = begun(plan(1, Piece(2, 100), Piece(2, 801)))

    end(search, 0, "i-0", "timeout")
    search.settle()

    assert search.outcome is not None
    assert search.outcome.ending is Ending.TIMEOUT
    assert [row["ended"] for row in search.coverage] == ["timeout", "waiting"]
    assert [row["next"] for row in search.coverage] == [100, 801]


def test_a_piece_that_no_instance_is_left_for_is_not_exhausted() -> None:
    search = begun(plan(1, Piece(2, 100), Piece(2, 801)))

    end(search, 0, "i-0")
    search.settle()  # its instance is lost: none can begin with the other piece

    assert search.outcome is not None
    assert search.outcome.ending is Ending.INCOMPLETE


def test_an_instance_that_replaces_another_one_gets_no_piece_that_waits() -> None:
    search = begun(plan(1, Piece(2, 100), Piece(2, 801)))

    search.see(Event("instance.launched", 1, "i-1"))

    assert waiting(search) == [1]
    assert search.classes[1].host == ""


def test_a_find_must_lie_in_its_piece_and_not_below_it() -> None:
    easy = replace(PLAN, difficulty=1)
    golden = [n for n in range(1000) if hashed(easy, n)[1] and n % 2 == 0]
    first, *_, last = golden
    rest = Past(RUN, easy, (Piece(2, first + 2),), 100)
    search = begun(resumption.dealt(resumption.continued(rest, easy)))

    # 16 nonces for a golden one: so many pieces that the numbers are not the residues.
    owner = search.plan.owners.of(last)
    assert owner is not None and search.plan.owners.of(first) is None
    host = search.classes[owner].host
    refuted = search.see(Event("worker.found", owner, host, {"nonce": first}))
    assert refuted is not None and "outside its class" in str(refuted.fields["reason"])
    search.see(Event("worker.found", owner, host, {"nonce": last}))
    assert search.best is not None and search.best.nonce == last


def test_what_was_tested_without_proof_is_counted_as_repeated_and_not_lost() -> None:
    search = begun(plan(1, Piece(1, 600, again=50)))
    fields = {"cursor": 630, "tested": 30}
    search.see(Event("worker.progress", 0, "i-0", fields))

    assert (search.tested, search.repeated) == (30, 30)
    (row,) = search.coverage
    assert (row["next"], row["again"], row["repeated"]) == (630, 20, 30)
    end(search, 0, "i-0")
    assert (search.tested, search.repeated) == (400, 50)


def test_a_smaller_nonce_is_searched_for_below_the_one_that_is_known() -> None:
    known = 116  # golden at difficulty 2
    easy = replace(PLAN, difficulty=2, smallest=True)
    found = Past(RUN, easy, (Piece(2, 50), Piece(2, 201)), 100, "found", known)
    resumption.require_open(found, smallest=True)
    search = begun(resumption.dealt(resumption.continued(found, easy)))

    # Nonces from 116 on are not needed, and each instance has a share of the others.
    assert search.plan.left == 33
    assert (search.best and search.best.nonce, search.smallest) == (known, False)
    for number in search.classes:
        if number >= 2:
            give(search, number, "i-0")
        host, start = search.classes[number].host, search.classes[number].start
        far = start + search.classes[number].step * 40
        fields = {"cursor": far, "tested": 40}
        search.see(Event("worker.progress", number, host, fields))

    assert search.outcome is not None
    assert (search.outcome.nonce, search.smallest) == (known, True)


def test_a_worker_beyond_the_best_find_is_not_needed() -> None:
    easy = replace(PLAN, difficulty=2, smallest=True)
    found = Past(RUN, easy, (Piece(1, 10),), 10, "found", 116)
    search = begun(resumption.dealt(resumption.continued(found, easy)))
    piece = search.plan.pieces[0]

    assert needless(search) == []
    far = piece.start + piece.modulus * 60
    search.see(Event("worker.progress", 0, "i-0", {"cursor": far, "tested": 60}))

    assert needless(search) == [0]


def test_the_proof_of_a_piece_is_measured_by_the_piece() -> None:
    proved = replace(plan(2, Piece(2, 990), Piece(2, 991)), witness_bits=4)
    found = evidence(SearchState(proved))

    assert found is not None
    assert (found["tested_at_least"], found["least_share"]) == (0, 0.0)


@pytest.mark.parametrize("pieces", [((0, 1),), ((2, -2),), ((2000, 3),), ((2, "x"),)])
def test_a_plan_with_impossible_pieces_is_refused(pieces: tuple[object, ...]) -> None:
    with pytest.raises(UsageError):
        replace(PLAN, work=pieces)  # type: ignore[arg-type]


def test_fewer_nonces_than_instances_need_fewer_instances() -> None:
    made = plan(8, Piece(2, 996), Piece(2, 997))

    assert made.instances == len(made.work) == made.left == 4


def test_a_hand_over_says_where_it_goes_on_also_where_progress_before_it_is_lost() -> (
    None
):
    """A checkpoint may be older than the hand-over: all below the start was tested."""
    asked = replace(PLAN, instances=1)
    search = begun(asked)
    kept = checkpoint.of(search)
    search.see(Event("worker.progress", 0, "i-0", {"cursor": 300, "tested": 300}))
    events: list[Event | checkpoint.Checkpoint] = [kept]
    events.append(Event("class.handed_over", 0, "i-1", {"start": 300}))

    again = replayed(asked, events).search

    assert again.classes[0].start == 300
    assert (again.tested, again.repeated) == (300, 0)


def test_a_checkpoint_is_kept_and_restored_whole() -> None:
    search = begun(replace(PLAN, witness_bits=4))
    search.see(Event("worker.progress", 0, "i-0", {"cursor": 8, "witnesses": []}))
    search.see(Event("host.failed", 1, "i-1", {"reason": "gone"}))

    again = checkpoint.from_json(checkpoint.of(search).to_json())

    assert again.classes == search.classes


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"classes": []},
        {"classes": {"x": {"cursor": 1}}},
        {"classes": {"0": {"cursor": "far"}}},
        {"classes": {"0": {"cursor": 1, "proof": [1, 2, 3]}}},
        {"classes": {"0": {"cursor": 1, "proof": [1, 2, 3, {"x": 1}]}}},
    ],
)
def test_what_is_no_checkpoint_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        checkpoint.from_json(record)


def test_a_find_below_which_all_is_tested_is_the_smallest_one() -> None:
    easy = replace(PLAN, difficulty=2, smallest=True)
    found = Past(RUN, easy, (Piece(2, 116), Piece(2, 117)), 116, "found", 116)

    with pytest.raises(UsageError, match="no nonce below 116 is left"):
        resumption.continued(found, easy)


def test_a_plan_that_knows_a_nonce_which_is_not_golden_is_refused() -> None:
    with pytest.raises(UsageError, match="117 is not golden"):
        replace(PLAN, known=117)


def test_the_rate_of_an_instance_is_that_of_one_piece_at_a_time() -> None:
    search = begun(plan(1, Piece(2, 100), Piece(2, 801)))
    search.see(Event("worker.progress", 0, "i-0", {"rate": 10.0}))
    end(search, 0, "i-0")
    give(search, 1, "i-0")
    search.see(Event("worker.progress", 1, "i-0", {"rate": 14.0}))

    assert search.hash_rate == 12.0
