"""What a run does in which order, where no fault could show it in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnd.errors import CloudError
from cnd.model.events import PROGRESS, Event
from cnd.model.plan import Plan
from cnd.run.job import Job
from cnd.run.journal import Journal
from cnd.view.narrator import Narrator
from tests.support.clerk import stubbed

PLAN = Plan(2, 1, 60.0)
REQUEST = Event("instance.requested", fields={"count": 1, "token": "t"})


def test_a_replacement_is_asked_for_only_when_the_request_is_in_the_journal(
    tmp_path: Path,
) -> None:
    journal = Journal("r", tmp_path / "r")
    journal.create()
    with stubbed() as clerk:
        job = Job(PLAN, clerk.cloud, journal, view=Narrator(PLAN))
        job._tell_durably(REQUEST)
        (kept,) = journal.events()
        assert kept.fields == REQUEST.fields
        job._take(*job._inbox.batch(10))
        job._record.settle(10)
        assert len(list(journal.events())) == 1  # and not twice


@pytest.mark.parametrize("why", ["the run is over", "cannot write"])
def test_no_replacement_is_asked_for_after_the_end_nor_on_a_full_disk(
    tmp_path: Path, why: str
) -> None:
    journal = Journal("r", tmp_path / "r")
    with stubbed() as clerk:
        job = Job(PLAN, clerk.cloud, journal, view=Narrator(PLAN))
        if why == "the run is over":
            journal.create()
            job._over.set()
        with pytest.raises(CloudError, match=why):
            job._tell_durably(REQUEST)


def test_what_came_with_the_event_at_which_ctrl_c_struck_is_taken_in_all_the_same(
    tmp_path: Path,
) -> None:
    class Interrupted(Narrator):
        def show(self, event: Event) -> None:
            if event.kind == PROGRESS:
                raise KeyboardInterrupt

    journal = Journal("r", tmp_path / "r")
    journal.create()
    with stubbed() as clerk:
        job = Job(PLAN, clerk.cloud, journal, view=Interrupted(PLAN))
        job._inbox.put(Event(PROGRESS, 0, "i-0"))
        job._inbox.put(Event("instance.launched", 1, "i-1"))
        with pytest.raises(KeyboardInterrupt):
            job._take(*job._inbox.batch())
        job._drain()
    assert "i-1" in job._crew.index
