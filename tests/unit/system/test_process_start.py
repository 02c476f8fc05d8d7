"""A command begins with its process, unless that was another program before."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from cnd.system import process_start
from cnd.system.process_start import WAITED, likely

WAITS = 0.2  # seconds before the first line of the package
PROGRAM = f"""
import time
time.sleep({WAITS})
from cnd.system import process_start
process_start.note()
print(time.monotonic() - process_start.began())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_a_program_begins_with_its_process_and_not_with_its_imports() -> None:
    began = time.monotonic()
    told = subprocess.check_output([sys.executable, "-c", PROGRAM], timeout=60)
    assert WAITS <= float(told) <= time.monotonic() - began + 0.02  # a tick, rounded


def test_a_process_that_was_another_program_before_does_not_count() -> None:
    """The computing of a process says when it began at the latest."""
    assert likely(99.5, 100.0) == 99.5
    assert likely(100.0 - WAITED - 1, 100.0) == 100.0
    assert likely(101.0, 100.0) == 100.0


def test_a_command_that_is_called_in_another_program_begins_with_the_call() -> None:
    before = time.monotonic()
    assert before <= process_start.began() <= time.monotonic()
