"""Which run is meant where none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.events import Event
from cnd.journal import Journal
from cnd.survey import abandoned


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
    launched("over").write_result({"outcome": "found"})
    launched("scrammed").note_scram(1)
    launched("forsaken")
    with launched("followed").followed():
        assert abandoned() == "forsaken"
    with pytest.raises(UsageError, match="2 runs could be taken over"):
        abandoned()
