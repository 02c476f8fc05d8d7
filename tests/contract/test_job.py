"""What a run does in which order, where no fault could show it in time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnd.errors import CloudError
from cnd.events import Event
from cnd.job import Job
from cnd.journal import Journal
from cnd.plan import Plan
from cnd.view import Narrator
from tests.contract.clerk import stubbed

REQUEST = Event("instance.requested", fields={"count": 1, "token": "t"})


@pytest.mark.parametrize("over", [False, True])
def test_a_replacement_is_asked_for_only_when_the_request_is_in_the_journal(
    tmp_path: Path, over: bool
) -> None:
    plan, journal = Plan(2, 1, 60.0), Journal("r", tmp_path / "r")
    journal.create()
    with stubbed() as clerk, ThreadPoolExecutor(1) as pool:
        job = Job(plan, clerk.cloud, journal, view=Narrator(plan))
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
