"""A search on a fleet that another run left, whose orchestrator dies."""

from __future__ import annotations

import time
from pathlib import Path

from tests.fault.kills import killed
from tests.fault.truth import Victim
from tests.support.runs import LONG_NONCES, told

FLEET = ("--n", "3", "--keep")
SEARCH = ("--d", "30", "--t", "60")
PATIENCE = 2.0  # seconds without a sign of life until these hosts go on alone


def killed_again(terminal: Victim, *words: str, fleet: tuple[str, ...] = ()) -> Path:
    """Kill a search on the fleet of another run once all its workers search."""
    run = terminal.json("start", "--d", "1", *FLEET, *fleet)["run"]
    return killed(terminal, "start", "--on", run, *words, when="worker.progress", of=3)


def test_it_is_taken_over_with_nothing_lost(terminal: Victim) -> None:
    folder = killed_again(terminal, *SEARCH, "--nonces", str(LONG_NONCES))
    result = terminal.json("attach", folder.name, status=11)
    assert result["tested"] - result["repeated"] == LONG_NONCES
    assert result["repeated"] == 0
    assert (result["terminated"], result["left_running"]) == (3, 0)


def test_without_an_orchestrator_its_instances_end_themselves(terminal: Victim) -> None:
    """Though the run that launched them had said --keep."""
    terminal.environment["CND_LOCAL_ORPHAN_SECONDS"] = str(PATIENCE)
    search = ("--d", "30", "--t", "12")
    folder = killed_again(terminal, *search, fleet=("--spot",))
    terminal.see_zero(time.monotonic(), within=48)
    result = terminal.json("attach", folder.name, status=10)
    assert [part["ended"] for part in result["coverage"]] == ["timeout"] * 3
    assert len(told(folder, "instance.lost")) == 3
