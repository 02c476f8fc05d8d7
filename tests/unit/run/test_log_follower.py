"""The logs of a run's instances without SSH: their events are followed instead."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cnd.cli.tasks_look import logs
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.run.journal import Journal

RUN = "20260101-000000-abcd"


def test_of_instances_without_ssh_the_events_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    plan = Plan(difficulty=2, instances=1, time_limit=9, bootstrap="user-data")
    login = {"user": "ubuntu", "key": "k", "host_key": "ssh-ed25519 AAAA"}
    provision = {"specs": [], "login": login, "queue": "", "bucket": "b"}
    journal = Journal(RUN)
    journal.create()
    place = {"cloud": "aws", "region": "eu-west-2", "account": "1"}
    whole = {**place, "plan": asdict(plan), "provision": provision}
    journal.write_order(whole)
    journal.append(Event("instance.ready", 0, "i-0"))

    logs.body(None, run=RUN, follow=True)

    told = capsys.readouterr()
    assert "instance.ready" in told.out
    assert "these instances cannot be reached over SSH" in told.err
