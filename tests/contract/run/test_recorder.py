"""The order in which a run keeps and shows events, where no fault could show it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.errors import CloudError
from cnd.model.events import PROGRESS, Event
from cnd.model.plan import Plan
from cnd.run.journal import Journal
from cnd.run.recorder import Recorder
from cnd.view.narrator import Narrator

PLAN = Plan(2, 1, 60.0)
REQUEST = Event("instance.requested", fields={"count": 1, "token": "t"})


def test_a_replacement_is_requested_only_when_the_request_is_in_the_journal(
    tmp_path: Path,
) -> None:
    journal = Journal("r", tmp_path / "r")
    journal.create()
    recorder = Recorder(PLAN, journal, view=Narrator(PLAN))
    recorder.put_durably(REQUEST)
    (kept,) = journal.events()
    assert kept.fields == REQUEST.fields
    recorder.take(*recorder.queue.batch(10))
    recorder.writer.settle(10)
    assert len(list(journal.events())) == 1  # and not twice


@pytest.mark.parametrize("why", ["the run is over", "cannot write"])
def test_no_replacement_is_requested_after_the_end_nor_on_a_full_disk(
    tmp_path: Path, why: str
) -> None:
    journal = Journal("r", tmp_path / "r")
    recorder = Recorder(PLAN, journal, view=Narrator(PLAN))
    if why == "the run is over":
        journal.create()
        recorder.over.set()
    with pytest.raises(CloudError, match=why):
        recorder.put_durably(REQUEST)


def test_events_that_ctrl_c_interrupted_are_taken_in_all_the_same(
    tmp_path: Path,
) -> None:
    class Interrupted(Narrator):
        def show(self, event: Event) -> None:
            if event.kind == PROGRESS:
                raise KeyboardInterrupt

    journal = Journal("r", tmp_path / "r")
    journal.create()
    recorder = Recorder(PLAN, journal, view=Interrupted(PLAN))
    recorder.put(Event(PROGRESS, 0, "i-0"))
    recorder.put(Event("instance.launched", 1, "i-1"))
    with pytest.raises(KeyboardInterrupt):
        recorder.take(*recorder.queue.batch())
    recorder.drain()
    assert "i-1" in recorder.roster.index
