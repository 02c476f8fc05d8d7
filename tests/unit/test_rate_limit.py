"""A rate-limited worker reports what a worker on a slower machine would report."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from cnd import pow as worker
from cnd.errors import UsageError
from cnd.local import settings


@pytest.fixture
def wakeup() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_rate_limited_scanner_finds_the_same_and_keeps_its_rate(
    wakeup: tuple[int, int],
) -> None:
    scanner = worker.HashlibScanner("COMSM0010cloud", 2)
    limited = worker.RateLimitedScanner(scanner, 1000.0, (0,), wakeup[0])
    began = time.monotonic()
    assert limited.scan(0, 1, 1000) == 116
    assert limited.tested == 117
    assert time.monotonic() - began >= 117 / 1000 - 0.001


def test_a_stop_ends_the_wait_at_once(wakeup: tuple[int, int]) -> None:
    scanner = worker.HashlibScanner("COMSM0010cloud", 64)
    stop = [0]
    limited = worker.RateLimitedScanner(scanner, 1.0, stop, wakeup[0])

    began = time.monotonic()

    def raise_stop() -> None:
        stop[0] = 1
        os.write(wakeup[1], b".")

    timer = threading.Timer(0.2, raise_stop)
    timer.start()
    assert limited.scan(0, 1, 1000) is None  # without a stop it would take 1000 s
    assert stop == [1]  # and it waited for the wake-up
    assert time.monotonic() - began < 30.0
    timer.join()


def test_a_wakeup_without_a_stop_ends_no_wait(wakeup: tuple[int, int]) -> None:
    scanner = worker.HashlibScanner("COMSM0010cloud", 64)
    limited = worker.RateLimitedScanner(scanner, 1000.0, (0,), wakeup[0])
    os.write(wakeup[1], b".")
    began = time.monotonic()
    assert limited.scan(0, 1, 300) is None
    assert time.monotonic() - began >= 0.299


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan", "inf"])
def test_an_invalid_rate_is_refused(rate: str) -> None:
    with pytest.raises(UsageError, match=r"CND_LOCAL_RATE.*not a number"):
        settings.read({"CND_LOCAL_RATE": rate})
    options = {**worker.DEFAULTS, "difficulty": 1, "rate": rate}
    with pytest.raises(ValueError, match="rate must be"):
        worker.checked(options)


def test_virtual_machines_cannot_be_rate_limited() -> None:
    with pytest.raises(UsageError, match="processes only"):
        settings.read({"CND_LOCAL_RATE": "1000", "CND_LOCAL_HOSTS": "vm"})
