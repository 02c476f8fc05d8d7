"""The end of a fleet: what is requested of the cloud, by what is here already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnd.cloud.connection import Cloud
from cnd.model.events import Event
from cnd.model.plan import Plan
from cnd.provision.launch import Launcher
from cnd.run.journal import Journal
from cnd.run.recorder import Recorder
from cnd.run.replacements import Replacements
from cnd.run.shutdown import LIMITS, Shutdown
from cnd.system.background import Pool
from cnd.view.narrator import Narrator
from tests.support.instances import launch
from tests.support.local_cloud import LocalCloud

PLAN = Plan(2, 2, 60.0)


def test_only_instances_whose_logs_are_here_end_without_an_orderly_shutdown(
    aws: Cloud, cloud: LocalCloud, run: str, tmp_path: Path
) -> None:
    journal = Journal(run, tmp_path / run)
    journal.create()
    recorder = Recorder(PLAN, journal, view=Narrator(PLAN))
    launcher = Launcher(aws, PLAN, run)
    shutdown = Shutdown(
        recorder,
        aws,
        run,
        launcher=launcher,
        replacements=Replacements(recorder, aws, launcher, Pool(1, "launch")),
        limits=LIMITS,
    )
    logged, silent = (each.id for each in launch(aws, cloud, run, 2))
    for index, host in enumerate((logged, silent)):
        recorder.take(Event("instance.launched", index, host))
    recorder.take(Event("log.pulled", 0, logged, {"path": "Instance0.log"}))
    asked: list[tuple[list[str], bool]] = []

    def keep(params: dict[str, Any], **_: object) -> None:
        asked.append((params["InstanceIds"], params.get("SkipOsShutdown", False)))

    events, name = aws.ec2.meta.events, "before-parameter-build.ec2.TerminateInstances"
    events.register(name, keep)
    try:
        assert shutdown.terminated() is None
    finally:
        events.unregister(name, keep)
    assert ([logged], True) in asked
    assert ([silent], False) in asked
    assert all(skip is (ids == [logged]) for ids, skip in asked)
    assert cloud.state(logged) == cloud.state(silent) == "terminated"
