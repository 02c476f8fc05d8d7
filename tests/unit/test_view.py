"""What a person is told in lines, as in a pipe or a file."""

from __future__ import annotations

import io

import pytest

from cnd import view
from cnd.plan import Plan
from cnd.race import Ending, Race
from cnd.view import Narrator

PLAN = Plan(difficulty=2, instances=8, time_limit=60.0)


@pytest.mark.parametrize(
    ("ending", "told"),
    [(None, "0 of 8 instances ready"), (Ending.STOPPED, "ending: 0 of 8 logs here")],
)
def test_a_run_that_waits_says_now_and_then_for_what(
    monkeypatch: pytest.MonkeyPatch, ending: Ending | None, told: str
) -> None:
    """Whoever reads a pipe takes silence for a hang."""
    race, stream = Race(PLAN), io.StringIO()
    if ending:
        race.decide(ending, "asked for")
    narrator = Narrator(PLAN, stream)
    narrator.tick(race)
    assert stream.getvalue() == ""
    monkeypatch.setattr(view, "REPEAT", 0.0)
    narrator.tick(race)
    assert told in stream.getvalue()
