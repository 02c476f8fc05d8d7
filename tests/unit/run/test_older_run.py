"""A run that an older version began, before modules had folders, is taken over.

`tests/data/older-run` is the folder of such a run, whose orchestrator was killed while
four workers searched; only its host key was taken out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cnd.model import replay
from cnd.run import order, past_run
from cnd.run.journal import Journal

OLDER = Path(__file__).parents[2] / "data" / "older-run"
RUN = "20261128-083336-ef0d"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    shutil.copytree(OLDER, tmp_path / RUN)
    return Journal(RUN, tmp_path / RUN)


def test_all_of_its_order_is_understood(journal: Journal) -> None:
    found = order.to_take_over(journal)

    assert (found.cloud, found.region) == ("local", "us-east-1")
    assert (found.plan.difficulty, found.plan.instances) == (6, 4)
    assert (found.plan.lifetime, found.plan.witness_bits) == (540.0, 14)
    assert found.provision.login.user == "ubuntu"
    assert found.provision.queue.endswith(f"/cnd-{RUN}")


def test_its_events_say_how_far_each_class_is(journal: Journal) -> None:
    plan = order.to_take_over(journal).plan

    past = replay.replayed(plan, list(journal.events()))

    assert len(past.index) == 4
    assert not past.lost and not past.ended
    assert past.search.searching == [0, 1, 2, 3]
    assert (
        past.search.tested == sum(past.search.classes[i].tested for i in range(4)) > 0
    )
    assert replay.unanswered(list(journal.events())) == 0


def test_what_it_has_left_is_known(journal: Journal) -> None:
    """All progress is among its events; it has proved what lies below a witness."""
    found = past_run.read(journal)

    search = replay.replayed(found.plan, journal.history()).search
    assert [piece.modulus for piece in found.pieces] == [4] * 4
    assert found.tested == search.tested > 0
    assert 0 < found.plan.nonces - found.left <= found.tested
    again = sum(piece.again for piece in found.pieces)
    assert found.left == found.plan.nonces - found.tested + again
