"""The guard terminates in time and once, and no exception stops it."""

from __future__ import annotations

import threading
import time

import pytest

from cnd.errors import LeakError
from cnd.run.termination_guard import TerminationGuard, insist
from tests.support.waiting import eventually


def acted(guard: TerminationGuard[None], within: float = 5.0) -> bool:
    return guard.acted.wait(within)


def test_it_terminates_at_the_moment_that_is_expected() -> None:
    done = threading.Event()
    guard, began = TerminationGuard(done.set), time.monotonic()
    guard.expect(0.2)
    assert done.wait(10)
    assert time.monotonic() - began >= 0.2


def test_a_later_expectation_replaces_an_earlier_one_and_delays_no_hastened_end() -> (
    None
):
    guard = TerminationGuard(lambda: None)
    guard.expect(0.2)
    guard.expect(60)
    assert not acted(guard, 0.4)
    guard.hasten(0.1)
    guard.hasten(60)
    guard.expect(60)
    assert acted(guard)


def test_it_is_postponed_while_the_run_itself_terminates() -> None:
    guard = TerminationGuard(lambda: None)
    guard.hasten(0.2)
    guard.postpone(0.5)
    assert not acted(guard, 0.4)
    assert acted(guard)


def test_once_dismissed_it_does_not_terminate() -> None:
    guard = TerminationGuard(lambda: None)
    guard.hasten(0.3)
    guard.dismiss()
    assert not acted(guard, 0.6)


def test_it_terminates_through_exceptions_and_again_on_request() -> None:
    times, done = list[int](), threading.Semaphore(0)

    def terminate() -> None:
        times.append(1)
        if len(times) in (1, 2):
            raise KeyboardInterrupt if len(times) == 1 else MemoryError
        done.release()

    guard = TerminationGuard(terminate)
    guard.hasten(0)
    assert done.acquire(timeout=10)
    guard.hasten(0)
    assert done.acquire(timeout=10)
    assert len(times) == 4


def test_its_result_counts_only_for_a_termination_that_began_later() -> None:
    guard, before = TerminationGuard(lambda: ["i-0"]), time.monotonic()
    assert guard.result(before) is None
    guard.hasten(0)
    eventually(lambda: guard.result(before) == ["i-0"])
    assert guard.result(time.monotonic()) is None


def test_after_a_leak_it_gives_up_and_after_other_failures_at_the_limit() -> None:
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
