"""What is known of a report while a process draws it, and when that has failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnd.run import pending_reports
from cnd.run.journal import Journal

RUN = "20261126-000000-0001"
NEVER = """
import sys, time
from cnd.run import pending_reports
from cnd.view import report_process
report_process.main(sys.argv[1], pending_reports.begin(sys.argv[1]), limit=1)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "cnd"


def test_a_report_that_was_never_begun_has_nothing_to_wait_for() -> None:
    assert not pending_reports.settled(RUN, 60)
    assert pending_reports.failures() == {}


def test_a_report_under_way_has_not_failed_and_one_that_is_drawn_neither() -> None:
    lock = pending_reports.begin(RUN)
    assert pending_reports.failures() == {}
    assert not pending_reports.settled(RUN, 0.1)
    pending_reports.done(RUN)
    os.close(lock)
    assert pending_reports.failures() == {}


def test_what_went_wrong_is_said_once() -> None:
    lock = pending_reports.begin(RUN)
    pending_reports.give_reason(lock, "a long reason\ud800 that is kept")
    pending_reports.give_reason(lock, "another")
    os.close(lock)
    assert pending_reports.failures() == {RUN: "another"}
    assert pending_reports.failures() == {}


def test_a_process_that_was_killed_is_reported_as_such() -> None:
    os.close(pending_reports.begin(RUN))
    assert pending_reports.failures() == {RUN: pending_reports.ENDED}


def test_files_of_others_are_neither_read_nor_removed(
    state: Path, tmp_path: Path
) -> None:
    os.close(pending_reports.begin(RUN))
    (state / "reports" / "notes").touch()
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (state / "reports" / RUN).unlink()
    (state / "reports" / RUN).symlink_to(precious)
    assert pending_reports.failures() == {}
    with pytest.raises(OSError):
        pending_reports.begin(RUN)
    assert precious.read_text() == "precious"


def test_a_process_that_draws_a_report_ends_in_time_whatever_hangs(
    state: Path,
) -> None:
    Journal(RUN).create()
    hangs = state / "jinja2.py"
    hangs.write_text("import time\ntime.sleep(1000)\n")
    environment = {**os.environ, "PYTHONPATH": str(state)}
    child = [sys.executable, "-c", NEVER, RUN]
    done = subprocess.run(child, env=environment, timeout=60)
    assert done.returncode == -signal.SIGALRM
    assert pending_reports.failures() == {RUN: pending_reports.ENDED}
