"""The latest progress of a run is on disk at every moment, in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.model.checkpoint import Checkpoint, Series, in_series
from cnd.model.class_progress import ClassProgress
from cnd.model.events import PROGRESS, Event
from cnd.model.plan import Plan
from cnd.model.replay import replayed
from cnd.run import progress_file
from cnd.run.event_files import EVENTS
from cnd.run.journal import Journal
from cnd.run.journal_writer import JournalWriter

PLAN = Plan(9, 1, 60.0, nonces=1000)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal("r", tmp_path / "r")
    made.create()
    return made


def report(cursor: int) -> Event:
    fields = {"cursor": cursor, "tested": cursor, "witnesses": [1, 2]}
    return Event(PROGRESS, 0, "i-0", fields)


def written(journal: Journal, *entries: Event | Checkpoint) -> JournalWriter:
    writer = JournalWriter(journal, lambda event: None, Series(1))
    for entry in entries:
        if isinstance(entry, Checkpoint):
            writer.checkpoint(entry)
        else:
            writer.keep(entry)
    assert writer.settle(10)
    return writer


def shown(journal: Journal) -> list[str | int]:
    """Return the history: cursors of reports, kinds of other events."""
    found: list[str | int] = []
    for entry in journal.history():
        if isinstance(entry, Checkpoint):
            found.append("checkpoint")
        elif entry.kind == PROGRESS and not in_series(entry):
            found.append(int(entry.fields["cursor"]))
        elif entry.kind != PROGRESS:
            found.append(entry.kind)
    return found


LAUNCHED = Event("instance.launched", 0, "i-0")
LATER = Event("host.failed", 0, "i-0", {"reason": "x"})
STATE = Checkpoint({0: ClassProgress(cursor=500, host="i-0", tested=500)})


def test_reports_and_other_events_are_read_in_the_order_of_their_arrival(
    journal: Journal,
) -> None:
    written(journal, LAUNCHED, report(10), report(20), LATER, report(30))

    assert shown(journal) == [LAUNCHED.kind, 10, 20, LATER.kind, 30]


def test_a_checkpoint_takes_the_place_of_all_progress_before_it(
    journal: Journal,
) -> None:
    written(journal, LAUNCHED, report(10), LATER, report(20), STATE, report(510), LATER)

    assert shown(journal) == [LAUNCHED.kind, LATER.kind, "checkpoint", 510, LATER.kind]
    assert replayed(PLAN, journal.history()).search.classes[0].cursor == 510


def test_the_series_for_pictures_has_no_witnesses_and_decides_nothing(
    journal: Journal,
) -> None:
    written(journal, LAUNCHED, report(10))

    (_, kept) = journal.events()
    assert "witnesses" not in kept.fields
    assert kept.fields["tested"] == 10
    (journal.folder / progress_file.NAME).unlink()
    assert replayed(PLAN, journal.history()).search.classes[0].cursor == 0


@pytest.mark.parametrize("cut", [1, 30, 60])
def test_a_line_that_a_killed_process_left_incomplete_costs_that_line_only(
    journal: Journal, cut: int
) -> None:
    written(journal, LAUNCHED, STATE, report(510), report(520))
    path = journal.folder / progress_file.NAME
    path.write_bytes(path.read_bytes()[:-cut])

    assert shown(journal) == [LAUNCHED.kind, "checkpoint", 510]


def test_a_damaged_file_costs_the_progress_and_is_reported(journal: Journal) -> None:
    written(journal, LAUNCHED, STATE)
    (journal.folder / progress_file.NAME).write_text('0 {"classes": 3}\nnonsense\n')

    assert shown(journal) == [LAUNCHED.kind]
    assert "progress.jsonl has 2 damaged lines" in journal.complaint


def test_progress_is_on_disk_before_what_came_after_it(journal: Journal) -> None:
    """Where the file of the events cannot be written, the progress is known."""
    (journal.folder / EVENTS).mkdir()
    writer = JournalWriter(journal, lambda event: None, Series(1))
    writer.keep(report(10), LATER)
    assert writer.settle(10)
    (journal.folder / EVENTS).rmdir()

    assert shown(journal) == [10]


def test_the_file_asks_for_a_checkpoint_before_it_is_too_large(
    journal: Journal,
) -> None:
    large = Event(PROGRESS, 0, "i-0", {"cursor": 1, "witnesses": [10**12] * 4096})
    writer = written(journal, *[large] * 160)
    assert writer.is_full
    writer.checkpoint(STATE)
    assert writer.settle(10)
    assert not writer.is_full
    assert (journal.folder / progress_file.NAME).stat().st_size < 1000
