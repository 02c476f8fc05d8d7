"""A clock that was set does not end a run: its workers know how long they searched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fault.kills import killed
from tests.fault.truth import Victim
from tests.support.runs import SLOWLY

DAY = 86_400.0  # seconds
SPACE = ("start", "--d", "30", "--nonces", "400000", "--n", "2", *SLOWLY)


def set_back(journal: Path, seconds: float) -> None:
    """Have all that was written by the clock of another day."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    told = [{**line, "time": line["time"] - seconds} for line in lines]
    journal.write_text("".join(json.dumps(line) + "\n" for line in told))


@pytest.mark.parametrize("days", [1, -1])
def test_a_run_goes_on_although_the_clock_was_set_by_a_day(
    terminal: Victim, days: int
) -> None:
    folder = killed(terminal, *SPACE, when="worker.progress")
    set_back(folder / "events.jsonl", days * DAY)
    result = terminal.json("attach", folder.name, status=11)
    assert (result["tested"], result["repeated"]) == (400_000, 0)
    assert 0 < result["seconds"]["search"] < 60
    assert result["seconds"]["total"] < 120
