"""A worker that is held to a rate says what a slower machine would say."""

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
def bell() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_paced_scanner_finds_the_same_and_keeps_its_rate(
    bell: tuple[int, int],
) -> None:
    scanner = worker.HashlibScanner("COMSM0010cloud", 2)
    paced = worker.Paced(scanner, 1000.0, (0,), bell[0])
    began = time.monotonic()
    assert paced.scan(0, 1, 1000) == 116
    assert paced.tested == 117
    assert time.monotonic() - began >= 117 / 1000 - 0.001


def test_a_stop_ends_the_wait_at_once(bell: tuple[int, int]) -> None:
    scanner = worker.HashlibScanner("COMSM0010cloud", 64)
    stop = [0]
    paced = worker.Paced(scanner, 1.0, stop, bell[0])

    began = time.monotonic()

    def ring() -> None:
        stop[0] = 1
        os.write(bell[1], b".")

    ringing = threading.Timer(0.2, ring)
    ringing.start()
    assert paced.scan(0, 1, 1000) is None  # by itself it would take 1000 s
    assert stop == [1]  # and it waited for the bell
    assert time.monotonic() - began < 30.0
    ringing.join()


def test_a_bell_without_a_stop_ends_nothing(bell: tuple[int, int]) -> None:
    scanner = worker.HashlibScanner("COMSM0010cloud", 64)
    paced = worker.Paced(scanner, 1000.0, (0,), bell[0])
    os.write(bell[1], b".")
    began = time.monotonic()
    assert paced.scan(0, 1, 300) is None
    assert time.monotonic() - began >= 0.299


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "nan", "inf"])
def test_a_rate_that_makes_no_sense_is_refused(rate: str) -> None:
    with pytest.raises(UsageError, match=r"CND_LOCAL_RATE.*not a number"):
        settings.read({"CND_LOCAL_RATE": rate})
    options = {**worker.DEFAULTS, "difficulty": 1, "rate": rate}
    with pytest.raises(ValueError, match="rate must be"):
        worker.checked(options)


def test_virtual_machines_cannot_be_held_to_a_rate() -> None:
    with pytest.raises(UsageError, match="processes only"):
        settings.read({"CND_LOCAL_RATE": "1000", "CND_LOCAL_HOSTS": "vm"})
