"""Which run is meant where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.events import Event
from cnd.journal import Journal
from cnd.survey import abandoned

# Of a run each; the folder of runs may hold what is none.
OVER, SCRAMMED, FORSAKEN, FOLLOWED = (f"20261126-000000-000{i}" for i in range(4))


def launched(name: str) -> Journal:
    journal = Journal(name)
    journal.create()
    journal.append(Event("instance.requested", fields={"count": 1}))
    return journal


def test_a_run_without_a_name_is_the_only_one_that_nobody_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no run is without somebody"):
        abandoned()
    launched(OVER).write_result({"outcome": "found"})
    launched(SCRAMMED).note_scram(1)
    launched(FORSAKEN)
    with launched(FOLLOWED).followed():
        assert abandoned() == FORSAKEN
    with pytest.raises(UsageError, match="2 runs could be taken over"):
        abandoned()
