"""A machine that has no more of something: the fleet ends all the same, in time."""

from __future__ import annotations

import resource
import time

import pytest

from tests.fault.truth import Victim
from tests.support.processes import ended
from tests.support.runs import Run

JOB = ("start", "--d", "30", "--n", "2", "--t", "60", "--json")
BOUND = 75.0  # seconds, as docs/guarantees.md has it


@pytest.mark.slow  # some threads, each waited for; quick: test_background, test_ec2
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux sets such limits")
def test_a_run_without_memory_and_threads_ends_its_fleet(terminal: Victim) -> None:
    """Python starts a thread then, which ends before it begins, and waits for it."""
    run = Run(terminal, *JOB)
    run.searching(2)
    resource.prlimit(run.process.pid, resource.RLIMIT_AS, (1, 1))  # none besides
    terminal.hit(run.process)
    terminal.see_zero(time.monotonic(), within=BOUND)
    _, _, err = ended(run.process, within=60)
    assert "Traceback" not in err
