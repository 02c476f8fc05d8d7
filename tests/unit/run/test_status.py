"""Which run is meant if none is named, and what is reported of each."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from cnd.cloud.connection import Cloud
from cnd.cloud.failures import LISTED_WITHIN
from cnd.ec2 import ALL, EXISTING, Instance
from cnd.errors import UsageError
from cnd.model.events import Event
from cnd.run.journal import Journal
from cnd.run.status import (
    abandoned,
    launching,
    sightings,
    strays,
    strays_on,
    survey,
    under_way,
)
from tests.support.clerk import stubbed
from tests.support.instances import described

# The names of one run each.
OVER, SCRAMMED, ABANDONED, FOLLOWED = (f"20261126-000000-000{i}" for i in range(4))


def launched(name: str) -> Journal:
    journal = Journal(name)
    journal.create()
    journal.append(Event("instance.requested", fields={"count": 1}))
    return journal


def ordered(run: str, cloud: Cloud) -> Journal:
    """Return the journal of a run on `cloud` whose only request has no answer yet."""
    journal = launched(run)
    place = {name: getattr(cloud, name) for name in ("name", "account", "region")}
    journal.write_order({"cloud": place.pop("name"), **place})
    return journal


def test_a_run_that_is_not_named_is_the_only_one_without_an_orchestrator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no run is without an orchestrator"):
        abandoned()
    launched(OVER).write_result({"outcome": "found"})
    launched(SCRAMMED).note_scram(1)
    launched(ABANDONED)
    with launched(FOLLOWED).followed():
        assert abandoned() == ABANDONED
    with pytest.raises(UsageError, match="2 runs could be taken over"):
        abandoned()


def instance(run: str) -> Instance:
    now = dt.datetime.now(dt.timezone.utc)
    return Instance("i-0", run, 0, "me", "t", "running", None, 22, "z", now, "")


def test_only_a_fleet_that_was_to_be_kept_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with stubbed() as clerk:
        journal = launched(OVER)
        assert f"`fab attach {OVER}`" in strays([instance(OVER)], clerk.cloud)[0]
        journal.write_result({"receipt": {"left_running": ["i-0"], "kept": ["i-0"]}})
        assert strays([instance(OVER)], clerk.cloud) == []
        journal.write_result({"receipt": {"left_running": [], "kept": []}})
        (stray,) = strays([instance(OVER)], clerk.cloud)
    assert "attach" not in stray
    assert f"`fab scram --run {OVER}` ends it" in stray


def test_a_run_without_instances_may_be_launching_where_it_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    launched(ABANDONED)
    elsewhere, there = "20261126-000000-0008", "20261126-000000-0009"
    queued = [OVER, ABANDONED, FOLLOWED, elsewhere, there]
    with launched(FOLLOWED).followed():
        launched(OVER).write_result({"outcome": "found"})
        assert launching(queued, [instance(there)]) == [FOLLOWED, elsewhere]


def test_a_launch_is_under_way_until_as_many_unknown_instances_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example a replacement: instances that were known before do not count."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with stubbed() as clerk:
        journal = ordered(ABANDONED, clerk.cloud)
        assert under_way([], clerk.cloud) == [ABANDONED]
        journal.append(Event("instance.launched", 0, "i-0"))
        known = instance(ABANDONED)
        assert under_way([known], clerk.cloud) == []
        journal.append(Event("instance.requested", fields={"count": 1}))
        assert under_way([known], clerk.cloud) == [ABANDONED]
        assert under_way([known, replace(known, id="i-1")], clerk.cloud) == []


def test_what_was_launched_a_moment_ago_may_not_be_listed_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with stubbed() as clerk:
        journal = ordered(ABANDONED, clerk.cloud)
        late = time.time() - LISTED_WITHIN - 1
        journal.append(Event("instance.launched", 0, "i-9", time=late))
        assert under_way([], clerk.cloud) == []
        journal.append(Event("instance.launched", 0, "i-0"))
        assert under_way([], clerk.cloud) == [ABANDONED]
        assert under_way([instance(ABANDONED)], clerk.cloud) == []
        journal.note_scram(0)
        assert under_way([], clerk.cloud) == []


def test_an_instance_that_is_over_already_is_an_answer_to_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    over = replace(instance(ABANDONED), state="terminated")
    with stubbed() as clerk:
        ordered(ABANDONED, clerk.cloud)
        assert len(strays([], clerk.cloud)) == 1
        assert strays([over], clerk.cloud) == []
    found = survey([over], None)
    assert found.instances == ()
    assert (
        dict((run, stands) for run, stands, _ in found.runs)[ABANDONED]
        == "broken off; no instance of it is left"
    )


def asked(states: tuple[str, ...], *runs: str) -> dict[str, object]:
    """Return what EC2 is asked for: instances of `runs` in these states."""
    return {
        "Filters": [
            {"Name": "instance-state-name", "Values": list(states)},
            {"Name": "tag:cnd:run", "Values": list(runs)},
        ]
    }


def test_a_look_for_strays_asks_for_no_run_of_others_and_for_none_that_is_terminated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But those of a launch without an answer: it may have come and gone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    launched(OVER).write_result({"outcome": "found"})
    with stubbed("ec2") as clerk:
        clerk.answer("ec2", "describe_instances", described(), asked(EXISTING, OVER))
        assert strays_on(clerk.cloud) == []
        ordered(ABANDONED, clerk.cloud)
        mine = asked(EXISTING, OVER, ABANDONED)
        clerk.answer("ec2", "describe_instances", described(), mine)
        reply = described(i_1="terminated")
        reply["Reservations"][0]["Instances"][0]["Tags"][0]["Value"] = ABANDONED
        clerk.answer("ec2", "describe_instances", reply, asked(ALL, ABANDONED))
        assert strays_on(clerk.cloud) == []


def test_a_look_for_strays_that_does_not_end_is_not_waited_for() -> None:
    looking: Future[Iterable[str]] = Future()

    (event,) = sightings(looking, patience=0.01)
    looking.set_result(["run x has no orchestrator"])
    (found,) = sightings(looking, patience=0.01)

    assert event.kind == "cloud.trouble"
    assert "no answer within 0.01 s" in event.fields["reason"]
    assert found.fields == {"text": "run x has no orchestrator"}
