"""The guard strikes in time, once, and is kept from nothing by what is raised."""

from __future__ import annotations

import threading
import time

import pytest

from cnd.errors import LeakError
from cnd.run.termination_guard import TerminationGuard, insist
from tests.support.waiting import eventually


def struck(guard: TerminationGuard[None], within: float = 5.0) -> bool:
    return guard.struck.wait(within)


def test_it_strikes_at_the_moment_that_is_expected() -> None:
    done = threading.Event()
    guard, began = TerminationGuard(done.set), time.monotonic()
    guard.expect(0.2)
    assert done.wait(10)
    assert time.monotonic() - began >= 0.2


def test_a_later_expectation_replaces_an_earlier_one_and_a_hurry_is_not_put_off() -> (
    None
):
    guard = TerminationGuard(lambda: None)
    guard.expect(0.2)
    guard.expect(60)
    assert not struck(guard, 0.4)
    guard.hasten(0.1)
    guard.hasten(60)
    guard.expect(60)
    assert struck(guard)


def test_it_is_postponed_by_who_is_at_it() -> None:
    guard = TerminationGuard(lambda: None)
    guard.hasten(0.2)
    guard.postpone(0.5)
    assert not struck(guard, 0.4)
    assert struck(guard)


def test_who_is_dismissed_does_not_strike() -> None:
    guard = TerminationGuard(lambda: None)
    guard.hasten(0.3)
    guard.dismiss()
    assert not struck(guard, 0.6)


def test_it_strikes_through_exceptions_and_again_when_it_is_told_to() -> None:
    times, done = list[int](), threading.Semaphore(0)

    def strike() -> None:
        times.append(1)
        if len(times) in (1, 2):
            raise KeyboardInterrupt if len(times) == 1 else MemoryError
        done.release()

    guard = TerminationGuard(strike)
    guard.hasten(0)
    assert done.acquire(timeout=10)
    guard.hasten(0)
    assert done.acquire(timeout=10)
    assert len(times) == 4


def test_what_it_has_seen_counts_only_where_it_struck_later() -> None:
    guard, before = TerminationGuard(lambda: ["i-0"]), time.monotonic()
    assert guard.result(before) is None
    guard.hasten(0)
    eventually(lambda: guard.result(before) == ["i-0"])
    assert guard.result(time.monotonic()) is None


def test_a_leak_is_the_last_word_and_anything_else_is_tried_again_for_so_long() -> None:
    now, noted = [0.0], list[BaseException]()

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def fail() -> None:
        raise ZeroDivisionError

    def leak() -> None:
        raise LeakError(["i-0"], "left")

    with pytest.raises(ZeroDivisionError):
        insist(fail, note=noted.append, clock=lambda: now[0], sleep=sleep)
    assert 290 < now[0] <= 300
    assert len(noted) > 50
    with pytest.raises(LeakError):
        insist(leak)
