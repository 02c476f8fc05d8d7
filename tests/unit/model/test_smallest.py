"""With --smallest the answer depends on neither N nor chance."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnd import pow as worker
from cnd.model.events import Event
from cnd.model.outcome import Ending
from cnd.model.plan import Plan, class_size
from cnd.model.search_state import SearchState

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


def emit(search: SearchState, kind: str, index: int, **fields: object) -> None:
    search.see(Event(kind, index, f"i-{index}", fields))


class Searching:
    """A worker as the search state sees it: it searches its class step by step."""

    def __init__(self, search: SearchState, index: int) -> None:
        self.search, self.index, self.of = search, index, search.plan.instances
        mine = [g for g in goldens(search.plan.difficulty) if g % self.of == index]
        self.hit = mine[0] if mine else None
        self.cursor, self.over = index, False
        emit(search, "worker.started", index)

    def step(self, nonces: int) -> None:
        self.cursor += nonces * self.of
        if self.hit is not None and self.cursor > self.hit:
            fields = {"nonce": self.hit, "cursor": self.hit}
            self.over = True
            emit(self.search, "worker.found", self.index, **fields)
        elif self.cursor >= SPACE:
            self.over = True
            size = class_size(SPACE, self.index, self.of)
            fields = {"cursor": self.index + size * self.of, "tested": size}
            emit(self.search, "worker.exhausted", self.index, **fields)
        else:
            emit(self.search, "worker.progress", self.index, cursor=self.cursor)


@pytest.mark.parametrize("n", INSTANCES)
@pytest.mark.parametrize("difficulty", [1, 2, 3, 4, 5])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_answer_is_the_smallest_golden_nonce_whichever_worker_is_fast(
    difficulty: int, n: int, data: st.DataObject
) -> None:
    search = SearchState(plan(difficulty, n))
    workers = [Searching(search, i) for i in range(n)]
    largest = goldens(difficulty)[0] // n + 2
    speed = st.integers(1 + largest // 8, 4 * largest)
    speeds = data.draw(st.lists(speed, min_size=n, max_size=n))
    while search.outcome is None:
        for each, nonces in zip(workers, speeds, strict=True):
            if not each.over:
                each.step(nonces)
    assert search.outcome.nonce == goldens(difficulty)[0]
    assert search.outcome.index == goldens(difficulty)[0] % n
    assert search.smallest


def test_the_fastest_finder_waits_for_the_others() -> None:
    search = SearchState(plan(2, 2))
    first = goldens(2)[0]
    emit(search, "worker.found", 1 - first % 2, nonce=goldens_of(2, 1 - first % 2))
    assert search.outcome is None
    assert search.smallest is False
    emit(search, "worker.found", first % 2, nonce=first)
    assert search.outcome is not None
    assert (search.outcome.nonce, search.smallest) == (first, True)


def goldens_of(difficulty: int, index: int) -> int:
    """Return the smallest golden nonce of a class modulo 2."""
    return next(g for g in goldens(difficulty) if g % 2 == index)


def test_at_the_time_limit_the_best_find_is_the_answer_and_not_called_smallest() -> (
    None
):
    search = SearchState(plan(2, 2))
    late = 1 - goldens(2)[0] % 2
    emit(search, "worker.found", late, nonce=goldens_of(2, late))
    emit(search, "worker.timeout", 1 - late, cursor=1 - late)
    search.settle()
    assert search.outcome is not None
    assert search.outcome.ending is Ending.FOUND
    assert (search.outcome.nonce, search.smallest) == (goldens_of(2, late), False)


def test_a_lost_class_goes_on_unless_its_cursor_is_beyond_the_best_find() -> None:
    search = SearchState(plan(2, 3))
    best = goldens(2)[0]
    finder, lost, ahead = best % 3, (best + 1) % 3, (best + 2) % 3
    emit(search, "worker.found", finder, nonce=best)
    emit(search, "worker.progress", ahead, cursor=best + 2)
    for index in (lost, ahead):
        emit(search, "host.failed", index, reason="gone")
    assert search.failed == [lost]
    search.see(Event("class.handed_over", lost, f"i-{ahead}"))
    fields = {"cursor": best + 1}
    search.see(Event("worker.progress", lost, f"i-{ahead}", fields))
    assert search.outcome is not None
    assert (search.outcome.nonce, search.smallest) == (best, True)


def test_a_false_claim_neither_decides_nor_advances_its_class() -> None:
    search = SearchState(plan(2, 2))
    best = goldens(2)[0]
    refuted = 1 - best % 2
    emit(search, "worker.found", best % 2, nonce=best)
    emit(search, "worker.found", refuted, nonce=refuted, cursor=SPACE)
    assert search.outcome is None
    assert search.failed == [refuted]


def test_after_a_stop_the_best_find_is_the_answer() -> None:
    search = SearchState(plan(2, 2))
    best = goldens(2)[0]
    emit(search, "worker.found", best % 2, nonce=best)
    search.stop(Event("run.stop_requested", fields={"by": "queue", "text": "enough"}))
    assert search.outcome is not None
    assert (search.outcome.nonce, search.smallest) == (best, False)


def test_without_the_option_smallest_is_unknown() -> None:
    search = SearchState(Plan(2, 8, 60.0))
    emit(search, "worker.found", 4, nonce=116)
    assert search.outcome is not None
    assert search.smallest is None
