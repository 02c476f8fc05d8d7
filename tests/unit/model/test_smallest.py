"""With --smallest the answer depends on neither N nor luck."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd import pow as worker
from cnd.model.events import Event
from cnd.model.plan import Plan, class_size
from cnd.model.search_state import Ending, SearchState

SPACE = 2**18  # holds golden nonces of every difficulty below
INSTANCES = (1, 2, 3, 5, 8, 13)


@functools.cache
def goldens(difficulty: int) -> list[int]:
    """Return all golden nonces of the space, by a plain scan."""
    make = worker.choose_kernel("auto").make
    return worker.golden_nonces(
        lambda block, digits: make(block, digits, memoryview(bytearray(4)).cast("i")),
        *(worker.DEFAULT_BLOCK, difficulty, 0, 1, SPACE),
    )


def plan(difficulty: int, n: int) -> Plan:
    return Plan(difficulty, n, 60.0, nonces=SPACE, smallest=True)


def say(race: SearchState, kind: str, index: int, **fields: object) -> None:
    race.see(Event(kind, index, f"i-{index}", fields))


class Searching:
    """A worker as the race hears it: it goes through its class, step by step."""

    def __init__(self, race: SearchState, index: int) -> None:
        self.race, self.index, self.of = race, index, race.plan.instances
        mine = [g for g in goldens(race.plan.difficulty) if g % self.of == index]
        self.hit = mine[0] if mine else None
        self.cursor, self.over = index, False
        say(race, "worker.started", index)

    def step(self, nonces: int) -> None:
        self.cursor += nonces * self.of
        if self.hit is not None and self.cursor > self.hit:
            fields = {"nonce": self.hit, "cursor": self.hit}
            self.over = True
            say(self.race, "worker.found", self.index, **fields)
        elif self.cursor >= SPACE:
            self.over = True
            size = class_size(SPACE, self.index, self.of)
            fields = {"cursor": self.index + size * self.of, "tested": size}
            say(self.race, "worker.exhausted", self.index, **fields)
        else:
            say(self.race, "worker.progress", self.index, cursor=self.cursor)


@pytest.mark.parametrize("n", INSTANCES)
@pytest.mark.parametrize("difficulty", [1, 2, 3, 4, 5])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_answer_is_the_smallest_golden_nonce_whoever_is_fast(
    difficulty: int, n: int, data: st.DataObject
) -> None:
    race = SearchState(plan(difficulty, n))
    workers = [Searching(race, i) for i in range(n)]
    largest = goldens(difficulty)[0] // n + 2
    speed = st.integers(1 + largest // 8, 4 * largest)
    speeds = data.draw(st.lists(speed, min_size=n, max_size=n))
    while race.outcome is None:
        for each, nonces in zip(workers, speeds, strict=True):
            if not each.over:
                each.step(nonces)
    assert race.outcome.nonce == goldens(difficulty)[0]
    assert race.outcome.index == goldens(difficulty)[0] % n
    assert race.smallest


def test_the_fastest_finder_waits_for_the_others() -> None:
    race = SearchState(plan(2, 2))
    first = goldens(2)[0]
    say(race, "worker.found", 1 - first % 2, nonce=goldens_of(2, 1 - first % 2))
    assert race.outcome is None
    assert race.smallest is False
    say(race, "worker.found", first % 2, nonce=first)
    assert race.outcome is not None
    assert (race.outcome.nonce, race.smallest) == (first, True)


def goldens_of(difficulty: int, index: int) -> int:
    """Return the smallest golden nonce of a class modulo 2."""
    return next(g for g in goldens(difficulty) if g % 2 == index)


def test_at_the_time_limit_the_best_so_far_is_given_and_not_called_smallest() -> None:
    race = SearchState(plan(2, 2))
    late = 1 - goldens(2)[0] % 2
    say(race, "worker.found", late, nonce=goldens_of(2, late))
    say(race, "worker.timeout", 1 - late, cursor=1 - late)
    race.settle()
    assert race.outcome is not None
    assert race.outcome.ending is Ending.FOUND
    assert (race.outcome.nonce, race.smallest) == (goldens_of(2, late), False)


def test_a_class_that_was_lost_goes_on_unless_it_is_past_the_best_find() -> None:
    race = SearchState(plan(2, 3))
    best = goldens(2)[0]
    finder, lost, ahead = best % 3, (best + 1) % 3, (best + 2) % 3
    say(race, "worker.found", finder, nonce=best)
    say(race, "worker.progress", ahead, cursor=best + 2)
    for index in (lost, ahead):
        say(race, "host.failed", index, reason="gone")
    assert race.failed == [lost]
    race.see(Event("class.handed_over", lost, f"i-{ahead}"))
    fields = {"cursor": best + 1}
    race.see(Event("worker.progress", lost, f"i-{ahead}", fields))
    assert race.outcome is not None
    assert (race.outcome.nonce, race.smallest) == (best, True)


def test_a_liar_neither_wins_nor_counts_as_past() -> None:
    race = SearchState(plan(2, 2))
    best = goldens(2)[0]
    liar = 1 - best % 2
    say(race, "worker.found", best % 2, nonce=best)
    say(race, "worker.found", liar, nonce=liar, cursor=SPACE)
    assert race.outcome is None
    assert race.failed == [liar]


def test_a_stop_gives_the_best_find_there_is() -> None:
    race = SearchState(plan(2, 2))
    best = goldens(2)[0]
    say(race, "worker.found", best % 2, nonce=best)
    race.stop(Event("run.stop_requested", fields={"by": "queue", "text": "enough"}))
    assert race.outcome is not None
    assert (race.outcome.nonce, race.smallest) == (best, False)


def test_without_the_option_nothing_is_said_of_the_smallest() -> None:
    race = SearchState(Plan(2, 8, 60.0))
    say(race, "worker.found", 4, nonce=116)
    assert race.outcome is not None
    assert race.smallest is None
