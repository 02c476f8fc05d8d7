"""A local cloud that is killed takes its hosts along, and the orchestrator sees it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnd.local import Endpoint
from tests.fault.truth import Victim, orphans
from tests.support.processes import ended
from tests.support.runs import Run
from tests.support.terminal import paced_environment
from tests.support.waiting import SOON, eventually

JOB = ("start", "--d", "30", "--n", "2", "--t", "600", "--cloud", "local", "--json")


@pytest.fixture
def mortal(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Victim]:
    """A user whose cloud dies in the test."""
    state = tmp_path_factory.mktemp("mortal")
    user = Victim(state, paced_environment(state), tmp_path)
    yield user
    user.run("local", "down")


def killed(cloud: Endpoint) -> float:
    os.kill(cloud.pid, signal.SIGKILL)
    return time.monotonic()


def ends_soon(user: Victim, run: Run, died: float) -> tuple[int, str, str]:
    """Wait for the run's end; its hosts must have gone, and its receipt be true."""
    code, out, err = ended(run.process, within=240)
    assert time.monotonic() - died < SOON, err
    assert "Traceback" not in err
    eventually(lambda: not orphans(user.state, None))
    return code, out, err


def test_a_run_whose_cloud_is_killed_ends_at_once_with_a_true_receipt(
    mortal: Victim,
) -> None:
    run = Run(mortal, *JOB)
    hosts = run.searching(2)
    code, out, err = ends_soon(mortal, run, killed(mortal.cloud()))
    assert code == 4
    result = json.loads(out)
    assert (result["outcome"], result["left_running"]) == ("incomplete", 0)
    assert sorted(result["receipt"]["terminated"]) == hosts
    assert "the cloud has ended, and with it all its instances" in err
    assert result["logs"]["s3"] is None


def test_two_interrupts_after_the_clouds_death_end_a_run_at_once(
    mortal: Victim,
) -> None:
    run = Run(mortal, *JOB)
    run.searching(2)
    died = killed(mortal.cloud())
    for _ in range(2):
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    code, _, err = ends_soon(mortal, run, died)
    assert code in (4, 130), err


def test_a_launch_whose_cloud_dies_ends_at_once_and_leaves_nothing(
    mortal: Victim,
) -> None:
    cloud = mortal.cloud()
    run = Run(mortal, *JOB)
    eventually(lambda: run.told("instance.requested"), every=0.002)
    code, _, err = ends_soon(mortal, run, killed(cloud))
    assert code in (3, 4), err


def test_a_cloud_that_was_killed_is_followed_by_another(mortal: Victim) -> None:
    """Whose hosts are not taken for those of the first."""
    first = mortal.cloud()
    killed(first)
    eventually(lambda: not orphans(mortal.state, None))
    result = mortal.json("start", "--d", "2", "--n", "2", "--cloud", "local")
    assert (result["outcome"], result["left_running"]) == ("found", 0)
    assert mortal.cloud().pid != first.pid
