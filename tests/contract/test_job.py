"""What a run does in which order, where no fault could show it in time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnd.errors import CloudError
from cnd.events import PROGRESS, Event
from cnd.job import Job
from cnd.journal import Journal
from cnd.plan import Plan
from cnd.view import Narrator
from tests.support.clerk import stubbed

PLAN = Plan(2, 1, 60.0)
REQUEST = Event("instance.requested", fields={"count": 1, "token": "t"})


@pytest.mark.parametrize("over", [False, True])
def test_a_replacement_is_asked_for_only_when_the_request_is_in_the_journal(
    tmp_path: Path, over: bool
) -> None:
    journal = Journal("r", tmp_path / "r")
    journal.create()
    with stubbed() as clerk, ThreadPoolExecutor(1) as pool:
        job = Job(PLAN, clerk.cloud, journal, view=Narrator(PLAN))
        told = pool.submit(job._tell_durably, REQUEST)
        (event,) = job._inbox.batch(10)
        assert not told.done()
        if over:
            job._over.set()
            with pytest.raises(CloudError, match="the run is over"):
                told.result(timeout=10)
        else:
            job._take(event)
            told.result(timeout=10)
            (kept,) = journal.events()
            assert kept.fields == REQUEST.fields


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
