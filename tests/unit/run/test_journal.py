"""One follower a run, and none once it is over."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from cnd.errors import UsageError
from cnd.run.journal import LOCK, Journal, runs


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal("20260101-000000-abcd", tmp_path / "runs" / "one")
    journal.create()
    return journal


def test_a_run_that_came_to_its_end_meanwhile_is_not_followed(journal: Journal) -> None:
    """A take-over reads the order first; the run may end before it is followed."""
    journal.write_order({"cloud": "local"})
    assert journal.order()
    journal.write_result({"outcome": "found"})
    with pytest.raises(UsageError, match="is over"), journal.followed():
        pytest.fail("followed")
    assert journal.result() == {"outcome": "found"}


def test_a_second_follower_is_refused(journal: Journal) -> None:
    with journal.followed():
        assert journal.is_followed
        refused = pytest.raises(UsageError, match=f"by process {os.getpid()}")
        with refused, journal.followed():
            pytest.fail("followed twice")
    assert not journal.is_followed


def test_a_look_whether_a_run_is_followed_does_not_hinder_a_follower(
    journal: Journal,
) -> None:
    with journal.followed():
        pass
    lock = os.open(journal.folder / LOCK, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_SH)  # as in the middle of such a look
    threading.Timer(0.05, os.close, [lock]).start()
    with journal.followed():
        assert journal.is_followed


def test_the_newest_runs_are_found_past_folders_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    names = [f"20260101-00000{i}-abcd" for i in range(4)]
    for name in names:
        Journal(name).create()
    folder = Journal(names[0]).folder.parent
    (folder / "20270101-000000-abcd").mkdir()  # empty
    (folder / "notes").mkdir()

    assert runs() == names
    assert [runs(latest) for latest in (1, 3, 9)] == [names[3:], names[1:], names]
